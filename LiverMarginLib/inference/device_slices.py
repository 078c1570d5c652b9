"""Slices' way to a device and their labels' way back, two batches at a time.

While the device computes one batch, the machine gathers the voxels of the next one and unpacks the labels of the last
one, and both copies are under way. The only thing waited for is the end of a batch's download.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import torch

from LiverMarginLib.inference.device_labels import DeviceLabels
from LiverMarginLib.inference.labelling import SliceLabels
from LiverMarginLib.inference.slice_inputs import SliceInputs
from LiverMarginLib.inference.transfers import Transfers

Result = TypeVar("Result")
Guard = Callable[[Callable[[], Result]], Result]

# Others are converted on the machine, as windowing would do there.
_TYPES = {
    np.dtype(np.uint8): torch.uint8,
    np.dtype(np.int16): torch.int16,
    np.dtype(np.int32): torch.int32,
    np.dtype(np.float32): torch.float32,
}


class DeviceSlices:
    """Labels batches of slices on a device.

    Parameters
    ----------
    source : SliceInputs
    labels : DeviceLabels
    transfers : Transfers
    batch_size : int
        The most slices of a batch.
    guard : callable
        Runs what uses the device, and turns its failures into our errors.
    """

    at_a_time = 2

    def __init__(
        self, source: SliceInputs, labels: DeviceLabels, transfers: Transfers, batch_size: int, guard: Guard
    ) -> None:
        self._source = source
        self._labels = labels
        self._transfers = transfers
        self._guard = guard
        self._free = deque(guard(lambda: _Slot(source, labels, transfers, batch_size)) for _ in range(self.at_a_time))

    def begin(self, indices: Sequence[int]) -> Callable[[], list[SliceLabels]]:
        """Ask for the labels of some slices.

        Parameters
        ----------
        indices : sequence of int
            At most `batch_size`; of at most `at_a_time` batches the labels may be outstanding.

        Returns
        -------
        callable
            Waits for the labels and returns them, in order.

        Raises
        ------
        MemoryError
            If the device holds fewer slices; the batch has then not been begun.
        BundleError
            If the network cannot be run.
        """
        slot = self._free.popleft()
        try:
            count = self._gather(slot, indices)
            wait = self._guard(lambda: self._launch(slot, len(indices), count))
        except BaseException:
            # An upload of this slot may still be reading what the next attempt writes.
            self._guard(self._transfers.finish)
            self._free.appendleft(slot)
            raise

        def labels() -> list[SliceLabels]:
            self._guard(wait)
            found = [self._labels.packing.read(row) for row in slot.packed.numpy()[: len(indices)]]
            self._free.append(slot)
            return found

        return labels

    def _gather(self, slot: _Slot, indices: Sequence[int]) -> int:
        """Put the voxels that some slices' inputs need into pinned memory, each once; return how many there are."""
        channels = np.array([self._source.channels(k) for k in indices])
        needed, places = np.unique(channels, return_inverse=True)
        for row, k in zip(slot.voxels.numpy(), needed, strict=False):
            np.copyto(row, self._source.voxels[k], casting="unsafe")
        slot.channels.numpy()[: len(indices)] = places.reshape(channels.shape)
        return len(needed)

    def _launch(self, slot: _Slot, images: int, slices: int) -> Callable[[], object]:
        self._transfers.upload(slot.voxels[:slices], slot.device_voxels[:slices])
        channels = None
        if self._source.context.slices:
            self._transfers.upload(slot.channels[:images], slot.device_channels[:images])
            channels = slot.device_channels[:images]
        packed = self._labels(slot.device_voxels[:slices], channels)
        return self._transfers.download(packed, slot.packed[:images])


class _Slot:
    """The buffers of one batch."""

    def __init__(self, source: SliceInputs, labels: DeviceLabels, transfers: Transfers, batch_size: int) -> None:
        channels = source.context.channels
        kind = _TYPES.get(source.voxels.dtype, torch.float32)
        voxels = (batch_size * channels, *source.voxels.shape[1:])
        self.voxels = transfers.host_buffer(*voxels, dtype=kind)
        self.device_voxels = transfers.device_buffer(*voxels, dtype=kind)
        self.channels = transfers.host_buffer(batch_size, channels, dtype=torch.int64)
        self.device_channels = transfers.device_buffer(batch_size, channels, dtype=torch.int64)
        self.packed = transfers.host_buffer(batch_size, labels.packing.size, dtype=torch.uint8)
