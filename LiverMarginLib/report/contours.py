"""Slices with the contours of a reference and of predictions, drawn with matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from LiverMarginLib.report.colours import REFERENCE, ModelStyle, model_styles
from LiverMarginLib.report.legend import add_legend

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARGIN_MM = 25.0
_NO_IMAGE = 64
_MARK = {"fontsize": 8, "fontweight": "bold", "color": "white", "va": "center"}

# Closed lines, each of shape (n, 2): column and row, pixel centres at whole numbers.
Outline = tuple[npt.NDArray[np.float32], ...]


@dataclass(frozen=True, eq=False)
class SlicePicture:
    """One slice to draw: grey values and outlines, nothing of which identifies a patient.

    Parameters
    ----------
    index : int
        Slice of the axial view.
    grey : ndarray of uint8, shape (rows, columns)
        A part of the slice, seen as radiologists do: the patient's right on the left.
    pixel_mm : tuple of float
        Height and width of a pixel.
    reference : tuple of ndarray
        Outlines of the reference; empty where it is not in the slice.
    models : mapping of str to tuple of ndarray
        The same by model.
    """

    index: int
    grey: npt.NDArray[np.uint8]
    pixel_mm: tuple[float, float]
    reference: Outline
    models: Mapping[str, Outline]


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

    def pictures(self, indices: Sequence[int]) -> list[SlicePicture]:
        """Cut these slices out, all with the same box."""
        if not indices:
            return []
        box = self.box(indices)
        low, high = self.grey_window()
        return [
            SlicePicture(
                index,
                self._grey(index, box, low, high),
                (self.spacing[1], self.spacing[2]),
                outline(self.reference[index][box]),
                {name: outline(mask[index][box]) for name, mask in self.predictions.items()},
            )
            for index in indices
        ]

    def _grey(self, index: int, box: tuple[slice, slice], low: float, high: float) -> npt.NDArray[np.uint8]:
        if self.image is None:
            return np.full(self.reference[index][box].shape, _NO_IMAGE, dtype=np.uint8)
        shown = self.image[index][box].astype(np.float32)
        return np.rint(255 * np.clip((shown - low) / (high - low), 0, 1)).astype(np.uint8)


def outline(mask: npt.NDArray[np.bool_]) -> Outline:
    """Trace a mask along the edges of its pixels' centres, halfway to the background.

    Parameters
    ----------
    mask : ndarray of bool, shape (rows, columns)

    Returns
    -------
    tuple of ndarray of float32, shape (n, 2)
        Closed lines of (column, row).
    """
    from skimage.measure import find_contours

    if not mask.any():
        return ()
    # One pixel of background around it closes the contour of an organ that touches the border.
    lines = find_contours(np.pad(mask, 1).astype(np.float32), 0.5)
    return tuple(line[:, ::-1].astype(np.float32) - 1 for line in lines)


def draw_picture(axes: Axes, picture: SlicePicture, styles: Mapping[str, ModelStyle], title: str) -> None:
    """Draw one slice with the patient's right on the left, and say so.

    Parameters
    ----------
    axes : matplotlib Axes
    picture : SlicePicture
    styles : mapping of str to ModelStyle
        By model.
    title : str
    """
    rows, columns = picture.grey.shape
    axes.imshow(picture.grey, cmap="gray", vmin=0, vmax=255, aspect=picture.pixel_mm[0] / picture.pixel_mm[1])
    for line in picture.reference:
        axes.plot(*line.T, color=REFERENCE, linewidth=1.4)
    for name, lines in picture.models.items():
        for line in lines:
            axes.plot(*line.T, color=styles[name].colour, linewidth=1.1, linestyle=styles[name].line)
    axes.text(0.02, 0.5, "R", transform=axes.transAxes, ha="left", **_MARK)  # type: ignore[arg-type]
    axes.text(0.98, 0.5, "L", transform=axes.transAxes, ha="right", **_MARK)  # type: ignore[arg-type]
    axes.set_title(title, fontsize=9, parse_math=False)
    axes.set_xlim(-0.5, columns - 0.5)
    axes.set_ylim(rows - 0.5, -0.5)
    axes.set_xticks([])
    axes.set_yticks([])


def gallery_figure(
    pictures: Sequence[tuple[SlicePicture, str]], styles: Mapping[str, ModelStyle], columns: int = 3, title: str = ""
) -> Figure:
    """Draw pictures of the same size in a grid with a legend.

    Parameters
    ----------
    pictures : sequence of (SlicePicture, str)
        At least one picture, with titles.
    styles : mapping of str to ModelStyle
        By model.
    columns : int
        Pictures in a row.
    title : str
        Above all of them.

    Returns
    -------
    matplotlib Figure
        Not attached to any window.
    """
    from matplotlib.figure import Figure

    rows = -(-len(pictures) // columns)
    first = pictures[0][0]
    height, width = first.grey.shape
    ratio = height * first.pixel_mm[0] / (width * first.pixel_mm[1])
    figure = Figure(figsize=(3.3 * columns, (3.3 * ratio + 0.35) * rows + 0.55), layout="constrained")
    for n, (picture, caption) in enumerate(pictures):
        draw_picture(figure.add_subplot(rows, columns, n + 1), picture, styles, caption)
    add_legend(figure, styles, reference=True)
    if title:
        figure.suptitle(title, fontsize=12, parse_math=False)
    return figure


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
    pictures = stack.pictures([index for index, _ in slices])
    titles = [title for _, title in slices]
    return gallery_figure(list(zip(pictures, titles, strict=True)), model_styles(stack.predictions), columns)
