"""How large the margin errors are, whatever their place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from LiverMarginLib.metrics.suite import MarginErrors
from LiverMarginLib.report.colours import ModelStyle
from LiverMarginLib.report.legend import add_legend

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Signed errors in mm, and absolute ones for the curve of shares; both end with everything beyond.
_EDGES = np.arange(-20.0, 21.0)
_WITHIN = np.arange(0.0, 15.25, 0.25)


@dataclass(frozen=True, eq=False)
class MarginHistogram:
    """Counts of the reference's surface voxels by their margin error.

    Parameters
    ----------
    signed : ndarray of int64, shape (42,)
        Voxels in error by signed error: below -20 mm, each mm, from 20 mm on.
    within : ndarray of int64, shape (61,)
        Voxels whose absolute error is at most 0, 0.25, ... 15 mm.
    n : int
        Surface voxels.
    """

    signed: npt.NDArray[np.int64]
    within: npt.NDArray[np.int64]
    n: int

    def __add__(self, other: MarginHistogram) -> MarginHistogram:
        return MarginHistogram(self.signed + other.signed, self.within + other.within, self.n + other.n)


def count_errors(margin: MarginErrors) -> MarginHistogram:
    """Count the errors at the reference's surface voxels."""
    error = margin.at_reference
    wrong = error[error != 0]
    place = np.searchsorted(_EDGES, wrong, side="right")
    # Lengths such as 0.75 mm are sums of spacings and carry rounding.
    within = np.searchsorted(np.sort(np.abs(error)), _WITHIN + 1e-6, side="right")
    return MarginHistogram(np.bincount(place, minlength=len(_EDGES) + 1), within.astype(np.int64), len(error))


def histogram_figure(histograms: Mapping[str, MarginHistogram], styles: Mapping[str, ModelStyle]) -> Figure:
    """Draw the distribution of the signed errors, and the share of the margin within a distance.

    Parameters
    ----------
    histograms : mapping of str to MarginHistogram
        By model.
    styles : mapping of str to ModelStyle

    Returns
    -------
    matplotlib Figure
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 3.3), layout="constrained")
    signed, within = figure.subplots(1, 2)
    edges = np.concatenate(([_EDGES[0] - 1], _EDGES, [_EDGES[-1] + 1]))
    for name, counts in histograms.items():
        style = styles[name]
        of_all = 100 / max(counts.n, 1)
        signed.stairs(counts.signed * of_all, edges, color=style.colour, linestyle=style.line, linewidth=1.5)
        within.plot(_WITHIN, counts.within * of_all, color=style.colour, linestyle=style.line, linewidth=1.5)
    signed.axvline(0, color="0.6", linewidth=0.8, zorder=0)
    signed.set_xlabel("Signed margin error (mm); ends hold what lies beyond", fontsize=8)
    signed.set_ylabel("Share of the margin (% a mm)", fontsize=8)
    signed.set_title("Where it errs: short (−) or beyond (+)", fontsize=9, loc="left")
    within.set_xlabel("Distance (mm)", fontsize=8)
    within.set_ylabel("Share of the margin (%)", fontsize=8)
    within.set_title("Share of the margin within a distance", fontsize=9, loc="left")
    within.set_ylim(0, 102)
    within.set_xlim(0, _WITHIN[-1])
    signed.set_ylim(bottom=0)
    for axes in (signed, within):
        axes.tick_params(labelsize=8)
        axes.grid(color="0.9", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    add_legend(figure, styles)
    return figure
