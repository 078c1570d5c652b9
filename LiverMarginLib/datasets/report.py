"""What `check_dataset` found, for people (text), spreadsheets (CSV) and programs (JSON)."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from LiverMarginLib.csv_table import write_rows
from LiverMarginLib.jsonable import dumps

_COUNTS = {
    "case": "case",
    "images": "images",
    "annotated_slices": "annotated",
    "liver_slices": "liver",
    "empty_annotated_slices": "empty",
    "fragmented_slices": "fragments",
    "disagreements": "disagree",
    "size_mismatches": "size",
    "unreadable": "unreadable",
    "orientation_doubts": "doubts",
}
_SHOWN = 3


@dataclass(frozen=True)
class CaseReport:
    """One case.

    Parameters
    ----------
    case, patient : str
    has_masks : bool
    images : int
        Slices.
    annotated_slices, liver_slices, empty_annotated_slices : int
        Slices somebody looked at, those with liver, and those with a mask that is empty.
    fragmented_slices : tuple of int
        Indices (in file order of pictures, else in the axial view) of slices with liver in two pieces or more.
    slices_with_specks : int
        Slices with a piece of fewer than 20 pixels beside the liver.
    age, gender, health_status, disease
        From the case table; None where it says nothing.
    disagreements : tuple of str
        One entry for each frame whose encodings differ.
    unmatched_masks, size_mismatches, orientation_doubts, unreadable, notes : tuple of str
    colour_images : int
        Images with three channels.
    repeated_slices : int
        Slices whose content occurs again in the same case.
    """

    case: str
    patient: str
    has_masks: bool = False
    images: int = 0
    annotated_slices: int = 0
    liver_slices: int = 0
    empty_annotated_slices: int = 0
    fragmented_slices: tuple[int, ...] = ()
    slices_with_specks: int = 0
    disagreements: tuple[str, ...] = ()
    unmatched_masks: tuple[str, ...] = ()
    size_mismatches: tuple[str, ...] = ()
    colour_images: int = 0
    repeated_slices: int = 0
    orientation_doubts: tuple[str, ...] = ()
    unreadable: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    age: float | None = None
    gender: str | None = None
    health_status: str | None = None
    disease: str | None = None

    @property
    def problems(self) -> tuple[str, ...]:
        """What keeps the case from being used, or should be looked at first; one phrase each."""
        found = [*_first(self.unreadable)]
        if not self.has_masks:
            found.append("has no masks")
        elif self.liver_slices == 0 and not self.unreadable:
            found.append("no mask holds liver")
        if self.disagreements:
            found.append(f"encodings disagree in {len(self.disagreements)} frames, first {self.disagreements[0]}")
        if self.unmatched_masks:
            shown = ", ".join(self.unmatched_masks[:_SHOWN])
            found.append(f"{len(self.unmatched_masks)} masks belong to no image ({shown})")
        found += _first(self.size_mismatches)
        if self.colour_images:
            found.append(f"{self.colour_images} images have three channels")
        if self.repeated_slices:
            found.append(f"{self.repeated_slices} slices occur twice")
        return (*found, *self.orientation_doubts)


@dataclass(frozen=True)
class DuplicatePair:
    """Two cases that share `slices` slices."""

    first: str
    second: str
    slices: int
    same_patient: bool

    def __str__(self) -> str:
        whose = "the same patient" if self.same_patient else "different patients"
        return f"{self.first} and {self.second} ({whose}) share {self.slices} slices"


@dataclass(frozen=True)
class DatasetReport:
    """All cases, and what they share.

    Parameters
    ----------
    layout : str
    cases : tuple of CaseReport
    duplicates : tuple of DuplicatePair
    notes : tuple of str
        How the files were understood.
    """

    layout: str
    cases: tuple[CaseReport, ...]
    duplicates: tuple[DuplicatePair, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def problems(self) -> tuple[str, ...]:
        """One line for everything that should be looked at; empty for a clean data set."""
        lines = [f"{case.case}: {problem}" for case in self.cases for problem in case.problems]
        return (*lines, *(str(pair) for pair in self.duplicates))

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable form."""
        return {**dataclasses.asdict(self), "problems": list(self.problems)}

    def to_json(self) -> str:
        """Everything, as JSON."""
        return dumps(self.to_dict(), indent=2) + "\n"

    def to_csv(self) -> str:
        """One line a case; lists become their lengths, and the problems a column of text."""
        buffer = io.StringIO()
        names = [field.name for field in dataclasses.fields(CaseReport)]
        rows = [[*(_count(getattr(case, name)) for name in names), "; ".join(case.problems)] for case in self.cases]
        write_rows(buffer, [[*names, "problems"], *rows])
        return buffer.getvalue()

    def to_text(self) -> str:
        """A table of counts, then the problems."""
        rows = [tuple(_COUNTS.values())]
        rows += [tuple(str(_count(getattr(case, name))) for name in _COUNTS) for case in self.cases]
        sums = [sum(int(row[column]) for row in rows[1:]) for column in range(1, len(_COUNTS))]
        rows.append((f"{len(self.cases)} case{'s' if len(self.cases) != 1 else ''}", *map(str, sums)))
        widths = [max(len(row[column]) for row in rows) for column in range(len(_COUNTS))]
        lines = [*self.notes, ""]
        for row in rows:
            cells = [
                row[0].ljust(widths[0]),
                *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
            ]
            lines.append("  ".join(cells).rstrip())
        problems = self.problems
        lines += [
            "",
            f"{len(problems)} to look at:" if problems else "Nothing odd was found.",
            *map("  {}".format, problems),
        ]
        return "\n".join(lines) + "\n"


def _first(messages: Sequence[str]) -> list[str]:
    more = len(messages) - _SHOWN
    return [*messages[:_SHOWN], *([f"and {more} more like it"] if more > 0 else [])]


def _count(value: object) -> object:
    return len(value) if isinstance(value, tuple) else value
