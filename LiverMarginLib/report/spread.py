"""How the scores spread: box plots over slices and over patients."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from LiverMarginLib.comparison import Study, patient_columns
from LiverMarginLib.report.colours import ModelStyle
from LiverMarginLib.report.legend import add_legend
from LiverMarginLib.report.numbers import heading

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FloatArray = npt.NDArray[np.float64]

_OVER_SLICES = ("mask_iou", "trimap_iou", "boundary_f", "boundary_iou")
_OVER_PATIENTS = ("dice", "nsd_surfel_2mm", "rvd", "hd_mm", "hd95_mm", "assd_mm")
# Fewer points than this are shown one by one, because a box of them would say more than they do.
_LEAST_FOR_A_BOX = 5
_MOST_DOTS = 60


@dataclass(frozen=True)
class _Panel:
    title: str
    values: Mapping[str, FloatArray]


def spread_figure(study: Study, styles: Mapping[str, ModelStyle]) -> Figure:
    """Draw the scores of all slices and, if there are several, the numbers of all patients; a box a model.

    Parameters
    ----------
    study : Study
    styles : mapping of str to ModelStyle
        By model.

    Returns
    -------
    matplotlib Figure
    """
    from matplotlib.figure import Figure

    columns = patient_columns(study.settings)
    panels = [_Panel(columns[key].definition.name, _of_slices(study, key)) for key in _OVER_SLICES]
    many = len(study.cases) > 1
    shown = [key for key in _OVER_PATIENTS if key in columns] if many else []
    rows = math.ceil(len(shown) / 3)
    figure = Figure(figsize=(7.2, 2.9 + 2.2 * rows), layout="constrained")
    parts = figure.subfigures(1 + many, 1, squeeze=False, height_ratios=(2.4, 2.2 * rows)[: 1 + many])[:, 0]
    parts[0].suptitle("Over slices (a slice that was missed or is extra counts 0)", fontsize=9, x=0.01, ha="left")
    for axes, panel in zip(parts[0].subplots(1, len(panels), sharey=True), panels, strict=True):
        _draw(axes, panel, styles)
        axes.set_ylim(-0.03, 1.03)
    if many:
        title = f"Over patients (n = {len(study.cases)}; each dot is one)"
        parts[1].suptitle(title, fontsize=9, x=0.01, ha="left")
        grid = parts[1].subplots(rows, 3, squeeze=False).ravel()
        for axes, key in zip(grid, shown, strict=False):
            _draw(axes, _Panel(heading(key, study.settings), _of_patients(study, key)), styles)
        for axes in grid[len(shown) :]:
            axes.set_axis_off()
    add_legend(figure, styles)
    return figure


def _of_slices(study: Study, key: str) -> dict[str, FloatArray]:
    return {
        name: np.concatenate([c.predictions[name].slices[key] for c in study.cases if name in c.predictions])
        for name in study.models
    }


def _of_patients(study: Study, key: str) -> dict[str, FloatArray]:
    return {
        name: np.array([c.predictions[name].values[key].value for c in study.cases if name in c.predictions])
        for name in study.models
    }


def _draw(axes: Axes, panel: _Panel, styles: Mapping[str, ModelStyle]) -> None:
    for place, (name, values) in enumerate(panel.values.items()):
        finite = values[np.isfinite(values)]
        style = styles[name]
        if len(finite) >= _LEAST_FOR_A_BOX:
            line = {"color": style.colour, "linewidth": 1.3}
            axes.boxplot(
                [finite],
                positions=[place],
                widths=0.55,
                showfliers=len(finite) > _MOST_DOTS,
                boxprops=line,
                whiskerprops=line,
                capprops=line,
                medianprops={"color": "black", "linewidth": 1.5},
                flierprops={"marker": ".", "markersize": 3, "markeredgecolor": style.colour},
            )
        if len(finite) <= _MOST_DOTS:
            axes.plot(
                place + _beside(len(finite)),
                finite,
                linestyle="none",
                marker=style.marker,
                markersize=3.2,
                color=style.colour,
                alpha=0.75,
            )
        failed = int(np.count_nonzero(np.isinf(values)))
        if failed:
            axes.annotate(f"{failed} × ∞", (place, 0.93), xycoords=("data", "axes fraction"), ha="center", fontsize=8)
    if any(np.isinf(values).any() for values in panel.values.values()):
        low, high = axes.get_ylim()
        axes.set_ylim(low, high + 0.15 * (high - low))  # room for what is said above the dots
    axes.set_title(panel.title, fontsize=9)
    axes.set_xticks([])
    axes.set_xlim(-0.6, len(panel.values) - 0.4)
    axes.tick_params(labelsize=8)
    axes.grid(axis="y", color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _beside(n: int) -> FloatArray:
    """Places for dots next to each other, the same every time."""
    pattern: Sequence[float] = (0.0, 0.12, -0.12, 0.2, -0.2, 0.06, -0.06)
    return np.resize(np.array(pattern), n) if n > 1 else np.zeros(n)
