"""Connected pieces of a 3-D mask, found slice by slice.

A whole-volume labelling needs four bytes a voxel and more while it runs, which for a long CT is more than the CT
itself. Here each slice is labelled alone and its pieces take over the identities of the pieces below; only tables of
identities are kept. The result is that of `scipy.ndimage.label` with face connectivity.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

BoolSlice = npt.NDArray[np.bool_]
Ids = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Components:
    """The face-connected pieces of a mask.

    Parameters
    ----------
    sizes : ndarray of int64, shape (n,)
        Voxels of each piece.
    on_border : ndarray of bool, shape (n,)
        Whether a piece touches one of the six faces of the volume.
    """

    sizes: npt.NDArray[np.int64]
    on_border: npt.NDArray[np.bool_]
    _tables: tuple[Ids, ...]

    def members(self, index: int, mask: BoolSlice) -> Ids:
        """Piece of each pixel of slice `index`, plus one; 0 outside the mask.

        Parameters
        ----------
        index : int
        mask : ndarray of bool, shape (h, w)
            The same slice that was given when the pieces were found.

        Returns
        -------
        ndarray of int32, shape (h, w)
        """
        return self._tables[index][ndimage.label(mask)[0]]


def find_components(slice_of: Callable[[int], BoolSlice], count: int) -> Components:
    """Find the pieces of a mask that is given slice by slice.

    Parameters
    ----------
    slice_of : callable
        Gives slice k as an ndarray of bool, shape (h, w).
    count : int
        Number of slices.

    Returns
    -------
    Components
        Numbered from the first slice on.
    """
    ids: list[Ids] = []
    sizes: list[npt.NDArray[np.int32]] = []
    border: list[npt.NDArray[np.bool_]] = []
    merged: list[Ids] = []
    used = 0
    below: Ids | None = None
    for k in range(count):
        labels, n = ndimage.label(slice_of(k))
        sizes.append(np.bincount(labels.ravel(), minlength=n + 1)[1:].astype(np.int32))
        touching = np.full(n + 1, k in (0, count - 1))
        touching[np.concatenate((labels[0], labels[-1], labels[:, 0], labels[:, -1]))] = True
        border.append(touching[1:])
        of_piece, merges, used = _join(np.zeros_like(labels) if below is None else below, labels, n, used)
        ids.append(of_piece)
        merged.append(merges)
        below = np.append(np.int32(0), of_piece + 1)[labels]

    number = _resolve(merged, used)
    n_pieces = int(number.max(initial=-1)) + 1
    piece_sizes, piece_border = np.zeros(n_pieces, np.int64), np.zeros(n_pieces, np.bool_)
    for k in range(count):
        pieces = number[ids[k]]
        np.add.at(piece_sizes, pieces, sizes[k])
        piece_border[pieces[border[k]]] = True
        ids[k] = np.append(np.int32(0), pieces + 1)
    return Components(piece_sizes, piece_border, tuple(ids))


def _join(below: Ids, labels: Ids, n: int, used: int) -> tuple[Ids, Ids, int]:
    """Give the `n` pieces of a slice the identities of the pieces below that they touch.

    Parameters
    ----------
    below : ndarray of int32, shape (h, w)
        Identity plus one of each pixel of the slice below, 0 outside the mask.
    labels : ndarray of int32, shape (h, w)
        The slice's own pieces, from 1.
    n : int
        Number of these.
    used : int
        Identities given so far.

    Returns
    -------
    of_piece : ndarray of int32, shape (n,)
        Identity of each piece.
    merges : ndarray of int32, shape (2, m)
        Identities that have turned out to be the same piece: one, and the oldest that takes its place.
    used : int
    """
    overlap = (below > 0) & (labels > 0)
    pairs = np.unique(below[overlap].astype(np.int64) << 32 | labels[overlap])
    older, index = np.unique((pairs >> 32) - 1, return_inverse=True)
    m = len(older)
    edges = (index, m + (pairs & 0xFFFFFFFF) - 1)
    graph = coo_array((np.ones(len(pairs), np.bool_), edges), shape=(m + n, m + n))
    n_groups, group = connected_components(graph, directed=False) if m + n else (0, np.empty(0, np.int32))
    oldest = np.full(n_groups, np.iinfo(np.int32).max, np.int32)
    np.minimum.at(oldest, group[:m], older.astype(np.int32))
    fresh = oldest == np.iinfo(np.int32).max
    oldest[fresh] = np.arange(used, used + np.count_nonzero(fresh))
    merges = np.stack((older.astype(np.int32), oldest[group[:m]]))
    return oldest[group[m:]], merges[:, merges[0] != merges[1]], used + int(np.count_nonzero(fresh))


def _resolve(merged: list[Ids], used: int) -> Ids:
    """Consecutive number of the piece behind each identity, shape (used,)."""
    parent = np.arange(used, dtype=np.int32)
    for older, oldest in merged:
        parent[older] = oldest
    while not np.array_equal(parent, grandparent := parent[parent]):
        parent = grandparent
    is_root = parent == np.arange(used, dtype=np.int32)
    number: Ids = np.cumsum(is_root, dtype=np.int32)[parent] - np.int32(1)
    return number
