"""The report of a comparison as one HTML file that needs no other file and no network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import LiverMarginLib
from LiverMarginLib.comparison import Study
from LiverMarginLib.events import CancelToken
from LiverMarginLib.io.atomic import atomic_path
from LiverMarginLib.report.colours import model_styles
from LiverMarginLib.report.fragments import FragmentOf, collect
from LiverMarginLib.report.markup import Html, tag
from LiverMarginLib.report.numbers import listing
from LiverMarginLib.report.sections import (
    definitions_section,
    margin_section,
    patients_section,
    provenance_section,
    scores_section,
)
from LiverMarginLib.report.style import CSS, SCRIPT, switches_css
from LiverMarginLib.report.tables import detection_table, failures_table
from LiverMarginLib.report.words import summary_sentences

_NO_DIAGNOSIS = "For research; not a medical device, and no basis for a decision on a patient."


def write_report(
    study: Study, fragment_of: FragmentOf, path: Path, *, title: str = "", cancel: CancelToken | None = None
) -> Path:
    """Write the report.

    Parameters
    ----------
    study : Study
    fragment_of : callable
        Returns a case's fragment by the case's name, or None if there is none; asked once for each case, so that
        only those that are shown need to be in memory.
    path : Path
        An HTML file, which appears complete or not at all.
    title : str
        Above the report; the models' names if empty. Must not identify a patient.
    cancel : CancelToken, optional

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
    page = report_html(study, fragment_of, title=title, cancel=cancel)
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def report_html(study: Study, fragment_of: FragmentOf, *, title: str = "", cancel: CancelToken | None = None) -> str:
    """The report as a page; parameters as for `write_report`."""
    title = title or report_title(study)
    styles = model_styles(study.models)
    fragments, histograms = collect(study, fragment_of, cancel)
    sections = [
        ("scores", "Scores", scores_section(study, styles)),
        ("slices", "Slices found and missed", detection_table(study, styles)),
        ("margin", "Where the margin errs", margin_section(study, styles, histograms)),
        ("patients", "Patients", patients_section(study, styles, fragments, cancel)),
        ("failed", "Cases left out", failures_table(study) if study.failures else None),
        ("definitions", "Definitions", definitions_section(study)),
        ("provenance", "Provenance", provenance_section(study, styles)),
    ]
    shown = [(name, heading, content) for name, heading, content in sections if content is not None]
    nav = tag("nav", *(tag("a", heading, href=f"#{name}") for name, heading, _ in shown), aria_label="Sections")
    summary = tag("div", *(tag("p", sentence) for sentence in summary_sentences(study)), class_="summary")
    return html_document(
        title,
        [
            tag("header", tag("h1", title), summary, nav),
            tag("main", *(tag("section", tag("h2", heading), content, id=name) for name, heading, content in shown)),
        ],
        switches_css(len(styles)),
    )


def html_document(title: str, parts: Sequence[Html], css: str = "") -> str:
    """A whole page that needs no other file.

    Parameters
    ----------
    title : str
        Must not identify a patient.
    parts : sequence of Html
        Of the body, before the footer.
    css : str
        Besides the common style.
    """
    body = tag(
        "body",
        *parts,
        tag("footer", tag("p", f"Made by LiverMargin {LiverMarginLib.__version__}. {_NO_DIAGNOSIS}")),
        tag("script", Html(SCRIPT)),
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light only"),
        # Whatever a name could smuggle in, the browser would load nothing for it.
        tag(
            "meta",
            http_equiv="Content-Security-Policy",
            content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'",
        ),
        tag("title", title),
        tag("style", Html(CSS + css)),
    )
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"


def report_title(study: Study) -> str:
    """A title from what was compared."""
    return f"Liver segmentation: {listing(study.models)} against the reference"
