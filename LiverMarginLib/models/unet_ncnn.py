"""The U-Net of `LiverMarginLib.models.unet` by ncnn; needs no torch.

Much of a slice is air, of which a U-Net makes the same wherever it lies. Where images are known to be dark outside of a
region, the way down is computed only as far from it as the layers see, and what they make of a dark image is put
around; the way up only as far as the region needs. Within the region the result is the same as of whole maps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from LiverMarginLib.errors import BundleError
from LiverMarginLib.models.ncnn_graph import Blob, FloatArray, NcnnBuilder, NcnnNet, bands
from LiverMarginLib.models.row_spans import RowSpans

# Maps of more values than this, 4 MiB, are computed in bands of 384 KiB, which a core's cache holds with the tiles made
# of them: 12 rows of 512 x 16 values, three tiles high.
_LARGE, _BAND = 1 << 20, 12 * 512 * 16
# Within a region smaller maps are, too, because each band has columns of its own; 18 rows are five tiles for both
# convolutions of a block.
_LARGE_IN_REGION, _ROWS_IN_REGION = 1 << 17, 18
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
    writer = _Writer(parameters, weights, RowSpans.whole(*size))
    return writer.finish(writer.probabilities(), threads)


def build_unet_within(
    region: npt.NDArray[np.bool_],
    dark: FloatArray,
    parameters: Mapping[str, Any],
    weights: Mapping[str, FloatArray],
    threads: int = 1,
) -> NcnnNet:
    """Make the same network for images that are dark outside of a region.

    Parameters
    ----------
    region : ndarray of bool, shape (h, w)
        With at least one pixel.
    dark : ndarray of float32, shape (h, w)
        What each channel is outside of it.
    parameters, weights, threads
        As for `build_unet`.

    Returns
    -------
    NcnnNet
        Gives probabilities in each row from the first pixel of the region to the last; some of the others are 0.
    """
    down = _Writer(parameters, weights, RowSpans.whole(*region.shape)).down(threads)
    air = down(np.repeat(dark[None], parameters.get("in_channels", 1), axis=0))
    writer = _Writer(parameters, weights, RowSpans.of(region))
    return writer.finish(writer.probabilities(air), threads)


class _Writer:
    def __init__(self, parameters: Mapping[str, Any], weights: Mapping[str, FloatArray], region: RowSpans):
        self._net = NcnnBuilder(parameters.get("in_channels", 1), region.height, region.width)
        self._region = region
        self._share = float(region.mask().mean())
        self._widths = list(parameters["widths"])
        self._classes = parameters.get("classes", 1)
        self._weights = weights
        self._left = set(weights)

    def finish(self, output: Blob, threads: int) -> NcnnNet:
        if self._left:
            raise _unfit(min(self._left))
        return self._net.finish([output], threads)

    def down(self, threads: int) -> NcnnNet:
        """Make the network that gives what each depth but the last hands to the next."""
        x, handed = self._net.image, []
        for depth in range(len(self._widths) - 1):
            skips = self._skips([x], depth, RowSpans.whole(x.height, x.width), None)
            x = self._net.stack(self._pooled(skips))
            handed.append(x)
        return self._net.finish(handed, threads)

    def probabilities(self, air: Sequence[FloatArray] | None = None) -> Blob:
        """Append the network; `air` is what `down` gives of a dark image, for all that lies beyond the region."""
        image = self._net.image
        around = [None] * len(self._widths) if air is None else [None, *air]
        found = self._level([image], 0, self._region, around)
        return self._net.gather(found, 0, image.height, 0, image.width, around=_nothing(found[0]))

    def _level(self, x: list[Blob], depth: int, needed: RowSpans, air: Sequence[FloatArray | None]) -> list[Blob]:
        """Append a level and those below it, band by band down, and band by band up again.

        Parameters
        ----------
        x : list of Blob
            What the level above hands down, in bands with columns of their own.
        depth : int
        needed : RowSpans
            What the level above needs. What is not dark reaches no further in `x` than this, for both grow by what
            the layers see.
        air : sequence of ndarray
            What each depth is handed of a dark image; nothing where no part of a map is left out.

        Returns
        -------
        list of Blob
            What is needed, in bands with columns of their own. Where they reach further, they may hold anything.
        """
        net, step = self._net, len(self._widths) - 2 - depth
        height, width = x[0].height, x[0].width
        if step < 0:
            whole = net.gather(x, 0, height, 0, width, around=air[depth])
            return [self._end(self._block(whole, f"encoder.{depth}", depth), depth)]
        seen = needed.widened(_HALO)
        skips = self._skips(x, depth, seen, air[depth])
        below = self._level(self._pooled(skips), depth + 1, seen.halved(), air)
        weight, bias = self._take(f"upsample.{step}", self._widths[depth], 2, axis=1)
        found = []
        for a, b, left, right in self._bands(needed, depth):
            near = (a - _HALO, b + _HALO, left - _HALO, right + _HALO)
            half = [side // 2 for side in near]
            up = net.transposed(net.gather(below, *half, around=_nothing(below[0])), weight, bias, stride=2)
            skip = net.gather(skips, *near, around=_nothing(skips[0]))
            y = self._block(net.concat(up, skip), f"decoder.{step}", depth)
            found.append(self._end(net.part(y, a, b, left, right), depth))
        return found

    def _skips(self, x: list[Blob], depth: int, wanted: RowSpans, air: FloatArray | None) -> list[Blob]:
        """Append the bands of what a level hands across and, pooled, down, as far as they are wanted."""
        net, skips = self._net, []
        for a, b, left, right in self._bands(wanted, depth):
            near = net.gather(x, a - _HALO, b + _HALO, left - _HALO, right + _HALO, around=air)
            skips.append(net.part(self._block(near, f"encoder.{depth}", depth), a, b, left, right))
        return skips

    def _pooled(self, skips: Sequence[Blob]) -> list[Blob]:
        return [self._net.max_pool(skip, 2, 2) for skip in skips]

    def _bands(self, spans: RowSpans, depth: int) -> list[tuple[int, int, int, int]]:
        """Divide what spans hold of a map into bands, for 2 x 2 max-pooling: rows from, to, columns from, to."""
        in_a_row = self._widths[depth] * spans.width * self._share
        rows = spans.height
        if self._share < 1 and in_a_row * rows > _LARGE_IN_REGION:
            rows = _ROWS_IN_REGION
        elif self._share == 1 and in_a_row * rows > _LARGE:
            rows = max(int(_BAND / in_a_row), 4 * _HALO) // 2 * 2
        found = [(a, b, *spans.over(a, b)) for a, b in bands(spans.height, rows)]
        return [(a, b, left // 2 * 2, -(-right // 2) * 2) for a, b, left, right in found if left < right]

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


def _nothing(like: Blob) -> FloatArray:
    """What bands are put together with where they have nothing, because nothing there is needed."""
    return np.broadcast_to(np.float32(0), (like.channels, like.height, like.width))


def _unfit(what: str) -> BundleError:
    return BundleError("The model's weights do not fit its architecture; get the model again from its source.", what)
