"""The legend of all figures: models by colour and kind of line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from LiverMarginLib.report.colours import REFERENCE, ModelStyle

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def add_legend(
    figure: Figure, styles: Mapping[str, ModelStyle], *, reference: bool = False, extra: Mapping[str, Any] | None = None
) -> None:
    """Put a legend below everything else in a figure with constrained layout.

    Parameters
    ----------
    figure : matplotlib Figure
    styles : mapping of str to ModelStyle
        By model.
    reference : bool
        Whether the reference's line is explained too.
    extra : mapping of str to matplotlib artist, optional
        Further signs by what they mean.
    """
    from matplotlib.lines import Line2D

    handles: dict[str, Any] = {"reference": Line2D([], [], color=REFERENCE)} if reference else {}
    handles |= {name: Line2D([], [], color=s.colour, linestyle=s.line) for name, s in styles.items()}
    handles |= extra or {}
    legend = figure.legend(
        list(handles.values()),
        ["-"] * len(handles),
        loc="outside lower center",
        ncols=len(handles) if len(handles) <= 5 else -(-len(handles) // 2),
        frameon=False,
        fontsize=8,
    )
    # Set afterwards, because matplotlib leaves labels out that begin with an underscore.
    for text, name in zip(legend.get_texts(), handles, strict=True):
        text.set_parse_math(False)
        text.set_text(name)
