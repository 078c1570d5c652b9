"""Dense networks by torch, on a GPU or the CPU, behind the `Segmenter` contract.

On a CUDA device a network with logits is recorded as a graph, slices are windowed, fitted and labelled on the device,
and batches are as large as its memory allows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.modules.dropout import _DropoutNd

from LiverMarginLib.errors import BundleError, LiverMarginError
from LiverMarginLib.inference.arithmetic import choose_arithmetic, without_tf32
from LiverMarginLib.inference.captured_graph import CapturedNetwork, CudaRecorder
from LiverMarginLib.inference.device_labels import DeviceLabels
from LiverMarginLib.inference.device_memory import CudaMemory, DeviceMemory, images_that_fit
from LiverMarginLib.inference.device_slices import DeviceSlices
from LiverMarginLib.inference.labelling import Labelling
from LiverMarginLib.inference.memory import is_out_of_memory
from LiverMarginLib.inference.segmenter import Precision, cannot_run
from LiverMarginLib.inference.slice_inputs import SliceInputs
from LiverMarginLib.inference.transfers import CudaTransfers
from LiverMarginLib.models.architectures import Activation
from LiverMarginLib.models.bundle import Bundle

Result = TypeVar("Result")


class TorchSegmenter:
    """Runs a bundle by torch.

    Parameters
    ----------
    bundle : Bundle
        With ``weights.safetensors``.
    device : str
        "cpu", "cuda" or "mps".
    threads : int, optional
        CPU threads, for the whole process, as torch has it; torch's own choice if not given.
    precision : Precision

    Raises
    ------
    BundleError
        If half precision is asked for and the network finds boxes.
    ResourceError
        If half precision is asked for and the device is no quicker in it.
    """

    def __init__(
        self,
        bundle: Bundle,
        device: str = "cpu",
        threads: int | None = None,
        precision: Precision = Precision.SINGLE,
    ) -> None:
        self._manifest = bundle.manifest
        self._activation = bundle.architecture.activation
        # A network that gives probabilities itself has found boxes on the way: it waits for the device between its
        # layers, and a box's corners rounded to half precision are those of another box.
        dense = self._activation is not Activation.IDENTITY
        if precision is Precision.HALF and not dense:
            raise BundleError(
                f"The model {bundle.manifest.name!r} finds boxes, which half precision would move; choose the "
                "precision single."
            )
        self._arithmetic = choose_arithmetic(precision, device)
        self.precision = self._arithmetic.name
        if threads is not None and device == "cpu":
            torch.set_num_threads(threads)
        # Channels last is about twice as fast on a CPU and on CUDA's tensor cores; MPS has no kernels for it.
        last = torch.channels_last_3d if bundle.manifest.volumetric else torch.channels_last
        self._memory_format = torch.contiguous_format if device == "mps" else last
        self._module = bundle.torch_module().to(device).to(memory_format=self._memory_format)  # type: ignore[call-overload]
        self._captured = CapturedNetwork(self._compute, CudaRecorder()) if device == "cuda" and dense else None
        self._memory: DeviceMemory | None = CudaMemory() if device == "cuda" else None
        self._bytes_each = 0
        self.device = device
        self.runtime = f"torch {torch.__version__}"
        self.input_size = bundle.manifest.input_size
        self.classes = len(bundle.manifest.labels)

    def predict(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """See `Segmenter.predict`."""
        return self.guard(lambda: self.probabilities(torch.from_numpy(batch).to(self.device)).cpu().numpy())

    def probabilities(self, images: Tensor) -> Tensor:
        """Compute on the device; to be called within `guard`.

        Parameters
        ----------
        images : Tensor of float32, shape (n, c, ...)

        Returns
        -------
        Tensor of float32, shape (n, classes, ...)
            Good until the next call.
        """
        images = images.to(memory_format=self._memory_format)
        return self._compute(images) if self._captured is None else self._captured(images)

    def guard(self, work: Callable[[], Result]) -> Result:
        """Do something on the device, and turn what goes wrong into our errors.

        Raises
        ------
        MemoryError
            If the device's memory is short; what can be given back to it has been.
        BundleError
            If anything else fails.
        """
        try:
            with torch.inference_mode(), without_tf32():
                return work()
        except LiverMarginError:
            raise
        except Exception as error:
            if not is_out_of_memory(error):
                raise cannot_run(self._manifest, self.device, error) from error
        # The failed attempt's tensors are free only now that its traceback is gone.
        if self._captured is not None:
            self._captured.forget()
        if self.device == "cuda":
            torch.cuda.empty_cache()
        elif self.device == "mps":
            torch.mps.empty_cache()
        raise MemoryError(f"out of memory on {self.device}")

    def images_that_fit(self, most: int) -> int:
        """See `largest_batch`; found by computing one image, the first time."""
        memory = self._memory
        if memory is None:
            return most
        one = np.zeros((1, self._manifest.channels, *self.input_size), np.float32)
        try:
            self._bytes_each = self._bytes_each or memory.peak(lambda: self.predict(one))
        except MemoryError:
            return 1
        return images_that_fit(self._bytes_each, memory, most)

    def slices_on_device(self, source: SliceInputs, labelling: Labelling, batch_size: int) -> DeviceSlices | None:
        """See `LabelsOnDevice`."""
        if self.device != "cuda":
            return None
        labels = self.guard(
            lambda: DeviceLabels(self.probabilities, source.plan.scale, source.fit, labelling, source.dark, self.device)
        )
        return DeviceSlices(source, labels, CudaTransfers(), batch_size, self.guard)

    @contextmanager
    def dropout(self, seed: int) -> Iterator[None]:
        """See `DropoutSampler.dropout`. Normalisation keeps to the statistics of the training."""
        layers = [module for module in self._module.modules() if isinstance(module, _DropoutNd)]
        devices = [torch.cuda.current_device()] if self.device == "cuda" else []
        # A recording would draw no numbers.
        captured, self._captured = self._captured, None
        with torch.random.fork_rng(devices):
            torch.manual_seed(seed)
            for layer in layers:
                layer.train()
            try:
                yield
            finally:
                self._captured = captured
                for layer in layers:
                    layer.eval()

    def _compute(self, images: Tensor) -> Tensor:
        with self._arithmetic.of_network():
            output = self._module(images)
        output = self._arithmetic.finished(output)
        if self._activation is Activation.SIGMOID:
            output = torch.sigmoid_(output)
        elif self._activation is Activation.SOFTMAX:
            output = torch.softmax(output, dim=1)[:, 1:]
        return output.contiguous()
