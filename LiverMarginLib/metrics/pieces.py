"""Separate pieces of a mask in a slice, and which of them the other mask misses altogether."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from LiverMarginLib.metrics.overlap import BoolArray, CountArray

# Pixels that touch at a corner belong to one piece.
_EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=bool)


@dataclass(frozen=True)
class PieceCounts:
    """Numbers of 8-connected pieces in each slice; arrays of int64, shape (n slices,).

    Parameters
    ----------
    reference, prediction : ndarray
        Pieces of either mask.
    reference_regions : ndarray
        Pieces of the reference that are large enough to count as a region of the organ.
    missed : ndarray
        Pieces of the reference that the prediction does not touch.
    extra : ndarray
        Pieces of the prediction that the reference does not touch.
    """

    reference: CountArray
    prediction: CountArray
    reference_regions: CountArray
    missed: CountArray
    extra: CountArray

    @property
    def two_regions(self) -> BoolArray:
        """Slices in which the reference falls into two or more regions."""
        return self.reference_regions >= 2


@dataclass(frozen=True)
class LabelledSlices:
    """The pieces of one mask, slice by slice, for comparing with any number of others.

    Parameters
    ----------
    labels : list of ndarray of int32, shape (j, i), or None
        Piece numbers from 1; None where the slice has fewer than two pieces.
    counts : ndarray of int64, shape (n,)
        Number of pieces.
    """

    labels: list[npt.NDArray[np.int32] | None]
    counts: CountArray

    @classmethod
    def of(cls, stack: BoolArray) -> LabelledSlices:
        """Find the pieces of each slice of a stack of shape (n, j, i)."""
        labels: list[npt.NDArray[np.int32] | None] = []
        counts = np.zeros(len(stack), dtype=np.int64)
        for k, plane in enumerate(stack):
            labelled, counts[k] = ndimage.label(plane, structure=_EIGHT_NEIGHBOURS)
            labels.append(labelled if counts[k] > 1 else None)
        return cls(labels, counts)

    def regions(self, sizes: CountArray, least: int) -> CountArray:
        """Number of pieces of at least `least` pixels in each slice, given the slices' mask sizes."""
        return np.array(
            [
                int(size >= least) if plane is None else int((np.bincount(plane.ravel())[1:] >= least).sum())
                for plane, size in zip(self.labels, sizes, strict=True)
            ],
            dtype=np.int64,
        )

    def untouched(self, other: BoolArray, common: CountArray) -> CountArray:
        """Number of pieces in each slice that `other` does not touch, given the slices' intersection sizes."""
        return np.array(
            [
                (n if n_common == 0 else n - np.count_nonzero(np.bincount(plane[mask])[1:]) if plane is not None else 0)
                for plane, n, mask, n_common in zip(self.labels, self.counts, other, common, strict=True)
            ],
            dtype=np.int64,
        )
