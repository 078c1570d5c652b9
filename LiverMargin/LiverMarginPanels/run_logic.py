"""What every logic does that runs one job at a time in the worker: its folder, its signals, and exactly one end."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from LiverMarginLib.errors import InputError, LiverMarginError, ResourceError
from LiverMarginLib.events import Event, Failure, Notice, Progress, Result
from LiverMarginPanels.signals import Signal
from LiverMarginPanels.worker_client import WorkerClient

Found = TypeVar("Found")


@dataclass(frozen=True)
class Step:
    """How far a run is.

    Parameters
    ----------
    stage : str
        As the job names it; "starting" until the worker tells of its first.
    done, total : int
    remaining : float, optional
        Seconds until this stage is over; None while that cannot be told.
    message : str
        What the job says of it.
    title : str
        Which of several runs.
    """

    stage: str
    done: int = 0
    total: int = 0
    remaining: float | None = None
    message: str = ""
    title: str = ""


class RunLogic(Generic[Found]):
    """Base of the logics. Needs no window.

    A subclass prepares its run within ``with self._preparing() as folder`` and starts a job there with
    ``self._client``, makes of the job's result what it found (`_take`), and takes back what it has done to the scene
    when there is no result (`_undo`).

    Parameters
    ----------
    client : WorkerClient
    temporary : Path, optional
        Where the run's folder is made; None takes the system's place.
    clock : callable
        Seconds that only grow.
    """

    def __init__(
        self, client: WorkerClient, temporary: Path | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.progressed: Signal[[Step]] = Signal()
        self.noticed: Signal[[str]] = Signal()
        self.succeeded: Signal[[Found]] = Signal()
        self.failed: Signal[[Failure]] = Signal()
        """Everything is as it was; the kind is ``cancelled`` where the user wanted that."""

        self._client = client
        self._temporary = temporary
        self._clock = clock
        self._folder: Path | None = None
        self._stage = ""
        self._stage_began = 0.0
        self._done_then = 0
        client.event.connect(self._heard)
        client.finished.connect(self._finished)

    @property
    def running(self) -> bool:
        """Whether a run goes on."""
        return self._folder is not None

    def cancel(self) -> None:
        """Stop the run; `failed` tells when it is over."""
        self._client.cancel()

    def abandon(self) -> None:
        """Stop the run at once and tell nobody: the module is being closed or reloaded."""
        self._client.abandon()
        if self._folder is not None:
            self._undo()
            self._clean()

    def _take(self, values: Mapping[str, Any]) -> Found:
        """Make of the job's result what the user gets."""
        raise NotImplementedError

    def _go_on(self, values: Mapping[str, Any]) -> bool:
        """Start the next job of this run with what the last one gave; return whether there is one."""
        return False

    def _undo(self) -> None:
        """Take back what the run has done to the scene; there is no result."""

    def _hear(self, event: Event) -> None:
        """Hear of what is neither progress nor a notice."""

    @contextmanager
    def _preparing(self) -> Iterator[Path]:
        """Make the run's folder; it is removed with the run, and at once if this block raises.

        Raises
        ------
        InputError
            If a run goes on already.
        ResourceError
            If no folder can be made.
        """
        if self._folder is not None:
            raise InputError("A run goes on here already; cancel it first.")
        try:
            self._folder = Path(tempfile.mkdtemp(prefix="LiverMargin-", dir=self._temporary))
        except OSError as error:
            raise ResourceError(
                "No temporary folder can be made; free some space on the disk, or check its permissions.", repr(error)
            ) from error
        self._stage = ""
        try:
            yield self._folder
        except BaseException:
            self._undo()
            self._clean()
            raise

    def _heard(self, event: Event) -> None:
        if self._folder is None:
            return
        if isinstance(event, Progress):
            self.progressed.emit(self._step(event))
        elif isinstance(event, Notice):
            self.noticed.emit(event.message)
        else:
            self._hear(event)

    def _step(self, event: Progress) -> Step:
        now = self._clock()
        if event.stage != self._stage:  # loading a model is over with the first slice, and must not count for the rest
            self._stage, self._stage_began, self._done_then = event.stage, now, event.done
        remaining = None
        if self._done_then < event.done < event.total:  # what follows a finished stage is not known
            of_one = (now - self._stage_began) / (event.done - self._done_then)
            remaining = of_one * (event.total - event.done)
        return Step(event.stage, event.done, event.total, remaining, event.message)

    def _finished(self, outcome: Result | Failure) -> None:
        if self._folder is None:
            return
        found: Found | None = None
        try:
            if isinstance(outcome, Result):
                if self._go_on(outcome.values):
                    return
                found = self._take(outcome.values)
        except LiverMarginError as error:
            outcome = Failure(error.kind, error.message, error.details)
        except (OSError, ValueError, KeyError) as error:
            outcome = Failure("resource", "What the worker produced could not be read; start again.", repr(error))
        except BaseException:
            self._undo()
            self._clean()
            raise
        if found is None:
            self._undo()
        self._clean()
        if found is not None:
            self.succeeded.emit(found)
        elif isinstance(outcome, Failure):
            self.failed.emit(outcome)

    def _clean(self) -> None:
        """Remove the folder; the run is over."""
        folder, self._folder = self._folder, None
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
