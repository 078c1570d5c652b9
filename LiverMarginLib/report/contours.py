"""Slices with the contours of a reference and of predictions, drawn with matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from LiverMarginLib.report.colours import REFERENCE, model_colours

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARGIN_MM = 25.0


@dataclass(frozen=True, eq=False)
class SliceStack:
    """What is drawn: everything in one canonical axial view.

    Parameters
    ----------
    reference : ndarray of bool, shape (k, j, i)
    predictions : mapping of str to ndarray of bool, shape (k, j, i)
        By model.
    spacing : tuple of float
        (k, j, i) in mm.
    image : ndarray, shape (k, j, i), optional
        The CT or MR; without it the slices are drawn on plain grey.
    window : tuple of float, optional
        Intensities drawn black and white; found from the image inside the reference's surroundings if None.
    """

    reference: npt.NDArray[np.bool_]
    predictions: Mapping[str, npt.NDArray[np.bool_]]
    spacing: tuple[float, float, float]
    image: npt.NDArray[Any] | None = None
    window: tuple[float, float] | None = None

    def box(self, indices: Sequence[int]) -> tuple[slice, slice]:
        """Rows and columns around everything that is outlined in these slices, with a margin."""
        masks = (self.reference, *self.predictions.values())
        union = np.any([mask[index] for mask in masks for index in indices], axis=0)
        if not union.any():
            return slice(0, union.shape[0]), slice(0, union.shape[1])
        sides = []
        for axis, step in ((1, self.spacing[1]), (0, self.spacing[2])):
            used = np.flatnonzero(union.any(axis=axis))
            margin = round(_MARGIN_MM / step)
            sides.append(slice(max(0, int(used[0]) - margin), int(used[-1]) + 1 + margin))
        return sides[0], sides[1]

    def grey_window(self) -> tuple[float, float]:
        """The window to draw with: the given one, or the middle 98 % of the image where the reference is, widened."""
        if self.window is not None:
            return self.window
        if self.image is None:
            return 0.0, 1.0
        inside = self.image[self.reference] if self.reference.any() else self.image
        low, high = (float(value) for value in np.percentile(inside, (1, 99)))
        half = max(high - low, 1e-6)
        return low - half, high + half


def draw_slice(axes: Axes, stack: SliceStack, index: int, box: tuple[slice, slice], title: str) -> None:
    """Draw one slice as radiologists see it, the patient's right on the left.

    Parameters
    ----------
    axes : matplotlib Axes
    stack : SliceStack
    index : int
        Axial slice.
    box : tuple of slice
        Rows and columns to show.
    title : str
    """
    rows, columns = box
    shape = stack.reference[index][rows, columns].shape
    aspect = stack.spacing[1] / stack.spacing[2]
    if stack.image is None:
        axes.imshow(np.full(shape, 0.25), cmap="gray", vmin=0, vmax=1, aspect=aspect)
    else:
        low, high = stack.grey_window()
        axes.imshow(stack.image[index][rows, columns], cmap="gray", vmin=low, vmax=high, aspect=aspect)
    colours = model_colours(stack.predictions)
    outlines = [(stack.reference, REFERENCE), *((mask, colours[name]) for name, mask in stack.predictions.items())]
    for mask, colour in outlines:
        shown = mask[index][rows, columns]
        if shown.any():
            # One pixel of background around it closes the contour of an organ that touches the border.
            padded = np.pad(shown.astype(np.float32), 1)
            y, x = np.arange(-1, shape[0] + 1), np.arange(-1, shape[1] + 1)
            axes.contour(x, y, padded, levels=(0.5,), colors=(colour,), linewidths=1.2)
    axes.set_title(title, fontsize=9)
    axes.set_xlim(-0.5, shape[1] - 0.5)
    axes.set_ylim(shape[0] - 0.5, -0.5)
    axes.set_xticks([])
    axes.set_yticks([])


def contour_figure(stack: SliceStack, slices: Sequence[tuple[int, str]], columns: int = 3) -> Figure:
    """Draw several slices in a grid with a legend.

    Parameters
    ----------
    stack : SliceStack
    slices : sequence of (int, str)
        Axial slice and its title.
    columns : int
        Pictures in a row.

    Returns
    -------
    matplotlib Figure
        Not attached to any window.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    rows = -(-len(slices) // columns)
    box = stack.box([index for index, _ in slices])
    height, width = stack.reference[0][box].shape
    ratio = height * stack.spacing[1] / (width * stack.spacing[2])
    figure = Figure(figsize=(3.3 * columns, (3.3 * ratio + 0.35) * rows + 0.55), layout="constrained")
    for n, (index, title) in enumerate(slices):
        draw_slice(figure.add_subplot(rows, columns, n + 1), stack, index, box, title)
    colours = {"reference": REFERENCE, **model_colours(stack.predictions)}
    figure.legend(
        handles=[Line2D([], [], color=colour, label=name) for name, colour in colours.items()],
        loc="outside lower center",
        ncols=len(colours),
        frameon=False,
    )
    return figure
