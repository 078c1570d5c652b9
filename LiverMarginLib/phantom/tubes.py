"""Tubes along smooth centrelines: vessels, bowel, bile duct; and random branching trees of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.interpolate import CubicSpline

from LiverMarginLib.phantom.canvas import Box, Canvas, Organs
from LiverMarginLib.phantom.fields import FloatArray, capsule, smooth_min

Points = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Tube:
    """A chain of round cones.

    Parameters
    ----------
    points : ndarray, shape (n, 3)
        Centreline in standard mm, (x, y, z).
    radii : ndarray, shape (n,)
        In mm.
    """

    points: Points
    radii: npt.NDArray[np.float64]

    @classmethod
    def through(cls, points: npt.ArrayLike, radii: npt.ArrayLike, step: float = 8.0) -> Tube:
        """Smooth curve through a few points, resampled about every `step` mm."""
        p = np.asarray(points, dtype=np.float64)
        r = np.broadcast_to(np.asarray(radii, dtype=np.float64), (len(p),))
        length = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(p, axis=0), axis=1) + 1e-6)])
        n = max(2, int(np.ceil(length[-1] / step)) + 1)
        t = np.linspace(0, length[-1], n)
        curve = CubicSpline(length, p)(t) if len(p) > 2 else np.stack([np.interp(t, length, c) for c in p.T], axis=1)
        return cls(curve, np.interp(t, length, r))

    def field(self, canvas: Canvas, pad: float = 8.0, blend: float = 0.0) -> tuple[Box, FloatArray] | None:
        """Distance to the whole tube on its bounding box (large away from it), or None outside the slab.

        `blend` mm fill the creases between neighbouring segments of uneven radius.
        """
        grid = canvas.placement.to_grid(self.points)
        box = canvas.box_of_grid(grid, float(self.radii.max()) * 1.3 + pad)
        if box is None:
            return None
        x, y, z = canvas.at(box)
        distance = np.full(x.shape, 2 * pad, dtype=np.float32)
        for n in range(len(self.points) - 1):
            reach = float(max(self.radii[n], self.radii[n + 1])) * 1.3 + pad
            part = canvas.box_of_grid(grid[n : n + 2], reach)
            if part is None:
                continue
            local = tuple(slice(p.start - b.start, p.stop - b.start) for p, b in zip(part, box, strict=True))
            local = tuple(slice(max(s.start, 0), max(s.stop, 0)) for s in local)
            segment = capsule(
                x[local], y[local], z[local], self.points[n], self.points[n + 1], self.radii[n], self.radii[n + 1]
            )
            joined = smooth_min(distance[local], segment, blend) if blend else np.minimum(distance[local], segment)
            distance[local] = joined
        return box, distance


def paint_tubes(
    canvas: Canvas,
    tubes: list[Tube],
    material: int,
    over: Organs | None = None,
    solid: bool = False,
) -> None:
    """Paint thin tubes segment by segment, each in its own small box; those far thinner than a voxel are left out."""
    if not tubes or not canvas.detail:
        return
    points = np.concatenate([t.points for t in tubes])
    grid = canvas.placement.to_grid(points)
    low = [float(a[0]) - 15 for a in canvas.axes][::-1]
    high = [float(a[-1]) + 15 for a in canvas.axes][::-1]
    visible = np.all((grid >= low) & (grid <= high), axis=1)
    thinnest = 0.2 * float(canvas.axes[2][1] - canvas.axes[2][0]) if len(canvas.axes[2]) > 1 else 0.0
    start = 0
    for tube in tubes:
        for n in range(len(tube.points) - 1):
            m = start + n
            if tube.radii[n] < thinnest or not (visible[m] or visible[m + 1]):
                continue
            box = canvas.box_of_grid(grid[m : m + 2], float(max(tube.radii[n], tube.radii[n + 1])) * 1.15 + 3)
            if box is None:
                continue
            x, y, z = canvas.at(box)
            distance = capsule(x, y, z, tube.points[n], tube.points[n + 1], tube.radii[n], tube.radii[n + 1])
            canvas.paint(material, distance, box, over=over, solid=solid)
        start += len(tube.points)


def grow_tree(
    rng: np.random.Generator,
    start: npt.ArrayLike,
    direction: npt.ArrayLike,
    radius: float,
    *,
    thinnest: float,
    length: float,
    wander: float = 0.25,
    centre: npt.ArrayLike | None = None,
    pull: float = 0.0,
    limit: int = 200,
) -> list[Tube]:
    """Grow a random branching tree; daughters share the parent's flow (Murray's law, exponent 3).

    Parameters
    ----------
    start, direction : array-like, shape (3,)
        Root position in mm and heading.
    radius, thinnest : float
        Radius in mm of the root, and where branches end.
    length : float
        Length in mm of a branch of the root's radius; thinner ones are shorter.
    wander : float
        Bending at each step, radians.
    centre : array-like, shape (3,), optional
        Where branches drift to, with strength `pull` (negative: away from it).
    limit : int
        Largest number of branches.
    """
    tubes: list[Tube] = []
    queue = [(np.asarray(start, dtype=float), _unit(np.asarray(direction, dtype=float)), float(radius))]
    while queue and len(tubes) < limit:
        point, heading, r = queue.pop(0)
        reach = length * (r / radius) ** 0.45 * rng.uniform(0.7, 1.3)
        steps = max(2, int(reach / 7))
        points, radii = [point], [r]
        for _ in range(steps):
            heading = heading + rng.normal(0, wander, 3)
            if centre is not None:
                heading = heading + pull * _unit(np.asarray(centre, dtype=float) - point)
            heading = _unit(heading)
            point = point + heading * reach / steps
            points.append(point)
            radii.append(radii[-1] * 0.97)
        tubes.append(Tube(np.array(points), np.array(radii)))
        flow = rng.uniform(0.25, 0.65)
        side = rng.normal(size=3)
        side = _unit(side - (side @ heading) * heading)  # square to the heading
        angle = rng.uniform(0.35, 0.8)
        for fraction, sign in ((flow, 1.0), (1 - flow, -1.0)):
            child = radii[-1] * fraction ** (1 / 3)
            if child >= thinnest:
                tilt = angle * (1.3 - fraction)
                queue.append((point, _unit(heading * np.cos(tilt) + sign * side * np.sin(tilt)), child))
    return tubes


def _unit(vector: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.asarray(vector / max(math.sqrt(vector @ vector), 1e-9))
