"""Which slices to look at: the worst, the middling, and those in which the liver falls apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from LiverMarginLib.comparison.result import PredictionComparison, SliceStatus
from LiverMarginLib.errors import InputError


@dataclass(frozen=True)
class RankedSlice:
    """A slice and the score it was chosen by.

    Parameters
    ----------
    index : int
        k of the axial view.
    value : float
        Its score.
    status : SliceStatus
    error_px : int
        Missed and extra pixels together.
    """

    index: int
    value: float
    status: SliceStatus
    error_px: int


def ranked_slices(comparison: PredictionComparison, by: str = "boundary_iou") -> list[RankedSlice]:
    """Order the slices that show the organ in either mask, worst first.

    Of slices with equal scores, such as the 0 of all slices that were missed altogether, the one with the larger
    error in pixels is worse.

    Parameters
    ----------
    comparison : PredictionComparison
    by : str
        A score from 0 to 1 of the slice table, such as ``mask_iou`` or ``boundary_f_2px``.

    Raises
    ------
    InputError
        If there is no such score.
    """
    if by not in comparison.slice_means:
        raise InputError(f"Slices cannot be ranked by {by}; use one of: {', '.join(comparison.slice_means)}.")
    table = comparison.slices
    error = table["reference_px"] + table["prediction_px"] - 2 * table["common_px"]
    shown = np.flatnonzero(table["status"] != SliceStatus.NEITHER.value)
    order = shown[np.lexsort((-error[shown], table[by][shown]))]
    return [
        RankedSlice(int(k), float(table[by][k]), SliceStatus(str(table["status"][k])), int(error[k])) for k in order
    ]


def worst_slices(comparison: PredictionComparison, n: int = 3, by: str = "boundary_iou") -> list[RankedSlice]:
    """The `n` worst slices, worst first; parameters as for `ranked_slices`."""
    return ranked_slices(comparison, by)[:n]


def median_slices(comparison: PredictionComparison, n: int = 3, by: str = "boundary_iou") -> list[RankedSlice]:
    """The `n` slices in the middle of the ranking; parameters as for `ranked_slices`."""
    ranked = ranked_slices(comparison, by)
    start = max(0, (len(ranked) - n) // 2)
    return ranked[start : start + n]


def two_region_slices(
    comparison: PredictionComparison, n: int | None = None, by: str = "boundary_iou"
) -> list[RankedSlice]:
    """Slices in which the reference falls into two or more regions, worst first; the first `n` of them."""
    flags = comparison.slices["two_regions"]
    return [ranked for ranked in ranked_slices(comparison, by) if flags[ranked.index]][:n]
