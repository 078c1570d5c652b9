"""From an image's voxels to a volumetric network's, and from its probabilities back, row by row along k.

The companion of `LiverMarginLib.preprocessing` for networks that see blocks of voxels. Training and inference use the
same functions, so that a network sees in use what it saw in training. Everything works on one row (an axial slice of
either grid) at a time, so that no copy of a long CT in another resolution is ever needed.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from LiverMarginLib.preprocessing import FloatImage, resampling_weights

Triple = tuple[int, int, int]

_MAX_NETWORK_VOXELS = 1 << 31


@dataclass(frozen=True, eq=False)
class Axis:
    """One axis of both grids.

    Parameters
    ----------
    image, network : int
        Number of samples on either side.
    there, back : ndarray of float32 or None
        Weights of shapes (network, image) and (image, network); None for the identity.
    """

    image: int
    network: int
    there: FloatImage | None = None
    back: FloatImage | None = None


@dataclass(frozen=True, eq=False)
class NetworkGrid:
    """The grid that a volumetric network sees of an image, in the axial view. Build it with `fit_grid`.

    Resampling is separable and linear; where it reduces resolution, the kernel is widened to the coarser voxel
    (anti-aliasing). Equal spacings go through unchanged, bit for bit.

    Parameters
    ----------
    axes : tuple of Axis
        Along (k, j, i).
    """

    axes: tuple[Axis, Axis, Axis]

    @property
    def image_shape(self) -> Triple:
        """(k, j, i) of the image."""
        k, j, i = (axis.image for axis in self.axes)
        return k, j, i

    @property
    def shape(self) -> Triple:
        """(k, j, i) of the network's grid."""
        k, j, i = (axis.network for axis in self.axes)
        return k, j, i

    def rows_to_network(self, row_of: Callable[[int], FloatImage]) -> Callable[[int], FloatImage]:
        """Return a function that gives row n of the network's grid, shape (..., j, i).

        Parameters
        ----------
        row_of : callable
            Gives row k of the image, shape (..., j, i). It is called again for a row that was asked for long ago.
        """
        _, j, i = self.axes
        return _combined(lambda k: _in_plane(row_of(k), j.there, i.there), self.axes[0].there)

    def plane_from_network(self, row: FloatImage) -> FloatImage:
        """Resample a row's probabilities in plane, shape (..., network j, i) to (..., j, i)."""
        _, j, i = self.axes
        return _in_plane(row, j.back, i.back)

    def support(self, k: int) -> tuple[int, int]:
        """First row of the network's grid that slice `k` of the image is made of, and the one after the last."""
        weights = self.axes[0].back
        if weights is None:
            return k, k + 1
        used = np.flatnonzero(weights[k])
        return (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 0)

    def combine(self, k: int, rows: FloatImage) -> FloatImage:
        """Make slice `k` of the image of the rows of its `support`, shape (..., n, j, i), in the network's plane."""
        weights = self.axes[0].back
        if weights is None:
            return rows[..., 0, :, :]
        first, stop = self.support(k)
        return np.tensordot(rows, weights[k, first:stop], axes=(-3, 0)).astype(np.float32, copy=False)

    def to_network(self, image: npt.NDArray[Any]) -> FloatImage:
        """Resample a whole image, shape (k, j, i), to float32 on the network's grid."""
        row = self.rows_to_network(lambda k: np.ascontiguousarray(image[k], dtype=np.float32))
        return np.stack([row(n) for n in range(self.axes[0].network)])

    def labels_to_network(self, labels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Resample a label array: each voxel takes the label that fills most of it; of equals the lowest."""
        present = [int(value) for value in np.unique(labels)]
        share = np.full(self.shape, -1.0, np.float32)
        found = np.zeros(self.shape, np.uint8)
        for value in present:
            part = self.to_network(labels == value)
            better = part > share + 1e-6
            share[better], found[better] = part[better], value
        return found


def fit_grid(
    shape: Triple,
    spacing: tuple[float, float, float],
    network_spacing: tuple[float, float, float],
    *,
    in_voxels: bool = False,
) -> NetworkGrid:
    """Find the grid that a volumetric network sees.

    Parameters
    ----------
    shape : tuple of int
        (k, j, i) of the image in the axial view.
    spacing : tuple of float
        Its spacing in mm.
    network_spacing : tuple of float
        That of the network: in mm, or in whole voxels of the image.
    in_voxels : bool
        Average blocks of so many voxels instead, whatever their size in mm.

    Returns
    -------
    NetworkGrid

    Raises
    ------
    MemoryError
        If the grid would have more than two thousand million voxels.
    """
    sides = [
        (n, max(1, math.ceil(n / wanted if in_voxels else n * have / wanted - 1e-6)), have, wanted)
        for n, have, wanted in zip(shape, spacing, network_spacing, strict=True)
    ]
    # Before the weights are made: a voxel of some metres in a damaged header would ask for all of the memory.
    if math.prod(side[1] for side in sides) > _MAX_NETWORK_VOXELS:
        raise MemoryError(f"a grid of {' x '.join(str(side[1]) for side in sides)} voxels")
    k, j, i = (_blocks(n, int(wanted)) if in_voxels else _axis(n, m, have, wanted) for n, m, have, wanted in sides)
    return NetworkGrid((k, j, i))


def _axis(n: int, m: int, have: float, wanted: float) -> Axis:
    # Spacings come out of a matrix and differ in their last digits between orientations of the same image.
    have, wanted = float(f"{have:.6g}"), float(f"{wanted:.6g}")
    if have == wanted:
        return Axis(n, n)
    there, back = resampling_weights(m, n, wanted / have), resampling_weights(n, m, have / wanted)
    return Axis(n, m, _covering(there), _covering(back))


def _covering(weights: FloatImage) -> FloatImage:
    """Let samples just outside of the input's extent take the nearest value instead of none."""
    for n in np.flatnonzero(weights.sum(axis=1) == 0):
        weights[n, 0 if n < len(weights) / 2 else -1] = 1.0
    return weights


def _blocks(n: int, size: int) -> Axis:
    if size == 1:
        return Axis(n, n)
    m = math.ceil(n / size)
    there = (np.arange(n) // size == np.arange(m)[:, None]).astype(np.float32)
    there /= there.sum(axis=1, keepdims=True)
    # Centres of the voxels, counted in blocks; between two of them, linearly.
    at = np.clip((np.arange(n) + 0.5) / size - 0.5, 0, m - 1)
    back = np.maximum(0.0, 1.0 - np.abs(np.arange(m) - at[:, None]))
    return Axis(n, m, there, back.astype(np.float32))


def _in_plane(row: FloatImage, rows: FloatImage | None, columns: FloatImage | None) -> FloatImage:
    if rows is not None:
        row = np.matmul(rows, row)
    if columns is not None:
        row = np.matmul(row, columns.T)
    return row


def _combined(row_of: Callable[[int], FloatImage], weights: FloatImage | None) -> Callable[[int], FloatImage]:
    """Rows that are weighted sums of others, of which those used last are remembered."""
    if weights is None:
        return row_of
    remembered: OrderedDict[int, FloatImage] = OrderedDict()
    most = int((weights > 0).sum(axis=1).max()) + 1

    def source(k: int) -> FloatImage:
        if k not in remembered:
            remembered[k] = row_of(k)
            while len(remembered) > most:
                remembered.popitem(last=False)
        return remembered[k]

    def row(n: int) -> FloatImage:
        used = np.flatnonzero(weights[n])
        total = weights[n, used[0]] * source(int(used[0]))
        for k in used[1:]:
            total += weights[n, k] * source(int(k))
        return total

    return row
