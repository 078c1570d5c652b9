"""The report's table and figures as pages of a PDF, for a paper or a print-out."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from LiverMarginLib.comparison import Study, patient_columns
from LiverMarginLib.events import CancelToken
from LiverMarginLib.io.atomic import atomic_path
from LiverMarginLib.report.colours import ModelStyle, model_styles
from LiverMarginLib.report.contours import gallery_figure
from LiverMarginLib.report.curves import curves_figure, has_curves
from LiverMarginLib.report.facts import main_columns, official_width, shown_cases
from LiverMarginLib.report.fragments import CaseFragment, FragmentOf, GallerySlice, collect
from LiverMarginLib.report.margin_histogram import histogram_figure
from LiverMarginLib.report.margin_map import colour_limit, margin_map_figure
from LiverMarginLib.report.numbers import NOTHING, best, heading, interval, number
from LiverMarginLib.report.page import report_title
from LiverMarginLib.report.spread import spread_figure
from LiverMarginLib.report.words import summary_sentences

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_A4_LANDSCAPE = (11.69, 8.27)
_LINE_WIDTH = 118
_MOST_ROWS = 9


def write_pdf(
    study: Study, fragment_of: FragmentOf, path: Path, *, title: str = "", cancel: CancelToken | None = None
) -> Path:
    """Write the main table and all figures, a page each.

    Parameters
    ----------
    study, fragment_of, title, cancel
        As for `LiverMarginLib.report.page.write_report`.
    path : Path
        A PDF, which appears complete or not at all.

    Returns
    -------
    Path

    Raises
    ------
    ResourceError
        If the disk is full or the folder must not be written to.
    Cancelled
        If `cancel` was raised; nothing is written then.
    """
    from matplotlib.backends.backend_pdf import PdfPages

    title = title or report_title(study)
    # Without a date the same comparison gives the same file.
    metadata: dict[str, Any] = {"Title": title, "Creator": "LiverMargin", "Producer": None, "CreationDate": None}
    with atomic_path(path) as temporary, PdfPages(temporary, metadata=metadata) as pages:
        for figure in _pages(study, fragment_of, title, cancel):
            pages.savefig(figure)
    return path


def _pages(study: Study, fragment_of: FragmentOf, title: str, cancel: CancelToken | None) -> Iterator[Figure]:
    styles = model_styles(study.models)
    fragments, histograms = collect(study, fragment_of, cancel)
    yield table_figure(study, title)
    yield spread_figure(study, styles)
    if histograms:
        yield histogram_figure(histograms, styles)
    limit = colour_limit([m for fragment in fragments.values() for m in fragment.maps.values()])
    for case in shown_cases(study):
        if cancel:
            cancel.check()
        if has_curves(case):
            yield curves_figure(case, {name: styles[name] for name in case.predictions}, case.case)
        if case.case in fragments:
            yield from _case_pages(fragments[case.case], styles, limit)


def _case_pages(fragment: CaseFragment, styles: Mapping[str, ModelStyle], limit_mm: float) -> Iterator[Figure]:
    if fragment.gallery:
        pictures = [(entry.picture, _caption(entry)) for entry in fragment.gallery]
        shown = {name: styles[name] for name in fragment.gallery[0].picture.models}
        yield gallery_figure(pictures, shown, title=fragment.case)
    if fragment.maps:
        yield margin_map_figure(fragment.maps, limit_mm, fragment.case)


def _caption(entry: GallerySlice) -> str:
    reasons = dict.fromkeys(str(reason) for reason, _ in entry.chosen)
    return f"Slice {entry.picture.index}: {', '.join(reasons)}"


def table_figure(study: Study, title: str) -> Figure:
    """The summary in words and the main table, on a page of A4 in landscape."""
    from matplotlib.figure import Figure

    columns = patient_columns(study.settings)
    official = official_width(study)
    keys = main_columns(study)
    head = ["Model", *(textwrap.fill(heading(key, study.settings, official), 13) for key in keys)]
    rows: list[list[str]] = []
    strong: list[tuple[int, int]] = []
    for kind in ("patients", "slices"):
        picked = {
            name: {
                key: model.metrics[key].patient_mean if kind == "patients" else model.metrics[key].slice_mean
                for key in keys
            }
            for name, model in study.models.items()
        }
        n = max(e.n for of in picked.values() for e in of.values() if e is not None)
        rows.append([f"Mean over {n} {kind}", *[""] * len(keys)])
        for name, estimates in picked.items():
            row = [textwrap.shorten(name, 28, placeholder="…")]
            for column, (key, estimate) in enumerate(estimates.items(), start=1):
                if estimate is None:
                    row.append(NOTHING)
                    continue
                definition = columns[key].definition
                ends = interval(estimate, definition)
                failed = f"\n{estimate.n_failed} failed" if estimate.n_failed else ""
                row.append(number(estimate.value, definition) + (f"\n{ends}" if ends else "") + failed)
                values = {m: e.value for m, of in picked.items() if (e := of[key]) is not None}
                if name in best(values, definition):
                    strong.append((len(rows) + 1, column))
            rows.append(row)

    figure = Figure(figsize=_A4_LANDSCAPE)
    words = "\n".join(textwrap.fill(sentence, _LINE_WIDTH) for sentence in summary_sentences(study))
    figure.text(0.04, 0.95, textwrap.fill(title, 90), fontsize=15, fontweight="bold", va="top", parse_math=False)
    figure.text(0.04, 0.88, words, fontsize=10, va="top", linespacing=1.5, parse_math=False)
    axes = figure.add_axes((0.04, 0.05, 0.92, 0.5))
    axes.set_axis_off()
    # RVD, the last one, has the longest intervals.
    widths = [0.14, *[0.72 / (len(keys) - 1)] * (len(keys) - 1), 0.14]
    drawn = axes.table(cellText=rows, colLabels=head, colWidths=widths, loc="upper center", cellLoc="right")
    drawn.auto_set_font_size(False)
    drawn.set_fontsize(7.5)
    drawn.scale(1, 2.3 * min(1.0, _MOST_ROWS / len(rows)))
    for (line, column), cell in drawn.get_celld().items():
        cell.visible_edges = "B"
        cell.set_edgecolor("#1b2733" if line == 0 else "#d9dfe5")
        cell.get_text().set_parse_math(False)
        if column == 0:
            cell.set_text_props(ha="left")
        if line == 0 or (line, column) in strong or not any(rows[line - 1][1:]):
            cell.set_text_props(fontweight="bold")
    ends = f" Below each mean its {study.confidence:.0%} confidence interval (bootstrap over patients)."
    note = ("Bold: best of the column." if len(study.models) > 1 else "") + (ends if len(study.cases) > 1 else "")
    figure.text(0.04, 0.03, note.strip(), fontsize=8)
    return figure
