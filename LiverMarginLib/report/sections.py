"""The sections of the HTML report that hold more than a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from LiverMarginLib.comparison import CaseComparison, Study
from LiverMarginLib.events import CancelToken
from LiverMarginLib.metrics.definitions import DEFINITIONS
from LiverMarginLib.report.colours import REFERENCE, ModelStyle
from LiverMarginLib.report.curves import curves_figure, has_curves
from LiverMarginLib.report.embed import figure_png, figure_svg
from LiverMarginLib.report.facts import PRIMARY, shown_cases
from LiverMarginLib.report.fragments import CaseFragment
from LiverMarginLib.report.gallery import gallery
from LiverMarginLib.report.margin_histogram import MarginHistogram, histogram_figure
from LiverMarginLib.report.margin_map import colour_limit, margin_map_figure
from LiverMarginLib.report.markup import Html, tag, together
from LiverMarginLib.report.numbers import count, listing, number
from LiverMarginLib.report.provenance import model_provenance, notices, software
from LiverMarginLib.report.spread import spread_figure
from LiverMarginLib.report.tables import (
    all_numbers_table,
    definitions_table,
    line_sample,
    main_table,
    model_name,
    paired_table,
    patients_table,
    where_table,
)

Styles = Mapping[str, ModelStyle]

_POLICY = (
    "A slice that is empty in both masks is left out of every mean and counted as a true negative. A slice that is "
    "empty in exactly one of them scores 0. A distance to an empty mask is infinite: it is counted as failed and never "
    "averaged.",
    "Boundary IoU, Trimap IoU and F-Measure need a distance d; where no other is named it is the official 2 % of the "
    "image's diagonal. F-Measure is that of the boundary; the F1 score of the pixels is Dice.",
)


def scores_section(study: Study, styles: Styles) -> Html:
    """Table 6, the paired tests, box plots, and all numbers on request."""
    label = f"Box plots of the scores of {listing(study.models)} over slices and over patients"
    return together(
        (
            main_table(study, styles),
            paired_table(study),
            _figure(
                figure_svg(spread_figure(study, styles), "spread", label),
                "Box: median and quartiles; whiskers: the farthest value within 1.5 box heights. Dots are single "
                "slices or patients; slices are drawn one by one only where they are few.",
            ),
            tag("details", tag("summary", "All numbers, with every d and tolerance"), all_numbers_table(study)),
        )
    )


def margin_section(study: Study, styles: Styles, histograms: Mapping[str, MarginHistogram]) -> Html:
    """Distribution of the margin errors, and errors by part of the liver, all patients together."""
    parts: list[Html] = []
    if histograms:
        label = f"Distribution of the signed margin errors of {listing(histograms)}"
        exact = "; ".join(
            f"{name}: {_percent(h.within[0], h.n)} exactly on it, {_percent(_within_2mm(h), h.n)} within 2 mm"
            for name, h in histograms.items()
        )
        parts.append(
            _figure(
                figure_svg(histogram_figure(histograms, styles), "margins", label),
                "Margin error: distance in mm from each surface voxel of the reference to the prediction's surface, "
                f"without those exactly on it in the left panel. Share of the reference's surface: {exact}.",
            )
        )
    return together((*parts, where_table(study, styles)))


def _within_2mm(histogram: MarginHistogram) -> int:
    return int(histogram.within[8])


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f} %" if whole else "none"


def patients_section(
    study: Study, styles: Styles, fragments: Mapping[str, CaseFragment], cancel: CancelToken | None = None
) -> Html:
    """The table of all patients, then each with curves, gallery and margin map; the worst ones if there are many."""
    cases = shown_cases(study)
    anchors = {case.case: f"patient-{n + 1}" for n, case in enumerate(cases)}
    limit = colour_limit([m for fragment in fragments.values() for m in fragment.maps.values()])
    details = []
    for case in cases:
        if cancel:
            cancel.check()
        details.append(_patient(case, styles, fragments.get(case.case), anchors[case.case], limit))
    many = len(cases) < len(study.cases)
    title = f"The {len(cases)} patients with the lowest Boundary IoU" if many else "Patient by patient"
    return together(
        (
            patients_table(study, anchors),
            tag("h3", title) if len(cases) > 1 else None,
            tag("nav", *(tag("a", c.case, href=f"#{anchors[c.case]}") for c in cases), class_="cases", aria_label=title)
            if len(cases) > 1
            else None,
            _switches(styles) if fragments else None,
            *details,
        )
    )


def _patient(case: CaseComparison, styles: Styles, fragment: CaseFragment | None, anchor: str, limit_mm: float) -> Html:
    definition = DEFINITIONS[PRIMARY]
    scores = ", ".join(f"{name} {number(p.values[PRIMARY].value, definition)}" for name, p in case.predictions.items())
    slices, rows, columns = case.geometry.shape
    spacing = " × ".join(f"{s:.3g}" for s in reversed(case.geometry.spacing))
    label = f"Scores of {listing(case.predictions)} along the liver of {case.case}"
    used = {name: styles[name] for name in case.predictions}
    parts: list[Html | None] = [
        tag("h3", case.case),
        tag("p", f"Boundary IoU: {scores}. {slices} slices of {columns} × {rows} pixels, {spacing} mm.", class_="note"),
    ]
    if has_curves(case):
        curves = figure_svg(curves_figure(case, used), anchor, label)
        caption = "Along the liver, one point a slice. A missed slice (×) or an extra one (+) scores 0."
        parts.append(_figure(curves, caption))
    else:
        parts.append(tag("p", "There is nothing to find here, and nothing was found.", class_="note"))
    if fragment and fragment.gallery:
        parts += [tag("h4", "Slices to look at"), gallery(case, fragment, styles)]
    if fragment and fragment.maps:
        label = f"Margin error of {listing(fragment.maps)} over the unrolled surface of the reference of {case.case}"
        image = tag("img", src=figure_png(margin_map_figure(fragment.maps, limit_mm)), alt=label, loading="lazy")
        parts += [
            tag("h4", "Margin error on the unrolled liver"),
            _figure(
                image,
                "Each row is one slice of the reference's surface, unrolled around the middle of its outline. "
                "Orange: the prediction falls short; purple: it reaches beyond; white: it lies on the margin; grey: "
                f"no surface at this angle. One scale for all patients and models, to ±{limit_mm:g} mm.",
            ),
        ]
    return tag("section", *parts, id=anchor)


def _switches(styles: Styles) -> Html:
    """Boxes that show and hide the lines of the gallery; plain CSS reacts to them."""
    boxes = [_switch("reference", together((line_sample(REFERENCE), "reference")))]
    boxes += [_switch(f"model{n}", model_name(name, style)) for n, (name, style) in enumerate(styles.items())]
    return tag("div", tag("span", "Outlines:"), *boxes, class_="switches", role="group", aria_label="Outlines shown")


def _switch(name: str, label: Html) -> Html:
    return tag("label", tag("input", type="checkbox", id=f"show-{name}", checked=True), " ", label)


def _figure(content: Html, caption: str) -> Html:
    return tag("figure", tag("div", content, class_="plot", tabindex="0"), tag("figcaption", caption))


def definitions_section(study: Study) -> Html:
    """Policies and every number's definition."""
    return together((*(tag("p", text) for text in _POLICY), definitions_table(study)))


def provenance_section(study: Study, styles: Styles) -> Html:
    """What each prediction says of itself, and what computed the numbers."""
    return together((*_model_parts(study, styles), tag("h3", "This comparison"), _list(_settings(study))))


def _model_parts(study: Study, styles: Styles) -> Iterator[Html]:
    for name, style in styles.items():
        yield tag("h3", model_name(name, style))
        known = model_provenance(study, name)
        labels = sorted({p.labels for c in study.cases if (p := c.predictions.get(name)) is not None})
        shown = {"label": "; ".join(" + ".join(str(v) for v in values) for values in labels), **known}
        yield _list(shown)
        if "model" not in known:
            yield tag("p", "The files do not say which model made them.", class_="note")
        said: Sequence[str] = notices(study, name)
        if said:
            yield tag("ul", *(tag("li", text) for text in said))


def _settings(study: Study) -> dict[str, str]:
    reference = sorted({case.labels for case in study.cases})
    interval = (
        f"percentile bootstrap over patients, {study.resamples} resamples, seed {study.seed}, {study.confidence:.0%}"
    )
    return {
        "label of the reference": "; ".join(" + ".join(str(v) for v in values) for values in reference),
        "patients": f"{count(len(study.cases), 'patient')}, {count(len(study.failures), 'case')} left out",
        "boundary distance": f"{100 * study.settings.boundary_fraction:g} % of the image's diagonal, and "
        + listing(str(width) for width in study.settings.widths),
        "NSD tolerances": listing(f"{t:g} mm" for t in study.settings.nsd_tolerances_mm),
        "intervals": interval if len(study.cases) > 1 else "none: one patient",
        "software": ", ".join(f"{name} {version}" for name, version in software().items()),
    }


def _list(values: Mapping[str, str]) -> Html:
    return tag("dl", *(part for key, value in values.items() for part in (tag("dt", key), tag("dd", value))))
