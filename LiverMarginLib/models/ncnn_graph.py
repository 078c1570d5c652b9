"""A small writer of networks for ncnn, whose Winograd convolutions need a quarter of the multiplications.

Winograd's minimal filtering (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016) computes
a 3 x 3 convolution in single precision with rounding errors no larger than those of the plain sum; neither ONNX
Runtime nor torch has it for this kind of processor. Everything stays in single precision here.

The weights come from a bundle, so that every shape is checked before ncnn, which trusts its input, sees it.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from LiverMarginLib.errors import BundleError

FloatArray = npt.NDArray[np.float32]

# ncnn's file format: its magic number, and the mark of weights in single precision.
_MAGIC, _SINGLE = "7767517", b"\0\0\0\0"
# Options that would trade accuracy for speed. Tiles of 6 x 6 outputs round noticeably worse than those of 4 x 4.
_INEXACT = (
    "use_fp16_packed",
    "use_fp16_storage",
    "use_fp16_arithmetic",
    "use_bf16_storage",
    "use_winograd63_convolution",
)

# With fewer channels than this, the tiles' transforms cost more than the multiplications that they save.
_ENOUGH_FOR_WINOGRAD, _NO_WINOGRAD = 8, 1 << 6


class NcnnNet:
    """A network that is ready to run; several threads may run it at the same time.

    Parameters
    ----------
    text : str
        The layers, in ncnn's own notation.
    weights : bytes
    outputs : sequence of str
        Blobs that a run gives.
    threads : int
        Of each run.
    """

    def __init__(self, text: str, weights: bytes, outputs: Sequence[str], threads: int) -> None:
        import ncnn

        self._ncnn = ncnn
        self._net: Any = ncnn.Net()
        for option in _INEXACT:
            setattr(self._net.opt, option, False)
        self._net.opt.num_threads = threads  # before loading, which prepares the weights for so many
        self._outputs = list(outputs)
        with tempfile.TemporaryDirectory() as folder:  # its Python interface reads weights from files alone
            path = Path(folder) / "weights"
            path.write_bytes(weights)
            failed = self._net.load_param_mem(text) or self._net.load_model(str(path))
        if failed:
            raise BundleError("The network cannot be run by ncnn; choose another runtime.")

    def __call__(self, image: FloatArray) -> list[FloatArray]:
        """Run on one image (c, h, w) or matrix (rows, values), C-contiguous; returns the outputs, of the same kind."""
        extractor = self._net.create_extractor()
        extractor.input("image", self._ncnn.Mat(image))  # refers to the array's memory
        found = []
        for name in self._outputs:
            failed, mat = extractor.extract(name)
            if failed:
                raise MemoryError("ncnn is out of memory")
            found.append(np.asarray(mat))  # a view, which keeps the blob alive
        return found


@dataclass(frozen=True)
class Blob:
    """A feature map, or some of its rows and columns: what a layer takes and gives.

    Attributes
    ----------
    name : str
    channels : int
    height, width : int
        Of the whole map.
    first, last : int
        Which of its rows these are; `last` is not among them.
    left, right : int
        Which of its columns these are; `right` is not among them.
    """

    name: str
    channels: int
    height: int
    width: int
    first: int
    last: int
    left: int
    right: int


class NcnnBuilder:
    """Collects layers; every method that makes a blob returns it.

    Layers may be given a part of a map (`part`, `rows`): they return that part of the result that can be computed from
    it, so that maps that are too large for the processor's caches can be computed band by band (`bands`, `stack`), and
    where much of a map is known beforehand only the rest of it (`gather`). The edge of the map is padded, the edge of
    a part is not: what comes out is the same either way.

    Parameters
    ----------
    channels, height, width : int
        Of the image.
    """

    def __init__(self, channels: int, height: int, width: int) -> None:
        self._layers: list[tuple[str, tuple[str, ...], str, str]] = [("Input", (), "image", "")]
        self._weights: list[bytes] = []
        self.image = Blob("image", channels, height, width, 0, height, 0, width)

    def convolution(
        self, x: Blob, weight: FloatArray, bias: FloatArray | None, *, stride: int = 1, padding: int, relu: bool = False
    ) -> Blob:
        """Append a convolution with weights (outputs, inputs, k, k), and a ReLU if asked for."""
        x, (top, bottom, left, right), shape = self._slide(x, weight.shape[-1], stride, padding)
        parameters = {3: stride, 4: left, 15: right, 14: top, 16: bottom, 9: int(relu)}
        if x.channels < _ENOUGH_FOR_WINOGRAD:
            parameters[31] = _NO_WINOGRAD
        return self._with_weights("Convolution", x, weight, bias, parameters, shape)

    def transposed(
        self, x: Blob, weight: FloatArray, bias: FloatArray | None, *, stride: int, relu: bool = False
    ) -> Blob:
        """Append a transposed convolution with weights (inputs, outputs, k, k) whose strides do not overlap."""
        swapped = weight.swapaxes(0, 1) if weight.ndim == 4 else weight
        if swapped.shape[-1] != stride:
            raise _mismatch()
        parameters = {3: stride, 9: int(relu)}
        return self._with_weights("Deconvolution", x, swapped, bias, parameters, _enlarged(x, stride))

    def dense(self, x: Blob, weight: FloatArray, bias: FloatArray, *, relu: bool = False) -> Blob:
        """Append a fully connected layer with weights (outputs, inputs) on each row of a matrix (rows, inputs)."""
        if weight.ndim != 2 or weight.shape[1] != x.width or bias.shape != weight.shape[:1]:
            raise _mismatch()
        outputs, inputs = weight.shape
        self._weights += [_SINGLE + np.ascontiguousarray(array, np.float32).tobytes() for array in (weight, bias)]
        parameters = {
            3: 1,
            5: 1,
            6: 1,
            8: outputs,
            9: inputs,
            10: 4,
        }  # x times transposed weights, plus a row of biases
        y = self._append("Gemm", (x,), parameters, {"width": outputs, "right": outputs})
        return self._append("ReLU", (y,), {}) if relu else y

    def max_pool(self, x: Blob, kernel: int, stride: int, padding: int = 0) -> Blob:
        """Append max-pooling, which drops what is left at the ends."""
        x, (top, bottom, left, right), shape = self._slide(x, kernel, stride, padding)
        parameters = {0: 0, 1: kernel, 2: stride, 3: left, 14: right, 13: top, 15: bottom, 5: 1}
        return self._append("Pooling", (x,), parameters, shape)

    def double(self, x: Blob) -> Blob:
        """Append an enlargement by two that repeats each value."""
        return self._append("Interp", (x,), {0: 1, 1: "2.0", 2: "2.0"}, _enlarged(x, 2))

    def add(self, x: Blob, y: Blob, *, relu: bool = False) -> Blob:
        """Append a sum of what two blobs of equal shape share of their map, and a ReLU if asked for."""
        if x.channels != y.channels:
            raise _mismatch()
        total = self._append("BinaryOp", self._shared(x, y), {0: 0})
        return self._append("ReLU", (total,), {}) if relu else total

    def concat(self, x: Blob, y: Blob) -> Blob:
        """Append a blob with the channels of two, of the rows and columns that they share."""
        return self._append("Concat", self._shared(x, y), {0: 0}, {"channels": x.channels + y.channels})

    def sigmoid(self, x: Blob) -> Blob:
        """Append a sigmoid."""
        return self._append("Sigmoid", (x,), {})

    def part(self, x: Blob, first: int, last: int, left: int, right: int) -> Blob:
        """Append rows and columns of a map, as far as `x` has them; `last` and `right` are not among them."""
        first, last = max(first, x.first), min(last, x.last)
        left, right = max(left, x.left), min(right, x.right)
        if (first, last, left, right) == (x.first, x.last, x.left, x.right):
            return x
        begins, ends = f"2,{first - x.first},{left - x.left}", f"2,{last - x.first},{right - x.left}"
        shape = {"first": first, "last": last, "left": left, "right": right}
        return self._append("Crop", (x,), {-23309: begins, -23310: ends, -23311: "2,1,2"}, shape)

    def rows(self, x: Blob, first: int, last: int) -> Blob:
        """Append the rows `first` to `last` (not among them) of a map, as far as `x` has them."""
        return self.part(x, first, last, x.left, x.right)

    def stack(self, bands: Sequence[Blob]) -> Blob:
        """Append the map that bands make, from its first row to its last.

        Raises
        ------
        ValueError
            If one does not begin where the one before ends, or has other columns.
        """
        if any(upper.last != lower.first or _columns(upper) != _columns(lower) for upper, lower in pairwise(bands)):
            raise ValueError("bands must follow each other")
        return self._join(bands, 1, {"first": bands[0].first, "last": bands[-1].last})

    def gather(
        self, parts: Sequence[Blob], first: int, last: int, left: int, right: int, *, around: FloatArray | None
    ) -> Blob:
        """Append rows and columns of a map of which there are parts, one below the other.

        Parameters
        ----------
        parts : sequence of Blob
        first, last, left, right : int
            What is wanted; what lies beyond the map is not.
        around : ndarray of float32, shape (channels, h, w)
            What the map is where there is no part; not needed if there is one everywhere.
        """
        one = parts[0]
        first, last, left, right = max(first, 0), min(last, one.height), max(left, 0), min(right, one.width)
        rows, end = [], first
        for part in parts:
            top, bottom = max(first, part.first), min(last, part.last)
            if top < bottom and max(left, part.left) < min(right, part.right):
                rows += self._constant(around, end, top, left, right, one)
                middle = self.part(part, top, bottom, left, right)
                before = self._constant(around, top, bottom, left, middle.left, one)
                after = self._constant(around, top, bottom, middle.right, right, one)
                rows.append(self._join([*before, middle, *after], 2, {"left": left, "right": right}))
                end = bottom
        return self.stack([*rows, *self._constant(around, end, last, left, right, one)])

    def _constant(
        self, values: FloatArray | None, first: int, last: int, left: int, right: int, like: Blob
    ) -> list[Blob]:
        """Append rows and columns of a map that are known, if there are any."""
        if first >= last or left >= right:
            return []
        assert values is not None
        self._weights.append(np.ascontiguousarray(values[:, first:last, left:right], np.float32).tobytes())
        parameters = {0: right - left, 1: last - first, 2: like.channels, 21: 1}
        shape = {"first": first, "last": last, "left": left, "right": right}
        return [self._append("MemoryData", (), parameters, shape, like)]

    def _join(self, blobs: Sequence[Blob], axis: int, shape: dict[str, int]) -> Blob:
        return blobs[0] if len(blobs) == 1 else self._append("Concat", tuple(blobs), {0: axis}, shape)

    def finish(self, outputs: Sequence[Blob], threads: int) -> NcnnNet:
        """Return the network that gives `outputs`, whose blobs may be used by other layers too, by so many threads."""
        named = [self._append("Noop", (blob,), {}).name for blob in outputs]
        uses = Counter(blob for _, inputs, _, _ in self._layers for blob in inputs)
        # ncnn wants a layer of its own to hand one blob to several.
        copies: dict[str, list[str]] = {}
        lines: list[list[str]] = []
        blobs = 0
        for kind, inputs, output, parameters in self._layers:
            taken = [copies[blob].pop() if blob in copies else blob for blob in inputs]
            lines.append([kind, f"layer{len(lines)}", str(len(taken)), "1", *taken, output, parameters])
            blobs += 1
            if uses[output] > 1:
                copies[output] = [f"{output}_{n}" for n in range(uses[output])]
                lines.append(["Split", f"layer{len(lines)}", "1", str(uses[output]), output, *copies[output]])
                blobs += uses[output]
        text = "\n".join([_MAGIC, f"{len(lines)} {blobs}", *(" ".join(line) for line in lines)]) + "\n"
        return NcnnNet(text, b"".join(self._weights), named, threads)

    def _slide(
        self, x: Blob, kernel: int, stride: int, padding: int
    ) -> tuple[Blob, tuple[int, int, int, int], dict[str, int]]:
        """Return where a window slides, what pads it (above, below, left, right), and what it gives."""
        down = _Slide.along(x.first, x.last, x.height, kernel, stride, padding)
        across = _Slide.along(x.left, x.right, x.width, kernel, stride, padding)
        x = self.part(x, down.begin, x.last, across.begin, x.right)
        shape = {"height": down.side, "width": across.side, "first": down.first, "last": down.last}
        shape |= {"left": across.first, "right": across.last}
        return x, (down.before, down.after, across.before, across.after), shape

    def _shared(self, x: Blob, y: Blob) -> tuple[Blob, Blob]:
        if (x.height, x.width) != (y.height, y.width):
            raise _mismatch()
        return self.part(x, y.first, y.last, y.left, y.right), self.part(y, x.first, x.last, x.left, x.right)

    def _with_weights(
        self,
        kind: str,
        x: Blob,
        weight: FloatArray,
        bias: FloatArray | None,
        parameters: dict[int, Any],
        shape: dict[str, int],
    ) -> Blob:
        if weight.ndim != 4 or weight.shape[1] != x.channels or weight.shape[2] != weight.shape[3]:
            raise _mismatch()
        outputs = len(weight)
        if bias is not None and bias.shape != (outputs,):
            raise _mismatch()
        sizes = {0: outputs, 1: weight.shape[2], 5: int(bias is not None), 6: weight.size}
        self._weights.append(_SINGLE + np.ascontiguousarray(weight, np.float32).tobytes())
        if bias is not None:
            self._weights.append(np.ascontiguousarray(bias, np.float32).tobytes())
        return self._append(kind, (x,), sizes | parameters, shape | {"channels": outputs})

    def _append(
        self,
        kind: str,
        inputs: tuple[Blob, ...],
        parameters: dict[int, Any],
        shape: dict[str, int] | None = None,
        like: Blob | None = None,
    ) -> Blob:
        """Append a layer whose output is like its first input, or `like` another, but for `shape`."""
        output = replace(like or inputs[0], name=f"blob{len(self._layers)}", **(shape or {}))
        text = " ".join(f"{key}={value}" for key, value in parameters.items())
        self._layers.append((kind, tuple(blob.name for blob in inputs), output.name, text))
        return output


def bands(height: int, rows: int) -> list[tuple[int, int]]:
    """Divide a height into bands of so many rows; the last may have fewer."""
    return [(first, min(first + rows, height)) for first in range(0, height, rows)]


@dataclass(frozen=True)
class _Slide:
    """A window along one axis: the first sample it needs, what pads the ends, which outputs of how many it gives."""

    begin: int
    before: int
    after: int
    first: int
    last: int
    side: int

    @classmethod
    def along(cls, first: int, last: int, side: int, kernel: int, stride: int, padding: int) -> _Slide:
        outputs = (side + 2 * padding - kernel) // stride + 1
        at_start, at_end = first == 0, last == side
        begin = 0 if at_start else -(-(first + padding) // stride)
        end = outputs if at_end else (last + padding - kernel) // stride + 1
        needed = 0 if at_start else begin * stride - padding
        return cls(needed, padding * at_start, padding * at_end, begin, end, outputs)


def _columns(x: Blob) -> tuple[int, int]:
    return x.left, x.right


def _enlarged(x: Blob, times: int) -> dict[str, int]:
    return {key: getattr(x, key) * times for key in ("height", "width", "first", "last", "left", "right")}


def _mismatch() -> BundleError:
    return BundleError("The model's weights do not fit its architecture; get the model again from its source.")
