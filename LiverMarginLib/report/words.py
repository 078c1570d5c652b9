"""The result in a few sentences that say no more than the numbers do."""

from __future__ import annotations

import math
from collections.abc import Iterator

from LiverMarginLib.comparison import PairedComparison, Study, patient_columns
from LiverMarginLib.report.facts import PRIMARY, SIGNIFICANT, main_columns, official_width, two_regions
from LiverMarginLib.report.numbers import count, interval, listing, number, p_value, signed


def summary_sentences(study: Study) -> list[str]:
    """Say which model is better by how much, how sure that is, and what was missed.

    Returns
    -------
    list of str
        Sentences in their order.
    """
    return [*_subject(study), *_ranking(study), *_certainty(study), *_misses(study), *_exceptions(study)]


def _subject(study: Study) -> Iterator[str]:
    slices = sum(next(iter(c.predictions.values())).detection.true_positive for c in study.cases) + sum(
        next(iter(c.predictions.values())).detection.false_negative for c in study.cases
    )
    models = list(study.models)
    yield (
        f"{listing(models)} {'was' if len(models) == 1 else 'were'} compared with a reference segmentation in "
        f"{count(len(study.cases), 'patient')} ({count(slices, 'slice')} with the organ)."
    )


def _ranking(study: Study) -> Iterator[str]:
    columns = patient_columns(study.settings)
    definition = columns[PRIMARY].definition
    d = official_width(study)

    def value(model: str, key: str = PRIMARY) -> float:
        return study.models[model].metrics[key].patient_mean.value

    known = [name for name in study.models if not math.isnan(value(name))]
    ranked = sorted(known, key=value, reverse=True)
    if not ranked:
        return
    first = ranked[0]
    mean = "" if len(study.cases) == 1 else "mean "
    if len(ranked) == 1:
        estimate = study.models[first].metrics[PRIMARY].patient_mean
        ends = interval(estimate, definition)
        yield (
            f"{first} reached a {mean}Boundary IoU ({d}) of {number(estimate.value, definition)}"
            f"{f' ({study.confidence:.0%} CI {ends})' if ends else ''}, {_clinical(study, first)}."
        )
        return
    second = ranked[1]
    if number(value(first), definition) == number(value(second), definition):
        yield f"By {mean}Boundary IoU ({d}) {first} and {second} are equal: {number(value(first), definition)}."
    else:
        others = "; ".join(f"{name} {number(value(name), definition)}" for name in ranked[1:])
        yield (
            f"{first} followed the boundary best: {mean}Boundary IoU ({d}) {number(value(first), definition)}, against "
            f"{others}."
        )
    yield "; ".join(f"{name} has {_clinical(study, name)}" for name in ranked) + "."


def _clinical(study: Study, model: str) -> str:
    columns = patient_columns(study.settings)
    parts = []
    for key in ("dice", "hd95_mm", "assd_mm"):
        definition = columns[key].definition
        mean = study.models[model].metrics[key].patient_mean.value
        parts.append(f"{definition.name} {number(mean, definition)}{f' {definition.unit}' if definition.unit else ''}")
    return listing(parts)


def _certainty(study: Study) -> Iterator[str]:
    n = len(study.cases)
    if n == 1:
        yield "This is one patient: the numbers describe no others, and nothing can be said about significance."
        return
    pair = _leading_pair(study)
    if pair is None:
        return
    definition = patient_columns(study.settings)[PRIMARY].definition
    better, worse = (pair.first, pair.second) if pair.better != "second" else (pair.second, pair.first)
    sign = 1 if better == pair.first else -1
    low, high = sorted((sign * pair.low, sign * pair.high))
    ends = (
        ""
        if math.isnan(low)
        else f", {study.confidence:.0%} CI {signed(low, definition)} to {signed(high, definition)}"
    )
    significant = pair.p_holm < SIGNIFICANT
    yield (
        f"Patient by patient, {better} has a Boundary IoU that differs from {worse}'s by "
        f"{signed(sign * pair.mean_difference, definition)}{ends}; the difference is "
        f"{'' if significant else 'not '}significant (Wilcoxon signed-rank test, {count(pair.test.n, 'pair')}, "
        f"p {p_value(pair.p_holm)}{_holm(study)})."
    )
    smallest = 2.0 ** (1 - pair.test.n)
    if smallest > SIGNIFICANT:
        yield (
            f"With {count(pair.test.n, 'pair')} this test cannot give a p below {smallest:.3g}, whatever the models "
            "do: more patients are needed."
        )


def _holm(study: Study) -> str:
    return " after Holm's adjustment" if len(study.models) > 2 else ""


def _leading_pair(study: Study) -> PairedComparison | None:
    """The best model by the primary score against the next best."""
    means = {name: model.metrics[PRIMARY].patient_mean.value for name, model in study.models.items()}
    ranked = sorted((n for n in means if not math.isnan(means[n])), key=lambda n: means[n], reverse=True)[:2]
    for pair in study.paired:
        if pair.metric == PRIMARY and {pair.first, pair.second} == set(ranked):
            return pair
    return None


def _misses(study: Study) -> Iterator[str]:
    parts = []
    for name, model in study.models.items():
        d = model.detection
        parts.append(
            f"{name} missed {d.false_negative} of {count(d.true_positive + d.false_negative, 'slice')} with the organ "
            f"and marked {count(d.false_positive, 'slice')} without it"
        )
    yield "; ".join(parts) + "."
    found = {name: two_regions(study, name) for name in study.models}
    n = next(iter(found.values())).n
    if n:
        each = listing(f"{regions.n_with_miss} by {name}" for name, regions in found.items())
        yield f"In {count(n, 'slice')} the organ falls into two or more regions; a whole region was missed in {each}."


def _exceptions(study: Study) -> Iterator[str]:
    columns = patient_columns(study.settings)
    for name, model in study.models.items():
        failed = max(model.metrics[key].patient_mean.n_failed for key in main_columns(study) if key in columns)
        if failed:
            yield (
                f"In {count(failed, 'patient')} {name} found nothing at all: the distances are infinite there, counted "
                "as failures and not averaged."
            )
    if study.failures:
        yield (
            f"{count(len(study.failures), 'case')} could not be compared and "
            f"{'is' if len(study.failures) == 1 else 'are'} left out of all numbers; see “Cases left out”."
        )
