"""Many patients: three kinds of mean, each with what stands behind it, and paired tests between models.

``slice_mean``
    over all slices of all patients that are not empty in both masks: the usual number of 2-D publications, which
    patients with many slices dominate;
``patient_mean``
    over the patients' own numbers, each from all voxels of the patient;
``pooled``
    from the counts of all patients added up.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import reduce
from operator import add
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from LiverMarginLib.comparison.cases import mean_of, score_counts
from LiverMarginLib.comparison.result import CaseComparison, Estimate, PredictionComparison
from LiverMarginLib.comparison.settings import CompareSettings, lesion_columns, patient_columns, suffix
from LiverMarginLib.comparison.statistics import (
    CONFIDENCE,
    RESAMPLES,
    WilcoxonResult,
    bootstrap_weights,
    holm,
    percentile_interval,
    wilcoxon_signed_rank,
)
from LiverMarginLib.errors import InputError
from LiverMarginLib.metrics.boundary import BoundaryCounts
from LiverMarginLib.metrics.overlap import Overlap, SliceDetection, ratio

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class MetricSummary:
    """One metric of one model over all patients.

    Parameters
    ----------
    patient_mean : Estimate
        With a bootstrap interval by patient; failed patients are counted, not averaged.
    patient_sd, patient_median : float
        Sample standard deviation and median of the patients' finite numbers.
    slice_mean, pooled : Estimate or None
        None for numbers that do not exist for a slice, or are no quotient of counts.
    """

    patient_mean: Estimate
    patient_sd: float
    patient_median: float
    slice_mean: Estimate | None = None
    pooled: Estimate | None = None


@dataclass(frozen=True)
class ModelSummary:
    """One model over all patients.

    Parameters
    ----------
    model : str
    n_patients : int
    detection : SliceDetection
        Slices of all patients together.
    metrics : mapping of str to MetricSummary
        By the column names of `patient_columns`.
    """

    model: str
    n_patients: int
    detection: SliceDetection
    metrics: Mapping[str, MetricSummary]


@dataclass(frozen=True)
class PairedComparison:
    """Two models on the same patients.

    Parameters
    ----------
    metric, first, second : str
        Column name and model names.
    test : WilcoxonResult
        Of first minus second.
    p_holm : float
        p adjusted for the number of pairs of models compared by this metric.
    low, high : float
        Bootstrap interval of the mean difference over the patients in which both are finite.
    mean_difference : float
    better : {"first", "second", ""}
        Which of the two the mean difference favours; "" for neither.
    """

    metric: str
    first: str
    second: str
    test: WilcoxonResult
    p_holm: float
    mean_difference: float
    low: float
    high: float
    better: str


@dataclass(frozen=True)
class FailedCase:
    """A patient that could not be compared, and the sentence that says why."""

    case: str
    message: str


@dataclass(frozen=True, eq=False)
class Study:
    """All patients and their summary.

    Parameters
    ----------
    settings : CompareSettings
    cases : tuple of CaseComparison
        Without the margin errors point by point if they come from `compare_cases`.
    failures : tuple of FailedCase
    models : mapping of str to ModelSummary
    paired : tuple of PairedComparison
        For every pair of models that share at least two patients.
    confidence : float
        Of all intervals; percentile bootstrap over patients.
    resamples, seed : int
        Of the bootstrap.
    """

    settings: CompareSettings
    cases: tuple[CaseComparison, ...]
    failures: tuple[FailedCase, ...]
    models: Mapping[str, ModelSummary]
    paired: tuple[PairedComparison, ...]
    confidence: float = CONFIDENCE
    resamples: int = RESAMPLES
    seed: int = 0


def summarise(
    cases: Sequence[CaseComparison],
    failures: Sequence[FailedCase] = (),
    *,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Study:
    """Summarise patients that were compared with the same settings.

    Raises
    ------
    InputError
        If there is no case, two have the same name, or their settings differ.
    """
    if not cases:
        raise InputError("There is no compared case to summarise.")
    if len({c.case for c in cases}) < len(cases):
        raise InputError("Two cases have the same name; give each its own.")
    settings = cases[0].settings
    if any(c.settings != settings for c in cases):
        raise InputError("The cases were compared with different settings; compare them again with the same.")
    names = list(dict.fromkeys(name for c in cases for name in c.predictions))
    models = {}
    for name in names:
        chosen = [c for c in cases if name in c.predictions]
        models[name] = _summarise_model(
            name, chosen, settings, bootstrap_weights(len(chosen), resamples, seed), confidence
        )
    paired = _paired(cases, names, settings, confidence, resamples, seed)
    return Study(settings, tuple(cases), tuple(failures), models, tuple(paired), confidence, resamples, seed)


def _summarise_model(
    name: str, cases: Sequence[CaseComparison], settings: CompareSettings, weights: FloatArray, confidence: float
) -> ModelSummary:
    results = [c.predictions[name] for c in cases]
    slice_means = _slice_means(results, weights, confidence)
    pooled = _pooled(cases, name, settings, weights, confidence)
    metrics = {}
    for key in patient_columns(settings):
        values = np.array([r.values[key].value for r in results])
        finite = np.isfinite(values)
        usable = values[finite]
        low, high = _ends(weights @ np.where(finite, values, 0), weights @ finite, len(usable), confidence)
        metrics[key] = MetricSummary(
            replace(mean_of(values), low=low, high=high),
            float(usable.std(ddof=1)) if len(usable) > 1 else math.nan,
            float(np.median(usable)) if len(usable) else math.nan,
            slice_means.get(key),
            pooled.get(key),
        )
    return ModelSummary(name, len(results), reduce(add, (r.detection for r in results)), metrics)


def _ends(top: FloatArray, bottom: FloatArray, n_patients: int, confidence: float) -> tuple[float, float]:
    """Interval of a quotient of resampled sums; none from fewer than two patients."""
    if n_patients < 2:
        return math.nan, math.nan
    return percentile_interval(ratio(top, bottom), confidence)


def _slice_means(
    results: Sequence[PredictionComparison], weights: FloatArray, confidence: float
) -> dict[str, Estimate]:
    estimates = {}
    for key in results[0].slice_means:
        means = [r.slice_means[key] for r in results]
        n = np.array([m.n for m in means])
        total = np.array([m.value * m.n if m.n else 0.0 for m in means])
        low, high = _ends(weights @ total, weights @ n, len(means), confidence)
        undefined = sum(m.n_undefined for m in means)
        estimates[key] = Estimate(float(ratio(total.sum(), n.sum())), int(n.sum()), undefined, 0, low, high)
    return estimates


def _pooled(
    cases: Sequence[CaseComparison], name: str, settings: CompareSettings, weights: FloatArray, confidence: float
) -> dict[str, Estimate]:
    """Scores of the patients' counts added up, and of their resampled sums."""
    results = [c.predictions[name] for c in cases]
    overlap = _weighted([r.overlap.sum() for r in results], weights)
    # Patients whose images differ in size have different official d, pooled under the one name.
    boundaries = {"": _weighted([c.predictions[name].boundaries[c.official].sum() for c in cases], weights)}
    for width in settings.widths:
        boundaries[suffix(width)] = _weighted([r.boundaries[width].sum() for r in results], weights)
    scores = score_counts(overlap, boundaries)
    rvd = overlap.relative_volume_difference()
    n = sum(r.detection.true_positive + r.detection.false_positive + r.detection.false_negative for r in results)
    estimates = {}
    for key, values in {**scores, "rvd": rvd, "abs_rvd": np.abs(rvd)}.items():
        low, high = percentile_interval(values[1:], confidence) if len(results) > 1 else (math.nan, math.nan)
        estimates[key] = Estimate(float(values[0]), n, low=low, high=high)
    for key in lesion_columns(settings):
        found = [r.values[key] for r in results]
        counts = np.array([value.n for value in found])
        matched = np.array([value.value * value.n if value.n else 0.0 for value in found])
        low, high = _ends(weights @ matched, weights @ counts, len(results), confidence)
        total = int(counts.sum())
        estimates[key] = Estimate(float(ratio(matched.sum(), total)), total, low=low, high=high)
    return estimates


Counts = TypeVar("Counts", Overlap, BoundaryCounts)


def _weighted(counts: Sequence[Counts], weights: FloatArray) -> Counts:
    """Sum of the patients' counts, followed by their sum in each bootstrap sample; shape (1 + resamples,)."""
    all_weights = np.vstack((np.ones(len(counts)), weights))
    summed = {}
    for f in fields(counts[0]):
        values = [getattr(c, f.name) for c in counts]
        summed[f.name] = (
            _weighted(values, weights)
            if isinstance(values[0], Overlap)
            else all_weights @ np.array(values, dtype=float)
        )
    return type(counts[0])(**summed)


def _paired(
    cases: Sequence[CaseComparison],
    names: Sequence[str],
    settings: CompareSettings,
    confidence: float,
    resamples: int,
    seed: int,
) -> list[PairedComparison]:
    found = []
    for key, column in patient_columns(settings).items():
        of_metric = []
        for first, second in itertools.combinations(names, 2):
            pairs = np.array(
                [
                    (c.predictions[first].values[key].value, c.predictions[second].values[key].value)
                    for c in cases
                    if first in c.predictions and second in c.predictions
                ]
            ).reshape(-1, 2)
            pairs = pairs[~np.isnan(pairs).any(axis=1)]
            if len(pairs) < 2:
                continue
            finite = pairs[np.isfinite(pairs).all(axis=1)]
            difference = finite[:, 0] - finite[:, 1]
            mean = float(difference.mean()) if len(difference) else math.nan
            low, high = math.nan, math.nan
            if len(difference) > 1:
                samples = bootstrap_weights(len(difference), resamples, seed) @ difference / len(difference)
                low, high = percentile_interval(samples, confidence)
            better = ""
            if column.definition.better and (mean > 0 or mean < 0):
                better = "first" if (mean > 0) == (column.definition.better == "higher") else "second"
            test = wilcoxon_signed_rank(pairs[:, 0], pairs[:, 1])
            of_metric.append(PairedComparison(key, first, second, test, test.p, mean, low, high, better))
        for pair, p in zip(of_metric, holm([pair.test.p for pair in of_metric]), strict=True):
            found.append(replace(pair, p_holm=p))
    return found
