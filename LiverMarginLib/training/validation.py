"""Scoring the present weights on the validation patients."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from LiverMarginLib.errors import InputError, LiverMarginError
from LiverMarginLib.events import CancelToken, OnEvent, Progress
from LiverMarginLib.training.config import TrainConfig
from LiverMarginLib.training.data import Source, usable_slices

if TYPE_CHECKING:
    from LiverMarginLib.training.distributed import Group
    from LiverMarginLib.training.engine import Engine
    from LiverMarginLib.training.loader import Item
    from LiverMarginLib.training.task import Task

_SECONDS_BETWEEN_EVENTS = 0.5


@dataclass(frozen=True)
class _Read:
    """Reads a slice with the number of its patient; an object, so that loader processes can have a copy."""

    task: Task
    source: Source
    groups: dict[int, int]

    def __call__(self, index: int, sample: int) -> Item:
        return self.task.read_validation(self.source, index, self.groups[index])


class Validation:
    """The validation slices, shared among the processes of a group.

    Parameters
    ----------
    task : Task
    source : Source
    engine : Engine
    group : Group
    config : TrainConfig
    workers : int
        Processes that read.

    Raises
    ------
    InputError
        If none of the slices was annotated.
    """

    def __init__(
        self, task: Task, source: Source, engine: Engine, group: Group, config: TrainConfig, workers: int
    ) -> None:
        indices = usable_slices(source, config.unannotated_as_empty)
        if not indices:
            raise InputError("None of the validation slices was annotated; annotate some or count them as empty.")
        numbers: dict[str, int] = {}
        groups = {index: numbers.setdefault(source.patient(index), len(numbers)) for index in indices}
        self._n_groups = len(numbers)
        self._read = _Read(task, source, groups)
        size = task.validation_batch
        batches = [[(index, index) for index in indices[n : n + size]] for n in range(0, len(indices), size)]
        # Every process makes as many rounds as the others; the last ones of some are empty.
        self._rounds = -(-len(batches) // group.world)
        self._mine = batches[group.rank :: group.world]
        self._engine = engine
        self._group = group
        self._workers = workers
        self._prefetch = config.prefetch
        self._pin = engine.device.type == "cuda"

    def run(self, on_event: OnEvent, cancel: CancelToken) -> dict[str, np.ndarray] | None:
        """Return the task's sums over all validation slices, or None if the training was stopped meanwhile.

        Raises
        ------
        LiverMarginError
            If a slice cannot be read.
        """
        from LiverMarginLib.training.loader import BatchLoader

        totals: dict[str, np.ndarray] = {}
        last_event = time.monotonic()
        with BatchLoader(self._read, self._mine, self._workers, self._prefetch, self._pin) as batches:
            for done in range(self._rounds):
                failure: LiverMarginError | None = None
                sums: dict[str, np.ndarray] = {}
                if done < len(self._mine):
                    try:
                        sums = self._engine.validate(next(batches), self._n_groups)
                    except LiverMarginError as error:
                        failure = error
                stop, failed = self._group.any((cancel.cancelled, failure is not None))
                if failed:
                    raise failure or InputError("Another process of this training failed; see its message.")
                if stop:
                    return None
                for name, value in sums.items():
                    totals[name] = totals[name] + value if name in totals else value
                if time.monotonic() - last_event > _SECONDS_BETWEEN_EVENTS:
                    last_event = time.monotonic()
                    on_event(Progress(done + 1, self._rounds, "validate"))
        if self._group.world > 1:
            # A process that had no batch does not know the names; it learns them from one that had.
            known = next(item for item in self._group.gather({k: v.shape for k, v in totals.items()}) if item)
            totals = {name: totals.get(name, np.zeros(shape)) for name, shape in known.items()}
        return self._group.sum(totals)
