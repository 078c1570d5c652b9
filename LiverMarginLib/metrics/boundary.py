"""How well two outlines agree in a slice: Boundary IoU, Trimap IoU and the boundary F-measure.

All three ask what happens within a distance d of the contours, and none means anything without its d: keep the
`Width` with the number. What the image's border cuts off counts as boundary, as in the official Boundary IoU.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from LiverMarginLib.metrics.morphology import contour_pixels, count_per_slice, dilate_box, erode_box
from LiverMarginLib.metrics.nearest import nearest_distances
from LiverMarginLib.metrics.overlap import BoolArray, CountArray, Overlap, ScoreArray, ratio

OFFICIAL_RATIO = 0.02


def official_width(image_shape: tuple[int, int], fraction: float = OFFICIAL_RATIO) -> int:
    """Boundary width d in pixels of the official Boundary IoU: 2 % of the image's diagonal, at least 1.

    The diagonal is that of the image, not of the organ: the same masks in a cropped image get another d. 512 x 512
    gives 14.

    Parameters
    ----------
    image_shape : tuple of int
        Rows and columns.
    fraction : float

    References
    ----------
    Cheng et al., "Boundary IoU", CVPR 2021, and the authors' boundary-iou-api.
    """
    return max(1, round(fraction * math.hypot(*image_shape)))


@dataclass(frozen=True, order=True)
class Width:
    """The distance d of a boundary metric.

    Parameters
    ----------
    value : float
        Pixels or millimetres, larger than 0; whole pixels.
    unit : {"px", "mm"}
    """

    value: float
    unit: Literal["px", "mm"] = "px"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.value) and self.value > 0) or (self.unit == "px" and self.value != int(self.value)):
            raise ValueError(f"a boundary width must be a positive length or a whole number of pixels, not {self}")

    def __str__(self) -> str:
        return f"{self.value:g} {self.unit}"

    def half_sides(self, spacing: tuple[float, float]) -> tuple[int, int]:
        """Half sides (j, i) in pixels of the square that is d wide; at least 1 each.

        Parameters
        ----------
        spacing : tuple of float
            Pixel spacing along (j, i) in mm.
        """
        if self.unit == "px":
            return int(self.value), int(self.value)
        row, column = (max(1, round(self.value / s)) for s in spacing)
        return row, column


@dataclass(frozen=True)
class BoundaryCounts:
    """What the boundary metrics of one width are computed from; arrays of shape ``()`` or ``(n slices,)``.

    G and P are the masks of reference and prediction, X_d the pixels within d of X's contour.

    Parameters
    ----------
    band : Overlap
        Sizes of G_d ∩ G, P_d ∩ P and their intersection.
    trimap_intersection, trimap_union : ndarray of int64
        |G_d ∩ G ∩ P| and |G_d ∩ (G ∪ P)|.
    contour_reference, contour_prediction : ndarray of int64
        Numbers of contour pixels.
    contour_reference_near, contour_prediction_near : ndarray of int64
        How many of them lie within d of the other's contour.
    """

    band: Overlap
    trimap_intersection: CountArray
    trimap_union: CountArray
    contour_reference: CountArray
    contour_prediction: CountArray
    contour_reference_near: CountArray
    contour_prediction_near: CountArray

    def boundary_iou(self) -> ScoreArray:
        """Boundary IoU, |(G_d ∩ G) ∩ (P_d ∩ P)| / |(G_d ∩ G) ∪ (P_d ∩ P)|. Symmetric (Cheng et al. 2021)."""
        return self.band.iou()

    def trimap_iou(self) -> ScoreArray:
        """Trimap IoU, |G_d ∩ G ∩ P| / |G_d ∩ (G ∪ P)|: Mask IoU in a band on both sides of G's contour.

        Not symmetric: a prediction that errs only outside the band is not punished. 0 where only the reference is
        empty (Kohli et al. 2009, doi 10.1007/s11263-008-0202-0; as compared in Cheng et al. 2021).
        """
        only_prediction = (self.contour_reference == 0) & (self.contour_prediction > 0)
        return np.where(only_prediction, 0.0, ratio(self.trimap_intersection, self.trimap_union))

    def boundary_precision(self) -> ScoreArray:
        """Share of P's contour pixels within d of G's contour; 0 where exactly one mask is empty."""
        return self._share_of_contour(self.contour_prediction_near, self.contour_prediction)

    def boundary_recall(self) -> ScoreArray:
        """Share of G's contour pixels within d of P's contour; 0 where exactly one mask is empty."""
        return self._share_of_contour(self.contour_reference_near, self.contour_reference)

    def boundary_f(self) -> ScoreArray:
        """Boundary F-measure, 2 P R / (P + R) of boundary precision and recall. Symmetric.

        As in Martin et al. 2004 (doi 10.1109/TPAMI.2004.1273918) and Csurka et al. 2013, without one-to-one matching.
        """
        p, r = self.boundary_precision(), self.boundary_recall()
        return np.where(p + r == 0, p + r, ratio(2 * p * r, p + r))

    def sum(self) -> BoundaryCounts:
        """Counts added up over the slices."""
        return BoundaryCounts(
            self.band.sum(),
            np.asarray(self.trimap_intersection.sum()),
            np.asarray(self.trimap_union.sum()),
            np.asarray(self.contour_reference.sum()),
            np.asarray(self.contour_prediction.sum()),
            np.asarray(self.contour_reference_near.sum()),
            np.asarray(self.contour_prediction_near.sum()),
        )

    def _share_of_contour(self, near: CountArray, size: CountArray) -> ScoreArray:
        either = self.contour_reference + self.contour_prediction > 0
        return ratio(near, np.where(either, np.maximum(size, 1), 0))


def count_boundaries(
    reference: BoolArray,
    prediction: BoolArray,
    widths: Sequence[Width],
    spacing: tuple[float, float] = (1.0, 1.0),
) -> dict[Width, BoundaryCounts]:
    """Count what the boundary metrics need, slice by slice, for any number of widths.

    Bands are square (chessboard distance, the official definition: d erosions by a full 3 x 3 kernel); contours
    are the mask's pixels with a background pixel among their four neighbours, and their distances Euclidean.

    Parameters
    ----------
    reference, prediction : ndarray of bool, shape (n, j, i) or (j, i)
        Whole slices, or the same crop of both outside of which both are empty.
    widths : sequence of Width
    spacing : tuple of float
        Pixel spacing along (j, i) in mm; used for widths in mm.

    Returns
    -------
    dict of Width to BoundaryCounts
        Arrays of shape (n,), or () for single slices.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    if reference.shape != prediction.shape or reference.ndim not in (2, 3):
        raise ValueError(f"masks of shapes {reference.shape} and {prediction.shape}; two equal stacks are needed")
    if reference.ndim == 2:
        stacked = count_boundaries(reference[np.newaxis], prediction[np.newaxis], widths, spacing)
        return {width: counts.sum() for width, counts in stacked.items()}

    bands = {w: count_bands(reference, prediction, w.half_sides(spacing)) for w in widths}
    ring = ((0, 0), (1, 1), (1, 1))
    contours = [np.argwhere(contour_pixels(np.pad(m, ring))) for m in (reference, prediction)]
    near = count_near(contours[0], contours[1], len(reference), widths, spacing)
    return {w: BoundaryCounts(*bands[w], *near[w]) for w in widths}


def count_bands(
    reference: BoolArray, prediction: BoolArray, half_sides: tuple[int, int]
) -> tuple[Overlap, CountArray, CountArray]:
    """Sizes of the bands of one width in stacks (n, j, i): the first three fields of `BoundaryCounts`."""
    band_reference = reference & ~erode_box(reference, half_sides)
    band_prediction = prediction & ~erode_box(prediction, half_sides)
    in_reference = count_per_slice(band_reference)
    hit = count_per_slice(band_reference & prediction)
    outer = dilate_box(reference, half_sides) & ~reference & prediction
    band = Overlap(in_reference, count_per_slice(band_prediction), count_per_slice(band_reference & band_prediction))
    return band, hit, in_reference + count_per_slice(outer)


def count_near(
    reference: npt.NDArray[np.integer],
    prediction: npt.NDArray[np.integer],
    n_slices: int,
    widths: Sequence[Width],
    spacing: tuple[float, float],
) -> dict[Width, tuple[CountArray, CountArray, CountArray, CountArray]]:
    """Numbers of contour pixels, and of those near the other's contour: the last four fields of `BoundaryCounts`.

    Parameters
    ----------
    reference, prediction : ndarray of int, shape (m, 3)
        Contour pixels as (k, j, i), 0 <= k < n_slices.
    """
    sizes = [np.bincount(c[:, 0], minlength=n_slices) for c in (reference, prediction)]
    near: dict[Width, tuple[CountArray, CountArray, CountArray, CountArray]] = {}
    for unit, pixel in (("px", (1.0, 1.0)), ("mm", spacing)):
        wanted = [w for w in widths if w.unit == unit]
        if not wanted:
            continue
        reach = max(w.value for w in wanted)
        # An infinite slice spacing keeps every distance within its slice.
        grid = (math.inf, *pixel)
        there = nearest_distances(reference, prediction, grid, reach)
        back = nearest_distances(prediction, reference, grid, reach)
        for w in wanted:
            near[w] = (
                sizes[0],
                sizes[1],
                np.bincount(reference[there <= w.value, 0], minlength=n_slices),
                np.bincount(prediction[back <= w.value, 0], minlength=n_slices),
            )
    return near


def boundary_iou(reference: BoolArray, prediction: BoolArray, width: Width | None = None) -> ScoreArray:
    """Boundary IoU of slices (j, i) or stacks (n, j, i), official d by default; see `BoundaryCounts.boundary_iou`.

    Parameters
    ----------
    reference, prediction : ndarray of bool
        Whole images, uncropped: the official d comes from their size.
    width : Width, optional

    Returns
    -------
    ndarray of float64, shape () or (n,)
    """
    return _single(reference, prediction, width).boundary_iou()


def trimap_iou(reference: BoolArray, prediction: BoolArray, width: Width | None = None) -> ScoreArray:
    """Trimap IoU; parameters as for `boundary_iou`, definition at `BoundaryCounts.trimap_iou`."""
    return _single(reference, prediction, width).trimap_iou()


def boundary_f(reference: BoolArray, prediction: BoolArray, width: Width | None = None) -> ScoreArray:
    """Boundary F-measure; parameters as for `boundary_iou`, definition at `BoundaryCounts.boundary_f`."""
    return _single(reference, prediction, width).boundary_f()


def _single(reference: BoolArray, prediction: BoolArray, width: Width | None) -> BoundaryCounts:
    chosen = width or Width(official_width(reference.shape[-2:]))
    return count_boundaries(reference, prediction, [chosen])[chosen]
