"""Which Python runs a worker, and in which environment: inside 3D Slicer neither is a matter of course."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from LiverMarginLib.errors import DependencyError

# Slicer sets these for its own Python; another interpreter does not start with them.
_SLICERS_OWN = (
    "PYTHONHOME",
    "PYTHONPATH",
    "PYTHONNOUSERSITE",
    "LD_LIBRARY_PATH",
    "DYLD_LIBRARY_PATH",
    "QT_PLUGIN_PATH",
)


def clean_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which a Python that is not Slicer's starts."""
    return {name: value for name, value in environment.items() if name not in _SLICERS_OWN}


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


def own_python() -> str:
    """Path of the interpreter that runs this code, also where the code runs inside the application 3D Slicer.

    Raises
    ------
    DependencyError
        If it is not found.
    """
    if Path(sys.executable).stem.lower().startswith("python"):
        return sys.executable
    found = slicer_python(Path(os.environ.get("SLICER_HOME", sys.prefix)))
    if found is None:
        raise DependencyError("The Python of this application was not found; name an interpreter with --python.")
    return str(found)
