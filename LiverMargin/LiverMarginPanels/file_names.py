"""Names of files and folders that users type."""

from __future__ import annotations

from pathlib import Path

from LiverMarginLib.errors import InputError


def check_file_name(name: str) -> None:
    """Refuse what cannot be the name of a file, or would lead out of the folder that was chosen.

    Raises
    ------
    InputError
        With what to do.
    """
    if not name.strip(" .") or Path(name).name != name or "\\" in name:
        raise InputError(f"The name {name!r} cannot be that of a file or folder; use letters and digits.")
