"""A network recorded once and replayed: one launch for a batch instead of one for each of its layers' kernels.

A recording is of fixed buffers, and so of one batch size. What comes back lies in such a buffer, too: it is good until
the next call, in the order of the device's work.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from LiverMarginLib.errors import technical

logger = logging.getLogger(__name__)

Compute = Callable[[Tensor], Tensor]


class Recorder(Protocol):
    """What can record work on a device."""

    def record(self, compute: Compute, images: Tensor) -> tuple[Callable[[], object], Tensor]:
        """Record ``compute(images)``.

        Returns
        -------
        callable
            Computes the same again, from what `images` then holds.
        Tensor
            Where each replay leaves its result.
        """

    def finish(self) -> None:
        """Wait until everything that was asked of the device is done."""


class CudaRecorder:
    """Records by CUDA graphs."""

    def record(self, compute: Compute, images: Tensor) -> tuple[Callable[[], object], Tensor]:
        """See `Recorder.record`."""
        # A recording takes no part in the default stream's order, and libraries make their workspaces for each stream
        # at its first use, which cannot be recorded: so once unrecorded on the very stream that is recorded then.
        side, main = torch.cuda.Stream(), torch.cuda.current_stream()
        side.wait_stream(main)
        with torch.cuda.stream(side):
            compute(images)
        main.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # The outer one because a recording that fails leaves its own stream the current one.
        with torch.cuda.stream(main), torch.cuda.graph(graph, stream=side):
            output = compute(images)
        return graph.replay, output

    def finish(self) -> None:
        """See `Recorder.finish`."""
        torch.cuda.synchronize()


class CapturedNetwork:
    """Calls a network, and records it for the batch size that has come twice in a row.

    A smaller batch is put into the recording's buffer as long as it fills more than half of it: the rest of the buffer
    is then computed for nothing. Anything else is computed without a recording. There is one recording at a time, for
    it keeps the memory of a whole batch to itself.

    Parameters
    ----------
    compute : callable
        Maps a batch of images to a batch of results, each image for itself. Nothing in it may wait for the device.
    recorder : Recorder
    """

    def __init__(self, compute: Compute, recorder: Recorder) -> None:
        self._compute = compute
        self._recorder = recorder
        self._recording: _Recording | None = None
        self._last: torch.Size | None = None
        self._refused: set[torch.Size] = set()

    def __call__(self, images: Tensor) -> Tensor:
        """Compute a batch; the result is good until the next call."""
        again, self._last = images.shape == self._last, images.shape
        if self._recording is not None and self._recording.suits(images):
            return self._recording(images)
        if again and images.shape not in self._refused:
            self._record(images)
            if self._recording is not None:
                return self._recording(images)
        return self._compute(images)

    def forget(self) -> None:
        """Give the memory of the recording back; the batch size must come twice again to be recorded."""
        self._last = None
        if self._recording is not None:
            self._recorder.finish()  # a recording must outlive its replays
            self._recording = None

    def _record(self, images: Tensor) -> None:
        self.forget()
        buffer = torch.empty_like(images).copy_(images)
        try:
            self._recording = _Recording(buffer, *self._recorder.record(self._compute, buffer))
        except Exception as error:  # whatever an operation, a library or a driver has against being recorded
            self._refused.add(images.shape)
            logger.info("The network is not recorded as a graph: %s", technical(error))


class _Recording:
    def __init__(self, images: Tensor, replay: Callable[[], object], output: Tensor) -> None:
        self._images = images
        self._replay = replay
        self._output = output

    def suits(self, images: Tensor) -> bool:
        there, come = self._images.shape, images.shape
        return come[1:] == there[1:] and there[0] < 2 * come[0] <= 2 * there[0]

    def __call__(self, images: Tensor) -> Tensor:
        count = len(images)
        self._images[:count].copy_(images)
        self._replay()
        return self._output[:count]
