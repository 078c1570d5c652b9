"""Distances between two surfaces in millimetres: HD, HD95, ASSD and NSD.

Two descriptions of a surface are in use, give different numbers, and are both offered by name:

``voxel``
    the mask's voxels that have a background voxel among their six neighbours, each counting once (MONAI,
    MetricsReloaded, most challenge codes);
``surfel``
    the pieces of the marching-cubes surface between eight neighbouring voxels, each weighted by its area in mm²
    (google-deepmind/surface-distance), so that thick slices do not distort the share.

Everything outside the image is background: where the image cuts the organ off there is a surface.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from LiverMarginLib.metrics.morphology import surface_voxels
from LiverMarginLib.metrics.nearest import nearest_distances
from LiverMarginLib.metrics.overlap import BoolArray
from LiverMarginLib.metrics.surfels import neighbour_codes, surfel_areas

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SurfaceDistances:
    """Distances between two surfaces, both ways.

    Parameters
    ----------
    reference_to_prediction, prediction_to_reference : ndarray of float64, shape (n,) and (m,)
        Distance in mm of each surface element to the other surface; inf where the other mask is empty.
    reference_areas, prediction_areas : ndarray of float64, shape (n,) and (m,), optional
        Area of each element in mm²; None for the voxel variant, where each counts once.

    Notes
    -----
    If both masks are empty every measure is nan; if one is, distances are inf (a failure to be counted, never
    averaged) and NSD is 0.
    """

    reference_to_prediction: FloatArray
    prediction_to_reference: FloatArray
    reference_areas: FloatArray | None = None
    prediction_areas: FloatArray | None = None

    def hausdorff(self) -> float:
        """Hausdorff distance HD in mm: the largest distance either way. Symmetric."""
        return self.hausdorff_percentile(100.0)

    def hausdorff_percentile(self, percent: float = 95.0) -> float:
        """Larger of the two directed percentiles in mm (HD95); not the percentile of both sets together. Symmetric.

        Percentiles of the voxel variant are interpolated linearly, those of the surfel variant are the distance
        within which `percent` of the area lies.
        """
        if (empty := self._empty()) is not None:
            return empty
        return max(
            _percentile(self.reference_to_prediction, self.reference_areas, percent),
            _percentile(self.prediction_to_reference, self.prediction_areas, percent),
        )

    def assd(self) -> float:
        """Average symmetric surface distance in mm: mean over the elements of both surfaces (Heimann et al. 2009)."""
        if (empty := self._empty()) is not None:
            return empty
        distances = np.concatenate((self.reference_to_prediction, self.prediction_to_reference))
        return float(np.average(distances, weights=self._areas()))

    def mean_distances(self) -> tuple[float, float]:
        """Directed mean distances in mm: reference to prediction, prediction to reference."""
        if (empty := self._empty()) is not None:
            return empty, empty
        return (
            float(np.average(self.reference_to_prediction, weights=self.reference_areas)),
            float(np.average(self.prediction_to_reference, weights=self.prediction_areas)),
        )

    def nsd(self, tolerance: float) -> float:
        """Normalised surface distance: share of both surfaces within `tolerance` mm of the other. Symmetric.

        Also called surface Dice (Nikolov et al. 2021, doi 10.2196/26151).
        """
        if (empty := self._empty()) is not None:
            return 0.0 if math.isinf(empty) else empty
        near = np.concatenate((self.reference_to_prediction, self.prediction_to_reference)) <= tolerance
        return float(np.average(near, weights=self._areas()))

    def _areas(self) -> FloatArray | None:
        if self.reference_areas is None or self.prediction_areas is None:
            return None
        return np.concatenate((self.reference_areas, self.prediction_areas))

    def _empty(self) -> float | None:
        sizes = (len(self.reference_to_prediction), len(self.prediction_to_reference))
        if min(sizes) > 0:
            return None
        return math.inf if max(sizes) > 0 else math.nan


def _percentile(distances: FloatArray, areas: FloatArray | None, percent: float) -> float:
    if areas is None:
        return float(np.percentile(distances, percent))
    order = np.argsort(distances, kind="stable")
    share = np.cumsum(areas[order]) / areas.sum()
    return float(distances[order][min(int(np.searchsorted(share, percent / 100.0)), len(distances) - 1)])


def voxel_surface_distances(
    reference: BoolArray, prediction: BoolArray, spacing: tuple[float, float, float]
) -> SurfaceDistances:
    """Distances between the surface voxels of two masks.

    Parameters
    ----------
    reference, prediction : ndarray of bool, shape (k, j, i)
    spacing : tuple of float
        Voxel spacing along (k, j, i) in mm.

    Raises
    ------
    ValueError
        If the shapes differ or are not three-dimensional.
    """
    _check(reference, prediction)
    points = [np.argwhere(surface_voxels(np.pad(mask, 1))) for mask in (reference, prediction)]
    return SurfaceDistances(
        nearest_distances(points[0], points[1], spacing), nearest_distances(points[1], points[0], spacing)
    )


def surfel_surface_distances(
    reference: BoolArray, prediction: BoolArray, spacing: tuple[float, float, float]
) -> SurfaceDistances:
    """Distances between the marching-cubes surfaces of two masks, with areas; parameters as for the voxel variant.

    As in google-deepmind/surface-distance, the distance between two elements is that of the centres of their
    2 x 2 x 2 neighbourhoods.
    """
    _check(reference, prediction)
    points, areas = [], []
    table = surfel_areas(spacing)
    for mask in (reference, prediction):
        codes = neighbour_codes(np.pad(mask, 1))
        where = (codes != 0) & (codes != 255)
        points.append(np.argwhere(where))
        areas.append(table[codes[where]])
    return SurfaceDistances(
        nearest_distances(points[0], points[1], spacing),
        nearest_distances(points[1], points[0], spacing),
        areas[0],
        areas[1],
    )


def _check(reference: BoolArray, prediction: BoolArray) -> None:
    if reference.shape != prediction.shape or reference.ndim != 3:
        raise ValueError(f"masks of shapes {reference.shape} and {prediction.shape}; two equal volumes are needed")
