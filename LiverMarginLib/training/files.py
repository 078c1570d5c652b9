"""Files of a training that are whole or not there."""

from __future__ import annotations

import os
from pathlib import Path

from LiverMarginLib.io.atomic import atomic_path


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Write a file that others see as it was or whole, also after a power cut.

    Raises
    ------
    LiverMarginError
        If the disk is full or the folder cannot be written; what was at `path` is untouched.
    """
    with atomic_path(path) as beside, beside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
