"""Label maps on another grid."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from LiverMarginLib.volume import Geometry, LabelMap

# Voxel centres that fall on the border between two source voxels go to the upper one whatever the rounding errors.
_TIE = 1e-6


def resample_labels(labels: LabelMap, geometry: Geometry) -> LabelMap:
    """Put a label map onto another grid; each voxel takes the label of the nearest source voxel.

    Parameters
    ----------
    labels : LabelMap
    geometry : Geometry
        The wanted grid: any shape, spacing, axis order and direction.

    Returns
    -------
    LabelMap
        On `geometry`, of the same dtype, segments and provenance; 0 outside of the source's voxels.
    """
    # (i, j, k) of the wanted grid to (i, j, k) of the source
    matrix = np.linalg.inv(labels.geometry.ijk_to_ras) @ geometry.ijk_to_ras
    # To (k, j, i) on both sides.
    linear, offset = matrix[2::-1, 2::-1], matrix[2::-1, 3]
    out = np.zeros(geometry.shape, dtype=labels.array.dtype)
    strongest = np.abs(linear).argmax(axis=1)
    stray = np.abs(linear).sum(axis=1) - np.abs(linear).max(axis=1)
    if (stray * max(geometry.shape) < _TIE).all() and len(set(strongest)) == 3:
        _copy_along_axes(labels.array, linear, offset, strongest, out)
    else:
        _copy_anyhow(labels.array, linear, offset, out)
    return LabelMap(out, geometry, labels.segments, labels.provenance)


def _nearest(position: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    return np.floor(position + (0.5 + _TIE)).astype(np.int64)


def _copy_along_axes(
    source: npt.NDArray[np.integer],
    linear: npt.NDArray[np.float64],
    offset: npt.NDArray[np.float64],
    strongest: npt.NDArray[np.intp],
    out: npt.NDArray[np.integer],
) -> None:
    """Grids whose axes are parallel: one list of indices an axis says it all."""
    wanted, taken = [], []
    for axis in range(3):  # of the source
        index = _nearest(linear[axis, strongest[axis]] * np.arange(out.shape[strongest[axis]]) + offset[axis])
        inside = np.flatnonzero((index >= 0) & (index < source.shape[axis]))
        wanted.append(inside)
        taken.append(index[inside])
    # `out` seen with its axes in the source's order.
    out.transpose(strongest)[np.ix_(*wanted)] = source[np.ix_(*taken)]


def _copy_anyhow(
    source: npt.NDArray[np.integer],
    linear: npt.NDArray[np.float64],
    offset: npt.NDArray[np.float64],
    out: npt.NDArray[np.integer],
) -> None:
    """Rotated grids: slice by slice, so that the coordinates of one slice are all that is kept."""
    _, rows, columns = out.shape
    j, i = np.arange(rows)[:, np.newaxis], np.arange(columns)
    for k in range(out.shape[0]):
        inside = np.ones((rows, columns), dtype=bool)
        index = []
        for axis in range(3):
            at = _nearest(linear[axis, 0] * k + linear[axis, 1] * j + linear[axis, 2] * i + offset[axis])
            inside &= (at >= 0) & (at < source.shape[axis])
            index.append(at)
        out[k][inside] = source[tuple(at[inside] for at in index)]
