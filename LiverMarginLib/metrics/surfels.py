"""Areas of the marching-cubes surface between eight neighbouring voxels.

Eight voxels are inside or outside a mask in 256 ways. For each, the surface cuts the cube's edges halfway between
an inside and an outside voxel; the table of areas is built here from that geometry. It gives the areas of
google-deepmind/surface-distance (checked in the tests), which follows Lorensen and Cline 1987
(doi 10.1145/37402.37422).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from LiverMarginLib.metrics.overlap import BoolArray

Corner = tuple[int, int, int]
_CORNERS: tuple[Corner, ...] = tuple(itertools.product((0, 1), repeat=3))  # type: ignore[arg-type]


def neighbour_codes(padded: BoolArray) -> npt.NDArray[np.uint8]:
    """Which of the eight voxels around each voxel corner are inside.

    Parameters
    ----------
    padded : ndarray of bool, shape (k, j, i)
        A mask with one voxel of its surroundings, or of background, on each side.

    Returns
    -------
    ndarray of uint8, shape (k - 1, j - 1, i - 1)
        Bit n is set where the voxel at the n-th offset of (0, 0, 0), (0, 0, 1), (0, 1, 0) ... (1, 1, 1) is inside.
    """
    # Along one axis after the other: three combinations of whole arrays instead of eight.
    codes = padded.view(np.uint8)
    for axis, shift in ((2, 1), (1, 2), (0, 4)):
        near, far = [slice(None)] * 3, [slice(None)] * 3
        near[axis], far[axis] = slice(None, -1), slice(1, None)
        codes = codes[tuple(near)] | (codes[tuple(far)] << np.uint8(shift))
    return codes


@lru_cache(maxsize=8)
def surfel_areas(spacing: tuple[float, float, float]) -> npt.NDArray[np.float64]:
    """Area in mm² of the surface inside a cube of eight voxels, for each neighbour code.

    Parameters
    ----------
    spacing : tuple of float
        Voxel spacing along (k, j, i) in mm.

    Returns
    -------
    ndarray of float64, shape (256,)
        Read-only.
    """
    k, j, i = spacing
    # A triangle's normal has one component for the area of its shadow along each axis.
    stretch = np.array((j * i, k * i, k * j))
    areas = np.array([np.linalg.norm(normals * stretch, axis=1).sum() for normals in _unit_normals()])
    areas.setflags(write=False)
    return areas


@lru_cache(maxsize=1)
def _unit_normals() -> tuple[npt.NDArray[np.float64], ...]:
    """Normals of the triangles in a cube with unit edges, their length being the area, for each neighbour code."""
    table = []
    for code in range(256):
        corners = {corner for bit, corner in enumerate(_CORNERS) if code >> bit & 1}
        # The rarer side decides: ambiguous faces separate it, and inside and outside have the same surface.
        if len(corners) > 4:
            corners = set(_CORNERS) - corners
        normals = [_largest_surface(_cut_polygon(piece)) for piece in _pieces(corners)]
        table.append(np.vstack([np.zeros((0, 3)), *normals]))
    return tuple(table)


def _pieces(corners: set[Corner]) -> Iterator[set[Corner]]:
    """Split corners into sets that are connected along the cube's edges."""
    left = set(corners)
    while left:
        piece = {left.pop()}
        while joined := {c for c in left if any(_distance(c, d) == 1 for d in piece)}:
            piece |= joined
            left -= joined
        yield piece


def _cut_polygon(piece: set[Corner]) -> npt.NDArray[np.float64]:
    """Middles of the edges that leave a connected set of corners, in order around it; shape (n, 3)."""
    edges = [(np.array(c), np.array(d)) for c in sorted(piece) for d in _CORNERS if d not in piece]
    edges = [(inside, outside) for inside, outside in edges if np.abs(inside - outside).sum() == 1]
    middles = np.array([(inside + outside) / 2 for inside, outside in edges])
    axis = np.sum([outside - inside for inside, outside in edges], axis=0)
    spokes = middles - middles.mean(axis=0)
    first = np.cross(axis, np.eye(3)[np.argmin(np.abs(axis))])
    second = np.cross(axis, first) / np.linalg.norm(axis)
    return middles[np.argsort(np.arctan2(spokes @ second, spokes @ first))]


def _largest_surface(polygon: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Normals of the triangulation with the largest area, which is the published table's choice; shape (n - 2, 3)."""
    best = np.zeros((0, 3))
    for triangles in _triangulations(tuple(range(len(polygon)))):
        a, b, c = (polygon[[t[n] for t in triangles]] for n in range(3))
        normals = np.cross(b - a, c - a) / 2
        if np.linalg.norm(normals, axis=1).sum() > np.linalg.norm(best, axis=1).sum() + 1e-9:
            best = normals
    return best


def _triangulations(vertices: tuple[int, ...]) -> Iterator[list[tuple[int, int, int]]]:
    """Every way to cut a polygon into triangles."""
    if len(vertices) < 3:
        yield []
        return
    for n in range(1, len(vertices) - 1):
        triangle = (vertices[0], vertices[n], vertices[-1])
        for before in _triangulations(vertices[: n + 1]):
            for after in _triangulations(vertices[n:]):
                yield [*before, triangle, *after]


def _distance(a: Corner, b: Corner) -> int:
    return sum(abs(x - y) for x, y in zip(a, b, strict=True))
