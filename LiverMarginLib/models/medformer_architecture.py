"""MedFormer as bundles name it, in three dimensions and in two; the network is in `LiverMarginLib.models.medformer`."""

from __future__ import annotations

import math
from collections.abc import Callable

from LiverMarginLib.models.architectures import Activation, Architecture
from LiverMarginLib.models.json_reader import JsonObject
from LiverMarginLib.models.manifest import Manifest, ManifestError

_STAGES = 5
_STEP = 16
_LARGEST_MAP = 4096


def _check(dims: int, background: int) -> Callable[[Manifest], None]:
    """Make the check of a network of `dims` dimensions whose logits begin with `background` channels of background."""

    def check(manifest: Manifest) -> None:
        parameters = JsonObject(dict(manifest.parameters), "MedFormer's parameters")
        map_size, widths = parameters.integers("map_size"), parameters.integers("widths")
        blocks, heads = parameters.integers("blocks"), parameters.integers("heads")
        if len(map_size) != dims or min(map_size) < 1 or math.prod(map_size) > _LARGEST_MAP:
            raise ManifestError(f"MedFormer's map_size must be {dims} numbers, {_LARGEST_MAP} codes at most")
        for name, values, most in (("widths", widths, 2048), ("blocks", blocks, 64), ("heads", heads, 64)):
            if len(values) != _STAGES or not all(1 <= value <= most for value in values):
                raise ManifestError(f"MedFormer's {name} must be {_STAGES} numbers from 1 to {most}")
        # The attention stages: three on the way down and two up.
        stages = (*widths[2:], widths[3], widths[2])
        fusion = parameters.integer("fusion_width"), parameters.integer("fusion_heads")
        for width, count in (*zip(stages, heads, strict=True), fusion):
            if not 1 <= width <= 4096 or not 1 <= count <= width or width % count:
                raise ManifestError("MedFormer's heads must divide the channels of their stage")
        for name, most in (("convolutions", 16), ("expansion", 16), ("fusion_depth", 64)):
            if not 1 <= parameters.integer(name) <= most:
                raise ManifestError(f"MedFormer's {name} must be from 1 to {most}")
        if parameters.integer("in_channels") != manifest.channels:
            raise ManifestError("MedFormer's in_channels contradict the context slices")
        if parameters.integer("classes") != len(manifest.labels) + background:
            raise ManifestError("MedFormer's classes contradict the labels")
        parameters.finish()
        if len(manifest.input_size) != dims or any(side % _STEP or side < 2 * _STEP for side in manifest.input_size):
            shape = "slice" if dims == 2 else "block"
            raise ManifestError(f"MedFormer's input must be a {shape} with sides divisible by {_STEP}, 32 at least")

    return check


MEDFORMER = Architecture(
    name="medformer",
    check=_check(3, background=1),
    segmenter="LiverMarginLib.inference.backends:load_dense",
    module="LiverMarginLib.models.medformer:MedFormer",
    activation=Activation.SOFTMAX,
)

MEDFORMER_2D = Architecture(
    name="medformer-2d",
    check=_check(2, background=0),
    segmenter="LiverMarginLib.inference.backends:load_dense",
    module="LiverMarginLib.models.medformer:MedFormer",
    activation=Activation.SIGMOID,
)
