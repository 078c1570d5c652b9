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
from LiverMarginLib.models.json_reader import JsonObject, JsonProblem
from LiverMarginLib.models.manifest import Manifest, ManifestError


class Activation(StrEnum):
    """What turns a network's raw output into the bundle's output, applied exactly once, by whoever runs it."""

    SIGMOID = "sigmoid"
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
        ``module:function`` of a ``load(bundle, *, device, runtime, threads) -> Segmenter``; None for networks that do
        not segment.
    module : str, optional
        ``module:callable`` that takes the parameters as keyword arguments and gives the `torch.nn.Module` (it returns
        logits); None for architectures that exist as ONNX graphs only.
    activation : Activation
    """

    name: str
    check: Callable[[Manifest], None]
    segmenter: str | None = None
    module: str | None = None
    activation: Activation = Activation.SIGMOID

    def build(self, parameters: Mapping[str, Any]) -> Any:
        """Make the untrained `torch.nn.Module`."""
        if self.module is None:
            raise BundleError(f"A {self.name} model runs from its ONNX graph alone; choose the runtime onnx.")
        return resolve(self.module)(**parameters)


def resolve(reference: str) -> Any:
    """Import the object that ``"module:name"`` refers to."""
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)


_ARCHITECTURES: dict[str, Architecture] = {}


def register(architecture: Architecture) -> None:
    """Make an architecture known; a later one of the same name replaces the earlier."""
    _ARCHITECTURES[architecture.name] = architecture


def find_architecture(name: str) -> Architecture:
    """Return the architecture called `name`.

    Raises
    ------
    BundleError
        If none is.
    """
    try:
        return _ARCHITECTURES[name]
    except KeyError:
        known = ", ".join(sorted(_ARCHITECTURES))
        raise BundleError(
            f"The model's architecture {name!r} is not known to this LiverMargin, which knows {known}; "
            "update LiverMargin or choose another model."
        ) from None


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


def _check_unet(manifest: Manifest) -> None:
    parameters = JsonObject(dict(manifest.parameters), "the U-Net's parameters")
    widths = parameters.integers("widths")
    if not 1 <= len(widths) <= 8 or not all(1 <= width <= 2048 for width in widths):
        raise ManifestError("the U-Net's widths must be one to eight numbers from 1 to 2048")
    if parameters.integer("in_channels") != manifest.channels:
        raise ManifestError("the U-Net's in_channels contradict the context slices")
    if parameters.integer("classes") != len(manifest.labels):
        raise ManifestError("the U-Net's classes contradict the labels")
    deepest = 1 + (len(widths) - 1) // 2  # the rate grows with the depth, see UNet
    if not 0 <= parameters.number("dropout") * deepest < 1:
        raise ManifestError("the U-Net's dropout would reach 1 at its deepest level or is negative")
    parameters.finish()
    step = 2 ** (len(widths) - 1)
    if manifest.volumetric or any(side % step for side in manifest.input_size):
        raise ManifestError(f"the U-Net's input must be a slice with sides divisible by {step}")


register(
    Architecture(
        name="unet",
        check=_check_unet,
        segmenter="LiverMarginLib.inference.backends:load_dense",
        module="LiverMarginLib.models.unet:UNet",
    )
)
