"""Uncertainty and paired tests with the patient as the unit.

Slices of one patient resemble each other, so nothing here treats them as independent: intervals resample whole
patients, tests have one pair a patient.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

CONFIDENCE = 0.95
RESAMPLES = 5000

# Pairs up to which the distribution of the signed-rank statistic is enumerated; beyond, the normal one is as good.
_MOST_EXACT = 100


@lru_cache(maxsize=16)
def bootstrap_weights(n_patients: int, resamples: int = RESAMPLES, seed: int = 0) -> FloatArray:
    """How often each patient is drawn in each bootstrap sample.

    Any number that is a quotient of sums over patients is resampled by multiplying its sums with these weights; the
    same weights for all models keep their differences paired.

    Returns
    -------
    ndarray of float64, shape (resamples, n_patients)
        Rows sum to `n_patients`. Read-only.
    """
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(n_patients, np.full(n_patients, 1 / n_patients), size=resamples).astype(np.float64)
    weights.setflags(write=False)
    return weights


def percentile_interval(samples: FloatArray, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Percentile bootstrap interval; (nan, nan) if no sample is finite (Efron and Tibshirani 1993)."""
    finite = samples[np.isfinite(samples)]
    if len(finite) == 0:
        return math.nan, math.nan
    tail = (1 - confidence) / 2
    low, high = np.quantile(finite, (tail, 1 - tail))
    return float(low), float(high)


@dataclass(frozen=True)
class WilcoxonResult:
    """Wilcoxon signed-rank test of paired differences.

    Parameters
    ----------
    n : int
        Pairs.
    n_zero : int
        Pairs without a difference; they are left out of the ranks (Wilcoxon's own rule).
    median_difference : float
        Median of first minus second.
    statistic : float
        Sum of the ranks of the positive differences.
    p : float
        Two-sided, exact also with ties (normal approximation beyond 100 differing pairs); 1 if no pair differs.
    rank_biserial : float
        Matched-pairs rank-biserial correlation, (R+ - R-) / (R+ + R-), from -1 to 1; positive if the first is
        larger (Kerby 2014, doi 10.2466/11.IT.3.1). 0 if no pair differs.
    """

    n: int
    n_zero: int
    median_difference: float
    statistic: float
    p: float
    rank_biserial: float


def wilcoxon_signed_rank(first: FloatArray, second: FloatArray) -> WilcoxonResult:
    """Compare two models patient by patient.

    An infinite value (a failed distance) ranks as worse than every finite one; two failures are no difference.

    Parameters
    ----------
    first, second : ndarray of float64, shape (n,)
        One value a patient, no nan.
    """
    with np.errstate(invalid="ignore"):
        difference = np.where(first == second, 0.0, first - second)
    changed = difference[difference != 0]
    median = float(np.median(difference)) if len(difference) else math.nan
    if len(changed) == 0:
        return WilcoxonResult(len(difference), len(difference), median, 0.0, 1.0, 0.0)
    _, place, counts = np.unique(np.abs(changed), return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    positive, total = float(ranks[changed > 0].sum()), float(ranks.sum())
    return WilcoxonResult(
        len(difference),
        len(difference) - len(changed),
        median,
        positive,
        _signed_rank_p(ranks, positive),
        (2 * positive - total) / total,
    )


def _signed_rank_p(ranks: FloatArray, positive: float) -> float:
    """Two-sided p of the sum of the positive ranks, if each rank's sign were a fair coin's."""
    if len(ranks) > _MOST_EXACT:
        deviation = (positive - ranks.sum() / 2) / math.sqrt((ranks**2).sum() / 4)
        return math.erfc(abs(deviation) / math.sqrt(2))
    # The distribution of the sum, rank by rank; twice the ranks are whole numbers also where there are ties.
    steps = np.rint(2 * ranks).astype(int)
    chance = np.zeros(steps.sum() + 1)
    chance[0] = 1.0
    for step in steps:
        chance[step:] = (chance[step:] + chance[:-step]) / 2
        chance[:step] /= 2
    seen = round(2 * positive)
    return float(min(1.0, 2 * min(chance[: seen + 1].sum(), chance[seen:].sum())))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p values of several tests by Holm's step-down method (Holm 1979)."""
    order = np.argsort(p_values)
    adjusted = np.empty(len(p_values))
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return [float(p) for p in adjusted]
