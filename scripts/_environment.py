"""The environment that scripts/demo.py and scripts/test.py make for themselves on a bare Python.

Standard library only. A virtual environment beside the source tree is made once and brought up to date whenever
pyproject.toml changes; the script then starts itself again inside it.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
MINIMUM = (3, 11)


def enter(name: str, extras: str = "") -> None:
    """Continue in the environment `.venv-<name>`, making it first where needed.

    Parameters
    ----------
    name : str
        Which environment.
    extras : str
        Optional dependencies of pyproject.toml to install, such as "[test]".
    """
    if sys.version_info < MINIMUM:
        sys.exit(f"LiverMargin needs Python {'.'.join(map(str, MINIMUM))} or newer; this is {sys.version.split()[0]}.")
    folder = REPOSITORY / f".venv-{name}"
    if Path(sys.prefix) == folder:
        return
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    stamp = folder / "installed"
    wanted = hashlib.sha256((REPOSITORY / "pyproject.toml").read_bytes() + extras.encode()).hexdigest()
    if not stamp.is_file() or stamp.read_text() != wanted or not python.is_file():
        print(f"Preparing {folder.name} (once; the first time takes some minutes) ...", flush=True)
        try:
            venv.EnvBuilder(with_pip=True, clear=True).create(folder)
        except subprocess.CalledProcessError:
            sys.exit("Python's venv module cannot install pip here; on Debian or Ubuntu run: apt install python3-venv")
        _install(python, extras)
        stamp.write_text(wanted)
    # The caller's variables must not leak another environment's packages into this one.
    clean = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
    try:
        sys.exit(subprocess.call([str(python), *sys.argv], env=clean))
    except KeyboardInterrupt:
        sys.exit(130)


def _install(python: Path, extras: str) -> None:
    command = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "-q", "-e", f"{REPOSITORY}{extras}"]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        lines = (result.stdout + result.stderr).strip().splitlines()[-15:]
        sys.exit("pip could not install what LiverMargin needs. Its last lines:\n  " + "\n  ".join(lines))
