"""The arithmetic that torch computes a network in: single precision and nothing less, or a device's half precision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch

from LiverMarginLib.errors import ResourceError
from LiverMarginLib.inference.segmenter import Precision

# Tensor cores, which make float16 quicker than float32, came with this compute capability.
_VOLTA = (7, 0)
# What oneDNN computes bfloat16 with; where neither is there it would only be slower.
_BFLOAT16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16")


@dataclass(frozen=True)
class Arithmetic:
    """How numbers are rounded on a device. Made by `choose_arithmetic`.

    Parameters
    ----------
    device : str
    half : torch.dtype, optional
        What convolutions and matrix products compute in; None for single precision throughout.
    """

    device: str
    half: torch.dtype | None = None

    @property
    def name(self) -> str:
        """For the provenance of results: "float32", "float16" or "bfloat16"."""
        return str(self.half or torch.float32).removeprefix("torch.")

    def of_network(self) -> AbstractContextManager[None]:
        """Half precision, where it was chosen, for what can bear it; normalisations and sums stay in single."""
        if self.half is None:
            return nullcontext()
        # A recorded graph must not refer to a cache of cast weights that is emptied when this ends.
        return torch.autocast(self.device, self.half, cache_enabled=False)

    def finished(self, output: torch.Tensor) -> torch.Tensor:
        """A network's raw output in single precision; what overflowed is not a number, lest it pass for certainty."""
        output = output.float()
        return output.masked_fill(output.isinf(), torch.nan) if self.half is torch.float16 else output


@contextmanager
def without_tf32() -> Iterator[None]:
    """Let CUDA's single precision be single: cuDNN rounds factors to 10 bits (TF32) if it is not told."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32
    cudnn.allow_tf32 = matmul.allow_tf32 = False
    try:
        yield
    finally:
        cudnn.allow_tf32, matmul.allow_tf32 = before


def choose_arithmetic(precision: Precision, device: str) -> Arithmetic:
    """Find what a precision is on a device.

    Half precision is float16 on a GPU, which has eight times the resolution of bfloat16 at the same speed and whose
    overflow is found out, and bfloat16 on a CPU, which is what CPUs have instructions for.

    Raises
    ------
    ResourceError
        If half precision would not be quicker there.
    """
    if precision is Precision.SINGLE:
        return Arithmetic(device)
    if device == "cuda" and (torch.version.hip or torch.cuda.get_device_capability() >= _VOLTA):
        return Arithmetic(device, torch.float16)
    if device == "cpu" and _has_bfloat16():
        return Arithmetic(device, torch.bfloat16)
    what = {"cpu": "This processor", "cuda": "This GPU"}.get(device, f"The device {device}")
    raise ResourceError(f"{what} is no quicker in half precision; choose the precision single.")


def _has_bfloat16() -> bool:
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # older versions do not say
    return any(capabilities.get(name) for name in _BFLOAT16_INSTRUCTIONS)
