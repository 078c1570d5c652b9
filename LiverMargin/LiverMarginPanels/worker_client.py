"""Runs one job in a worker process and tells what becomes of it (docs/worker.md), without a window and without Qt.

The process and the clock are injected: in 3D Slicer they are `QtProcess` and `later` of `qt_process`, in a test
stand-ins. Whatever the process does (not start, say nothing, speak garbage, crash, not end), every run ends with
exactly one `Result` or `Failure`, and only after the process is gone.
"""

from __future__ import annotations

import json
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Protocol

from LiverMarginLib.events import Event, Failure, Result, event_from_dict
from LiverMarginLib.jobs import Job
from LiverMarginPanels.signals import Signal

PROTOCOL = 1
START_SECONDS = 60.0
GRACE_SECONDS = 5.0  # the worker itself takes up to three to leave in order
LONGEST_LINE = 1 << 22
_LAST_LINES = 40

_log = logging.getLogger(__name__)

Later = Callable[[float, Callable[[], None]], None]


@dataclass(frozen=True)
class Command:
    """How the worker is started.

    Parameters
    ----------
    program : str
        A Python interpreter.
    folder : Path
        Working directory: where `LiverMarginLib` lies, so that any interpreter finds it.
    environment : dict of str to str, optional
        The whole environment of the process; None inherits Slicer's.
    arguments : tuple of str
    """

    program: str
    folder: Path
    environment: dict[str, str] | None = None
    arguments: tuple[str, ...] = ("-m", "LiverMarginLib.worker")


class Process(Protocol):
    """What a client wants of a process."""

    output: Signal[[bytes]]
    """Bytes of the standard output as they come; lines and characters may be cut in two."""

    errors: Signal[[bytes]]
    """Bytes of the standard error."""

    ended: Signal[[int, bool]]
    """Exit code, and whether it crashed. The last of the signals."""

    not_started: Signal[[str]]
    """Why there is no process; `ended` does not come then."""

    def start(self, command: Command) -> None:
        """Start it; one of the signals says later whether that went well."""

    def write(self, data: bytes) -> None:
        """Write to its standard input."""

    def close_input(self) -> None:
        """Close its standard input, which asks a worker to end."""

    def kill(self, leader: int | None) -> None:
        """End it at once, and the process group of `leader` (the worker's own process id) with it."""


class _State(Enum):
    IDLE = "idle"
    STARTING = "starting"
    RUNNING = "running"
    ENDING = "ending"


@dataclass
class _Run:
    """What is known of the process that runs now."""

    process: Process
    disposable: bool = False
    state: _State = _State.STARTING
    outcome: Result | Failure | None = None
    pid: int | None = None
    buffer: bytearray = field(default_factory=bytearray)
    last_lines: deque[str] = field(default_factory=lambda: deque(maxlen=_LAST_LINES))

    def details(self) -> str:
        """The last that it wrote besides events."""
        return "\n".join(self.last_lines)


class WorkerClient:
    """Runs jobs, one at a time.

    Parameters
    ----------
    new_process : callable
        Makes a `Process` that is not started yet.
    later : callable
        ``later(seconds, function)`` calls the function once after that time.
    """

    def __init__(self, new_process: Callable[[], Process], later: Later) -> None:
        self.event: Signal[[Event]] = Signal()
        """Every event but the last."""

        self.finished: Signal[[Result | Failure]] = Signal()
        """The end of a run. `running` is False already, so that a listener may start the next."""

        self._new_process = new_process
        self._later = later
        self._run: _Run | None = None

    @property
    def running(self) -> bool:
        """Whether there is a process."""
        return self._run is not None

    def start(self, command: Command, job: Job, *, disposable: bool = False) -> None:
        """Start a process and give it a job.

        Parameters
        ----------
        command : Command
        job : Job
        disposable : bool
            Whether all that the job writes is thrown away when it is cancelled. Its process is then killed at once:
            one that imports torch hears of nothing for seconds.

        Raises
        ------
        RuntimeError
            If a job runs already; panels do not let that happen.
        """
        if self._run is not None:
            raise RuntimeError("a job runs already")
        process = self._new_process()
        run = self._run = _Run(process, disposable)
        process.output.connect(lambda data: self._hear(run, data))
        process.errors.connect(lambda data: self._hear_log(run, data))
        process.ended.connect(lambda code, crashed: self._ended(run, code, crashed))
        process.not_started.connect(lambda reason: self._not_started(run, command, reason))
        self._later(START_SECONDS, lambda: self._check_started(run))
        process.start(command)
        if self._run is run:
            process.write(json.dumps(job.to_dict()).encode() + b"\n")

    def cancel(self) -> None:
        """Stop the job; `finished` comes with a failure of the kind ``cancelled`` when the process is gone."""
        run = self._run
        if run is None or run.state is _State.ENDING:
            return
        nothing_to_lose = run.disposable or run.state is _State.STARTING
        self._end(run, Failure("cancelled", "Cancelled; nothing was changed."))
        if nothing_to_lose and run is self._run:
            run.process.kill(run.pid)

    def stop(self) -> None:
        """Ask the job to end by itself, however long that takes; `finished` brings the result of what it has.

        A worker that has not answered yet has nothing, and is cancelled.
        """
        run = self._run
        if run is not None and run.state is _State.RUNNING:
            run.process.write(b'{"cancel": true}\n')
        elif run is not None and run.state is _State.STARTING:
            self.cancel()

    def abandon(self) -> None:
        """End the process at once and tell nobody: the module is being closed or reloaded."""
        run, self._run = self._run, None
        if run is not None:
            run.process.kill(run.pid)

    def _hear(self, run: _Run, data: bytes) -> None:
        run.buffer += data
        while (end := run.buffer.find(b"\n")) >= 0:
            line = bytes(run.buffer[:end])
            del run.buffer[: end + 1]
            if line.strip():
                self._hear_line(run, line)
        if len(run.buffer) > LONGEST_LINE:
            run.buffer.clear()
            self._end(run, Failure("internal", _garbage(), run.details()))

    def _hear_line(self, run: _Run, line: bytes) -> None:
        if run is not self._run or run.state is _State.ENDING:
            return
        try:
            values = json.loads(line)
            if isinstance(values, dict) and values.get("event") == "ready":
                self._ready(run, values)
                return
            event = event_from_dict(values if isinstance(values, dict) else {})
        except (ValueError, RecursionError):
            run.last_lines.append(line.decode(errors="replace"))
            return
        if isinstance(event, (Result, Failure)):
            self._end(run, event)
        else:
            self.event.emit(event)

    def _ready(self, run: _Run, values: dict[str, object]) -> None:
        if values.get("protocol") != PROTOCOL:
            self._end(
                run,
                Failure(
                    "dependency",
                    "The worker's Python uses another version of LiverMargin; remove that version from it.",
                ),
            )
            return
        run.pid = pid if isinstance(pid := values.get("pid"), int) else None
        run.state = _State.RUNNING

    def _hear_log(self, run: _Run, data: bytes) -> None:
        run.last_lines.extend(data.decode(errors="replace").splitlines())

    def _end(self, run: _Run, outcome: Result | Failure) -> None:
        """Keep the first outcome and let the process go; help it if it does not."""
        if run is not self._run or run.state is _State.ENDING:
            return
        run.outcome, run.state = outcome, _State.ENDING
        run.process.close_input()
        self._later(GRACE_SECONDS, lambda: self._kill_if_there(run))

    def _kill_if_there(self, run: _Run) -> None:
        if run is self._run:
            _log.warning("the worker does not end and is killed")
            run.process.kill(run.pid)
            self._later(GRACE_SECONDS, lambda: self._ended(run, -1, True))  # in case nobody tells of its end

    def _check_started(self, run: _Run) -> None:
        if run is self._run and run.state is _State.STARTING:
            self._end(
                run,
                Failure(
                    "resource",
                    f"The worker did not start within {START_SECONDS:.0f} seconds; start again, "
                    "or choose another Python in the Environment panel.",
                    run.details(),
                ),
            )

    def _not_started(self, run: _Run, command: Command, reason: str) -> None:
        cannot = f"The Python interpreter {command.program} cannot be started; choose another in the Environment panel."
        self._finish(run, run.outcome or Failure("dependency", cannot, reason))

    def _ended(self, run: _Run, code: int, crashed: bool) -> None:
        if run.outcome is None:
            how = "crashed" if crashed else f"ended with code {code}"
            run.outcome = Failure(
                "crash",
                f"The worker {how} before it was done; the machine may be short of memory, "
                "or the details name a missing package.",
                run.details(),
            )
        self._finish(run, run.outcome)

    def _finish(self, run: _Run, outcome: Result | Failure) -> None:
        if run is self._run:
            self._run = None
            self.finished.emit(outcome)


def _garbage() -> str:
    return "The worker speaks something that is not the protocol; choose another Python in the Environment panel."
