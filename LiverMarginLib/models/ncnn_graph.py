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
        """Run on one image, shape (c, h, w), C-contiguous; returns the outputs, (c, h, w) each."""
        extractor = self._net.create_extractor()
        extractor.input("image", self._ncnn.Mat(image))  # refers to the array's memory
        found = []
        for name in self._outputs:
            failed, mat = extractor.extract(name)
            if failed:
                raise MemoryError("ncnn is out of memory")
            found.append(np.array(mat))
        return found


class NcnnBuilder:
    """Collects layers; every method that makes a blob returns its name."""

    def __init__(self, channels: int) -> None:
        self._layers: list[tuple[str, tuple[str, ...], str, str]] = [("Input", (), "image", "")]
        self._weights: list[bytes] = []
        self._channels = {"image": channels}

    def channels(self, blob: str) -> int:
        """Return how many channels a blob has."""
        return self._channels[blob]

    def convolution(
        self, x: str, weight: FloatArray, bias: FloatArray | None, *, stride: int = 1, padding: int, relu: bool = False
    ) -> str:
        """Append a convolution with weights (outputs, inputs, k, k), and a ReLU if asked for."""
        return self._with_weights("Convolution", x, weight, bias, {3: stride, 4: padding, 9: int(relu)})

    def transposed(
        self, x: str, weight: FloatArray, bias: FloatArray | None, *, stride: int, relu: bool = False
    ) -> str:
        """Append a transposed convolution with weights (inputs, outputs, k, k)."""
        swapped = weight.swapaxes(0, 1) if weight.ndim == 4 else weight
        return self._with_weights("Deconvolution", x, swapped, bias, {3: stride, 9: int(relu)})

    def max_pool(self, x: str, kernel: int, stride: int, padding: int = 0) -> str:
        """Append max-pooling, which drops what is left at the ends."""
        return self._append("Pooling", (x,), {0: 0, 1: kernel, 2: stride, 3: padding, 5: 1}, self.channels(x))

    def double(self, x: str) -> str:
        """Append an enlargement by two that repeats each value."""
        return self._append("Interp", (x,), {0: 1, 1: "2.0", 2: "2.0"}, self.channels(x))

    def add(self, x: str, y: str, *, relu: bool = False) -> str:
        """Append a sum of two blobs of equal shape, and a ReLU if asked for."""
        if self.channels(x) != self.channels(y):
            raise _mismatch()
        total = self._append("BinaryOp", (x, y), {0: 0}, self.channels(x))
        return self._append("ReLU", (total,), {}, self.channels(x)) if relu else total

    def concat(self, x: str, y: str) -> str:
        """Append a blob with the channels of two."""
        return self._append("Concat", (x, y), {0: 0}, self.channels(x) + self.channels(y))

    def sigmoid(self, x: str) -> str:
        """Append a sigmoid."""
        return self._append("Sigmoid", (x,), {}, self.channels(x))

    def finish(self, outputs: Sequence[str], threads: int) -> NcnnNet:
        """Return the network that gives `outputs`, whose blobs may be used by other layers too, by so many threads."""
        named = [self._append("Noop", (blob,), {}, self.channels(blob)) for blob in outputs]
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

    def _with_weights(
        self, kind: str, x: str, weight: FloatArray, bias: FloatArray | None, parameters: dict[int, Any]
    ) -> str:
        if weight.ndim != 4 or weight.shape[1] != self.channels(x) or weight.shape[2] != weight.shape[3]:
            raise _mismatch()
        outputs = len(weight)
        if bias is not None and bias.shape != (outputs,):
            raise _mismatch()
        shape = {0: outputs, 1: weight.shape[2], 5: int(bias is not None), 6: weight.size}
        self._weights.append(_SINGLE + np.ascontiguousarray(weight, np.float32).tobytes())
        if bias is not None:
            self._weights.append(np.ascontiguousarray(bias, np.float32).tobytes())
        return self._append(kind, (x,), shape | parameters, outputs)

    def _append(self, kind: str, inputs: tuple[str, ...], parameters: dict[int, Any], channels: int) -> str:
        name = f"blob{len(self._layers)}"
        text = " ".join(f"{key}={value}" for key, value in parameters.items())
        self._layers.append((kind, inputs, name, text))
        self._channels[name] = channels
        return name


def _mismatch() -> BundleError:
    return BundleError("The model's weights do not fit its architecture; get the model again from its source.")
