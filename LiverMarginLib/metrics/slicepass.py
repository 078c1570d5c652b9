"""One pass over a few slices: everything that the metrics need to know of them, as counts and coordinates.

`LiverMarginLib.metrics.suite` runs this on chunks of slices in parallel and joins what comes back.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from LiverMarginLib.metrics.morphology import contour_pixels, count_per_slice, dilate_box, erode_box, surface_voxels
from LiverMarginLib.metrics.overlap import BoolArray, CountArray
from LiverMarginLib.metrics.pieces import LabelledSlices
from LiverMarginLib.metrics.surfels import neighbour_codes

Points = npt.NDArray[np.int32]
Range = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Labelled:
    """A mask inside a label array that is not copied.

    Parameters
    ----------
    array : ndarray of integers or bool, shape (k, j, i)
        Label values; any memory layout.
    labels : tuple of int
        Values that make up the mask.
    """

    array: npt.NDArray[Any]
    labels: tuple[int, ...] = (1,)

    def __post_init__(self) -> None:
        if self.array.ndim != 3 or not self.labels:
            raise ValueError("a mask needs a three-dimensional label array and at least one label")

    def planes(self, k: Range, j: Range, i: Range) -> BoolArray:
        """Boolean mask of the voxels in the half-open ranges along (k, j, i)."""
        part = self.array[slice(*k), slice(*j), slice(*i)]
        mask: BoolArray = part == self.labels[0]
        for label in self.labels[1:]:
            mask |= part == label
        return mask


@dataclass(frozen=True)
class Extent:
    """Bounding box of a mask as half-open ranges of indices along (k, j, i)."""

    k: Range
    j: Range
    i: Range

    @staticmethod
    def around(extents: Sequence[Extent | None]) -> Extent | None:
        """Smallest box around all that are not None; None if there are none."""
        boxes = np.array([(e.k, e.j, e.i) for e in extents if e is not None])
        if len(boxes) == 0:
            return None
        low, high = boxes[..., 0].min(axis=0), boxes[..., 1].max(axis=0)
        k, j, i = ((int(a), int(b)) for a, b in zip(low, high, strict=True))
        return Extent(k, j, i)

    def thirds(self) -> tuple[tuple[int, int], ...]:
        """Indices at which the second and the last third begin, along (k, j, i)."""
        return tuple((a + round((b - a) / 3), a + round(2 * (b - a) / 3)) for a, b in (self.k, self.j, self.i))


@dataclass(frozen=True, eq=False)
class MaskParts:
    """What is known of one mask; n slices, w boundary widths.

    Parameters
    ----------
    size : ndarray of int64, shape (n,)
        Mask pixels.
    band : ndarray of int64, shape (n, w)
        Pixels of the inner boundary band.
    pieces, regions : ndarray of int64, shape (n,)
        8-connected pieces, and those that are large enough to be a region.
    cells : ndarray of int64, shape (n, 3, 3)
        Mask pixels by thirds along (j, i).
    contour, surface, surfels : ndarray of int32, shape (m, 3)
        Coordinates (k, j, i) of contour pixels, surface voxels and surface elements.
    codes : ndarray of uint8, shape (m,)
        Neighbour code of each surface element.
    """

    size: CountArray
    band: CountArray
    pieces: CountArray
    regions: CountArray
    cells: CountArray
    contour: Points
    surface: Points
    surfels: Points
    codes: npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class PairParts:
    """What is known of reference and prediction together; n slices, w boundary widths.

    Parameters
    ----------
    common : ndarray of int64, shape (n,)
        Pixels in both masks.
    band_common : ndarray of int64, shape (n, w)
        Pixels in both inner boundary bands.
    trimap_inner, trimap_outer : ndarray of int64, shape (n, w)
        Pixels of the prediction in the reference's inner and outer band.
    missed, extra : ndarray of int64, shape (n,)
        Pieces of either mask that the other does not touch.
    cells : ndarray of int64, shape (n, 3, 3)
        Pixels in both masks by thirds along (j, i).
    in_prediction, in_reference : ndarray of bool
        Whether each surface voxel of the reference lies in the prediction, and the reverse.
    """

    common: CountArray
    band_common: CountArray
    trimap_inner: CountArray
    trimap_outer: CountArray
    missed: CountArray
    extra: CountArray
    cells: CountArray
    in_prediction: BoolArray
    in_reference: BoolArray


Parts = TypeVar("Parts", MaskParts, PairParts)


def join(parts: Sequence[Parts]) -> Parts:
    """Join the parts of consecutive slices."""
    kind = type(parts[0])
    names = [f.name for f in dataclasses.fields(kind)]
    return kind(**{name: np.concatenate([getattr(p, name) for p in parts]) for name in names})


def find_extent(mask: Labelled, k: Range) -> Extent | None:
    """Bounding box of a mask in a range of slices; None if it is empty there."""
    _, height, width = mask.array.shape
    inside = mask.planes(k, (0, height), (0, width))
    seen: BoolArray = np.logical_or.reduce(inside, axis=0)
    if not seen.any():
        return None
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    planes = k[0] + np.flatnonzero(inside[:, rows[0] : rows[-1] + 1].any(axis=(1, 2)))
    first, last = ([int(found[end]) for found in (planes, rows, columns)] for end in (0, -1))
    return Extent(*((a, b + 1) for a, b in zip(first, last, strict=True)))


@dataclass(frozen=True, eq=False)
class SlicePass:
    """The pass over a chunk of slices.

    Parameters
    ----------
    masks : sequence of Labelled
        The reference first, then the predictions.
    half_sides : sequence of tuple of int
        Half sides along (j, i) of the square of each boundary width.
    thirds : tuple of tuple of int
        Where the second and the last third begin, along (k, j, i).
    region_min_px : int
        Pixels that a piece needs to count as a region.
    """

    masks: Sequence[Labelled]
    half_sides: Sequence[tuple[int, int]]
    thirds: tuple[tuple[int, int], ...]
    region_min_px: int

    def run(self, k: Range, box: Extent | None) -> tuple[list[MaskParts], list[PairParts]]:
        """Look at slices `k`, cropped to `box`: all masks in these slices and their neighbours on both sides."""
        if box is None:
            # Nothing is segmented here; one empty pixel gives every count its zeros.
            box = Extent(k, (0, 1), (0, 1))
        reference, *predictions = (self._look(mask, k, box) for mask in self.masks)
        outer_bands = [grown & ~reference.mask for grown in self._nested(dilate_box, reference.mask)]
        pairs = [self._pair(reference, p, outer_bands, box) for p in predictions]
        return [reference.parts, *(p.parts for p in predictions)], pairs

    def _look(self, mask: Labelled, k: Range, box: Extent) -> _Seen:
        total = mask.array.shape[0]
        padded = np.zeros((k[1] - k[0] + 2, box.j[1] - box.j[0] + 2, box.i[1] - box.i[0] + 2), dtype=bool)
        low, high = max(k[0] - 1, 0), min(k[1] + 1, total)
        padded[low - k[0] + 1 : high - k[0] + 1, 1:-1, 1:-1] = mask.planes((low, high), box.j, box.i)
        inside = np.ascontiguousarray(padded[1:-1, 1:-1, 1:-1])
        size = count_per_slice(inside)
        bands = [inside & ~core for core in self._nested(erode_box, inside)]
        pieces = LabelledSlices.of(inside)
        surface = surface_voxels(padded)
        # Surface elements lie between slices k - 1 and k; the one beyond the last slice belongs to the last chunk.
        codes = neighbour_codes(padded if k[1] == total else padded[:-1])
        elements = (codes != 0) & (codes != 255)
        origin = (k[0], box.j[0], box.i[0])
        parts = MaskParts(
            size,
            _columns([count_per_slice(b) for b in bands], len(size)),
            pieces.counts,
            pieces.regions(size, self.region_min_px),
            self._cells(inside, box),
            _points(contour_pixels(padded[1:-1]), origin),
            _points(surface, origin),
            _points(elements, origin),
            codes[elements],
        )
        return _Seen(inside, bands, pieces, surface, parts)

    def _pair(self, reference: _Seen, prediction: _Seen, outer_bands: list[BoolArray], box: Extent) -> PairParts:
        both = reference.mask & prediction.mask
        common = count_per_slice(both)
        n = len(common)
        bands = list(zip(reference.bands, prediction.bands, strict=True))
        return PairParts(
            common,
            _columns([count_per_slice(a & b) for a, b in bands], n),
            _columns([count_per_slice(a & prediction.mask) for a in reference.bands], n),
            _columns([count_per_slice(a & prediction.mask) for a in outer_bands], n),
            reference.pieces.untouched(prediction.mask, common),
            prediction.pieces.untouched(reference.mask, common),
            self._cells(both, box),
            prediction.mask[reference.surface],
            reference.mask[prediction.surface],
        )

    def _nested(self, grow: Callable[[BoolArray, tuple[int, int]], BoolArray], mask: BoolArray) -> list[BoolArray]:
        """Erode or dilate by every width; a larger square goes on from the smaller one that it contains."""
        done: dict[tuple[int, int], BoolArray] = {(0, 0): mask}
        for half in sorted(set(self.half_sides)):
            start = max((d for d in done if d[0] <= half[0] and d[1] <= half[1]), key=sum)
            done[half] = grow(done[start], (half[0] - start[0], half[1] - start[1]))
        return [done[half] for half in self.half_sides]

    def _cells(self, stack: BoolArray, box: Extent) -> CountArray:
        cells = np.zeros((len(stack), 3, 3), dtype=np.int64)
        rows, columns = (
            [0, *(min(max(cut - start, 0), stop - start) for cut in cuts), stop - start]
            for cuts, (start, stop) in zip(self.thirds[1:], (box.j, box.i), strict=True)
        )
        for a in range(3):
            profile = stack[:, rows[a] : rows[a + 1]].view(np.uint8).sum(axis=1, dtype=np.uint16)
            for b in range(3):
                cells[:, a, b] = profile[:, columns[b] : columns[b + 1]].sum(axis=1)
        return cells


@dataclass(frozen=True, eq=False)
class _Seen:
    """A mask in a chunk of slices while it is compared with others."""

    mask: BoolArray
    bands: list[BoolArray]
    pieces: LabelledSlices
    surface: BoolArray
    parts: MaskParts


def _points(where: BoolArray, origin: tuple[int, int, int]) -> Points:
    """Coordinates of True values, int32, shape (m, 3)."""
    flat = np.flatnonzero(where)
    points = np.empty((len(flat), 3), dtype=np.int32)
    row, points[:, 2] = np.divmod(flat, where.shape[2])
    points[:, 0], points[:, 1] = np.divmod(row, where.shape[1])
    points += np.array(origin, dtype=np.int32)
    return points


def _columns(counts: list[CountArray], n: int) -> CountArray:
    return np.stack(counts, axis=1) if counts else np.zeros((n, 0), dtype=np.int64)
