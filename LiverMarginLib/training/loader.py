"""Batches, ready before the device needs them and the same whoever reads them.

The training draws from one endless stream: samples are numbered 0, 1, 2, ... over the whole training, sample s is
entry ``s % n`` of the permutation of pass ``s // n``, and step k of a batch size b uses samples ``k b`` to
``k b + b - 1``. The stream is a pure function of (seed, number), so that a training resumes in the middle of an epoch
by knowing its step alone, no slice is dropped at an epoch's end, and the processes of a distributed training share
each batch without talking to each other.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from LiverMarginLib.errors import LiverMarginError
from LiverMarginLib.training.determinism import Purpose, keyed_rng
from LiverMarginLib.training.interruption import ignore_interrupts

T = TypeVar("T")

Item = dict[str, np.ndarray]


@dataclass(frozen=True)
class Batch:
    """Stacked items and the numbers of their samples in the stream (slice indices in a validation)."""

    samples: list[int]
    tensors: dict[str, torch.Tensor]

    def to(self, device: torch.device) -> Batch:
        """Return the batch on `device`, without waiting for the copy where memory is pinned."""
        moved = {name: tensor.to(device, non_blocking=True) for name, tensor in self.tensors.items()}
        return Batch(self.samples, moved)

    def pin_memory(self) -> Batch:
        """Return the batch in page-locked memory; called by torch's `DataLoader`."""
        return Batch(self.samples, {name: tensor.pin_memory() for name, tensor in self.tensors.items()})


@dataclass(frozen=True)
class _Failed:
    """A sample that could not be read. Travels as a value: torch would bury the sentence in a worker's traceback."""

    error: LiverMarginError


class SampleOrder:
    """Which slice is sample number s of the endless stream.

    Parameters
    ----------
    indices : sequence of int
        The slices to draw from; each is drawn once in every pass.
    seed : int
    """

    def __init__(self, indices: Iterable[int], seed: int) -> None:
        self._indices = np.fromiter(indices, dtype=np.int64)
        self._permutation: Callable[[int], np.ndarray] = lru_cache(maxsize=2)(
            lambda number: keyed_rng(seed, Purpose.ORDER, number).permutation(self._indices)
        )

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, sample: int) -> int:
        number, place = divmod(sample, len(self._indices))
        return int(self._permutation(number)[place])

    def steps(
        self, first: int, last: int, batch: int, rank: int = 0, world: int = 1
    ) -> Iterator[list[tuple[int, int]]]:
        """Yield for steps `first` to `last` - 1 the (slice index, sample number) pairs of process `rank`."""
        share = batch // world
        for step in range(first, last):
            start = step * batch + rank * share
            yield [(self[sample], sample) for sample in range(start, start + share)]


class _Items(Dataset[Any]):
    def __init__(self, read: Callable[[int, int], Item]) -> None:
        self._read = read

    def __getitem__(self, key: tuple[int, int]) -> tuple[int, Item | _Failed]:
        index, sample = key
        try:
            return sample, self._read(index, sample)
        except LiverMarginError as error:
            return sample, _Failed(error)


def _collate(items: list[tuple[int, Item | _Failed]]) -> Batch | _Failed:
    arrays: list[Item] = []
    for _, item in items:
        if isinstance(item, _Failed):
            return item
        arrays.append(item)
    stacked = {name: torch.from_numpy(np.stack([item[name] for item in arrays])) for name in arrays[0]}
    return Batch([sample for sample, _ in items], stacked)


class BatchLoader:
    """Reads batches ahead, in processes or (with none) in a thread. A context manager: leaving it ends them.

    Parameters
    ----------
    read : callable
        ``read(index, sample)`` gives the arrays of one sample; it runs elsewhere, so it must be picklable where
        `workers` is not 0, and must draw random numbers from `keyed_rng` alone.
    keys : iterable of lists of (index, sample)
        One list a batch.
    workers, prefetch : int
        Processes, and batches read ahead (by each of them).
    pin : bool
        Page-lock the batches, for fast copies to CUDA.

    Raises
    ------
    LiverMarginError
        While iterating, what `read` raised, unchanged.
    """

    def __init__(
        self,
        read: Callable[[int, int], Item],
        keys: Iterable[list[tuple[int, int]]],
        workers: int = 0,
        prefetch: int = 2,
        pin: bool = False,
    ) -> None:
        loader: DataLoader[Any] = DataLoader(
            _Items(read),
            batch_sampler=keys,  # type: ignore[arg-type]  # torch accepts any iterable of keys
            collate_fn=_collate,
            num_workers=workers,
            prefetch_factor=prefetch if workers else None,
            pin_memory=pin,
            worker_init_fn=ignore_interrupts if workers else None,
            # A generator of its own: torch would otherwise draw the workers' seed from the generator of the dropout.
            generator=torch.Generator(),
        )
        self._ahead: _ReadAhead[Batch | _Failed] | None = None if workers else _ReadAhead(loader, prefetch)
        self._iterator = iter(loader) if workers else iter(self._ahead or ())

    def __enter__(self) -> BatchLoader:
        return self

    def __exit__(self, *_: object) -> None:
        if self._ahead is not None:
            self._ahead.close()
        # torch ends its worker processes when its iterator goes.
        self._iterator = iter(())

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        item = next(self._iterator)
        if isinstance(item, _Failed):
            raise item.error
        return item


class _ReadAhead(Generic[T]):
    """Iterates over `iterable` in a thread, at most `depth` items ahead."""

    def __init__(self, iterable: Iterable[T], depth: int) -> None:
        self._queue: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(depth)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(iterable,), name="read-ahead", daemon=True)
        self._thread.start()

    def _run(self, iterable: Iterable[T]) -> None:
        end: BaseException = StopIteration()
        try:
            for item in iterable:
                if not self._put((item, None)):
                    return
        except BaseException as error:  # handed to the thread that asks for the next item
            end = error
        self._put((None, end))

    def _put(self, entry: tuple[T | None, BaseException | None]) -> bool:
        while not self._closed.is_set():
            try:
                self._queue.put(entry, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        item, end = self._queue.get()
        if end is not None:
            self._queue.put((None, end))
            raise end
        return item  # type: ignore[return-value]  # None only comes with an end

    def close(self) -> None:
        """End the thread and forget what it has read."""
        self._closed.set()
        self._thread.join()
