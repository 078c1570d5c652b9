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
    """A feature map, or some of its rows: what a layer takes and gives.

    Attributes
    ----------
    name : str
    channels : int
    height, width : int
        Of the whole map.
    first, last : int
        Which of its rows these are; `last` is not among them.
    """

    name: str
    channels: int
    height: int
    width: int
    first: int
    last: int


class NcnnBuilder:
    """Collects layers; every method that makes a blob returns it.

    Layers may be given some rows of a map (`rows`): they return those rows of the result that can be computed from
    them, so that maps that are too large for the processor's caches can be computed band by band (`bands`, `stack`).
    The edge of the map is padded, the edge of a band is not: what comes out is the same either way.

    Parameters
    ----------
    channels, height, width : int
        Of the image.
    """

    def __init__(self, channels: int, height: int, width: int) -> None:
        self._layers: list[tuple[str, tuple[str, ...], str, str]] = [("Input", (), "image", "")]
        self._weights: list[bytes] = []
        self.image = Blob("image", channels, height, width, 0, height)

    def convolution(
        self, x: Blob, weight: FloatArray, bias: FloatArray | None, *, stride: int = 1, padding: int, relu: bool = False
    ) -> Blob:
        """Append a convolution with weights (outputs, inputs, k, k), and a ReLU if asked for."""
        x, top, bottom, shape = self._slide(x, weight.shape[-1], stride, padding)
        parameters = {3: stride, 4: padding, 14: top, 16: bottom, 9: int(relu)}
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
        y = self._append("Gemm", (x,), parameters, {"width": outputs})
        return self._append("ReLU", (y,), {}) if relu else y

    def max_pool(self, x: Blob, kernel: int, stride: int, padding: int = 0) -> Blob:
        """Append max-pooling, which drops what is left at the ends."""
        x, top, bottom, shape = self._slide(x, kernel, stride, padding)
        return self._append("Pooling", (x,), {0: 0, 1: kernel, 2: stride, 3: padding, 13: top, 15: bottom, 5: 1}, shape)

    def double(self, x: Blob) -> Blob:
        """Append an enlargement by two that repeats each value."""
        return self._append("Interp", (x,), {0: 1, 1: "2.0", 2: "2.0"}, _enlarged(x, 2))

    def add(self, x: Blob, y: Blob, *, relu: bool = False) -> Blob:
        """Append a sum of the rows that two blobs of equal shape share, and a ReLU if asked for."""
        if x.channels != y.channels:
            raise _mismatch()
        total = self._append("BinaryOp", self._shared(x, y), {0: 0})
        return self._append("ReLU", (total,), {}) if relu else total

    def concat(self, x: Blob, y: Blob) -> Blob:
        """Append a blob with the channels of two, of the rows that they share."""
        return self._append("Concat", self._shared(x, y), {0: 0}, {"channels": x.channels + y.channels})

    def sigmoid(self, x: Blob) -> Blob:
        """Append a sigmoid."""
        return self._append("Sigmoid", (x,), {})

    def rows(self, x: Blob, first: int, last: int) -> Blob:
        """Append the rows `first` to `last` (not among them) of a map, as far as `x` has them."""
        first, last = max(first, x.first), min(last, x.last)
        if (first, last) == (x.first, x.last):
            return x
        ends = {-23309: f"1,{first - x.first}", -23310: f"1,{last - x.first}", -23311: "1,1"}
        return self._append("Crop", (x,), ends, {"first": first, "last": last})

    def stack(self, bands: Sequence[Blob]) -> Blob:
        """Append the map that bands make, from its first row to its last.

        Raises
        ------
        ValueError
            If one does not begin where the one before ends.
        """
        if any(upper.last != lower.first for upper, lower in pairwise(bands)):
            raise ValueError("bands must follow each other")
        if len(bands) == 1:
            return bands[0]
        return self._append("Concat", tuple(bands), {0: 1}, {"first": bands[0].first, "last": bands[-1].last})

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

    def _slide(self, x: Blob, kernel: int, stride: int, padding: int) -> tuple[Blob, int, int, dict[str, int]]:
        """Return where a window that slides over the rows begins, what pads it above and below, and what it gives."""
        height, width = ((side + 2 * padding - kernel) // stride + 1 for side in (x.height, x.width))
        first, last = -(-(x.first + padding) // stride), (x.last + padding - kernel) // stride + 1
        top, bottom = 0, 0
        if x.first == 0:
            first, top = 0, padding
        else:
            x = self.rows(x, first * stride - padding, x.last)
        if x.last == x.height:
            last, bottom = height, padding
        return x, top, bottom, {"height": height, "width": width, "first": first, "last": last}

    def _shared(self, x: Blob, y: Blob) -> tuple[Blob, Blob]:
        if (x.height, x.width) != (y.height, y.width):
            raise _mismatch()
        return self.rows(x, y.first, y.last), self.rows(y, x.first, x.last)

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
        self, kind: str, inputs: tuple[Blob, ...], parameters: dict[int, Any], shape: dict[str, int] | None = None
    ) -> Blob:
        """Append a layer whose output is like its first input but for `shape`."""
        output = replace(inputs[0], name=f"blob{len(self._layers)}", **(shape or {}))
        text = " ".join(f"{key}={value}" for key, value in parameters.items())
        self._layers.append((kind, tuple(blob.name for blob in inputs), output.name, text))
        return output


def bands(height: int, rows: int) -> list[tuple[int, int]]:
    """Divide a height into bands of so many rows; the last may have fewer."""
    return [(first, min(first + rows, height)) for first in range(0, height, rows)]


def _enlarged(x: Blob, times: int) -> dict[str, int]:
    return {key: getattr(x, key) * times for key in ("height", "width", "first", "last")}


def _mismatch() -> BundleError:
    return BundleError("The model's weights do not fit its architecture; get the model again from its source.")
