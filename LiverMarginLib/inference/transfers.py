"""Copies between a machine and its GPU that take place while the GPU computes.

A GPU copies in both directions and computes at the same time, if each is asked for in a stream of its own and the
machine's side of a copy lies in pinned memory. What may begin when is said by events between the streams.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

Wait = Callable[[], object]


class Transfers(Protocol):
    """Buffers on either side, and copies between them."""

    def host_buffer(self, *shape: int, dtype: torch.dtype) -> Tensor:
        """Memory of the machine that a device can copy from and to by itself."""

    def device_buffer(self, *shape: int, dtype: torch.dtype) -> Tensor:
        """Memory of the device to upload to."""

    def upload(self, source: Tensor, target: Tensor) -> None:
        """Copy to the device; what is computed from now on sees it. `source` must not change until then."""

    def download(self, source: Tensor, target: Tensor) -> Wait:
        """Copy what has been computed until now; `target` holds it after the call that is returned."""

    def finish(self) -> None:
        """Wait until everything that was asked of the device is done."""


class CudaTransfers:
    """Copies of the current CUDA device; what computes is its current stream."""

    def __init__(self) -> None:
        self._up = torch.cuda.Stream()
        self._down = torch.cuda.Stream()

    def host_buffer(self, *shape: int, dtype: torch.dtype) -> Tensor:
        """See `Transfers.host_buffer`."""
        return torch.empty(shape, dtype=dtype, pin_memory=True)

    def device_buffer(self, *shape: int, dtype: torch.dtype) -> Tensor:
        """See `Transfers.device_buffer`."""
        buffer = torch.empty(shape, dtype=dtype, device="cuda")
        # The allocator thinks in the computing stream's order: this memory may still be in use there, and once freed
        # it must not be given away before the last upload is over.
        self._up.wait_stream(torch.cuda.current_stream())
        buffer.record_stream(self._up)
        return buffer

    def upload(self, source: Tensor, target: Tensor) -> None:
        """See `Transfers.upload`. Nothing that is still to be computed may read what `target` held before."""
        with torch.cuda.stream(self._up):
            target.copy_(source, non_blocking=True)
        torch.cuda.current_stream().wait_stream(self._up)

    def download(self, source: Tensor, target: Tensor) -> Wait:
        """See `Transfers.download`."""
        self._down.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._down):
            target.copy_(source, non_blocking=True)
        source.record_stream(self._down)
        done = torch.cuda.Event(blocking=True)  # whoever waits sleeps, for the processors have other work
        done.record(self._down)
        return done.synchronize

    def finish(self) -> None:
        """See `Transfers.finish`."""
        torch.cuda.synchronize()
