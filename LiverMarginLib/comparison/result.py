"""What a comparison of one patient's masks yields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from LiverMarginLib.comparison.settings import CompareSettings
from LiverMarginLib.metrics.boundary import BoundaryCounts, Width
from LiverMarginLib.metrics.overlap import Overlap, SliceDetection
from LiverMarginLib.metrics.suite import MarginErrors
from LiverMarginLib.volume import Geometry


class SliceStatus(StrEnum):
    """Which of the two masks shows the organ in a slice."""

    BOTH = "both"
    MISSED = "missed"
    EXTRA = "extra"
    NEITHER = "neither"


@dataclass(frozen=True)
class Value:
    """A number of one patient and what it was computed from.

    Parameters
    ----------
    value : float
        nan where there is nothing to measure, inf for a distance to an empty mask (a failure).
    n : int
        How many of `of`.
    of : str
        "slices" (not empty in both masks), "surface voxels", "surface elements", "voxels" or "lesions".
    """

    value: float
    n: int
    of: str


@dataclass(frozen=True)
class Estimate:
    """A mean or pooled number and what stands behind it.

    Parameters
    ----------
    value : float
        nan if nothing entered.
    n : int
        Slices or patients that entered.
    n_undefined : int
        Those left out because both masks are empty (for slices: true negatives).
    n_failed : int
        Those left out because a distance was infinite: one mask was empty.
    low, high : float
        Ends of the confidence interval; nan where there is none.
    """

    value: float
    n: int
    n_undefined: int = 0
    n_failed: int = 0
    low: float = float("nan")
    high: float = float("nan")


@dataclass(frozen=True, eq=False)
class SliceTable:
    """One row for each axial slice, from inferior to superior.

    Parameters
    ----------
    columns : mapping of str to ndarray, shape (n slices,)
        In the order of the CSV file: ``index``, ``position_mm``, ``status`` (`SliceStatus` values), sizes, scores,
        pieces and margin errors; see docs/metrics.md.
    """

    columns: Mapping[str, npt.NDArray[Any]]

    def __len__(self) -> int:
        return len(self.columns["index"])

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        return self.columns[name]


@dataclass(frozen=True)
class RegionError:
    """Errors in one part of the liver's extent.

    Parameters
    ----------
    reference_ml, missed_ml, extra_ml : float
        Volume of the reference, of what was missed and of what is too much there.
    error_share : float
        Share of all missed and extra volume that lies there; nan if there is none.
    dice : float
        Dice within the part.
    margin_abs_mm : float
        Mean distance in mm of the reference's surface voxels there to the prediction's surface.
    n : int
        Number of those surface voxels.
    """

    reference_ml: float
    missed_ml: float
    extra_ml: float
    error_share: float
    dice: float
    margin_abs_mm: float
    n: int


@dataclass(frozen=True, eq=False)
class PredictionComparison:
    """One prediction against the reference of one patient.

    Parameters
    ----------
    model : str
        Name of the prediction.
    labels : tuple of int
        Label values of the prediction that were compared.
    slices : SliceTable
    values : mapping of str to Value
        The patient's numbers, from all its voxels together; keys are those of
        `LiverMarginLib.comparison.settings.patient_columns`.
    slice_means : mapping of str to Estimate
        Mean over the slices that are not empty in both masks, for the columns of `slice_score_columns`.
    detection : SliceDetection
    where : mapping of str to RegionError
        Errors by region; see `LiverMarginLib.comparison.where`.
    overlap : Overlap
        Counts behind the scores, slice by slice.
    boundaries : mapping of Width to BoundaryCounts
        Counts behind the boundary scores, slice by slice.
    margin : MarginErrors or None
        Signed margin errors in mm at every surface voxel, in the axial view's (k, j, i); None if the comparison was
        read back from a file.
    notes : tuple of str
        What the user should know, such as that the prediction was resampled.
    provenance : mapping
        Of the prediction.
    """

    model: str
    labels: tuple[int, ...]
    slices: SliceTable
    values: Mapping[str, Value]
    slice_means: Mapping[str, Estimate]
    detection: SliceDetection
    where: Mapping[str, RegionError]
    overlap: Overlap
    boundaries: Mapping[Width, BoundaryCounts]
    margin: MarginErrors | None = None
    notes: tuple[str, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class CaseComparison:
    """All predictions of one patient against its reference.

    Parameters
    ----------
    case : str
        Name of the case as the caller gave it; it appears in every table, so it must not identify a patient.
    labels : tuple of int
        Label values of the reference that were compared.
    geometry : Geometry
        The axial view's grid: (k, j, i) run inferior to superior, anterior to posterior, patient's right to left.
    official : Width
        The d of the boundary columns without a suffix.
    settings : CompareSettings
    predictions : mapping of str to PredictionComparison
        By model name, in the caller's order.
    """

    case: str
    labels: tuple[int, ...]
    geometry: Geometry
    official: Width
    settings: CompareSettings
    predictions: Mapping[str, PredictionComparison]


def slice_status(overlap: Overlap) -> npt.NDArray[np.str_]:
    """`SliceStatus` of each slice."""
    reference, prediction = overlap.reference > 0, overlap.prediction > 0
    return np.select(
        [reference & prediction, reference, prediction],
        [SliceStatus.BOTH.value, SliceStatus.MISSED.value, SliceStatus.EXTRA.value],
        SliceStatus.NEITHER.value,
    )
