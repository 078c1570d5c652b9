"""Slices with outlines as HTML: the image below, lines above that stay sharp and can be switched off."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from LiverMarginLib.comparison import CaseComparison, SliceStatus
from LiverMarginLib.metrics.definitions import DEFINITIONS
from LiverMarginLib.report.colours import REFERENCE, ModelStyle
from LiverMarginLib.report.contours import Outline
from LiverMarginLib.report.embed import grey_jpeg
from LiverMarginLib.report.fragments import CaseFragment, GallerySlice, Reason
from LiverMarginLib.report.markup import Html, tag, together
from LiverMarginLib.report.numbers import listing, number

_LINE = 1.6


def gallery(case: CaseComparison, fragment: CaseFragment, styles: Mapping[str, ModelStyle]) -> Html:
    """All pictures of a case.

    Parameters
    ----------
    case : CaseComparison
    fragment : CaseFragment
        Of this case.
    styles : mapping of str to ModelStyle
        By model, in the report's order, which names the classes of the lines.
    """
    return tag("div", *(_picture(case, entry, styles) for entry in fragment.gallery), class_="gallery")


def _picture(case: CaseComparison, entry: GallerySlice, styles: Mapping[str, ModelStyle]) -> Html:
    picture = entry.picture
    rows, columns = picture.grey.shape
    height, width = rows * picture.pixel_mm[0], columns * picture.pixel_mm[1]
    # Outlines run through halves of pixels, so that whole numbers of half pixels write them exactly.
    half = f"scale({picture.pixel_mm[1] / 2:g} {picture.pixel_mm[0] / 2:g})"
    lines = [tag("path", d=_path(picture.reference), stroke=REFERENCE, class_="reference")]
    for n, (name, style) in enumerate(styles.items()):
        lines.append(
            tag(
                "path",
                d=_path(picture.models.get(name, ())),
                stroke=style.colour,
                stroke_dasharray=" ".join(f"{_LINE * d:g}" for d in style.dashes) or None,
                class_=f"model{n}",
            )
        )
    title = f"Slice {picture.index}, {_position(case, picture.index)}"
    drawing = tag(
        "svg",
        tag(
            "image", href=grey_jpeg(picture.grey), width=f"{width:g}", height=f"{height:g}", preserveAspectRatio="none"
        ),
        tag("g", *lines, transform=half),
        tag("text", "R", x=f"{0.02 * width:g}", y=f"{height / 2:g}", class_="side"),
        tag("text", "L", x=f"{0.98 * width:g}", y=f"{height / 2:g}", class_="side", text_anchor="end"),
        viewBox=f"0 0 {width:g} {height:g}",
        role="img",
        aria_label=f"{title}: outlines of the reference and of {listing(styles)}; the patient's right is on the left",
    )
    return tag("figure", drawing, tag("figcaption", tag("b", title), " ", _reasons(entry), _scores(case, entry)))


def _position(case: CaseComparison, index: int) -> str:
    table = next(iter(case.predictions.values())).slices
    return f"{float(table['position_mm'][index]):.1f} mm".replace("-", "−")


def _reasons(entry: GallerySlice) -> Html:
    """Why the slice is shown; that it has two regions is a property of the reference and said once."""
    reasons: dict[Reason, list[str]] = {}
    for reason, model in entry.chosen:
        reasons.setdefault(reason, []).append(model)
    return together(
        tag(
            "span",
            str(reason) if reason is Reason.TWO_REGIONS else f"{reason}: {listing(models)}",
            class_=f"reason {reason.name.lower().replace('_', '-')}",
        )
        for reason, models in reasons.items()
    )


def _scores(case: CaseComparison, entry: GallerySlice) -> Html:
    definition = DEFINITIONS["boundary_iou"]
    parts = []
    for name, prediction in case.predictions.items():
        table, index = prediction.slices, entry.picture.index
        status = str(table["status"][index])
        said = {SliceStatus.MISSED.value: " (missed)", SliceStatus.EXTRA.value: " (extra)"}.get(status, "")
        parts.append(f"{name} {number(float(table['boundary_iou'][index]), definition)}{said}")
    return tag("small", f"Boundary IoU: {', '.join(parts)}")


def _path(lines: Outline) -> str:
    """Closed lines in half pixels, without the points at which they go straight on."""
    written = []
    for line in lines:
        # Drawn pixels begin at 0, their centres lie at a half.
        points = np.rint(2 * line.astype(np.float64)).astype(int) + 1
        steps = np.diff(points, axis=0)
        turns = np.flatnonzero((steps[1:] != steps[:-1]).any(axis=1)) + 1
        corners = points[np.concatenate(([0], turns))]
        moves = np.diff(corners, axis=0)
        x, y = corners[0]
        written.append(f"M{x} {y}l{' '.join(f'{dx} {dy}' for dx, dy in moves)}z")
    return "".join(written)
