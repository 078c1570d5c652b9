"""Installs Detectron2 by the script that ships, in a process of its own. Needs no window."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import LiverMarginLib
from LiverMarginLib.errors import DependencyError
from LiverMarginPanels.signals import Signal
from LiverMarginPanels.worker_client import Command, Process

LAST_LINES = 12
_SCRIPT = "install_detectron2.py"


def install_script() -> Path:
    """Find the script, in a source tree or in the installed extension.

    Raises
    ------
    DependencyError
        If it is in neither.
    """
    package = Path(LiverMarginLib.__file__).resolve().parent
    for folder in (package.parent / "scripts", package / "Resources"):
        if (folder / _SCRIPT).is_file():
            return folder / _SCRIPT
    raise DependencyError(f"The script {_SCRIPT} is not part of this installation; see docs/detectron2.md.")


class DetectronInstall:
    """Runs the script, one installation at a time.

    Parameters
    ----------
    new_process : callable
        Makes a `Process` that is not started yet.
    """

    def __init__(self, new_process: Callable[[], Process]) -> None:
        self.said: Signal[[str]] = Signal()
        """A line of what the script says."""

        self.finished: Signal[[str]] = Signal()
        """Empty if Detectron2 is installed and runs, otherwise the last lines."""

        self._new_process = new_process
        self._process: Process | None = None
        self._buffer = b""
        self._last: deque[str] = deque(maxlen=LAST_LINES)

    @property
    def running(self) -> bool:
        """Whether an installation runs."""
        return self._process is not None

    def start(self, command: Command) -> None:
        """Install into the Python that runs the worker.

        Parameters
        ----------
        command : Command
            How the worker would be started.

        Raises
        ------
        DependencyError
            If the script is not there.
        """
        script = install_script()
        process = self._process = self._new_process()
        self._buffer = b""
        self._last.clear()
        process.output.connect(self._hear)
        process.errors.connect(self._hear)
        process.ended.connect(lambda code, crashed: self._ended(process, code, crashed))
        process.not_started.connect(lambda reason: self._ended(process, -1, True, reason))
        process.start(replace(command, folder=script.parent, arguments=(str(script),)))

    def abandon(self) -> None:
        """End it at once and tell nobody: the module is being closed or reloaded."""
        process, self._process = self._process, None
        if process is not None:
            process.kill(None)

    def _hear(self, data: bytes) -> None:
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            text = line.decode(errors="replace").rstrip()
            if text and self._process is not None:
                self._last.append(text)
                self.said.emit(text)

    def _ended(self, process: Process, code: int, crashed: bool, reason: str = "") -> None:
        if process is not self._process:
            return
        self._hear(b"\n")
        self._process = None
        failed = crashed or code != 0
        self.finished.emit("\n".join([*self._last, reason]).strip() or f"code {code}" if failed else "")
