"""One run at a time in one folder.

The operating system holds the lock and lets it go when its process ends, however it ends: there is no stale lock to
judge by clocks and process numbers. The file's text only tells who holds it.
"""

from __future__ import annotations

import errno
import json
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from LiverMarginLib.errors import ResourceError

_NO_LOCKS = {errno.ENOLCK, getattr(errno, "ENOTSUP", errno.ENOLCK), errno.ENOSYS}
# Where Windows keeps the lock: beyond the text, because others may not read what is locked.
_FAR = 1 << 30


class LockedError(ResourceError):
    """Another run holds the lock."""


@contextmanager
def run_lock(folder: Path, shard: tuple[int, int] | None) -> Iterator[bool]:
    """Hold the lock of a run's folder.

    Parts of one run (`shard`) may work in the same folder at the same time; anything else may not.

    Parameters
    ----------
    folder : Path
        Holds the lock files; made where needed.
    shard : tuple of int, optional
        Which part of how many.

    Yields
    ------
    bool
        False where the file system has no locks, so that nothing is held.

    Raises
    ------
    LockedError
        With a sentence that says who holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    own = folder / ("lock" if shard is None else f"lock-{shard[0]}-of-{shard[1]}")
    with ExitStack() as held:
        # A moment in which nobody else looks at the locks: two runs that begin together must not both give way.
        door = held.enter_context((folder / "lock-door").open("a+b"))
        works = _take(door, wait=True)
        for other in sorted(folder.glob("lock*")):
            together = shard is not None and other.name.endswith(f"-of-{shard[1]}") and other != own
            if other.name == "lock-door" or together or other == own:
                continue
            with other.open("a+b") as file:
                if works and not _take(file):
                    raise LockedError(_who(file, other))
        file = held.enter_context(own.open("a+b"))
        if works and not _take(file):
            raise LockedError(_who(file, own))
        file.seek(0)
        file.truncate()
        file.write(json.dumps({"host": socket.gethostname(), "pid": os.getpid()}).encode())
        file.flush()
        if works:
            _release(door)
        yield works


def _who(file: BinaryIO, path: Path) -> str:
    try:
        file.seek(0)
        holder = json.loads(file.read(4096))
        who = f"process {int(holder['pid'])} on {str(holder['host'])[:64]}"
    except (OSError, ValueError, KeyError, TypeError):
        who = "another process"
    part = path.name.removeprefix("lock").strip("-").replace("-", " ")
    return (
        f"A run of {who} is working in this output folder{f' (part {part})' if part else ''}; wait for its end, or "
        "choose another folder."
    )


if os.name == "nt":
    import msvcrt

    def _take(file: BinaryIO, wait: bool = False) -> bool:
        file.seek(_FAR)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        except OSError:
            return False
        return True

    def _release(file: BinaryIO) -> None:
        file.seek(_FAR)
        msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)  # type: ignore[attr-defined]

else:
    import fcntl

    def _take(file: BinaryIO, wait: bool = False) -> bool:
        """Take the lock; for the door, False means that the file system has none."""
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            return False
        return True

    def _release(file: BinaryIO) -> None:
        fcntl.flock(file, fcntl.LOCK_UN)
