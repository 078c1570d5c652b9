"""mlf-core's 3-D U-Net as bundles name it; the network is in `LiverMarginLib.models.unet3d`, which needs torch."""

from __future__ import annotations

from LiverMarginLib.models.architectures import Activation, Architecture
from LiverMarginLib.models.json_reader import JsonObject
from LiverMarginLib.models.manifest import Manifest, ManifestError

NORMS = ("batch", "instance")


def _check_unet3d(manifest: Manifest) -> None:
    parameters = JsonObject(dict(manifest.parameters), "the 3-D U-Net's parameters")
    widths = parameters.integers("widths")
    if not 1 <= len(widths) <= 7 or not all(1 <= width <= 1024 for width in widths):
        raise ManifestError("the 3-D U-Net's widths must be one to seven numbers from 1 to 1024")
    if parameters.integer("in_channels") != 1:
        raise ManifestError("the 3-D U-Net must have one input channel")
    if parameters.integer("classes") != len(manifest.labels) + 1:
        raise ManifestError("the 3-D U-Net's classes must be background and the labels")
    dropouts = [parameters.number("dropout")]
    if not parameters.null("input_dropout"):
        dropouts.append(parameters.number("input_dropout"))
    if not all(0 <= rate < 1 for rate in dropouts):
        raise ManifestError("the 3-D U-Net's dropout must be at least 0 and below 1")
    if parameters.has("norm") and parameters.text("norm") not in NORMS:  # bundles from before it was a choice lack it
        raise ManifestError(f"the 3-D U-Net's norm must be one of {', '.join(NORMS)}")
    parameters.finish()
    step = 2 ** (len(widths) - 1)
    if not manifest.volumetric or any(side % step for side in manifest.input_size):
        raise ManifestError(f"the 3-D U-Net's input must be a block with sides divisible by {step}")


UNET3D = Architecture(
    name="unet3d",
    check=_check_unet3d,
    segmenter="LiverMarginLib.inference.backends:load_dense",
    module="LiverMarginLib.models.unet3d:UNet3D",
    activation=Activation.SOFTMAX,
)
