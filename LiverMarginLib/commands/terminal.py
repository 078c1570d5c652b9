"""What the command line shows: progress bars and notices on standard error, results on standard output."""

from __future__ import annotations

import importlib.util
import signal
import sys
import types
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from LiverMarginLib.events import CancelToken, Event, Notice, OnEvent, Progress
from LiverMarginLib.jobs.base import Job, run
from LiverMarginLib.jsonable import dumps
from LiverMarginLib.plain_text import one_line

if TYPE_CHECKING:
    from rich.progress import Progress as ProgressBar

_UNBROKEN = 14
STAGES = {
    "read": "Reading",
    "prepare": "Preparing",
    "write": "Writing",
    "compare": "Comparing",
    "phantom": "Phantom",
    "train": "Training",
    "surface": "Surfaces",
    "download": "Downloading",
    "install": "Installing",
    "tune": "Tuning",
}


class Terminal:
    """Runs jobs with a progress bar and prints what they give.

    Parameters
    ----------
    as_json : bool
        Print results as one JSON object on standard output, and no bars.
    """

    def __init__(self, as_json: bool = False) -> None:
        self.as_json = as_json
        self.listeners: list[OnEvent] = []
        self._bar: ProgressBar | None = None
        self._tasks: dict[str, Any] = {}
        self._warned: set[str] = set()

    def run(self, job: Job) -> dict[str, Any]:
        """Run a job; Ctrl-C or SIGTERM asks it to stop, a second one interrupts it."""
        cancel = CancelToken()
        # SIGTERM is how a job scheduler says that the time is over.
        previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

        def interrupt(number: int, frame: types.FrameType | None) -> None:
            if cancel.cancelled:
                raise KeyboardInterrupt
            cancel.cancel()
            self.note("Stopping after the current step; press Ctrl-C again to stop at once.")

        for number in previous:
            signal.signal(number, interrupt)
        try:
            return run(job, self.on_event, cancel)
        finally:
            for number, handler in previous.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
            self.close()

    def on_event(self, event: Event) -> None:
        """Show one event of a running job, and pass it on to `listeners`."""
        for listener in self.listeners:
            listener(event)
        if isinstance(event, Notice):
            self.warn(event.message)
        elif isinstance(event, Progress) and not self.as_json:
            self._advance(event)

    def _advance(self, event: Progress) -> None:
        if not _has_rich():
            return
        if self._bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as ProgressBar

            self._bar = ProgressBar(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(elapsed_when_finished=True),
                TextColumn("{task.fields[message]}"),
                console=Console(stderr=True),
            )
            self._bar.start()
        from rich.markup import escape

        if event.stage not in self._tasks:
            name = STAGES.get(event.stage, event.stage.capitalize())
            self._tasks[event.stage] = self._bar.add_task(name, total=event.total, message="")
        self._bar.update(
            self._tasks[event.stage], completed=event.done, total=event.total, message=escape(one_line(event.message))
        )

    def close(self) -> None:
        """End the progress bars."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
            self._tasks = {}

    def warn(self, message: str) -> None:
        """Print a notice, once."""
        if message not in self._warned:
            self._warned.add(message)
            self.note(f"warning: {message}")

    def note(self, message: str) -> None:
        """Print a line for the person, never part of the result."""
        if self._bar is not None:
            self._bar.console.print(one_line(message), highlight=False, markup=False)
        else:
            print(one_line(message), file=sys.stderr)

    def result(self, values: dict[str, Any], lines: Sequence[str] = ()) -> None:
        """Print the result: JSON when asked for, otherwise `lines` for a person."""
        if self.as_json:
            print(dumps(values, indent=2))
        else:
            for line in lines:
                print(one_line(line))

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Print a table for a person (nothing when JSON was asked for); numbers are right-aligned."""
        if self.as_json:
            return
        if not _has_rich():
            for row in (columns, *rows):
                print("\t".join("" if cell is None else _plain(cell) for cell in row))
            return
        from rich import box
        from rich.console import Console
        from rich.table import Table

        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
        for n, column in enumerate(columns):
            numeric = any(isinstance(row[n], (int, float)) for row in rows)
            # Short words are not broken where a longer column or a heading can give way.
            longest = max((len(_plain(row[n])) for row in rows if row[n] is not None), default=0)
            justify: Literal["left", "right"] = "right" if numeric else "left"
            table.add_column(column, justify=justify, overflow="fold", min_width=min(longest, _UNBROKEN))
        for row in rows:
            table.add_row(*("" if cell is None else _cell(cell) for cell in row))
        Console().print(table, highlight=False)


def _has_rich() -> bool:
    """3D Slicer's Python comes without it; tables are then plain lines, and there are no bars."""
    return importlib.util.find_spec("rich") is not None


def _plain(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else one_line(str(value))


def _cell(value: object) -> str:
    from rich.markup import escape

    return escape(_plain(value))
