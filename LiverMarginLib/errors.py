"""The errors that a user of LiverMargin can meet.

Each carries one sentence that says what is wrong and what to do about it. Doors (command line, worker, Slicer
module, batch script) show that sentence; a traceback is shown only when somebody asks for it.
"""

from __future__ import annotations

import errno
from typing import ClassVar

from LiverMarginLib.plain_text import one_line, without_paths

# What an `OSError.errno` says when a disk takes no more, and when a place must not be touched.
DISK_FULL = frozenset({errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)})
PERMISSION_DENIED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


class LiverMarginError(Exception):
    """Base of every error that LiverMargin raises on purpose.

    Parameters
    ----------
    message : str
        One sentence: what is wrong, and what to do.
    details : str, optional
        Technical details for the log or for `--debug`; never patient identity.
    """

    kind: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 2

    def __init__(self, message: str, details: str = "") -> None:
        self.message = one_line(message)  # it may quote a name that somebody else has chosen
        super().__init__(self.message)
        self.details = details


class InputError(LiverMarginError):
    """The input cannot be used: unreadable, empty, of the wrong kind, or not what the options say."""

    kind = "input"


class GeometryError(InputError):
    """Two images do not lie in the same place, or one image has no usable geometry."""

    kind = "geometry"


class BundleError(LiverMarginError):
    """A model bundle is missing, damaged, tampered with, or not of the kind that is needed."""

    kind = "bundle"


class DependencyError(LiverMarginError):
    """An optional package is needed for this and is not installed."""

    kind = "dependency"
    exit_code = 3


class ResourceError(LiverMarginError):
    """The machine refuses: disk full, no permission to write, out of memory."""

    kind = "resource"
    exit_code = 4


class Cancelled(LiverMarginError):
    """The user stopped the job. Nothing is left under a final file name."""

    kind = "cancelled"
    exit_code = 130

    def __init__(self, message: str = "Cancelled; nothing was written.", details: str = "") -> None:
        super().__init__(message, details)


def technical(error: BaseException) -> str:
    """What an exception says, for the `details` of an error: without names of files, which may name a patient."""
    if isinstance(error, OSError):
        return f"{type(error).__name__} {errno.errorcode.get(error.errno or 0, '')}".strip()
    return f"{type(error).__name__}: {without_paths(str(error))}"
