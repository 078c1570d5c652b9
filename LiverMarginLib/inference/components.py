"""Connected pieces of a 3-D mask, found slice by slice.

A whole-volume labelling needs four bytes a voxel and more while it runs, which for a long CT is more than the CT
itself. Here each slice is labelled alone, pieces of neighbouring slices that overlap are joined, and only the table of
joins is kept. The result is that of `scipy.ndimage.label` with face connectivity.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

BoolSlice = npt.NDArray[np.bool_]


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
    _tables: tuple[npt.NDArray[np.int32], ...]

    def members(self, index: int, mask: BoolSlice) -> npt.NDArray[np.int32]:
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
    """
    starts = [0]
    sizes: list[npt.NDArray[np.intp]] = []
    border: list[npt.NDArray[np.bool_]] = []
    joins: list[npt.NDArray[np.int64]] = []
    below: npt.NDArray[np.int64] | None = None
    for k in range(count):
        labels, n = ndimage.label(slice_of(k))
        sizes.append(np.bincount(labels.ravel(), minlength=n + 1)[1:])
        touching = np.full(n + 1, k in (0, count - 1))
        touching[np.concatenate((labels[0], labels[-1], labels[:, 0], labels[:, -1]))] = True
        border.append(touching[1:])
        # Numbers that are unique in the volume, from 1, with 0 outside the mask.
        here = np.where(labels > 0, labels + np.int64(starts[-1]), 0)
        if below is not None:
            overlap = (here > 0) & (below > 0)
            joins.append(np.unique(below[overlap] << 32 | here[overlap]))
        below = here
        starts.append(starts[-1] + n)

    total = starts[-1]
    join = np.concatenate(joins) if joins else np.empty(0, np.int64)
    pairs = ((join >> 32) - 1, (join & 0xFFFFFFFF) - 1)
    n_pieces, piece = connected_components(coo_array((np.ones(len(join), np.bool_), pairs), (total, total)), False)
    piece_sizes = np.bincount(piece, np.concatenate(sizes), n_pieces).astype(np.int64)
    piece_border = np.bincount(piece, np.concatenate(border), n_pieces) > 0
    tables = tuple(np.append(0, piece[a:b] + 1).astype(np.int32) for a, b in itertools.pairwise(starts))
    return Components(piece_sizes, piece_border, tables)
