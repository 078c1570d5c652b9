"""Which Python runs the worker: Slicer's own, or another that the user names in the Environment panel."""

from __future__ import annotations

from pathlib import Path

import LiverMarginLib
from LiverMarginLib.errors import DependencyError
from LiverMarginLib.interpreter import clean_environment, slicer_python
from LiverMarginPanels.worker_client import Command

SETTING = "LiverMargin/workerPython"
"""Key of the application's settings that holds the path of another Python; empty for Slicer's own."""


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
