"""How many images a device computes at a time: as many as its free memory holds, by what one of them took."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

# Of the device's free memory: a recorded graph keeps one batch's worth to itself beside what the allocator holds.
_SHARE = 0.5


class DeviceMemory(Protocol):
    """What a device says of its memory."""

    def free(self) -> int:
        """Bytes that can be had."""

    def peak(self, work: Callable[[], object]) -> int:
        """Do some work and return the most bytes that it held at once."""


class CudaMemory:
    """The memory of the current CUDA device, shared with other programs."""

    def free(self) -> int:
        """See `DeviceMemory.free`; what torch's allocator keeps in reserve counts as free."""
        import torch

        return int(torch.cuda.mem_get_info()[0]) + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()

    def peak(self, work: Callable[[], object]) -> int:
        """See `DeviceMemory.peak`."""
        import torch

        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return torch.cuda.max_memory_allocated() - before


def images_that_fit(bytes_each: int, memory: DeviceMemory, most: int) -> int:
    """Return how many images a batch may have, at least one and at most `most`."""
    return max(1, min(most, int(_SHARE * memory.free()) // max(1, bytes_each)))
