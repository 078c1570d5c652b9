"""What a running job tells whoever started it, and how it is told to stop.

The same events reach a progress bar, the Slicer panel and a test. Between processes each is one JSON object on a
line of its own (see docs/worker.md); within a process they are these small frozen dataclasses.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from LiverMarginLib.errors import Cancelled
from LiverMarginLib.plain_text import one_line


@dataclass(frozen=True)
class Event:
    """Base of all events; `name` is the value of the JSON key ``event``."""

    name: ClassVar[str] = "event"

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-serialisable form, ``{"event": name, ...}``."""
        return {"event": self.name, **dataclasses.asdict(self)}


@dataclass(frozen=True)
class Progress(Event):
    """`done` of `total` units of `stage` are finished."""

    name = "progress"
    done: int
    total: int
    stage: str = ""
    message: str = ""


@dataclass(frozen=True)
class SliceReady(Event):
    """The mask of axial slice `index` is final unless post-processing changes it.

    `index` counts along the first axis of the canonical axial view (see `LiverMarginLib.volume.AxialView`).
    """

    name = "slice"
    index: int


@dataclass(frozen=True)
class Metric(Event):
    """A named value at a step, for curves: a loss, a validation score."""

    name = "metric"
    metric: str
    value: float
    step: int
    series: str = ""


@dataclass(frozen=True)
class Notice(Event):
    """Something the user should know about a result that is produced all the same."""

    name = "warning"
    message: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "message", one_line(self.message))


@dataclass(frozen=True)
class CaseEnded(Event):
    """One case of a batch has ended; `values` is its row of the table."""

    name = "case"
    case: str
    status: str
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Result(Event):
    """The job has ended well; `values` is what it produced."""

    name = "result"
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Failure(Event):
    """The job has ended badly; `message` says what to do, `kind` is that of the `LiverMarginError`."""

    name = "error"
    kind: str
    message: str
    details: str = ""


EVENT_TYPES: Mapping[str, type[Event]] = {
    event.name: event for event in (Progress, SliceReady, Metric, Notice, CaseEnded, Result, Failure)
}

OnEvent = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Drop an event: the listener of callers that want none."""


def event_from_dict(values: Mapping[str, Any]) -> Event:
    """Rebuild an event from its `to_dict` form.

    Raises
    ------
    ValueError
        If the name is unknown or the fields do not fit it.
    """
    fields = dict(values)
    name = fields.pop("event", None)
    if not isinstance(name, str) or name not in EVENT_TYPES:
        raise ValueError(f"unknown event {name!r}")
    try:
        return EVENT_TYPES[name](**fields)
    except TypeError as error:
        raise ValueError(f"event {name!r} has the wrong fields: {error}") from error


class CancelToken:
    """A flag that one thread raises and a job looks at between its steps."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def cancel(self) -> None:
        """Ask the job to stop at its next step."""
        self._event.set()

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._event.is_set()

    def check(self) -> None:
        """Raise `Cancelled` if `cancel` was called."""
        if self.cancelled:
            raise Cancelled
