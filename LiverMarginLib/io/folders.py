"""What lies in a folder that may come from somebody else: plain files, and no way out of it."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

_SYSTEM_FILES = frozenset({"__MACOSX", "THUMBS.DB", "DESKTOP.INI"})


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden, or an operating system's own."""
    return name.startswith(".") or name.upper() in _SYSTEM_FILES


def walk(folder: Path, on_error: Callable[[OSError], None] | None = None) -> tuple[list[Path], int]:
    """Find the files below a folder.

    Hidden files, pipes and devices are left out (opening a pipe would wait for ever), linked folders are not entered,
    and links to files outside of the folder are not followed: who packed the folder does not choose what else of this
    machine is read.

    Parameters
    ----------
    folder : Path
    on_error : callable, optional
        Hears of folders that cannot be listed; they are left out otherwise.

    Returns
    -------
    files : list of Path
        In no particular order. Links that lead nowhere are among them, so that they are not passed over in silence.
    leading_out : int
        Number of links that were not followed.
    """
    root = folder.resolve()
    files, leading_out = [], 0
    for parent, folders, names in os.walk(folder, onerror=on_error):
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        for path in (Path(parent, name) for name in sorted(names) if not is_hidden(name)):
            if not path.is_symlink():
                mode = path.lstat().st_mode
            elif not path.exists():
                mode = stat.S_IFREG
            elif path.resolve().is_relative_to(root):
                mode = path.stat().st_mode
            else:
                leading_out += 1
                continue
            if stat.S_ISREG(mode):
                files.append(path)
    return files, leading_out


def links_note(leading_out: int) -> str:
    """A sentence about links that `walk` has not followed."""
    links = "link leads" if leading_out == 1 else "links lead"
    return f"{leading_out} {links} out of the folder and were not followed; copy the files if they belong to it."
