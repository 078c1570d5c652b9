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
_DETAIL = 0.35


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
    box = _detail(old_slice, window)
    figure = Figure(figsize=(12, 8.6 * min(1.4, max(0.6, aspect * h / w))), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, 3)
    for row, detail in enumerate((False, True)):
        rows, columns = box if detail else (slice(0, h), slice(0, w))
        fine = tuple(slice(factor * part.start, factor * part.stop) for part in (rows, columns))
        _show(panels[row, 0], old_slice[rows, columns], aspect, window, "gray")
        _show(panels[row, 1], new_slice[fine], aspect, window, "gray")
        limits = (-_REMOVED_LIMIT, _REMOVED_LIMIT)
        shown = _show(panels[row, 2], removed[rows, columns], aspect, limits, "RdBu_r")
        if not detail:
            _outline(panels[0, 0], box, 1)
            _outline(panels[0, 1], box, factor)
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


def _outline(axes: Axes, box: tuple[slice, slice], factor: int) -> None:
    from matplotlib.patches import Rectangle

    rows, columns = box
    corner = (factor * columns.start - 0.5, factor * rows.start - 0.5)
    size = (factor * (columns.stop - columns.start), factor * (rows.stop - rows.start))
    axes.add_patch(Rectangle(corner, *size, fill=False, edgecolor="#ffb000", linewidth=1.4))


def _detail(image: npt.NDArray[Any], window: tuple[float, float]) -> tuple[slice, slice]:
    """Choose the region that is enlarged: on the image's left of the body's middle, where the liver is."""
    h, w = image.shape
    rows, columns = np.nonzero(image > window[0])
    if len(rows) == 0:
        rows, columns = np.array([0, h]), np.array([0, w])
    top, bottom = np.percentile(rows, (2, 98))
    left, right = np.percentile(columns, (2, 98))
    side_h, side_w = max(8, round(_DETAIL * (bottom - top))), max(8, round(_DETAIL * (right - left)))
    start_h = int(np.clip(top + 0.45 * (bottom - top) - side_h / 2, 0, max(0, h - side_h)))
    start_w = int(np.clip(left + 0.3 * (right - left) - side_w / 2, 0, max(0, w - side_w)))
    return slice(start_h, min(h, start_h + side_h)), slice(start_w, min(w, start_w + side_w))
