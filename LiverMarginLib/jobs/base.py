"""The base of all jobs: JSON in and out, and one place where faults of the machine become our errors."""

from __future__ import annotations

import dataclasses
import errno
import reprlib
import sys
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from LiverMarginLib.errors import (
    DISK_FULL,
    PERMISSION_DENIED,
    DependencyError,
    InputError,
    LiverMarginError,
    ResourceError,
    technical,
)
from LiverMarginLib.events import CancelToken, OnEvent, Result, ignore
from LiverMarginLib.volume import Modality


@dataclass(frozen=True)
class Job:
    """Base of all jobs; subclasses add plain fields and `execute`."""

    kind: ClassVar[str] = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-serialisable form, ``{"job": kind, ...}``."""
        return {"job": self.kind, **dataclasses.asdict(self)}

    @classmethod
    def from_fields(cls, values: Mapping[str, object]) -> Self:
        """Build the job from JSON values, checking names and types.

        Raises
        ------
        InputError
            If a field is missing, unknown or of the wrong type.
        """
        hints = typing.get_type_hints(cls)
        fields = {field.name: field for field in dataclasses.fields(cls)}
        unknown = sorted(set(values) - set(fields))
        if unknown:
            shown = reprlib.repr(unknown[0])
            raise InputError(f"A {cls.kind} job has no field {shown}; its fields are: {', '.join(fields)}.")
        checked = {}
        for name, value in values.items():
            value = tuple(value) if isinstance(value, list) else value
            if not _fits(value, hints[name]):
                raise InputError(
                    f"The field {name!r} of a {cls.kind} job cannot be {reprlib.repr(value)}; it must be {hints[name]}."
                )
            checked[name] = value
        try:
            return cls(**checked)
        except TypeError as error:
            raise InputError(f"The {cls.kind} job is incomplete: {error}.") from error

    def execute(self, on_event: OnEvent, cancel: CancelToken) -> dict[str, Any]:
        """Do the work and return JSON-serialisable results."""
        raise NotImplementedError


def _fits(value: object, expected: Any) -> bool:
    """Whether a JSON value is of a field's annotated type (plain types, unions, tuples and string mappings)."""
    origin, arguments = typing.get_origin(expected), typing.get_args(expected)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, option) for option in arguments)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        if arguments[-1] is Ellipsis:
            return all(_fits(item, arguments[0]) for item in value)
        return len(value) == len(arguments) and all(map(_fits, value, arguments))
    if origin is dict:
        return isinstance(value, dict) and all(
            _fits(k, arguments[0]) and _fits(v, arguments[1]) for k, v in value.items()
        )
    if expected is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    if expected is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, expected)


def modality_named(name: str | None) -> Modality | None:
    """Return the modality that a job's field names, in either case; None stays None.

    Raises
    ------
    InputError
        If there is none of that name.
    """
    if name is None:
        return None
    try:
        return Modality(name.upper())
    except ValueError:
        raise InputError(f"The modality {name!r} is unknown; use CT or MR.") from None


def run(job: Job, on_event: OnEvent = ignore, cancel: CancelToken | None = None) -> dict[str, Any]:
    """Run a job to its end.

    Parameters
    ----------
    job : Job
    on_event : callable
        Hears of progress, notices and, last, the `Result`.
    cancel : CancelToken, optional
        Stops the job between two of its steps.

    Returns
    -------
    dict
        What the job produced; the same values as the `Result` event's.

    Raises
    ------
    LiverMarginError
        With one sentence for the user. Nothing lies half-written under a final name then.
    """
    try:
        values = job.execute(on_event, cancel or CancelToken())
    except LiverMarginError:
        raise
    except ImportError as error:
        raise DependencyError(
            f"The Python that does the work lacks the package {error.name or 'that the details name'}; "
            "install what is missing in the Environment panel.",
            technical(error),
        ) from error
    except MemoryError as error:
        raise ResourceError(
            "The machine's memory is not enough for this volume; close other programs or use a smaller batch.",
            technical(error),
        ) from error
    except OSError as error:
        raise _from_os_error(error) from error
    on_event(Result(values))
    return values


def _from_os_error(error: OSError) -> LiverMarginError:
    where = f" ({Path(error.filename).name})" if isinstance(error.filename, str) else ""  # folders may name patients
    if error.errno in DISK_FULL:
        return ResourceError(f"The disk is full{where}; free some space and start again.", technical(error))
    if error.errno in PERMISSION_DENIED:
        return ResourceError(f"Permission was denied{where}; choose a place you may read and write.", technical(error))
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR):
        return InputError(f"There is no such file or folder{where}; check the path.", technical(error))
    return ResourceError(
        f"The machine refused{where}: {error.strerror or error}; check the disk and start again.", technical(error)
    )
