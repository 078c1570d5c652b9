"""The process in which long work runs: ``python -m LiverMarginLib.worker``.

3D Slicer's window never imports torch and is never blocked: it starts this process, writes jobs to its standard input
and reads events from its standard output, one JSON object a line each (docs/worker.md). The batch script and the
tests use the same protocol. A crash or an out-of-memory kills the worker, not Slicer.

The worker stays warm: a loaded model is kept for the next job. It ends when its standard input is closed, which is
also what happens when its parent dies.
"""

from __future__ import annotations

import logging
import os
import queue
import sys
import threading
import traceback
from typing import BinaryIO, TextIO

from LiverMarginLib.errors import Cancelled, InputError, LiverMarginError, technical
from LiverMarginLib.events import CancelToken, Event, Failure
from LiverMarginLib.jobs import Job, job_from_dict, run
from LiverMarginLib.jsonable import dumps, loads
from LiverMarginLib.quiet import silence_libraries

PROTOCOL = 1
GRACE_SECONDS = 3.0
MAX_LINE = 1 << 20

_log = logging.getLogger(__name__)


class Worker:
    """Runs the jobs that arrive on `commands` and tells about them on `replies`.

    Parameters
    ----------
    commands : binary stream
        One JSON object a line: a job (`Job.to_dict`), or ``{"cancel": true}`` for the one that runs. End of file ends
        the worker: at once when idle, within `GRACE_SECONDS` otherwise.
    replies : text stream
        One event a line.
    """

    def __init__(self, commands: BinaryIO, replies: TextIO) -> None:
        self._commands = commands
        self._replies = replies
        self._lock = threading.Lock()
        self._jobs: queue.Queue[Job | LiverMarginError | None] = queue.Queue()
        self._current: CancelToken | None = None
        self._closing = threading.Event()

    def serve(self) -> int:
        """Run until the standard input is closed; return the exit code."""
        threading.Thread(target=self._listen, daemon=True).start()
        self._send({"event": "ready", "protocol": PROTOCOL, "pid": os.getpid()})
        while (job := self._jobs.get()) is not None:
            self._do(job)
        return 0

    def _do(self, job: Job | LiverMarginError) -> None:
        token = CancelToken()
        self._current = token
        if self._closing.is_set():
            token.cancel()
        try:
            if isinstance(job, LiverMarginError):
                raise job
            token.check()
            run(job, self._tell, token)
        except LiverMarginError as error:
            self._tell(Failure(error.kind, error.message, error.details))
        except Exception as error:
            # Where it happened, and no values: what an exception quotes may be a patient's.
            details = "".join(traceback.format_tb(error.__traceback__)) + type(error).__name__
            _log.error("unforeseen\n%s", details)
            self._tell(
                Failure(
                    "internal",
                    f"Something unforeseen happened ({type(error).__name__}); report the details to the developers.",
                    details,
                )
            )
        finally:
            self._current = None

    def _listen(self) -> None:
        """Read commands until end of file; runs in a thread of its own, so that a cancel is heard during a job."""
        while line := self._commands.readline(MAX_LINE):
            if not line.endswith(b"\n") and len(line) == MAX_LINE:
                self._skip_line()
                self._jobs.put(InputError("The worker was sent a line that is too long to be a job."))
            elif line.strip():
                self._hear(line)
        self._closing.set()
        self._jobs.put(None)
        if self._current is not None:
            self._current.cancel()
        timer = threading.Timer(GRACE_SECONDS, _leave)
        timer.daemon = True
        timer.start()

    def _skip_line(self) -> None:
        """Drop the rest of a line: its end must not be taken for a job of its own."""
        while (rest := self._commands.readline(MAX_LINE)) and not rest.endswith(b"\n"):
            pass

    def _hear(self, line: bytes) -> None:
        try:
            values = loads(line)
            if isinstance(values, dict) and values.get("cancel") is True:
                if self._current is not None:
                    self._current.cancel()
                return
            self._jobs.put(job_from_dict(values))
        except LiverMarginError as error:
            self._jobs.put(error)
        except ValueError as error:
            self._jobs.put(InputError("The worker was sent something that is not a job in JSON.", technical(error)))

    def _tell(self, event: Event) -> None:
        self._send(event.to_dict())

    def _send(self, values: dict[str, object]) -> None:
        line = dumps(values)
        with self._lock:
            try:
                self._replies.write(line + "\n")
                self._replies.flush()
            except (BrokenPipeError, ValueError):  # nobody listens any more
                if self._current is not None:
                    self._current.cancel()


def _leave() -> None:
    """End a worker whose job does not stop in time; temporary files are removed, nothing final is touched."""
    from LiverMarginLib.io.atomic import discard_unfinished

    discard_unfinished()
    os._exit(Cancelled.exit_code)


def main() -> int:
    """Serve on the standard streams."""
    if hasattr(os, "setsid") and os.getpgrp() != os.getpid():
        os.setsid()  # a group of its own: who kills it by group takes its children along
    # Libraries print where they like; the protocol keeps the real standard output for itself.
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    silence_libraries()
    return Worker(sys.stdin.buffer, replies).serve()


if __name__ == "__main__":
    sys.exit(main())
