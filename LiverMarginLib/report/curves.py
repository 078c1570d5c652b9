"""Scores along the liver, slice by slice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from LiverMarginLib.comparison import CaseComparison, SliceStatus
from LiverMarginLib.comparison.result import SliceTable
from LiverMarginLib.report.colours import REFERENCE, ModelStyle
from LiverMarginLib.report.legend import add_legend

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_TWO_REGIONS = "#f3e6c4"
_SHOWN_BESIDE = 2  # slices beyond the liver's ends


def curves_figure(case: CaseComparison, styles: Mapping[str, ModelStyle], title: str = "") -> Figure:
    """Draw Boundary IoU, Mask IoU, margin error and area of each slice against its position.

    Parameters
    ----------
    case : CaseComparison
    styles : mapping of str to ModelStyle
        By model.
    title : str

    Returns
    -------
    matplotlib Figure
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    figure = Figure(figsize=(7.2, 6.4), layout="constrained")
    boundary, mask, margin, area = figure.subplots(4, 1, sharex=True)
    tables = {name: prediction.slices for name, prediction in case.predictions.items()}
    for name, table in tables.items():
        _scores(boundary, table, "boundary_iou", styles[name])
        _scores(mask, table, "mask_iou", styles[name])
        _line(margin, table, _finite(table["margin_abs_mm"]), styles[name])
        _line(area, table, _area_cm2(case, table["prediction_px"]), styles[name])
    first = next(iter(tables.values()))
    area.plot(first["position_mm"], _area_cm2(case, first["reference_px"]), color=REFERENCE, linewidth=1.3)
    for axes, label in (
        (boundary, f"Boundary IoU\n(d = {case.official})"),
        (mask, "Mask IoU"),
        (margin, "Mean margin\nerror (mm)"),
        (area, "Area (cm²)"),
    ):
        axes.set_ylabel(label, fontsize=8)
        _shade_two_regions(axes, first, case.geometry.spacing[0])
        axes.tick_params(labelsize=8)
        axes.grid(color="0.92", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in (boundary, mask):
        axes.set_ylim(-0.06, 1.03)
    for axes in (margin, area):
        axes.set_ylim(bottom=0)
    area.set_xlim(*_extent(tables, case.geometry.spacing[0]))
    area.set_xlabel("Inferior  ←  position along the patient (mm)  →  superior", fontsize=8)
    statuses = {str(status) for table in tables.values() for status in table["status"]}
    extra: dict[str, Any] = {}
    if SliceStatus.MISSED.value in statuses:
        extra["missed slice"] = Line2D([], [], marker="x", color="0.25", linestyle="none")
    if SliceStatus.EXTRA.value in statuses:
        extra["extra slice"] = Line2D([], [], marker="+", color="0.25", linestyle="none")
    if first["two_regions"].any():
        extra["two or more regions"] = Patch(color=_TWO_REGIONS)
    add_legend(figure, styles, reference=True, extra=extra)
    if title:
        figure.suptitle(title, fontsize=12, parse_math=False)
    return figure


def has_curves(case: CaseComparison) -> bool:
    """Whether any slice is marked, by the reference or by a model."""
    return any((p.slices["status"] != SliceStatus.NEITHER.value).any() for p in case.predictions.values())


def _scores(axes: Axes, table: SliceTable, key: str, style: ModelStyle) -> None:
    _line(axes, table, table[key], style)
    for status, marker in ((SliceStatus.MISSED, "x"), (SliceStatus.EXTRA, "+")):
        where = table["status"] == status.value
        if not where.any():
            continue  # an empty line that is not clipped would confuse the layout
        axes.plot(
            table["position_mm"][where],
            table[key][where],
            marker=marker,
            linestyle="none",
            color=style.colour,
            markersize=6,
            markeredgewidth=1.5,
            clip_on=False,
        )


def _line(axes: Axes, table: SliceTable, values: Any, style: ModelStyle) -> None:
    axes.plot(table["position_mm"], values, color=style.colour, linestyle=style.line, linewidth=1.3)


def _finite(values: Any) -> Any:
    """Distances to an empty prediction are infinite: the slices are marked as missed instead."""
    return np.where(np.isfinite(values), values, np.nan)


def _area_cm2(case: CaseComparison, pixels: Any) -> Any:
    """Area of a slice; nothing is drawn where the slice is empty and so are its neighbours."""
    shown = np.convolve(np.asarray(pixels) > 0, (1, 1, 1), "same") > 0
    return np.where(shown, pixels * (case.geometry.spacing[1] * case.geometry.spacing[2] / 100), np.nan)


def _shade_two_regions(axes: Axes, table: SliceTable, thickness: float) -> None:
    for position in table["position_mm"][table["two_regions"].astype(bool)]:
        axes.axvspan(position - thickness / 2, position + thickness / 2, color=_TWO_REGIONS, linewidth=0, zorder=0)


def _extent(tables: Mapping[str, SliceTable], thickness: float) -> tuple[float, float]:
    used = [t["position_mm"][t["status"] != SliceStatus.NEITHER.value] for t in tables.values()]
    positions = np.concatenate(used)
    beside = _SHOWN_BESIDE * thickness
    return float(positions.min()) - beside, float(positions.max()) + beside
