"""Which slices of a comparison are listed, and in which order they are walked through."""

from __future__ import annotations

from enum import Enum

from LiverMarginPanels.compare_result import Comparison, Score, SliceScore

WORST = 10
"""Slices of each segmentation in the list of the worst."""


class Listed(Enum):
    """Which slices are listed."""

    ALL = "all"
    WORST = "worst"
    TWO_REGIONS = "two regions"
    """Where the reference falls into two or more regions, of which a model easily loses one."""


def listed_slices(comparison: Comparison, listed: Listed, score: Score, model: str | None = None) -> list[SliceScore]:
    """Pick slices, the worst first; those without the score come last.

    Parameters
    ----------
    comparison : Comparison
    listed : Listed
    score : Score
        What the worst are worst in.
    model : str, optional
        None takes all.
    """
    rows = [row for row in comparison.slices if model is None or row.model == model]
    rows.sort(key=lambda row: (*_badness(row, score), row.index))
    if listed is Listed.TWO_REGIONS:
        return [row for row in rows if row.two_regions]
    if listed is Listed.WORST:
        taken: dict[str, int] = {}
        worst = []
        for row in rows:
            taken[row.model] = taken.get(row.model, 0) + 1
            if taken[row.model] <= WORST:
                worst.append(row)
        return worst
    return rows


def _badness(row: SliceScore, score: Score) -> tuple[bool, float]:
    value = row.scores.get(score.key)
    if value is None:
        return True, 0.0
    return False, value if score.best_is_large else -value
