"""Exact distances between two sets of grid points, without a distance transform of the volume.

Two outlines that are worth comparing lie mostly within a few voxels of each other. Looking up the nearest grid
offsets in order of their length resolves those points with one memory access each; a k-d tree answers for the few
that are left. The cost follows the size of the surfaces, not that of the volume.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

# Looking up one offset for all points costs about 1/200 of asking the tree for them.
_MOST_OFFSETS = 250
_FEW_POINTS = 64


def nearest_distances(
    points: npt.NDArray[np.integer],
    targets: npt.NDArray[np.integer],
    spacing: tuple[float, float, float],
    limit: float = math.inf,
) -> npt.NDArray[np.float64]:
    """Euclidean distance from each point to the nearest target.

    Parameters
    ----------
    points, targets : ndarray of int, shape (n, 3) and (m, 3)
        Grid indices (k, j, i).
    spacing : tuple of float
        Grid spacing along (k, j, i); an infinite spacing keeps distances within one index of that axis.
    limit : float
        Distances above it are returned as inf.

    Returns
    -------
    ndarray of float64, shape (n,)
        In the unit of `spacing`; inf where no target lies within `limit`, or there is none at all.
    """
    distances = np.full(len(points), np.inf)
    if len(points) == 0 or len(targets) == 0:
        return distances

    offsets, lengths, all_seen = _offsets(spacing, limit)
    reach = np.abs(offsets).max(axis=0)
    low = np.minimum(points.min(axis=0), targets.min(axis=0)) - reach
    shape = np.maximum(points.max(axis=0), targets.max(axis=0)) + reach - low + 1
    strides = np.array((shape[1] * shape[2], shape[2], 1), dtype=np.int64)
    occupied = np.zeros(int(np.prod(shape, dtype=np.int64)), dtype=bool)
    occupied[(targets - low) @ strides] = True

    remaining = np.arange(len(points))
    place = (points - low) @ strides
    for step, length in zip(offsets @ strides, lengths, strict=True):
        hit = occupied[place + step]
        distances[remaining[hit]] = length
        np.logical_not(hit, out=hit)
        remaining, place = remaining[hit], place[hit]
        if len(remaining) < _FEW_POINTS:
            break
    if len(remaining) and not (all_seen and len(remaining) >= _FEW_POINTS):
        distances[remaining] = _ask_tree(points[remaining], targets, spacing, limit)
    return distances


@lru_cache(maxsize=16)
def _offsets(
    spacing: tuple[float, float, float], limit: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], bool]:
    """Grid offsets within a ball, nearest first, their lengths, and whether the ball reaches `limit`."""
    finite = [s for s in spacing if math.isfinite(s)]
    # A ball of this radius holds about the wanted number of grid points.
    unit_ball = {1: 2.0, 2: math.pi, 3: 4.0 / 3.0 * math.pi}[len(finite)]
    radius = (_MOST_OFFSETS * math.prod(finite) / unit_ball) ** (1.0 / len(finite))
    radius = min(radius, limit)
    axes = [np.arange(-n, n + 1) for n in (int(radius / s + 1e-9) if math.isfinite(s) else 0 for s in spacing)]
    offsets = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    scale = np.array([s if math.isfinite(s) else 0.0 for s in spacing])
    lengths = np.sqrt(((offsets * scale) ** 2).sum(axis=1))
    inside = lengths <= radius
    offsets, lengths = offsets[inside], lengths[inside]
    order = np.argsort(lengths, kind="stable")
    return offsets[order], lengths[order], radius >= limit


def _ask_tree(
    points: npt.NDArray[np.integer],
    targets: npt.NDArray[np.integer],
    spacing: tuple[float, float, float],
    limit: float,
) -> npt.NDArray[np.float64]:
    scale = np.array(spacing)
    endless = ~np.isfinite(scale)
    if endless.any():
        # Farther apart than anything within one index, and exact: equal indices differ by 0.
        extent = float(((np.ptp(np.vstack((points, targets)), axis=0) + 1) * np.where(endless, 0, scale)).sum())
        scale[endless] = 2 * extent + 1
    tree = cKDTree(targets * scale, balanced_tree=False, compact_nodes=False)
    bound = limit * (1 + 1e-12) if math.isfinite(limit) else math.inf
    if endless.any():
        bound = min(bound, 2 * extent)
    found, index = tree.query(points * scale, distance_upper_bound=bound)
    near = np.isfinite(found)
    # From whole steps, so that a distance is the same number however it was found, and ties with a tolerance hold.
    steps = (points[near] - targets[index[near]]) * np.where(endless, 0, scale)
    found[near] = np.sqrt((steps**2).sum(axis=1))
    return np.where(found <= limit, found, np.inf)
