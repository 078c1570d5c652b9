"""Undo, where triangles cut through each other, what moved them there."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from LiverMarginLib.io.self_intersections import self_intersecting_faces
from LiverMarginLib.io.surface_arrays import Faces
from LiverMarginLib.volume import FloatMatrix

Mask = npt.NDArray[np.bool_]

_ROUNDS = 12
# Rounds in which a move is halved; after them it is taken back whole.
_HALVINGS = 3


def untangled(start: FloatMatrix, end: FloatMatrix, faces: Faces) -> FloatMatrix:
    """Return positions between `start` and `end`: at `end` except where triangles cut through each other there.

    Around crossing triangles the way is halved, then not gone at all, in a neighbourhood that grows with every round.

    Parameters
    ----------
    start, end : ndarray of float64, shape (n, 3)
        Positions of the same points before and after a step, in mm. What crosses at `start` may cross in the result.
    faces : ndarray of int64, shape (m, 3)

    Returns
    -------
    ndarray of float64, shape (n, 3)
    """
    share = np.ones((len(start), 1))
    points = end
    bad = self_intersecting_faces(points, faces)
    for round_ in range(_ROUNDS):
        if not len(bad):
            break
        near = _around(faces, bad, len(points), rings=1 + round_)
        share[near] = share[near] / 2 if round_ < _HALVINGS else 0.0
        points = start + share * (end - start)
        bad = _crossing_near(points, faces, near)
    return points


def relaxed(points: FloatMatrix, faces: Faces) -> FloatMatrix:
    """Move the points of crossing triangles, of which simplifying leaves a few, between their neighbours.

    Parameters
    ----------
    points : ndarray of float64, shape (n, 3)
    faces : ndarray of int64, shape (m, 3)

    Returns
    -------
    ndarray of float64, shape (n, 3)
        The positions with the fewest crossing triangles that were met; the same as before where nothing crosses.
    """
    bad = self_intersecting_faces(points, faces)
    best, fewest = points, len(bad)
    for round_ in range(_ROUNDS):
        if not len(bad):
            break
        near = _around(faces, bad, len(points), rings=round_ // 4)
        points = np.where(near[:, None], _between_neighbours(points, faces, near), points)
        bad = _crossing_near(points, faces, near)
        if len(bad) < fewest:
            best, fewest = points, len(bad)
    return best


def _around(faces: Faces, chosen: Faces, count: int, rings: int) -> Mask:
    """Mark the points of the faces `chosen` and of as many rings of faces around them."""
    near = np.zeros(count, dtype=bool)
    near[faces[chosen]] = True
    for _ in range(rings):
        near[faces[near[faces].any(axis=1)]] = True
    return near


def _crossing_near(points: FloatMatrix, faces: Faces, moved: Mask) -> Faces:
    """The crossing faces among those that a moved point's face can reach."""
    sides = np.linalg.norm(points[faces] - points[np.roll(faces, 1, axis=1)], axis=2)
    reach = 2 * float(sides.max())
    distance, _ = cKDTree(points[moved]).query(points, distance_upper_bound=reach)
    within = np.flatnonzero(np.isfinite(distance)[faces].any(axis=1))
    used, renumbered = np.unique(faces[within], return_inverse=True)
    return within[self_intersecting_faces(points[used], renumbered.reshape(-1, 3))]


def _between_neighbours(points: FloatMatrix, faces: Faces, near: Mask) -> FloatMatrix:
    """Mean of each point's neighbours; only where `near` is it filled in."""
    own = faces[near[faces].any(axis=1)]
    sums, counts = np.zeros_like(points), np.zeros((len(points), 1))
    for corner in range(3):
        for other in (1, 2):
            np.add.at(sums, own[:, corner], points[own[:, (corner + other) % 3]])
            np.add.at(counts, own[:, corner], 1)
    return np.divide(sums, counts, out=points.copy(), where=counts > 0)
