"""What the Environment panel says of a diagnosis, as lines of a table. Needs no window."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from LiverMarginLib.models.store import list_bundles, user_model_folder


@dataclass(frozen=True)
class Line:
    """One line: what, what for, how it stands, and whether that is as it should be."""

    name: str
    purpose: str
    state: str
    good: bool


def diagnosis_lines(found: Mapping[str, Any]) -> list[Line]:
    """Lay out the values of a `DiagnoseJob`.

    Parameters
    ----------
    found : mapping
        Fields of `LiverMarginLib.diagnostics.Diagnosis`.
    """
    lines = [Line("Python", found["executable"], found["python"], True)]
    for device in found["devices"]:
        free = device["free_memory_gb"]
        state = "works" if device["proved"] else device["problem"]
        if free is not None:
            state += f", {free:g} GB free"
        lines.append(Line(device["name"], device["description"], state, device["proved"]))
    for package in found["packages"]:
        missing = "missing" if package["required"] else "not installed (optional)"
        state = package["problem"] or package["version"] or missing
        good = not package["problem"] and (package["version"] is not None or not package["required"])
        lines.append(Line(package["name"], package["purpose"], state, good))
    return lines


@dataclass(frozen=True)
class ModelOnDisk:
    """A model bundle: where it lies, how large it is, and whether it is the user's own to remove."""

    name: str
    folder: Path
    megabytes: float
    removable: bool
    problem: str = ""


def models_on_disk() -> list[ModelOnDisk]:
    """List the bundles of all model folders; only those in the user's data folder may be removed."""
    own = user_model_folder().resolve()
    return [
        ModelOnDisk(
            entry.name,
            entry.folder,
            sum(file.stat().st_size for file in entry.folder.rglob("*") if file.is_file()) / 1e6,
            entry.folder.resolve().parent == own,
            entry.problem,
        )
        for entry in list_bundles()
    ]
