"""The worker's process and the clock in 3D Slicer: QProcess and QTimer behind the client's protocol.

Measured in the application: Python threads starve while Slicer's event loop idles, `launchConsoleProcess` needs
seconds for ten thousand lines and has no standard input, and a signal that is connected by a wrong name is silently
never heard.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from LiverMarginPanels.signals import Signal
from LiverMarginPanels.worker_client import Command


def later(seconds: float, function: Callable[[], None]) -> None:
    """Call `function` once, after some seconds, in the event loop."""
    import qt

    qt.QTimer.singleShot(round(1000 * seconds), function)


def connect(sender: object, name: str, slot: Callable[..., object]) -> None:
    """Connect a Qt signal by its signature; a wrong name is an error here, where PythonQt only prints.

    Raises
    ------
    RuntimeError
        If there is no such signal.
    """
    if not sender.connect(name, slot):  # type: ignore[attr-defined]
        raise RuntimeError(f"there is no signal {name}")


class QtProcess:
    """A `Process` (see `worker_client`) by QProcess."""

    def __init__(self) -> None:
        import qt

        self.output: Signal[[bytes]] = Signal()
        self.errors: Signal[[bytes]] = Signal()
        self.ended: Signal[[int, bool]] = Signal()
        self.not_started: Signal[[str]] = Signal()
        # Kept here: a QProcess that goes out of scope kills its process.
        self._process = qt.QProcess()
        connect(self._process, "readyReadStandardOutput()", self._read_output)
        connect(self._process, "readyReadStandardError()", self._read_errors)
        connect(self._process, "finished(int,QProcess::ExitStatus)", self._finished)
        connect(self._process, "errorOccurred(QProcess::ProcessError)", self._error)

    def start(self, command: Command) -> None:
        """Start the process."""
        import qt

        if command.environment is not None:
            environment = qt.QProcessEnvironment()
            for name, value in command.environment.items():
                environment.insert(name, value)
            self._process.setProcessEnvironment(environment)
        self._process.setWorkingDirectory(str(command.folder))
        self._process.start(command.program, list(command.arguments))

    def write(self, data: bytes) -> None:
        """Write to its standard input; Qt keeps the bytes until the process takes them."""
        self._process.write(data)

    def close_input(self) -> None:
        """Close its standard input once everything is written."""
        self._process.closeWriteChannel()

    def kill(self, leader: int | None) -> None:
        """End the process and, where process groups exist, its children, which outlive a plain kill."""
        if leader and hasattr(os, "killpg"):
            try:
                if os.getpgid(leader) == leader:
                    os.killpg(leader, signal.SIGKILL)
            except ProcessLookupError:
                pass  # gone already
        self._process.kill()

    def _read_output(self) -> None:
        self.output.emit(self._process.readAllStandardOutput().data())

    def _read_errors(self) -> None:
        self.errors.emit(self._process.readAllStandardError().data())

    def _finished(self, code: int, status: int) -> None:
        import qt

        self._read_output()
        self._read_errors()
        self.ended.emit(int(code), status == qt.QProcess.CrashExit)

    def _error(self, error: int) -> None:
        import qt

        if error == qt.QProcess.FailedToStart:  # the only error after which `finished` does not come
            self.not_started.emit(self._process.errorString())
