"""Liver labels that a model draws where nobody did, and the gate that keeps the bad ones out.

The largest piece of what the model finds, its holes filled, together with the masses that a person has marked. A label
is dropped when it is not the size of a liver or when the masses lie outside of what the model calls liver.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from LiverMarginLib.errors import InputError, technical
from LiverMarginLib.inference.postprocessing import postprocess
from LiverMarginLib.io.atomic import atomic_path
from LiverMarginLib.jsonable import dumps
from LiverMarginLib.models.bundle import Bundle
from LiverMarginLib.models.manifest import FillHoles, Postprocessing
from LiverMarginLib.terminology import LIVER, LIVER_MASS

SCHEMA, VERSION = "livermargin.pseudo-labels", 1
PROVENANCE = "pseudo-labels.json"

LabelArray = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class QualityGate:
    """What a drawn liver must be to be learnt from.

    Parameters
    ----------
    min_litres, max_litres : float
        Volume, masses included.
    min_cancer_inside : float
        Share of the marked cancer voxels that the model itself found to be liver.

    Raises
    ------
    InputError
        If a value is out of its range.
    """

    min_litres: float = 0.5
    max_litres: float = 4.0
    min_cancer_inside: float = 0.9

    def __post_init__(self) -> None:
        if not 0 <= self.min_litres < self.max_litres:
            raise InputError("The volumes of a liver must be 0 litres or more, the smallest first.")
        if not 0 <= self.min_cancer_inside <= 1:
            raise InputError("The share of cancer inside the liver must lie between 0 and 1.")


@dataclass(frozen=True, eq=False)
class PseudoLabel:
    """A liver that a model drew.

    Parameters
    ----------
    labels : ndarray of uint8, shape (k, j, i)
        1 liver, 2 marked masses.
    litres : float
    cancer_inside : float
        nan where no cancer is marked.
    reason : str
        Why it is not to be used; empty if it is.
    """

    labels: LabelArray
    litres: float
    cancer_inside: float
    reason: str


def pseudo_label(
    found: npt.NDArray[Any], cancer: npt.NDArray[Any] | None, voxel_mm3: float, gate: QualityGate
) -> PseudoLabel:
    """Make a liver label of a model's finding, and judge it.

    Parameters
    ----------
    found : ndarray, shape (k, j, i)
        Not 0 where the model found liver, masses included; in the axial view.
    cancer : ndarray, shape (k, j, i), optional
        Not 0 where a person marked cancer.
    voxel_mm3 : float
    gate : QualityGate

    Returns
    -------
    PseudoLabel
    """
    labels = (np.asarray(found) > 0).astype(np.uint8) * np.uint8(LIVER.label)
    postprocess(labels, voxel_mm3, Postprocessing(True, FillHoles.VOLUME), LIVER.label)
    marked = None if cancer is None else np.asarray(cancer) > 0
    inside = math.nan
    if marked is not None and marked.any():
        inside = float(labels[marked].astype(bool).mean())
        labels[marked] = LIVER_MASS.label
    litres = float(np.count_nonzero(labels)) * voxel_mm3 / 1e6
    return PseudoLabel(labels, litres, inside, _judge(litres, inside, gate))


def write_pseudo_label(label: PseudoLabel, path: Path) -> None:
    """Keep a label, whether it passes or not, as an NPZ file that appears whole or not at all."""
    with atomic_path(path) as beside, beside.open("wb") as file:
        np.savez_compressed(file, labels=label.labels, litres=label.litres, cancer_inside=label.cancer_inside)


def read_pseudo_label(path: Path, gate: QualityGate) -> PseudoLabel:
    """Read what `write_pseudo_label` wrote, and judge it by a gate.

    Raises
    ------
    InputError
        If the file is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as values:
            labels, litres, inside = values["labels"], float(values["litres"]), float(values["cancer_inside"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(
            "A drawn liver on the disk is damaged; delete the folder of the trainings and start again.",
            technical(error),
        ) from error
    return PseudoLabel(labels, litres, inside, _judge(litres, inside, gate))


def _judge(litres: float, inside: float, gate: QualityGate) -> str:
    if litres < gate.min_litres:
        return f"the liver has {litres:.2f} l, less than {gate.min_litres:g} l"
    if litres > gate.max_litres:
        return f"the liver has {litres:.2f} l, more than {gate.max_litres:g} l"
    if inside < gate.min_cancer_inside:
        return f"{100 * inside:.0f} % of the cancer lies inside the liver, less than {100 * gate.min_cancer_inside:g} %"
    return ""


@dataclass(frozen=True)
class PseudoRecord:
    """Where the labels of one case come from.

    Parameters
    ----------
    name : str
        Of the case in its data set, or its number.
    liver, cancer : str
        "true", "pseudo" or "none".
    litres, cancer_inside : float
        Of a pseudo-label; nan otherwise.
    reason : str
        Why the liver was dropped; empty where it was not.
    """

    name: str
    liver: str
    cancer: str
    litres: float = math.nan
    cancer_inside: float = math.nan
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the JSON-serialisable form."""
        return {
            "liver": self.liver,
            "cancer": self.cancer,
            "litres": round(self.litres, 3),
            "cancer_inside": round(self.cancer_inside, 4),
            "kept": not self.reason,
            "reason": self.reason,
        }


def provenance_of(bundle: Bundle) -> dict[str, Any]:
    """Which model drew the labels, and what it was trained on."""
    manifest = bundle.manifest
    training: Mapping[str, Any] = manifest.training
    return {
        "name": manifest.name,
        "version": manifest.version,
        "sha256": dict(manifest.weights),
        "run_manifest_sha256": training.get("run_manifest_sha256"),
    }


def write_provenance(folder: Path, bundle: Bundle, gate: QualityGate, records: Sequence[PseudoRecord]) -> Path:
    """Write ``pseudo-labels.json`` beside the masks, whole or not at all; returns its path."""
    path = folder / PROVENANCE
    values = {
        "schema": SCHEMA,
        "version": VERSION,
        "model": provenance_of(bundle),
        "gate": {
            "litres": [gate.min_litres, gate.max_litres],
            "cancer_inside": gate.min_cancer_inside,
        },
        "cases": {record.name: record.to_json() for record in records},
    }
    with atomic_path(path) as beside:
        beside.write_text(dumps(values, indent=2) + "\n", encoding="utf-8")
    return path
