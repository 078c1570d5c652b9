"""Triangles of a surface that cut through each other: a printer's slicer would fill them wrongly.

Where two triangles of a mesh cross, an edge of one passes through the other, so edges are tested against faces. A
uniform grid, in which every pair of overlapping boxes is met exactly once, keeps the pairs few. Contact counts as
crossing: rounding in a file can turn one into the other.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from LiverMarginLib.volume import FloatMatrix

Indices = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

_PAIRS_AT_ONCE = 2_000_000
# Cosine between the normals of two faces that lie on each other: less than 0.003 degrees apart.
_FOLDED = -1.0 + 1e-9


def self_intersecting_faces(points: FloatMatrix, faces: Indices) -> Indices:
    """Find the triangles that cross or touch a triangle which is not their neighbour, or lie folded on one that is.

    Parameters
    ----------
    points : ndarray of float64, shape (n, 3)
        No two at the same place, as `LiverMarginLib.io.surface_checks.weld` gives them: corners at the same place with
        different numbers would count as contact.
    faces : ndarray of int64, shape (m, 3)
        Point indices.

    Returns
    -------
    ndarray of int64, shape (k,)
        Indices of the faces, ascending; faces without an area are left out, for they have no inside to be crossed.
    """
    normals = np.cross(points[faces[:, 1]] - points[faces[:, 0]], points[faces[:, 2]] - points[faces[:, 0]])
    area = np.linalg.norm(normals, axis=1)
    solid = np.flatnonzero(area > 0)
    if len(solid) < 2:
        return np.empty(0, dtype=np.int64)
    faces, normals = faces[solid], normals[solid] / area[solid, None]
    edges, edge_of_side = _edges(faces)
    found = np.zeros(len(faces), dtype=bool)
    _mark_folded(found, normals, edge_of_side, len(edges))
    crossed_edges = np.zeros(len(edges), dtype=bool)
    for edge, face in _candidates(points, edges, faces):
        hit = _crosses(points, edges[edge], faces[face], normals[face])
        found[face[hit]] = True
        crossed_edges[edge[hit]] = True
    found |= crossed_edges[edge_of_side.reshape(3, -1)].any(axis=0)
    return solid[found]


def _edges(faces: Indices) -> tuple[Indices, Indices]:
    """Every edge once as point indices, and the edge of each of the faces' first, then second, then third sides."""
    sides = np.sort(np.concatenate([faces[:, (0, 1)], faces[:, (1, 2)], faces[:, (2, 0)]]), axis=1)
    count = np.int64(faces.max() + 1)
    keys, edge_of_side = np.unique(sides[:, 0] * count + sides[:, 1], return_inverse=True)
    return np.stack(np.divmod(keys, count), axis=1), edge_of_side.ravel()


def _mark_folded(found: Mask, normals: FloatMatrix, edge_of_side: Indices, edges: int) -> None:
    order = np.argsort(edge_of_side, kind="stable")
    starts = np.flatnonzero(np.diff(edge_of_side[order], prepend=-1))
    shared = starts[np.bincount(edge_of_side, minlength=edges) == 2]
    one, other = order[shared] % len(normals), order[shared + 1] % len(normals)
    folded = np.einsum("ij,ij->i", normals[one], normals[other]) < _FOLDED
    found[one[folded]] = True
    found[other[folded]] = True


def _candidates(points: FloatMatrix, edges: Indices, faces: Indices) -> Iterator[tuple[Indices, Indices]]:
    """Pairs of an edge and a face without a common point whose boxes overlap, each pair once, in portions."""
    (edge_low, edge_high), (face_low, face_high) = _boxes(points, edges), _boxes(points, faces)
    origin = face_low.min(axis=0)
    size = float((face_high - face_low).max(axis=1).mean())
    shape = ((face_high.max(axis=0) - origin) // size).astype(np.int64) + 1
    edge_cells = _occupied(edge_low, edge_high, origin, size, shape)
    face_cells = _occupied(face_low, face_high, origin, size, shape)
    order = np.argsort(face_cells[1], kind="stable")
    face_of_entry, cell_of_entry = face_cells[0][order], face_cells[1][order]
    first = np.searchsorted(cell_of_entry, edge_cells[1], side="left")
    counts = np.searchsorted(cell_of_entry, edge_cells[1], side="right") - first
    ends = np.cumsum(counts)
    start = 0
    while start < len(ends):
        done = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + _PAIRS_AT_ONCE, side="right")))
        entry, step = _spread(counts[start:stop])
        edge = edge_cells[0][start:stop][entry]
        face = face_of_entry[first[start:stop][entry] + step]
        cell = edge_cells[1][start:stop][entry]
        start = stop
        for axis in range(3):
            near = edge_low[edge, axis] <= face_high[face, axis]
            near &= face_low[face, axis] <= edge_high[edge, axis]
            edge, face, cell = edge[near], face[near], cell[near]
        # Several cells may hold the pair; the one with the lower corner of the boxes' overlap speaks for it.
        corner = np.maximum(edge_low[edge], face_low[face])
        own = _cell(corner, origin, size, shape) == cell
        edge, face = edge[own], face[own]
        strangers = np.ones(len(edge), dtype=bool)
        for end, corner_of_face in itertools.product(range(2), range(3)):
            strangers &= edges[edge, end] != faces[face, corner_of_face]
        yield edge[strangers], face[strangers]


def _boxes(points: FloatMatrix, corners: Indices) -> tuple[FloatMatrix, FloatMatrix]:
    each = [points[column] for column in corners.T]
    return np.minimum.reduce(each), np.maximum.reduce(each)


def _cell(at: FloatMatrix, origin: FloatMatrix, size: float, shape: Indices) -> Indices:
    place = ((at - origin) // size).astype(np.int64)
    return np.asarray((place[:, 0] * shape[1] + place[:, 1]) * shape[2] + place[:, 2])


def _occupied(
    low: FloatMatrix, high: FloatMatrix, origin: FloatMatrix, size: float, shape: Indices
) -> tuple[Indices, Indices]:
    """For every cell of the grid that a box touches: the box's index and the cell's."""
    first = ((low - origin) // size).astype(np.int64)
    extent = ((high - origin) // size).astype(np.int64) - first + 1
    box, step = _spread(extent.prod(axis=1))
    step, z = np.divmod(step, extent[box, 2])
    x, y = np.divmod(step, extent[box, 1])
    place = first[box] + np.stack((x, y, z), axis=1)
    return box, np.asarray((place[:, 0] * shape[1] + place[:, 1]) * shape[2] + place[:, 2])


def _spread(counts: Indices) -> tuple[Indices, Indices]:
    """Repeat each index as often as `counts` says, and number the repetitions from 0."""
    index = np.repeat(np.arange(len(counts)), counts)
    return index, np.arange(len(index)) - np.repeat(np.cumsum(counts) - counts, counts)


def _crosses(points: FloatMatrix, edges: Indices, faces: Indices, normals: FloatMatrix) -> Mask:
    """Whether each edge meets its face."""
    p, q = points[edges[:, 0]], points[edges[:, 1]]
    corners = [points[faces[:, corner]] for corner in range(3)]
    above = np.einsum("ij,ij->i", p - corners[0], normals)
    below = np.einsum("ij,ij->i", q - corners[0], normals)
    result = above * below <= 0
    flat = (above == 0) & (below == 0)
    through = np.flatnonzero(result & ~flat)
    if len(through):
        # From the point where the edge meets the plane, which stays right where edge and face are all but parallel.
        share = (above[through] / (above[through] - below[through]))[:, None]
        at = p[through] + share * (q[through] - p[through])
        a, b, c = (corner[through] - at for corner in corners)
        facing = normals[through]
        sides = [np.einsum("ij,ij->i", facing, np.cross(*pair)) for pair in ((a, b), (b, c), (c, a))]
        result[through] = np.minimum.reduce(sides) >= 0
    in_plane = np.flatnonzero(flat)
    if len(in_plane):
        result[in_plane] = _meets_in_plane(
            p[in_plane], q[in_plane], np.stack(corners, axis=1)[in_plane], normals[in_plane]
        )
    return np.asarray(result)


def _meets_in_plane(p: FloatMatrix, q: FloatMatrix, corners: FloatMatrix, normals: FloatMatrix) -> Mask:
    """Whether each segment meets the triangle in whose plane it lies, by the separating axes of the projection."""
    kept = np.argsort(np.abs(normals), axis=1)[:, :2]  # seen along the axis that the plane faces most
    segment = np.take_along_axis(np.stack((p, q), axis=1), kept[:, None, :], axis=2)
    triangle = np.take_along_axis(corners, kept[:, None, :], axis=2)
    sides = np.concatenate([segment[:, 1:] - segment[:, :1], np.roll(triangle, -1, axis=1) - triangle], axis=1)
    axes = np.stack((-sides[..., 1], sides[..., 0]), axis=-1)
    one, other = (np.einsum("nad,npd->nap", axes, shape) for shape in (segment, triangle))
    apart = (one.max(axis=2) < other.min(axis=2)) | (other.max(axis=2) < one.min(axis=2))
    return np.asarray(~apart.any(axis=1))
