"""Files that appear under their final name only when they are complete."""

from __future__ import annotations

import contextlib
import errno
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from LiverMarginLib.errors import DISK_FULL, PERMISSION_DENIED, InputError, LiverMarginError, ResourceError, technical

_BAD_PATH = {errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENOENT, errno.ENAMETOOLONG, errno.EINVAL}

# Temporary files that are being written: a process that must leave at once can still remove them.
_unfinished: set[Path] = set()


def discard_unfinished() -> None:
    """Remove every temporary file of this process, because it is about to end without unwinding."""
    for temporary in tuple(_unfinished):
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_path(final: Path, *, overwrite: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `final` that becomes `final` when the block ends well.

    However the block ends otherwise (error, cancellation, full disk), the temporary file and the folders made for it
    are removed and an existing `final` stays as it was.

    Parameters
    ----------
    final : Path
        The file to write; missing parent folders are made.
    overwrite : bool
        Whether an existing `final` may be replaced.

    Yields
    ------
    Path
        An empty file in the same folder with the same last two suffixes, because many writers choose the format by
        the name (``.nii.gz``, ``.seg.nrrd``).

    Raises
    ------
    InputError
        If `final` is a folder, exists while `overwrite` is False, or is no possible file name.
    ResourceError
        If the disk is full, or the folder must not be written to.
    """
    final = Path(final)
    made: list[Path] = []
    temporary = final.with_name(f".{secrets.token_hex(6)}{''.join(final.suffixes[-2:])}")
    try:
        if final.is_dir():
            raise InputError(f"{final.name or final} is a folder; give the name of a file to write.")
        if not overwrite and final.exists():
            raise InputError(f"{final.name} exists already; choose another name or allow it to be replaced.")
        _make_parents(final.parent, made)
        # Made at once, so that a folder which refuses is found before minutes of work rather than after.
        temporary.touch(exist_ok=False)
        _unfinished.add(temporary)
        yield temporary
        temporary.replace(final)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            for folder in reversed(made):
                folder.rmdir()
        if isinstance(error, OSError):
            raise write_error(error, final.name) from error
        raise
    finally:
        _unfinished.discard(temporary)


def write_error(error: OSError, name: str) -> LiverMarginError:
    """Turn an operating system's refusal to write the file `name` into one sentence with what to do.

    Parameters
    ----------
    error : OSError
    name : str
        Name of the file without its folder, which may carry a patient's name.

    Returns
    -------
    LiverMarginError
        `ResourceError` where the machine refuses, `InputError` where the path cannot be.
    """
    details = technical(error)
    if error.errno in DISK_FULL:
        return ResourceError(
            f"The disk is full while writing {name}; free some space or choose another folder.", details
        )
    if error.errno in PERMISSION_DENIED:
        return ResourceError(
            f"{name} cannot be written there; choose a folder that you may write to, or close the program that has "
            "the file open.",
            details,
        )
    if error.errno in _BAD_PATH:
        return InputError(f"{name} cannot be a file there; choose another folder or a shorter name.", details)
    return ResourceError(f"{name} could not be written; choose another folder or disk.", details)


def _make_parents(folder: Path, made: list[Path]) -> None:
    missing = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    for parent in reversed(missing):
        parent.mkdir(exist_ok=True)
        made.append(parent)
