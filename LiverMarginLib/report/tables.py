"""The tables of the report as HTML."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from LiverMarginLib.comparison import Estimate, MetricSummary, Study, patient_columns
from LiverMarginLib.metrics.definitions import DEFINITIONS, Definition
from LiverMarginLib.report.colours import ModelStyle
from LiverMarginLib.report.facts import (
    SIGNIFICANT,
    errors_by_region,
    main_columns,
    official_width,
    two_regions,
)
from LiverMarginLib.report.markup import Html, tag, together
from LiverMarginLib.report.numbers import (
    NO_BREAK,
    NOTHING,
    best,
    count,
    heading,
    interval,
    number,
    p_value,
    signed,
)

BEST = tag("span", "★", class_="best", title="best of its column", aria_label="best")


def table(
    head: Sequence[object],
    bodies: Sequence[Sequence[Html]],
    caption: object,
    *,
    texts: Sequence[int] = (0,),
    sortable: bool = True,
) -> Html:
    """A table that scrolls sideways where it is too wide.

    Parameters
    ----------
    head : sequence
        Texts or elements of the column headings.
    bodies : sequence of sequence of Html
        Rows, in groups within which they are sorted.
    caption : object
        What the table says.
    texts : sequence of int
        Columns of words, which begin at the left.
    sortable : bool
        Whether a click on a heading sorts the rows.
    """
    cells = together(tag("th", text, scope="col", class_="text" if n in texts else None) for n, text in enumerate(head))
    groups = together(tag("tbody", *rows) for rows in bodies)
    content = tag("table", tag("thead", tag("tr", cells)), groups, data_sortable=sortable)
    # Outside of what scrolls, so that it is read whole on a narrow screen.
    return tag("figure", tag("figcaption", caption), tag("div", content, class_="scroll", tabindex="0"), class_="table")


def cell(text: object, value: float | None = None) -> Html:
    """A number; `value` is what it is sorted by."""
    known = value is not None and not math.isnan(value)
    return tag("td", text, data_value=repr(float(value)) if known and value is not None else None)


def model_heading(name: str, style: ModelStyle) -> Html:
    """The first cell of a row: a model with its colour and kind of line."""
    return tag("th", model_name(name, style), scope="row")


def model_name(name: str, style: ModelStyle) -> Html:
    """A model's name with a sample of its line."""
    return tag("span", line_sample(style.colour, style.dashes), name, class_="model")


def line_sample(colour: str, dashes: Sequence[float] = ()) -> Html:
    """A short line as it is drawn in the pictures."""
    line = tag(
        "line",
        x1="0",
        y1="5",
        x2="24",
        y2="5",
        stroke=colour,
        stroke_width="2.5",
        stroke_dasharray=" ".join(f"{2.5 * d:g}" for d in dashes) or None,
    )
    return tag("svg", line, class_="sample", viewBox="0 0 24 10", aria_hidden="true")


def main_table(study: Study, styles: Mapping[str, ModelStyle]) -> Html:
    """Table 6: every model by slice mean, patient mean and pooled, with intervals and n."""
    keys = main_columns(study)
    official = official_width(study)
    head = ["Model", "n", *(heading(key, study.settings, official) for key in keys)]
    one = len(study.cases) == 1
    bodies = [
        _means(study, styles, keys, "All voxels of the patient" if one else "Mean over patients", "patient"),
        _means(study, styles, keys, "Mean over slices", "slice"),
    ]
    if not one:
        bodies.append(_means(study, styles, keys, "Pooled: the counts of all patients added up", "slice", pooled=True))
    intervals = f"with {study.confidence:.0%} confidence intervals (bootstrap over patients)"
    caption = [f"Each model's scores {'with n; one patient gives no confidence interval' if one else intervals}. "]
    if len(study.models) > 1:
        caption += [BEST, " marks the best of a column."]
    return table(head, bodies, together(caption))


def _means(
    study: Study, styles: Mapping[str, ModelStyle], keys: Sequence[str], title: str, unit: str, *, pooled: bool = False
) -> list[Html]:
    def pick(summary: MetricSummary) -> Estimate | None:
        if pooled:
            return summary.pooled
        return summary.patient_mean if unit == "patient" else summary.slice_mean

    columns = patient_columns(study.settings)
    found = {name: {key: pick(model.metrics[key]) for key in keys} for name, model in study.models.items()}
    stars = {
        key: best({n: e.value for n, of in found.items() if (e := of[key]) is not None}, columns[key].definition)
        for key in keys
    }
    rows = [tag("tr", tag("th", title, colspan=len(keys) + 2, scope="rowgroup"), class_="group")]
    for name, estimates in found.items():
        n = max((e.n for e in estimates.values() if e is not None), default=0)
        cells = [
            _estimate(estimates[key], columns[key].definition, n, name in stars[key]) for key in keys
        ]  # fmt: skip
        rows.append(
            tag("tr", model_heading(name, styles[name]), cell(count(n, unit).replace(" ", NO_BREAK), n), *cells)
        )
    return rows


def _estimate(estimate: Estimate | None, definition: Definition, n: int, is_best: bool) -> Html:
    if estimate is None:
        return tag("td", NOTHING, class_="none")
    ends = interval(estimate, definition)
    remarks = []
    if estimate.n != n:
        remarks.append(f"n = {estimate.n}")
    if estimate.n_failed:
        remarks.append(f"{estimate.n_failed} failed")
    value = number(estimate.value, definition)
    return cell(
        together(
            (
                tag("strong", value) if is_best else value,
                BEST if is_best else None,
                tag("small", ends) if ends else None,
                tag("small", ", ".join(remarks), class_="remark") if remarks else None,
            )
        ),
        estimate.value,
    )


def all_numbers_table(study: Study) -> Html:
    """Every column of the files: mean, standard deviation, median over patients, and the other two means."""
    rows = []
    for key, column in patient_columns(study.settings).items():
        for name, model in study.models.items():
            metric, definition = model.metrics[key], column.definition
            mean = metric.patient_mean
            rows.append(
                tag(
                    "tr",
                    tag("th", heading(key, study.settings), scope="row"),
                    tag("td", name, class_="text"),
                    cell(number(mean.value, definition), mean.value),
                    cell(interval(mean, definition) or NOTHING, mean.low),
                    cell(number(metric.patient_sd, definition).lstrip("+"), metric.patient_sd),
                    cell(number(metric.patient_median, definition), metric.patient_median),
                    cell(str(mean.n), mean.n),
                    *_with_n(metric.slice_mean, definition),
                    *_with_n(metric.pooled, definition),
                )
            )
    ends = f"{study.confidence:.0%} CI"
    head = (
        "Number", "Model", "Patient mean", ends, "SD", "Median", "Patients", "Slice mean", ends, "Slices",
        "Pooled", ends, "Slices",
    )  # fmt: skip
    return table(head, [rows], "All numbers of per_patient.csv, summarised.", texts=(0, 1))


def _with_n(estimate: Estimate | None, definition: Definition) -> tuple[Html, Html, Html]:
    if estimate is None:
        empty = tag("td", NOTHING, class_="none")
        return empty, empty, empty
    return (
        cell(number(estimate.value, definition), estimate.value),
        cell(interval(estimate, definition) or NOTHING, estimate.low),
        cell(str(estimate.n), estimate.n),
    )


def paired_table(study: Study) -> Html | None:
    """Tests of every two models on the same patients; None if no two share at least two patients."""
    columns = patient_columns(study.settings)
    official = official_width(study)
    shown = [p for key in main_columns(study) for p in study.paired if p.metric == key]
    if not shown:
        return None
    rows = []
    for pair in shown:
        definition = columns[pair.metric].definition
        better = {"first": pair.first, "second": pair.second}.get(pair.better, NOTHING)
        significant = pair.p_holm < SIGNIFICANT
        ends = NOTHING
        if not math.isnan(pair.low):
            ends = f"{signed(pair.low, definition)} to {signed(pair.high, definition)}"
        p = p_value(pair.p_holm).removeprefix("= ")
        rows.append(
            tag(
                "tr",
                tag("th", heading(pair.metric, study.settings, official), scope="row"),
                tag("td", f"{pair.first} {chr(0x2212)} {pair.second}", class_="text"),
                cell(str(pair.test.n), pair.test.n),
                cell(signed(pair.mean_difference, definition), pair.mean_difference),
                cell(ends, pair.low),
                cell(signed(pair.test.median_difference, definition), pair.test.median_difference),
                cell(together((tag("strong", p) if significant else p, " *" if significant else "")), pair.p_holm),
                cell(f"{pair.test.rank_biserial:+.2f}".replace("-", "−"), pair.test.rank_biserial),
                tag("td", better, class_="text"),
            )
        )
    head = (
        "Number", "Difference", "Patients", "Mean", f"{study.confidence:.0%} CI", "Median", "p (Holm)",
        "Rank-biserial r", "Favours",
    )  # fmt: skip
    caption = (
        "Wilcoxon signed-rank tests, one pair a patient, two-sided, exact; p adjusted by Holm's method for the pairs "
        f"of models within a number, not for the {len({p.metric for p in shown})} numbers. * p < {SIGNIFICANT:g}."
    )
    return table(head, [rows], caption, texts=(0, 1, 8))


def detection_table(study: Study, styles: Mapping[str, ModelStyle]) -> Html:
    """Which slices were found, and what became of the pieces."""
    rows = []
    for name, model in study.models.items():
        d, regions = model.detection, two_regions(study, name)
        score, sensitivity = DEFINITIONS["mask_iou"], d.sensitivity()
        with_organ = d.true_positive + d.false_negative
        rows.append(
            tag(
                "tr",
                model_heading(name, styles[name]),
                cell(str(with_organ), with_organ),
                cell(str(d.false_negative), d.false_negative),
                cell(str(d.false_positive), d.false_positive),
                cell(number(sensitivity, score), sensitivity),
                cell(number(d.specificity(), score), d.specificity()),
                cell(str(regions.n), regions.n),
                cell(number(regions.mask_iou, score), regions.mask_iou),
                cell(number(regions.boundary_iou, score), regions.boundary_iou),
                cell(str(regions.n_with_miss) if regions.n else NOTHING, regions.n_with_miss),
                cell(str(regions.missed), regions.missed),
                cell(str(regions.extra), regions.extra),
            )
        )
    head = (
        "Model", "Slices with the organ", "Missed slices", "Extra slices", "Slice sensitivity", "Slice specificity",
        "Two-region slices", "Their Mask IoU", "Their Boundary IoU", "… with a missed region", "Missed pieces (all)",
        "Extra pieces (all)",
    )  # fmt: skip
    caption = (
        "Slices and pieces of all patients together. A two-region slice shows the reference in two or more pieces of "
        f"at least {study.settings.two_region_min_px} pixels."
    )
    return table(head, [rows], caption)


def where_table(study: Study, styles: Mapping[str, ModelStyle]) -> Html:
    """Errors by part of the liver, a group of rows a part."""
    found = {name: errors_by_region(study, name) for name in study.models}
    regions = dict.fromkeys(region for of_model in found.values() for region in of_model)
    distance, share = DEFINITIONS["margin_abs_mm"], DEFINITIONS["dice"]
    bodies = []
    for region in regions:
        rows = []
        for number_of_row, name in enumerate(found):
            r = found[name][region]
            first = tag("th", region, scope="rowgroup", rowspan=len(found)) if number_of_row == 0 else None
            part = f"{100 * r.error_share:.0f} %" if not math.isnan(r.error_share) else NOTHING
            bar = tag("span", class_="bar", style=f"--share:{r.error_share:.3f}") if part != NOTHING else None
            rows.append(
                tag(
                    "tr",
                    first,
                    tag("td", model_name(name, styles[name]), class_="text"),
                    cell(together((bar, part)), r.error_share),
                    cell(f"{r.missed_ml:.1f}", r.missed_ml),
                    cell(f"{r.extra_ml:.1f}", r.extra_ml),
                    cell(number(r.dice, share), r.dice),
                    cell(number(r.margin_abs_mm, distance), r.margin_abs_mm),
                    cell(f"{r.reference_ml:.0f}", r.reference_ml),
                )
            )
        bodies.append(rows)
    head = (
        "Part", "Model", "Share of all errors", "Missed (ml)", "Extra (ml)", "Dice", "Mean margin error (mm)",
        "Reference (ml)",
    )  # fmt: skip
    caption = (
        "Where the errors are, all patients together. Parts are thirds of the reference's extent, not anatomy: dome, "
        "middle and lower tip from above to below; right lobe side, centre and left lobe side across; the hilum side "
        "is the lower two thirds, posterior two thirds, of the centre. They overlap."
    )
    return table(head, bodies, caption, texts=(0, 1), sortable=False)


def patients_table(study: Study, anchors: Mapping[str, str]) -> Html:
    """Every patient and model; `anchors` lead to the patients that are shown in detail."""
    columns = patient_columns(study.settings)
    keys = main_columns(study)
    rows = []
    for case in study.cases:
        for name, prediction in case.predictions.items():
            title = tag("a", case.case, href=f"#{anchors[case.case]}") if case.case in anchors else case.case
            values = [
                cell(number(prediction.values[k].value, columns[k].definition), prediction.values[k].value)
                for k in keys
            ]
            d = prediction.detection
            missed = cell(f"{d.false_negative} / {d.false_positive}", d.false_negative + d.false_positive)
            rows.append(
                tag("tr", tag("th", title, scope="row"), tag("td", name, class_="text"), *values, missed)
            )  # fmt: skip
    official = official_width(study)
    head = ("Patient", "Model", *(heading(k, study.settings, official) for k in keys), "Slices missed / extra")
    return table(head, [rows], "Each patient's own numbers, from all its voxels.", texts=(0, 1))


def failures_table(study: Study) -> Html:
    """Cases that could not be compared."""
    rows = [
        tag("tr", tag("th", failure.case, scope="row"), tag("td", failure.message, class_="text"))
        for failure in study.failures
    ]
    return table(("Case", "Why"), [rows], "These cases are in no number of this report.", texts=(0, 1))


def definitions_table(study: Study) -> Html:
    """Every number of the report with its definition, d or tolerance, and source."""
    parameters: dict[str, list[str]] = {}
    for column in patient_columns(study.settings).values():
        parameters.setdefault(column.definition.key, []).append(column.parameter)
    rows = list(_definition_rows(parameters))
    head = ("Number", "Definition (G reference, P prediction)", "d or tolerance", "Unit", "Better", "Source")
    return table(head, [rows], "Definitions of every number.", texts=range(6), sortable=False)


def _definition_rows(parameters: Mapping[str, Sequence[str]]) -> Iterator[Html]:
    for key, definition in DEFINITIONS.items():
        used = [p.replace(" ", NO_BREAK) for p in parameters.get(key, ()) if p]
        yield tag(
            "tr",
            tag("th", definition.name, scope="row"),
            tag("td", definition.text, class_="text wide"),
            tag("td", "; ".join(used) or NOTHING, class_="text"),
            tag("td", definition.unit or NOTHING, class_="text"),
            tag(
                "td",
                {"higher": f"higher{NO_BREAK}↑", "lower": f"lower{NO_BREAK}↓"}.get(definition.better or "", NOTHING),
                class_="text",
            ),
            tag("td", definition.source or NOTHING, class_="text"),
        )
