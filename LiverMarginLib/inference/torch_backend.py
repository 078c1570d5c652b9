"""Dense networks by torch, on a GPU or the CPU, behind the `Segmenter` contract."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from LiverMarginLib.inference.memory import is_out_of_memory
from LiverMarginLib.inference.segmenter import cannot_run
from LiverMarginLib.models.architectures import Activation
from LiverMarginLib.models.bundle import Bundle


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
    """

    def __init__(self, bundle: Bundle, device: str = "cpu", threads: int | None = None) -> None:
        import torch

        if threads is not None and device == "cpu":
            torch.set_num_threads(threads)
        self._manifest = bundle.manifest
        self._activation = bundle.architecture.activation
        # Channels last is about twice as fast on a CPU and on CUDA's tensor cores; MPS has no kernels for it.
        last = torch.channels_last_3d if bundle.manifest.volumetric else torch.channels_last
        self._memory_format = torch.contiguous_format if device == "mps" else last
        self._module = bundle.torch_module().to(device).to(memory_format=self._memory_format)  # type: ignore[call-overload]
        self.device = device
        self.runtime = f"torch {torch.__version__}"
        self.input_size = bundle.manifest.input_size
        self.classes = len(bundle.manifest.labels)

    def predict(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """See `Segmenter.predict`."""
        import torch

        try:
            with torch.inference_mode():
                image = torch.from_numpy(batch).to(device=self.device, memory_format=self._memory_format)
                output = self._module(image)
                if self._activation is Activation.SIGMOID:
                    output = torch.sigmoid_(output)
                elif self._activation is Activation.SOFTMAX:
                    output = torch.softmax(output, dim=1)[:, 1:]
                return output.float().contiguous().cpu().numpy()
        except Exception as error:
            if not is_out_of_memory(error):
                raise cannot_run(self._manifest, self.device, error) from error
        # The failed attempt's tensors are free only now that its traceback is gone.
        if self.device == "cuda":
            torch.cuda.empty_cache()
        elif self.device == "mps":
            torch.mps.empty_cache()
        raise MemoryError(f"out of memory on {self.device}")

    @contextmanager
    def dropout(self, seed: int) -> Iterator[None]:
        """See `DropoutSampler.dropout`. Normalisation keeps to the statistics of the training."""
        import torch
        from torch.nn.modules.dropout import _DropoutNd

        layers = [module for module in self._module.modules() if isinstance(module, _DropoutNd)]
        devices = [torch.cuda.current_device()] if self.device == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(seed)
            for layer in layers:
                layer.train()
            try:
                yield
            finally:
                for layer in layers:
                    layer.eval()
