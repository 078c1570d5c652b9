"""What a comparison found, read from the tables that the worker wrote."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from LiverMarginLib.volume import LabelMap
from LiverMarginPanels.slice_navigation import SlicePlaces


@dataclass(frozen=True)
class Score:
    """A score of a slice.

    Parameters
    ----------
    key : str
        Its column of per_slice.csv; docs/metrics.md defines it.
    title : str
        What a person reads.
    top : float, optional
        The best value, if that is the largest; None for distances, of which the largest is the worst.
    """

    key: str
    title: str
    top: float | None = None

    @property
    def best_is_large(self) -> bool:
        """Whether larger values are better."""
        return self.top is not None


SCORES = (
    Score("boundary_iou", "Boundary IoU", 1.0),
    Score("mask_iou", "IoU", 1.0),
    Score("dice", "Dice", 1.0),
    Score("margin_hd95_mm", "HD95 (mm)"),
    Score("margin_abs_mm", "Mean error (mm)"),
    Score("margin_beyond_mm", "Beyond (mm)"),
    Score("margin_short_mm", "Short (mm)"),
)

PATIENT_SCORES = (
    Score("dice", "Dice", 1.0),
    Score("boundary_iou", "Boundary IoU", 1.0),
    Score("hd95_mm", "HD95 (mm)"),
    Score("assd_mm", "ASSD (mm)"),
    Score("rvd", "RVD"),
)


@dataclass(frozen=True)
class SliceScore:
    """How one model did in one axial slice.

    Parameters
    ----------
    model : str
    index : int
        Counted along the first axis of the axial view.
    position_mm : float
        Superior coordinate of the slice's centre.
    status : str
        "both", "missed" or "extra".
    two_regions : bool
        Whether the reference falls into two or more regions there.
    scores : mapping of str to float
        Without those that are not defined there.
    """

    model: str
    index: int
    position_mm: float
    status: str
    two_regions: bool
    scores: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class Comparison:
    """What a run found.

    Parameters
    ----------
    slices : tuple of SliceScore
        Without slices that neither reference nor prediction touches.
    models : mapping of str to mapping of str to float
        The patient's numbers by model, None where one is not defined.
    places : SlicePlaces
        Where the slices lie.
    reference : LabelMap
        What the models were compared with, as label 1, cropped.
    predictions : mapping of str to LabelMap
        What was compared, as label 1, cropped, by model.
    folder : Path
        Where the tables and the report lie.
    kept : bool
        Whether `folder` is the user's; otherwise it goes with the comparison.
    surfaces : mapping of str to Path
        Files of the surfaces with their margin errors, by model.
    outputs : tuple of Path
        Every file that was written.
    """

    slices: tuple[SliceScore, ...]
    models: Mapping[str, Mapping[str, float | None]]
    places: SlicePlaces
    reference: LabelMap
    predictions: Mapping[str, LabelMap]
    folder: Path
    kept: bool
    surfaces: Mapping[str, Path]
    outputs: tuple[Path, ...]

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.folder / "report.html"

    def save(self, folder: Path) -> None:
        """Copy every file that was written to another folder; files of the same names there are replaced.

        Raises
        ------
        OSError
            If a file cannot be read or written.
        """
        for path in self.outputs:
            target = folder / path.relative_to(self.folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


def read_slices(folder: Path) -> tuple[SliceScore, ...]:
    """Read the table of the slices of one patient.

    Raises
    ------
    OSError, ValueError, KeyError
        If it is not there or not such a table.
    """
    with (folder / "per_slice.csv").open(newline="", encoding="utf-8") as stream:
        return tuple(_slice_score(row) for row in csv.DictReader(stream) if row["status"] != "neither")


def _slice_score(row: Mapping[str, str]) -> SliceScore:
    return SliceScore(
        row["model"].removeprefix("'"),  # put there against spreadsheets that would run it as a formula
        int(row["index"]),
        float(row["position_mm"]),
        row["status"],
        row["two_regions"] == "1",
        {score.key: float(row[score.key]) for score in SCORES if row[score.key]},
    )


def read_models(values: Mapping[str, Any]) -> dict[str, dict[str, float | None]]:
    """Take the patient's numbers by model out of the job's result."""
    return {
        name: {score.key: numbers.get(score.key) for score in PATIENT_SCORES}
        for name, numbers in values["models"].items()
    }
