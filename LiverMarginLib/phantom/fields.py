"""Smooth implicit functions: negative inside, about a distance in mm near the surface.

All work on float32 arrays of positions of any broadcastable shape. Exactness of the distance does not matter to the
painter (it divides by the local slope); being monotone across the surface does.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]


def smooth_max(a: Any, b: Any, width: float) -> FloatArray:
    """Intersection of two fields whose edge is rounded over `width` mm (polynomial smooth maximum)."""
    overlap = np.maximum(np.float32(width) - np.abs(a - b), 0)
    overlap *= overlap
    overlap *= np.float32(0.25 / width)
    overlap += np.maximum(a, b)
    return overlap


def smooth_min(a: Any, b: Any, width: float) -> FloatArray:
    """Union of two fields whose crease is filled over `width` mm."""
    overlap = np.maximum(np.float32(width) - np.abs(a - b), 0)
    overlap *= overlap
    overlap *= np.float32(-0.25 / width)
    overlap += np.minimum(a, b)
    return overlap


def ellipsoid(
    x: Any, y: Any, z: Any, centre: npt.ArrayLike, radii: npt.ArrayLike, axes: npt.ArrayLike | None = None
) -> FloatArray:
    """Ellipsoid by the first-order distance of I. Quilez: ``k0 (k0 - 1) / k1``.

    Parameters
    ----------
    x, y, z : ndarray of float32
        Positions in mm, broadcastable.
    centre, radii : array-like, shape (3,)
        In mm, (x, y, z).
    axes : array-like, shape (3, 3), optional
        Rows are the unit vectors of the ellipsoid's own axes.
    """
    c = np.asarray(centre, dtype=np.float32)
    r = np.asarray(radii, dtype=np.float32)
    u, v, w = x - c[0], y - c[1], z - c[2]
    if axes is not None:
        a = np.asarray(axes, dtype=np.float32)
        u, v, w = (a[n, 0] * u + a[n, 1] * v + a[n, 2] * w for n in range(3))
    u, v, w = u / r[0], v / r[1], w / r[2]
    k0 = np.sqrt(u * u + v * v + w * w)
    u, v, w = u / r[0], v / r[1], w / r[2]
    k1 = np.sqrt(u * u + v * v + w * w)
    k1 += np.float32(1e-6)
    return k0 * (k0 - 1) / k1


def rounded_box(x: Any, y: Any, z: Any, centre: npt.ArrayLike, half: npt.ArrayLike, corner: float) -> FloatArray:
    """Box of half sizes `half` mm with corners rounded by `corner` mm."""
    c = np.asarray(centre, dtype=np.float32)
    h = np.asarray(half, dtype=np.float32) - np.float32(corner)
    u, v, w = np.abs(x - c[0]) - h[0], np.abs(y - c[1]) - h[1], np.abs(z - c[2]) - h[2]
    inside = np.minimum(np.maximum(np.maximum(u, v), w), 0)
    u, v, w = np.maximum(u, 0), np.maximum(v, 0), np.maximum(w, 0)
    return np.sqrt(u * u + v * v + w * w) + inside - np.float32(corner)


def capsule(
    x: Any, y: Any, z: Any, start: npt.ArrayLike, end: npt.ArrayLike, r_start: float, r_end: float
) -> FloatArray:
    """Round-ended cone between two points, radius in mm changing linearly."""
    p = np.asarray(start, dtype=np.float32)
    axis = np.asarray(end, dtype=np.float32) - p
    length2 = np.float32(max(float(axis @ axis), 1e-6))
    u, v, w = x - p[0], y - p[1], z - p[2]
    t = np.clip((u * axis[0] + v * axis[1] + w * axis[2]) / length2, 0, 1)
    u, v, w = u - t * axis[0], v - t * axis[1], w - t * axis[2]
    distance = np.sqrt(u * u + v * v + w * w)
    distance -= np.float32(r_start) + t * np.float32(r_end - r_start)
    return distance


def rotation(yaw: float = 0.0, pitch: float = 0.0, roll: float = 0.0) -> npt.NDArray[np.float64]:
    """Rotation matrix from angles in degrees about z (yaw), x (pitch) and y (roll); rows are the rotated axes."""
    a, b, c = np.radians([yaw, pitch, roll])
    about_z = np.array([(np.cos(a), np.sin(a), 0), (-np.sin(a), np.cos(a), 0), (0, 0, 1)])
    about_x = np.array([(1, 0, 0), (0, np.cos(b), np.sin(b)), (0, -np.sin(b), np.cos(b))])
    about_y = np.array([(np.cos(c), 0, -np.sin(c)), (0, 1, 0), (np.sin(c), 0, np.cos(c))])
    return np.asarray(about_z @ about_x @ about_y)
