"""The variants of a two-stage training side by side: the liver's Dice, the cancer's Dice, its lesions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# The colour says what a variant learnt from, the mark what it learnt; a single stage is hollow.
_COLOURS = {"CT": "#56b4e9", "MR": "#cc79a7", "CT+MR": "#e69f00"}
_MARKERS = {"cancer": "o", "liver+cancer": "s"}

_SHOWN = {
    "liver_dice": "Dice, liver",
    "cancer_dice": "Dice, cancer\n(mean of cases)",
    "cancer_dice_global": "Dice, cancer\n(all voxels)",
    "recall_iou0.1": "Lesion recall\nIoU 0.1",
    "precision_iou0.1": "Lesion precision\nIoU 0.1",
    "recall_iou0.5": "Lesion recall\nIoU 0.5",
    "precision_iou0.5": "Lesion precision\nIoU 0.5",
}


def ablation_figure(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw one panel for each modality of the tests, with one mark for each variant and number.

    Parameters
    ----------
    rows : sequence of mapping
        Of `LiverMarginLib.jobs.two_stage`: those of `two_stage_scores.summary` with ``learns``, ``from``, ``stages``.

    Returns
    -------
    matplotlib Figure
    """
    from matplotlib.figure import Figure

    tests = list(dict.fromkeys(row["test"] for row in rows))
    figure = Figure(figsize=(9.0, 1.0 + 3.1 * len(tests)), layout="constrained")
    panels = figure.subplots(len(tests), 1, sharex=True, squeeze=False)[:, 0]
    for axes, test in zip(panels, tests, strict=True):
        own = [row for row in rows if row["test"] == test]
        for place, row in enumerate(own):
            colour = _COLOURS.get(row["from"], "#999999")
            shift = 0.75 * ((place + 0.5) / len(own) - 0.5)
            values = [(n + shift, row[key]) for n, key in enumerate(_SHOWN) if math.isfinite(row[key])]
            axes.vlines(*zip(*((at, 0, value) for at, value in values), strict=True), color=colour, linewidth=1.2)
            axes.plot(
                *zip(*values, strict=True),
                linestyle="none",
                marker=_MARKERS.get(row["learns"], "D"),
                color=colour,
                markerfacecolor=colour if row["stages"] == 2 else "white",
                label=_name(row),
                clip_on=False,
            )
        axes.set_title(f"Tested on {test}: {own[0]['n']} cases, {own[0]['lesions']} lesions", fontsize=10, loc="left")
        axes.set_ylim(0, 1)
        axes.set_xlim(-0.5, len(_SHOWN) - 0.5)
        axes.set_xticks(range(len(_SHOWN)), list(_SHOWN.values()), fontsize=8)
        axes.grid(axis="y", color="0.92", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    handles = {label: line for axes in panels for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return figure


def _name(row: Mapping[str, Any]) -> str:
    stages = "" if row["stages"] == 2 else ", single stage"
    return f"{row['learns']} from {row['from']}{stages}"
