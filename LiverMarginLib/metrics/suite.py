"""All metrics of one reference and any number of predictions, in one pass over the slices.

The label arrays are read where they lie. A first pass finds each chunk's bounding box; a second works on a few
slices at a time, cropped to what is segmented there, in as many threads as there are cores, and keeps counts and
the coordinates of contours and surfaces only. What belongs to the reference is computed once for all predictions,
and one set of distances serves HD, HD95, ASSD, NSD and the margin errors.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from LiverMarginLib.events import CancelToken
from LiverMarginLib.metrics.boundary import BoundaryCounts, Width, count_near
from LiverMarginLib.metrics.nearest import nearest_distances
from LiverMarginLib.metrics.overlap import CountArray, Overlap
from LiverMarginLib.metrics.pieces import PieceCounts
from LiverMarginLib.metrics.slicepass import (
    Extent,
    Labelled,
    MaskParts,
    PairParts,
    Points,
    SlicePass,
    find_extent,
    join,
)
from LiverMarginLib.metrics.surface import SurfaceDistances
from LiverMarginLib.metrics.surfels import surfel_areas

FloatArray = npt.NDArray[np.float64]
T = TypeVar("T")

# Slices handled together: enough to outweigh Python's cost a call, few enough to stay in the processor's cache.
_CHUNK = 8


@dataclass(frozen=True, eq=False)
class MarginErrors:
    """How far, in mm, the predicted margin lies from the reference's, point by point.

    Positive where the prediction reaches beyond the reference, negative where it falls short, 0 where they agree;
    infinite where the other mask is empty.

    Parameters
    ----------
    reference_points, prediction_points : ndarray of int32, shape (n, 3) and (m, 3)
        Surface voxels (k, j, i) of either mask.
    at_reference, at_prediction : ndarray of float64, shape (n,) and (m,)
        Signed distance in mm from that voxel to the nearest surface voxel of the other mask.
    """

    reference_points: Points
    at_reference: FloatArray
    prediction_points: Points
    at_prediction: FloatArray


@dataclass(frozen=True, eq=False)
class Cells:
    """Where the organ and the errors are, slice by slice, by thirds of the reference's extent along (j, i).

    Voxels beyond the extent belong to the outer thirds.

    Parameters
    ----------
    reference, missed, extra : ndarray of int64, shape (n slices, 3, 3)
        Numbers of voxels of the reference, false negative and false positive.
    """

    reference: CountArray
    missed: CountArray
    extra: CountArray


@dataclass(frozen=True, eq=False)
class Measures:
    """Everything that is measured of one prediction against the reference.

    Parameters
    ----------
    overlap : Overlap
        Counts of each slice.
    boundaries : mapping of Width to BoundaryCounts
        Counts of each slice for each boundary width.
    pieces : PieceCounts
    cells : Cells
    voxel, surfel : SurfaceDistances
        The 3-D distances in mm, in both descriptions of a surface.
    margin : MarginErrors
    """

    overlap: Overlap
    boundaries: Mapping[Width, BoundaryCounts]
    pieces: PieceCounts
    cells: Cells
    voxel: SurfaceDistances
    surfel: SurfaceDistances
    margin: MarginErrors


@dataclass(frozen=True, eq=False)
class SuiteResult:
    """Outcome of `measure`: the extent of the reference (None if it is empty) and each prediction's measures."""

    extent: Extent | None
    measures: Mapping[str, Measures]


def measure(
    reference: Labelled,
    predictions: Mapping[str, Labelled],
    spacing: tuple[float, float, float],
    widths: Sequence[Width],
    *,
    region_min_px: int = 20,
    threads: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    cancel: CancelToken | None = None,
) -> SuiteResult:
    """Measure predictions against a reference.

    Parameters
    ----------
    reference : Labelled
        Slices (j, i) along k.
    predictions : mapping of str to Labelled
        On the same grid.
    spacing : tuple of float
        Voxel spacing along (k, j, i) in mm.
    widths : sequence of Width
        The d of the boundary metrics, each once.
    region_min_px : int
        Pixels that a piece of the reference needs to count as a region.
    threads : int, optional
        As many as there are cores by default.
    on_progress : callable, optional
        Called from this thread with the number of slices done and their total.
    cancel : CancelToken, optional

    Returns
    -------
    SuiteResult

    Raises
    ------
    ValueError
        If the shapes differ.
    Cancelled
        If `cancel` was raised.
    """
    masks = [reference, *predictions.values()]
    n, height, width = reference.array.shape
    if any(m.array.shape != reference.array.shape for m in masks):
        raise ValueError("reference and predictions have different shapes")
    cancel = cancel or CancelToken()
    chunks = [(start, min(start + _CHUNK, n)) for start in range(0, n, _CHUNK)]

    with ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
        try:
            searches = [[pool.submit(_guarded(find_extent, cancel), m, k) for k in chunks] for m in masks]
            extents = [[search.result() for search in of_mask] for of_mask in searches]
            extent = Extent.around(extents[0])
            thirds = (extent or Extent((0, n), (0, height), (0, width))).thirds()
            slice_pass = SlicePass(masks, [w.half_sides(spacing[1:]) for w in widths], thirds, region_min_px)
            looks = [
                pool.submit(_guarded(slice_pass.run, cancel), k, _box_of_chunk(extents, c))
                for c, k in enumerate(chunks)
            ]
            seen = []
            for looked, k in zip(looks, chunks, strict=True):
                seen.append(looked.result())
                if on_progress:
                    on_progress(k[1], n)
            owns = [join([parts[m] for parts, _ in seen]) for m in range(len(masks))]
            pairs = [join([found[m] for _, found in seen]) for m in range(len(predictions))]
            del seen, looks
            distances = [_Distances.start(pool, owns[0], own, spacing, widths, cancel) for own in owns[1:]]
            measures = {
                name: _assemble(owns[0], own, pair, distance, spacing, widths)
                for name, own, pair, distance in zip(predictions, owns[1:], pairs, distances, strict=True)
            }
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return SuiteResult(extent, measures)


def _guarded(work: Callable[..., T], cancel: CancelToken) -> Callable[..., T]:
    """Let a task that waits in the pool notice that the job was cancelled."""

    def run(*arguments: object) -> T:
        cancel.check()
        return work(*arguments)

    return run


def _box_of_chunk(extents: list[list[Extent | None]], chunk: int) -> Extent | None:
    """Box around all masks in a chunk and its neighbours, whose nearest slices the surfaces need."""
    near = slice(max(chunk - 1, 0), chunk + 2)
    return Extent.around([e for of_mask in extents for e in of_mask[near]])


@dataclass(frozen=True, eq=False)
class _Distances:
    """Distances that are being computed: (reference to prediction, prediction to reference)."""

    voxel: tuple[Future[FloatArray], Future[FloatArray]]
    surfel: tuple[Future[FloatArray], Future[FloatArray]]
    near: Future[dict[Width, tuple[CountArray, CountArray, CountArray, CountArray]]]

    @classmethod
    def start(
        cls,
        pool: ThreadPoolExecutor,
        reference: MaskParts,
        prediction: MaskParts,
        spacing: tuple[float, float, float],
        widths: Sequence[Width],
        cancel: CancelToken,
    ) -> _Distances:
        def both_ways(g: Points, p: Points) -> tuple[Future[FloatArray], Future[FloatArray]]:
            task = _guarded(nearest_distances, cancel)
            return pool.submit(task, g, p, spacing), pool.submit(task, p, g, spacing)

        return cls(
            both_ways(reference.surface, prediction.surface),
            both_ways(reference.surfels, prediction.surfels),
            pool.submit(
                _guarded(count_near, cancel),
                reference.contour,
                prediction.contour,
                len(reference.size),
                widths,
                spacing[1:],
            ),
        )


def _assemble(
    reference: MaskParts,
    prediction: MaskParts,
    pair: PairParts,
    distances: _Distances,
    spacing: tuple[float, float, float],
    widths: Sequence[Width],
) -> Measures:
    near = distances.near.result()
    boundaries = {
        w: BoundaryCounts(
            Overlap(reference.band[:, n], prediction.band[:, n], pair.band_common[:, n]),
            pair.trimap_inner[:, n],
            reference.band[:, n] + pair.trimap_outer[:, n],
            *near[w],
        )
        for n, w in enumerate(widths)
    }
    there, back = (d.result() for d in distances.voxel)
    areas = surfel_areas(spacing)
    return Measures(
        Overlap(reference.size, prediction.size, pair.common),
        boundaries,
        PieceCounts(reference.pieces, prediction.pieces, reference.regions, pair.missed, pair.extra),
        Cells(reference.cells, reference.cells - pair.cells, prediction.cells - pair.cells),
        SurfaceDistances(there, back),
        SurfaceDistances(
            distances.surfel[0].result(),
            distances.surfel[1].result(),
            areas[reference.codes],
            areas[prediction.codes],
        ),
        MarginErrors(
            reference.surface,
            np.where(pair.in_prediction, there, 0.0 - there),
            prediction.surface,
            np.where(pair.in_reference, 0.0 - back, back),
        ),
    )
