"""Which networks a bundle may name, and the code that stands behind each name.

The code is referred to by ``"module:function"`` and imported when it is needed: listing models must not import torch,
and an architecture that runs from its ONNX graph alone needs no torch at all.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from LiverMarginLib.errors import BundleError
from LiverMarginLib.models.json_reader import JsonProblem
from LiverMarginLib.models.manifest import Manifest, ManifestError


class Activation(StrEnum):
    """What turns a network's raw output into the bundle's output, applied exactly once, by whoever runs it."""

    SIGMOID = "sigmoid"
    """One probability for each label; where several are likely, the later label wins."""
    SOFTMAX = "softmax"
    """The first channel is background, which the bundle's output leaves out; the likeliest class wins."""
    IDENTITY = "identity"


@dataclass(frozen=True)
class Architecture:
    """A kind of network.

    Parameters
    ----------
    name : str
        As in ``model.json``.
    check : callable
        ``check(manifest)`` raises `BundleError` or `JsonProblem` if the parameters cannot be used. It must bound
        every size: nothing has been allocated yet.
    segmenter : str, optional
        ``module:function`` of a ``load(bundle, *, device, runtime, threads, precision) -> Segmenter``; None for
        networks that do not segment.
    module : str, optional
        ``module:callable`` that takes the parameters as keyword arguments and gives the `torch.nn.Module` (it returns
        logits); None for architectures that exist as ONNX graphs only.
    activation : Activation
    has_weights : bool
        False for bundles that only refer to other bundles.
    """

    name: str
    check: Callable[[Manifest], None]
    segmenter: str | None = None
    module: str | None = None
    activation: Activation = Activation.SIGMOID
    has_weights: bool = True

    def build(self, parameters: Mapping[str, Any]) -> Any:
        """Make the untrained `torch.nn.Module`."""
        if self.module is None:
            raise BundleError(f"A {self.name} model runs from its ONNX graph alone; choose the runtime onnx.")
        return resolve(self.module)(**parameters)


def resolve(reference: str) -> Any:
    """Import the object that ``"module:name"`` refers to."""
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)


# Each entry stands in a module of its own, which must import without torch, and is looked at when it is asked for.
_ARCHITECTURES: dict[str, Architecture | str] = {
    "unet": "LiverMarginLib.models.unet_architecture:UNET",
    "unet3d": "LiverMarginLib.models.unet3d_architecture:UNET3D",
    "medformer": "LiverMarginLib.models.medformer_architecture:MEDFORMER",
    "medformer-2d": "LiverMarginLib.models.medformer_architecture:MEDFORMER_2D",
    "dncnn-sr": "LiverMarginLib.models.dncnn_sr_architecture:DNCNN_SR",
    "ensemble": "LiverMarginLib.models.ensemble_architecture:ENSEMBLE",
    "mask-rcnn": "LiverMarginLib.models.maskrcnn_architecture:MASK_RCNN",
}


def register(architecture: Architecture) -> None:
    """Make a further architecture known to this process; it replaces one of the same name."""
    _ARCHITECTURES[architecture.name] = architecture


def find_architecture(name: str) -> Architecture:
    """Return the architecture called `name`.

    Raises
    ------
    BundleError
        If none is.
    """
    entry = _ARCHITECTURES.get(name)
    if entry is None:
        known = ", ".join(sorted(_ARCHITECTURES))
        raise BundleError(
            f"The model's architecture {name!r} is not known to this LiverMargin, which knows {known}; "
            "update LiverMargin or choose another model."
        )
    architecture: Architecture = resolve(entry) if isinstance(entry, str) else entry
    return architecture


def check_manifest(manifest: Manifest) -> None:
    """Check a manifest against its architecture.

    Raises
    ------
    BundleError
        If the architecture is unknown or its parameters cannot be used.
    """
    try:
        find_architecture(manifest.architecture).check(manifest)
    except JsonProblem as problem:
        raise ManifestError(str(problem)) from problem
