"""Dice over the number of training subjects."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from LiverMarginLib.report.colours import model_styles

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def learning_curve_figure(rows: Sequence[Mapping[str, Any]], points: Sequence[tuple[str, int, float]]) -> Figure:
    """Draw the mean with its standard deviation, and every test subject as a point.

    Parameters
    ----------
    rows : sequence of mapping
        Of `LiverMarginLib.training.few_shot_study.summary`.
    points : sequence of (str, int, float)
        Label, number of training subjects and Dice of each test.

    Returns
    -------
    matplotlib Figure
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, NullLocator

    figure = Figure(figsize=(6.0, 4.2), layout="constrained")
    axes = figure.subplots()
    labels = list(dict.fromkeys(row["label"] for row in rows))
    styles = model_styles(labels)
    counts = sorted({row["subjects"] for row in rows})
    for place, label in enumerate(labels):
        style = styles[label]
        own = [row for row in rows if row["label"] == label]
        shift = 1.03 ** (place - (len(labels) - 1) / 2)  # labels beside each other, not on each other
        at = [row["subjects"] * shift for row in own]
        spread = [row["sd"] if math.isfinite(row["sd"]) else 0.0 for row in own]
        single = [(count * shift, dice) for name, count, dice in points if name == label and math.isfinite(dice)]
        axes.plot(*zip(*single, strict=True), linestyle="none", marker=".", color=style.colour, alpha=0.35)
        axes.errorbar(
            at,
            [row["mean"] for row in own],
            spread,
            label=label,
            color=style.colour,
            linestyle=style.line,
            marker=style.marker,
            capsize=3,
        )
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(counts))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([str(count) for count in counts])
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel("Training subjects")
    axes.set_ylabel("Dice of the test subjects (mean ± SD)")
    axes.grid(color="0.92", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right", frameon=False)
    return figure
