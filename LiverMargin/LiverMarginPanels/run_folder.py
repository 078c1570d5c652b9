"""The temporary folder of a run."""

from __future__ import annotations

import tempfile
from pathlib import Path

from LiverMarginLib.errors import ResourceError


def new_run_folder(parent: Path | None) -> Path:
    """Make an empty folder that belongs to one run and is removed with it.

    Parameters
    ----------
    parent : Path, optional
        Where; None takes the system's place for temporary files.

    Raises
    ------
    ResourceError
        If it cannot be made.
    """
    try:
        return Path(tempfile.mkdtemp(prefix="LiverMargin-", dir=parent))
    except OSError as error:
        raise ResourceError(
            "No temporary folder can be made; free some space on the disk, or check its permissions.", repr(error)
        ) from error
