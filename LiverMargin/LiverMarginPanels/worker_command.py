"""Which Python runs the worker: Slicer's own, or another that the user names in the Environment panel."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import LiverMarginLib
from LiverMarginLib.errors import DependencyError
from LiverMarginPanels.qt_process import clean_environment
from LiverMarginPanels.worker_client import Command

SETTING = "LiverMargin/workerPython"
"""Key of the application's settings that holds the path of another Python; empty for Slicer's own."""


def slicer_python(home: Path, executable: str = sys.executable, prefix: str = sys.prefix) -> Path | None:
    """Find the interpreter of this Slicer.

    The real interpreter is preferred to the launcher ``PythonSlicer``: the launcher is a process between us and the
    worker, and everything that it would set up is in our own environment already.

    Parameters
    ----------
    home : Path
        ``slicer.app.slicerHome``.
    executable, prefix : str
        Of the Python that asks; in the application `executable` may be the application itself.
    """
    candidates = [home / "bin" / f"python-real{suffix}" for suffix in ("", ".exe")]
    if Path(executable).stem.lower().startswith("python"):
        candidates.append(Path(executable))
    candidates += [Path(found)] if (found := shutil.which("PythonSlicer")) else []
    candidates += [Path(prefix) / "bin" / "python3", Path(prefix) / "python.exe"]
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def worker_command(other_python: str = "") -> Command:
    """How to start the worker in this application.

    Parameters
    ----------
    other_python : str
        Path of another interpreter; empty for Slicer's own.

    Raises
    ------
    DependencyError
        If the interpreter is not there.
    """
    import slicer

    folder = Path(LiverMarginLib.__file__).resolve().parents[1]
    if other_python:
        if not Path(other_python).is_file():
            raise DependencyError(f"There is no Python at {other_python}; choose another in the Environment panel.")
        return Command(other_python, folder, clean_environment(slicer.util.startupEnvironment()))
    own = slicer_python(Path(slicer.app.slicerHome))
    if own is None:
        raise DependencyError("Slicer's own Python was not found; choose a Python in the Environment panel.")
    return Command(str(own), folder)
