"""The U-Net as bundles name it; the network itself is in `LiverMarginLib.models.unet`, which needs torch."""

from __future__ import annotations

from LiverMarginLib.models.architectures import Architecture
from LiverMarginLib.models.json_reader import JsonObject
from LiverMarginLib.models.manifest import Manifest, ManifestError


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


UNET = Architecture(
    name="unet",
    check=_check_unet,
    segmenter="LiverMarginLib.inference.backends:load_dense",
    module="LiverMarginLib.models.unet:UNet",
)
