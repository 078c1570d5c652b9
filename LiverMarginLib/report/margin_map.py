"""The margin error of a whole liver in one flat picture: every slice's outline unrolled, one above the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from LiverMarginLib.metrics.suite import MarginErrors
from LiverMarginLib.report.margin_colours import NAME, margin_limit
from LiverMarginLib.volume import Geometry

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FloatArray = npt.NDArray[np.float64]

ANGLES = 120
# Angles without a surface voxel take the nearest value up to this far; beyond, the outline has no surface there.
_BRIDGED = ANGLES // 12

_NO_SURFACE = "#dddddd"


@dataclass(frozen=True, eq=False)
class MarginMap:
    """Signed margin errors of one prediction over the reference's surface.

    Parameters
    ----------
    error_mm : ndarray of float32, shape (slices, ANGLES)
        Mean signed error of the reference's surface voxels seen from the middle of the slice's outline at an angle;
        positive where the prediction reaches beyond the reference; infinite if the prediction is empty; nan where
        the reference has no surface. Slices run from inferior to superior. Angles run as one walks around the
        patient: from posterior over the right side, anterior and the left side back to posterior.
    bottom_mm, top_mm : float
        Positions of the lowest and the highest slice's outer faces, RAS.
    """

    error_mm: npt.NDArray[np.float32]
    bottom_mm: float
    top_mm: float


def unroll(margin: MarginErrors, geometry: Geometry) -> MarginMap:
    """Unroll the reference's surface, slice by slice around the middle of each slice's outline.

    Parameters
    ----------
    margin : MarginErrors
        With at least one surface voxel of the reference.
    geometry : Geometry
        The axial view's grid.

    Returns
    -------
    MarginMap
        Of the slices that show the reference.
    """
    points, error = margin.reference_points, margin.at_reference
    first, last = int(points[:, 0].min()), int(points[:, 0].max())
    row = points[:, 0] - first
    n_rows = last - first + 1
    x = points[:, 2] * geometry.spacing[2]
    y = points[:, 1] * geometry.spacing[1]
    size = np.maximum(np.bincount(row, minlength=n_rows), 1)
    x = x - (np.bincount(row, x, n_rows) / size)[row]
    y = y - (np.bincount(row, y, n_rows) / size)[row]
    # The view's columns run to the patient's left and its rows to posterior, so this is 0 at posterior and grows
    # over right (a quarter), anterior (a half) and left.
    turn = np.arctan2(-x, y) / (2 * np.pi) % 1.0
    cell = row * ANGLES + np.minimum((turn * ANGLES).astype(np.int64), ANGLES - 1)
    count = np.bincount(cell, minlength=n_rows * ANGLES)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = (np.bincount(cell, error, n_rows * ANGLES) / count).reshape(n_rows, ANGLES)
    position = geometry.ijk_to_ras[2] @ [(geometry.shape[2] - 1) / 2, (geometry.shape[1] - 1) / 2, first, 1.0]
    step = geometry.ijk_to_ras[2, 2]
    return MarginMap(
        _bridge(mean).astype(np.float32), float(position - step / 2), float(position + step * (n_rows - 0.5))
    )


def _bridge(mean: FloatArray) -> FloatArray:
    """Fill short gaps along the angle with the nearest value; a small outline has fewer voxels than angles."""
    from scipy.ndimage import distance_transform_edt

    around = np.concatenate((mean, mean, mean), axis=1)
    empty = np.isnan(around)
    if empty.all():
        return mean
    # Rows are put infinitely far apart, so that a gap takes its own slice's value.
    distance, nearest = distance_transform_edt(empty, sampling=(1e6, 1.0), return_indices=True)
    filled = np.where(distance <= _BRIDGED, around[tuple(nearest)], np.nan)
    return filled[:, mean.shape[1] : 2 * mean.shape[1]]


def colour_limit(maps: Sequence[MarginMap]) -> float:
    """One limit in mm for the colours of several maps; see `margin_limit`."""
    return margin_limit(m.error_mm for m in maps)


def margin_map_figure(maps: Mapping[str, MarginMap], limit_mm: float, title: str = "") -> Figure:
    """Draw the maps of one patient, a panel a model, with one scale.

    Parameters
    ----------
    maps : mapping of str to MarginMap
        By model; at least one.
    limit_mm : float
        Error of the strongest colours; larger ones are drawn like it.
    title : str

    Returns
    -------
    matplotlib Figure
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    colours = colormaps[NAME].with_extremes(bad=_NO_SURFACE)
    figure = Figure(figsize=(7.2, 0.6 + 2.25 * len(maps) + (0.3 if title else 0)), layout="constrained")
    panels = figure.subplots(len(maps), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (name, unrolled) in zip(panels, maps.items(), strict=True):
        shown = np.clip(unrolled.error_mm, -limit_mm, limit_mm)
        image = axes.imshow(
            np.ma.masked_invalid(shown),
            cmap=colours,
            vmin=-limit_mm,
            vmax=limit_mm,
            origin="lower",
            aspect="auto",
            interpolation="nearest",
            extent=(0, 360, unrolled.bottom_mm, unrolled.top_mm),
        )
        axes.set_title(name, fontsize=10, loc="left", parse_math=False)
        axes.set_ylabel("Inferior  ←  mm  →  superior", fontsize=8)
        axes.tick_params(labelsize=8)
        for angle in (90, 180, 270):
            axes.axvline(angle, color="#00000030", linewidth=0.7)
    panels[-1].set_xticks((0, 90, 180, 270, 360), ("posterior", "right", "anterior", "left", "posterior"))
    bar = figure.colorbar(image, ax=panels, extend="both", pad=0.02, aspect=16 * len(maps))
    bar.set_label("Signed margin error (mm)\nfalls short  ←  0  →  reaches beyond", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    if title:
        figure.suptitle(title, fontsize=12, parse_math=False)
    return figure
