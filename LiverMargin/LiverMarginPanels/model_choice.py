"""The models that the Segment panel offers, and what it says about each. Needs no window."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from LiverMarginLib.errors import LiverMarginError
from LiverMarginLib.models.bundle import read_manifest
from LiverMarginLib.models.manifest import Manifest, Task
from LiverMarginLib.models.store import list_bundles
from LiverMarginLib.volume import Modality

# Shipped models in the order in which they are proposed: the better on real images first.
_PROPOSED = ("unet-ct", "liver-mr")


@dataclass(frozen=True)
class ModelChoice:
    """One line of the model list.

    Parameters
    ----------
    folder : Path
        Of the bundle.
    name : str
    title : str
        Name, version and modality.
    manifest : Manifest, optional
        None where the model cannot be used.
    problem : str
        Why not, as one sentence.
    """

    folder: Path
    name: str
    title: str
    manifest: Manifest | None
    problem: str = ""

    def accepts(self, modality: Modality) -> bool:
        """Whether the model was made for images of a modality; one that is not known may be any."""
        return modality is Modality.UNKNOWN or (self.manifest is not None and modality in self.manifest.modalities)


def segmentation_models(own_folders: Iterable[str] = ()) -> list[ModelChoice]:
    """List the models that segment: those of the model folders, then the user's own ones.

    Parameters
    ----------
    own_folders : iterable of str
        Bundle folders that the user has chosen; those that do not exist any more are listed with their problem.
    """
    choices = [
        _choice(entry.folder, entry.name, entry.manifest, entry.problem)
        for entry in list_bundles()
        if entry.manifest is None or entry.manifest.task is Task.SEGMENTATION
    ]
    known = {choice.folder.resolve() for choice in choices}
    for folder in (Path(name) for name in dict.fromkeys(own_folders) if name):
        if folder.resolve() not in known:
            choices.append(own_model(folder))
    return choices


def proposed_model(choices: Sequence[ModelChoice], modality: Modality) -> ModelChoice | None:
    """Choose the model for a user who has not chosen one.

    Parameters
    ----------
    choices : sequence of ModelChoice
    modality : Modality
        Of the image.

    Returns
    -------
    ModelChoice or None
        None if no model was made for such images.
    """
    fits = [choice for choice in choices if choice.manifest is not None and choice.accepts(modality)]
    return min(fits, key=lambda choice: _PROPOSED.index(choice.name) if choice.name in _PROPOSED else 99, default=None)


def denoising_models() -> list[ModelChoice]:
    """List the models of the model folders that clean an image of noise; damaged ones are left out."""
    return [
        _choice(entry.folder, entry.name, entry.manifest, "")
        for entry in list_bundles()
        if entry.manifest is not None and entry.manifest.task is Task.DENOISING
    ]


def own_model(folder: Path) -> ModelChoice:
    """Look at a folder that the user names."""
    try:
        manifest = read_manifest(folder)
    except LiverMarginError as error:
        return _choice(folder, folder.name, None, error.message)
    if manifest.task is not Task.SEGMENTATION:
        return _choice(folder, manifest.name, None, f"The model {manifest.name} does not segment; choose another.")
    return _choice(folder, manifest.name, manifest, "")


def missing_runtime() -> str:
    """One sentence if this Python has nothing that runs a model, otherwise nothing.

    The packages are only looked for: importing them takes seconds and belongs into the worker.
    """
    if any(importlib.util.find_spec(name) is not None for name in ("onnxruntime", "torch")):
        return ""
    return "Neither ONNX Runtime nor PyTorch is installed in Slicer's Python; install them in the Environment panel."


def _choice(folder: Path, name: str, manifest: Manifest | None, problem: str) -> ModelChoice:
    title = name if manifest is None else f"{name} {manifest.version} ({', '.join(manifest.modalities)})"
    return ModelChoice(folder, name, title, manifest, problem)
