"""The U-Net of `LiverMarginLib.models.unet` by ncnn; needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from LiverMarginLib.errors import BundleError
from LiverMarginLib.models.ncnn_graph import FloatArray, NcnnBuilder, NcnnNet


def build_unet(parameters: Mapping[str, Any], weights: Mapping[str, FloatArray], threads: int = 1) -> NcnnNet:
    """Make the network that maps an image (channels, h, w) to probabilities (classes, h, w).

    Parameters
    ----------
    parameters : mapping
        Those of `LiverMarginLib.models.unet.UNet`.
    weights : mapping of str to ndarray of float32
        Its state dictionary.
    threads : int
        Of each image.

    Raises
    ------
    BundleError
        If the weights do not fit the parameters.
    """
    left = dict(weights)
    net = NcnnBuilder(parameters.get("in_channels", 1))

    def take(name: str) -> tuple[FloatArray, FloatArray]:
        try:
            return left.pop(f"{name}.weight"), left.pop(f"{name}.bias")
        except KeyError as error:
            raise _unfit(f"{error.args[0]} is missing") from error

    def block(x: str, name: str, width: int) -> str:
        for part in ("conv1", "conv2"):
            weight, bias = take(f"{name}.{part}")
            if weight.shape[0] != width or weight.shape[2:] != (3, 3):
                raise _unfit(f"{name}.{part}")
            x = net.convolution(x, weight, bias, padding=1, relu=True)
        return x

    x, skips = "image", []
    widths = list(parameters["widths"])
    for depth, width in enumerate(widths):
        x = block(net.max_pool(x, 2, 2) if depth else x, f"encoder.{depth}", width)
        skips.append(x)
    skips.pop()
    for step, width in enumerate(reversed(widths[:-1])):
        weight, bias = take(f"upsample.{step}")
        if weight.shape[1:] != (width, 2, 2):
            raise _unfit(f"upsample.{step}")
        x = block(net.concat(net.transposed(x, weight, bias, stride=2), skips.pop()), f"decoder.{step}", width)
    weight, bias = take("head")
    if weight.shape[0] != parameters.get("classes", 1) or weight.shape[2:] != (1, 1) or left:
        raise _unfit("head" if not left else sorted(left)[0])
    return net.finish([net.sigmoid(net.convolution(x, weight, bias, padding=0))], threads)


def _unfit(what: str) -> BundleError:
    return BundleError("The model's weights do not fit its architecture; get the model again from its source.", what)
