"""Warm worker processes (docs/worker.md) as a batch uses them: one job at a time each, killed without regret.

What a worker writes besides events goes nowhere: it may quote headers, and with them a patient.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import LiverMarginLib
from LiverMarginLib.events import Event, Failure, Result, event_from_dict
from LiverMarginLib.interpreter import clean_environment, own_python
from LiverMarginLib.jobs.base import Job
from LiverMarginLib.jsonable import dumps
from LiverMarginLib.worker import GRACE_SECONDS, PROTOCOL

START_SECONDS = 120.0
_LONGEST_LINE = 1 << 22


@dataclass(frozen=True)
class Launch:
    """How workers are started.

    Parameters
    ----------
    python : str, optional
        An interpreter; this process's own by default.
    environment : mapping of str to str
        Variables besides those of this process.
    """

    python: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)

    def start(self) -> subprocess.Popen[bytes]:
        """Start a worker."""
        library = Path(LiverMarginLib.__file__).resolve().parents[1]
        inherited = dict(os.environ) if self.python is None else clean_environment(os.environ)
        return subprocess.Popen(
            [self.python or own_python(), "-m", "LiverMarginLib.worker"],
            cwd=library,
            env={**inherited, **self.environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the batch, which then ends its workers in order
        )


class WorkerProcess:
    """One worker and the job that it does.

    Parameters
    ----------
    launch : Launch
    inbox : queue
        Receives ``(worker, event)`` for every event, and ``(worker, None)`` when the process has gone.
    """

    def __init__(self, launch: Launch, inbox: queue.Queue[tuple[WorkerProcess, Event | None]]) -> None:
        self.ready = False
        self.broken = ""
        self._inbox = inbox
        self._lock = threading.Lock()
        self._first: Job | None = None
        self._process = launch.start()
        self._started = time.monotonic()
        threading.Thread(target=self._listen, daemon=True).start()

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def overdue(self) -> bool:
        """Whether it has not come up in time."""
        return not self.ready and time.monotonic() - self._started > START_SECONDS

    def send(self, job: Job) -> None:
        """Give it a job, when it has come up; if it is dead its end is in the inbox."""
        with self._lock:
            if not self.ready:
                self._first = job  # written now, a long one could fill the pipe of a process that never reads
                return
        self._write(job)

    def _write(self, job: Job) -> None:
        stdin = self._process.stdin
        assert stdin is not None
        with contextlib.suppress(OSError, ValueError):
            stdin.write(dumps(job.to_dict()).encode() + b"\n")
            stdin.flush()

    def kill(self) -> None:
        """End it and what it started, at once."""
        if os.name == "posix":
            with contextlib.suppress(OSError):
                if os.getpgid(self.pid) == self.pid:
                    os.killpg(self.pid, signal.SIGKILL)
        with contextlib.suppress(OSError):
            self._process.kill()

    def close(self) -> None:
        """Ask it to end."""
        stdin = self._process.stdin
        assert stdin is not None
        with contextlib.suppress(OSError):
            stdin.close()

    def wait(self) -> int:
        """Wait for its end, helping it if need be; return its exit code."""
        try:
            return self._process.wait(GRACE_SECONDS + 2)
        except subprocess.TimeoutExpired:
            self.kill()
            return self._process.wait()

    def memory(self) -> int | None:
        """Bytes of memory that it uses; None where the system does not say."""
        return resident_bytes(self.pid)

    def how_it_ended(self) -> str:
        """In words; call when it has ended."""
        code = self.wait()
        if code < 0:
            with contextlib.suppress(ValueError):
                return f"was ended by the signal {signal.Signals(-code).name}"
        return f"ended with code {code}"

    def _listen(self) -> None:
        stdout = self._process.stdout
        assert stdout is not None
        with contextlib.suppress(OSError, ValueError):
            while line := stdout.readline(_LONGEST_LINE):
                self._hear(line)
        self._inbox.put((self, None))

    def _hear(self, line: bytes) -> None:
        try:
            values = json.loads(line)
            if values.get("event") == "ready":
                self._come_up(values.get("protocol"))
                return
            event = event_from_dict(values)
        except (ValueError, AttributeError, RecursionError):
            return  # the last half line of a process that was killed
        self._inbox.put((self, event))

    def _come_up(self, protocol: object) -> None:
        if protocol != PROTOCOL:
            self.broken = "its Python has another version of LiverMargin"
            self.kill()
            return
        with self._lock:
            self.ready = True
            job, self._first = self._first, None
        if job is not None:
            self._write(job)


def is_last(event: Event | None) -> bool:
    """Whether an event is the last of its job."""
    return isinstance(event, (Result, Failure))


def resident_bytes(pid: int) -> int | None:
    """Bytes of main memory that a process holds; None where the system does not say (without psutil)."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError, AttributeError):
        pass
    try:
        import psutil

        return int(psutil.Process(pid).memory_info().rss)
    except Exception:  # not installed, or the process has just gone
        return None
