"""The picture of a denoising: before, after, and what was taken away, as in the liver-margin paper's Fig. 1."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from LiverMarginLib.errors import GeometryError
from LiverMarginLib.io.atomic import atomic_path
from LiverMarginLib.report.pictures import ABDOMEN_WINDOW
from LiverMarginLib.volume import Volume, axial_view

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_REMOVED_LIMIT = 60.0
_DETAIL = 0.4
_FILLED = 0.02  # a patient table alone fills less of a row

Region = tuple[slice, slice]


def draw_denoising(
    before: Volume,
    after: Volume,
    path: str | Path,
    *,
    index: int | None = None,
    window: tuple[float, float] = ABDOMEN_WINDOW,
) -> Path:
    """Draw one axial slice before and after denoising, a detail of it, and the difference.

    Parameters
    ----------
    before, after : Volume
        `after` as `LiverMarginLib.inference.denoising.denoise_volume` gave it: on the same grid, or with pixels of
        half the size.
    path : path
        A PNG.
    index : int, optional
        Axial slice, counted from the inferior end; the one with most body in it if not given.
    window : tuple of float
        Values shown black and white.

    Returns
    -------
    Path

    Raises
    ------
    GeometryError
        If the volumes do not show the same slices.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    first, second = axial_view(before.geometry), axial_view(after.geometry)
    old, new = first.to_view(before.array), second.to_view(after.array)
    factor = new.shape[1] // old.shape[1]
    if new.shape != (old.shape[0], factor * old.shape[1], factor * old.shape[2]):
        raise GeometryError("The two volumes do not show the same slices; give the volume and its denoised version.")
    if index is None:
        index = int(np.argmax([np.count_nonzero(plane > window[0]) for plane in old]))
    old_slice, new_slice = old[index].astype(np.float32), new[index].astype(np.float32)
    # At scale 2 the means of 2 x 2 new pixels are compared with the old ones.
    h, w = old_slice.shape
    removed = old_slice - new_slice.reshape(h, factor, w, factor).mean(axis=(1, 3))

    aspect = first.geometry.spacing[1] / first.geometry.spacing[2]
    body = _body(old_slice, window)
    regions = (body, _detail(body, aspect))
    heights = [aspect * (rows.stop - rows.start) / (columns.stop - columns.start) for rows, columns in regions]
    figure = Figure(figsize=(12, 0.9 + 3.6 * sum(heights)), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, 3, height_ratios=heights)
    for row, (rows, columns) in enumerate(regions):
        fine = tuple(slice(factor * part.start, factor * part.stop) for part in (rows, columns))
        _show(panels[row, 0], old_slice[rows, columns], aspect, window, "gray")
        _show(panels[row, 1], new_slice[fine], aspect, window, "gray")
        limits = (-_REMOVED_LIMIT, _REMOVED_LIMIT)
        shown = _show(panels[row, 2], removed[rows, columns], aspect, limits, "RdBu_r")
    _outline(panels[0, 0], *regions, 1)
    _outline(panels[0, 1], *regions, factor)
    for axes, title in zip(panels[0], ("Before", "After", "Removed"), strict=True):
        axes.set_title(title, fontsize=13)
    figure.colorbar(shown, ax=panels[:, 2], shrink=0.6, label="HU" if window == ABDOMEN_WINDOW else "Grey value")
    content = io.BytesIO()
    figure.savefig(content, format="png")
    with atomic_path(Path(path)) as beside:
        beside.write_bytes(content.getvalue())
    return Path(path)


def _show(axes: Axes, image: npt.NDArray[Any], aspect: float, limits: tuple[float, float], colours: str) -> Any:
    axes.set_axis_off()
    return axes.imshow(image, cmap=colours, vmin=limits[0], vmax=limits[1], aspect=aspect, interpolation="nearest")


def _outline(axes: Axes, shown: Region, detail: Region, factor: int) -> None:
    from matplotlib.patches import Rectangle

    (top, left), (rows, columns) = (part.start for part in shown), detail
    corner = (factor * (columns.start - left) - 0.5, factor * (rows.start - top) - 0.5)
    size = (factor * (columns.stop - columns.start), factor * (rows.stop - rows.start))
    axes.add_patch(Rectangle(corner, *size, fill=False, edgecolor="#ffb000", linewidth=1.4))


def _body(image: npt.NDArray[Any], window: tuple[float, float]) -> Region:
    """Find the part of the slice that shows something, with a little air around it."""
    parts = []
    for axis in (1, 0):
        filled = np.flatnonzero((image > window[0]).mean(axis=axis) > _FILLED)
        n = image.shape[1 - axis]
        first, last = (int(filled[0]), int(filled[-1]) + 1) if len(filled) else (0, n)
        air = max(2, n // 50)
        parts.append(slice(max(0, first - air), min(n, last + air)))
    return parts[0], parts[1]


def _detail(body: Region, aspect: float) -> Region:
    """Choose what is enlarged: half way between the middle and the image's left, where the liver is."""
    rows, columns = body
    wide = max(8, round(_DETAIL * (columns.stop - columns.start)))
    high = max(8, round(0.75 * wide / aspect))
    centre = (rows.start + rows.stop) // 2, columns.start + round(0.3 * (columns.stop - columns.start))
    found = []
    for part, middle, side in zip(body, centre, (high, wide), strict=True):
        start = int(np.clip(middle - side // 2, part.start, max(part.start, part.stop - side)))
        found.append(slice(start, min(part.stop, start + side)))
    return found[0], found[1]
