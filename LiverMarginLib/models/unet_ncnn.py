"""The U-Net of `LiverMarginLib.models.unet` by ncnn; needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from LiverMarginLib.errors import BundleError
from LiverMarginLib.models.ncnn_graph import Blob, FloatArray, NcnnBuilder, NcnnNet, bands

# Maps of more values than this, 4 MiB, are computed in bands of 384 KiB, which a core's cache holds with the tiles made
# of them: 12 rows of 512 x 16 values, three tiles high.
_LARGE, _BAND = 1 << 20, 12 * 512 * 16
# What two convolutions of 3 x 3 take from the neighbours of a band.
_HALO = 2


def build_unet(
    parameters: Mapping[str, Any], weights: Mapping[str, FloatArray], size: tuple[int, int], threads: int = 1
) -> NcnnNet:
    """Make the network that maps an image (channels, h, w) to probabilities (classes, h, w).

    Parameters
    ----------
    parameters : mapping
        Those of `LiverMarginLib.models.unet.UNet`.
    weights : mapping of str to ndarray of float32
        Its state dictionary.
    size : tuple of int
        Height and width of the image.
    threads : int
        Of each image.

    Raises
    ------
    BundleError
        If the weights do not fit the parameters.
    """
    return _Writer(parameters, weights, size).write(threads)


class _Writer:
    def __init__(self, parameters: Mapping[str, Any], weights: Mapping[str, FloatArray], size: tuple[int, int]):
        self._net = NcnnBuilder(parameters.get("in_channels", 1), *size)
        self._widths = list(parameters["widths"])
        self._classes = parameters.get("classes", 1)
        self._weights = weights
        self._left = set(weights)

    def write(self, threads: int) -> NcnnNet:
        probabilities = self._level(self._net.image, 0)
        if self._left:
            raise _unfit(min(self._left))
        return self._net.finish([probabilities], threads)

    def _level(self, x: Blob, depth: int) -> Blob:
        """Append a level and those below it: band by band down, and band by band up again."""
        net, step = self._net, len(self._widths) - 2 - depth
        if step < 0:
            return self._end(self._block(x, f"encoder.{depth}", depth), depth)
        parts = _bands(x, self._widths[depth])
        skips = []
        for a, b in parts:
            y = self._block(net.rows(x, a - _HALO, b + _HALO), f"encoder.{depth}", depth)
            skips.append(net.rows(y, a, b))
        below = self._level(net.stack([net.max_pool(skip, 2, 2) for skip in skips]), depth + 1)
        weight, bias = self._take(f"upsample.{step}", self._widths[depth], 2, axis=1)
        found = []
        for n, (a, b) in enumerate(parts):
            near = skips[max(n - 1, 0) : n + 2]  # the band and its neighbours
            skip = net.stack([net.rows(band, a - _HALO, b + _HALO) for band in near])
            up = net.transposed(net.rows(below, (a - _HALO) // 2, (b + _HALO) // 2), weight, bias, stride=2)
            y = self._block(net.concat(up, skip), f"decoder.{step}", depth)
            found.append(self._end(net.rows(y, a, b), depth))
        return net.stack(found)

    def _block(self, x: Blob, name: str, depth: int) -> Blob:
        for part in ("conv1", "conv2"):
            weight, bias = self._take(f"{name}.{part}", self._widths[depth], 3)
            x = self._net.convolution(x, weight, bias, padding=1, relu=True)
        return x

    def _end(self, x: Blob, depth: int) -> Blob:
        if depth:
            return x
        weight, bias = self._take("head", self._classes, 1)
        return self._net.sigmoid(self._net.convolution(x, weight, bias, padding=0))

    def _take(self, name: str, outputs: int, kernel: int, axis: int = 0) -> tuple[FloatArray, FloatArray]:
        """Return the weights and biases of a layer; each band takes them."""
        try:
            weight, bias = (self._weights[f"{name}.{kind}"] for kind in ("weight", "bias"))
        except KeyError as error:
            raise _unfit(f"{error.args[0]} is missing") from error
        self._left -= {f"{name}.weight", f"{name}.bias"}
        if weight.ndim != 4 or weight.shape[axis] != outputs or weight.shape[2:] != (kernel, kernel):
            raise _unfit(name)
        return weight, bias


def _bands(x: Blob, channels: int) -> list[tuple[int, int]]:
    """Divide the rows of a map of so many channels, for 2 x 2 max-pooling."""
    in_a_row = channels * x.width
    rows = max(_BAND // in_a_row, 4 * _HALO) // 2 * 2
    return bands(x.height, rows if in_a_row * x.height > _LARGE else x.height)


def _unfit(what: str) -> BundleError:
    return BundleError("The model's weights do not fit its architecture; get the model again from its source.", what)
