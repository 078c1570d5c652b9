"""Images with their place in the patient: `Geometry`, `Volume`, `LabelMap` and the canonical axial view.

Arrays are indexed (k, j, i) as in numpy and 3D Slicer; ``ijk_to_ras`` maps homogeneous (i, j, k) voxel indices to
millimetres in RAS (right, anterior, superior), voxel centres at integer indices. This module needs numpy alone, so
that every other room may import it.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from LiverMarginLib.errors import GeometryError, InputError
from LiverMarginLib.terminology import Segment

FloatMatrix = npt.NDArray[np.float64]


class Modality(StrEnum):
    """What made the image."""

    CT = "CT"
    MR = "MR"
    UNKNOWN = "unknown"


class IntensityKind(StrEnum):
    """What a voxel value means. A network trained on one kind must not be fed another silently."""

    HU = "HU"
    EIGHT_BIT = "8-bit"
    ARBITRARY = "arbitrary"


@dataclass(frozen=True, eq=False)
class Geometry:
    """The grid of an image: how many voxels, and where they lie.

    Parameters
    ----------
    shape : tuple of int
        Number of voxels along (k, j, i).
    ijk_to_ras : ndarray of float64, shape (4, 4)
        Homogeneous (i, j, k) index to RAS millimetres.

    Raises
    ------
    GeometryError
        If an axis is empty, or the matrix is not finite, not affine or not invertible.
    """

    shape: tuple[int, int, int]
    ijk_to_ras: FloatMatrix

    def __post_init__(self) -> None:
        shape = tuple(int(n) for n in self.shape)
        if len(shape) != 3 or min(shape) < 1:
            raise GeometryError(
                f"An image of {shape} voxels cannot be used; it needs three axes with at least one voxel each."
            )
        matrix = np.array(self.ijk_to_ras, dtype=np.float64)
        if matrix.shape != (4, 4) or not np.isfinite(matrix).all() or not np.allclose(matrix[3], (0, 0, 0, 1)):
            raise GeometryError(
                "The image's position and orientation are not a valid affine matrix; export the image again."
            )
        spacing = np.linalg.norm(matrix[:3, :3], axis=0)
        if spacing.min() <= 0 or abs(np.linalg.det(matrix[:3, :3] / spacing)) < 1e-3:
            raise GeometryError(
                "The image's voxel spacing is zero or its axes are parallel; export the image again with its geometry."
            )
        matrix.setflags(write=False)
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "ijk_to_ras", matrix)

    @cached_property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel spacing along (k, j, i) in mm."""
        si, sj, sk = (float(s) for s in np.linalg.norm(self.ijk_to_ras[:3, :3], axis=0))
        return sk, sj, si

    @property
    def directions(self) -> FloatMatrix:
        """Unit RAS vectors of the (i, j, k) axes as columns, shape (3, 3)."""
        return self.ijk_to_ras[:3, :3] / np.linalg.norm(self.ijk_to_ras[:3, :3], axis=0)

    @property
    def voxel_volume(self) -> float:
        """Volume of one voxel in mm³ (the determinant, so that sheared axes count rightly)."""
        return float(abs(np.linalg.det(self.ijk_to_ras[:3, :3])))

    def corners(self) -> FloatMatrix:
        """RAS positions in mm of the eight corner voxels' centres, shape (8, 3)."""
        k, j, i = (n - 1 for n in self.shape)
        index = np.array([(a, b, c, 1.0) for a in (0, i) for b in (0, j) for c in (0, k)])
        return (index @ self.ijk_to_ras.T)[:, :3]

    def agrees_with(self, other: Geometry, tolerance: float = 0.1) -> bool:
        """Whether both grids have the same shape and every voxel lies within `tolerance` of a voxel size.

        The largest distance between affine grids is at a corner, so the eight corners decide.
        """
        if self.shape != other.shape:
            return False
        distance = np.linalg.norm(self.corners() - other.corners(), axis=1).max()
        return bool(distance <= tolerance * min(self.spacing))

    def overlap_fraction(self, other: Geometry) -> float:
        """Share in [0, 1] of the smaller grid's bounding box (RAS aligned) that lies in the other's."""
        boxes = []
        for grid in (self, other):
            corners = grid.corners()
            half = 0.5 * np.abs(grid.ijk_to_ras[:3, :3]).sum(axis=1)
            boxes.append((corners.min(axis=0) - half, corners.max(axis=0) + half))
        low = np.maximum(boxes[0][0], boxes[1][0])
        high = np.minimum(boxes[0][1], boxes[1][1])
        common = float(np.prod(np.clip(high - low, 0, None)))
        return common / min(float(np.prod(box[1] - box[0])) for box in boxes)


@dataclass(frozen=True, eq=False)
class Volume:
    """An image with its geometry.

    Parameters
    ----------
    array : ndarray, shape (k, j, i)
        Voxel values; CT in HU. Any real dtype.
    geometry : Geometry
        Where the voxels lie.
    modality : Modality
    intensity : IntensityKind
    spacing_known : bool
        False for picture stacks without a spacing: lengths and volumes in mm then mean nothing, and every door
        says so.
    notes : tuple of str
        Repairs and assumptions made while reading, one sentence each, without patient identity.

    Raises
    ------
    InputError
        If the array is not a real-valued 3-D array of the geometry's shape.
    """

    array: npt.NDArray[Any]
    geometry: Geometry
    modality: Modality = Modality.UNKNOWN
    intensity: IntensityKind = IntensityKind.ARBITRARY
    spacing_known: bool = True
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_array(self.array, self.geometry, "biuf")


@dataclass(frozen=True, eq=False)
class LabelMap:
    """A segmentation: one label value per voxel, and what the values mean.

    Parameters
    ----------
    array : ndarray of integers, shape (k, j, i)
        0 is background.
    geometry : Geometry
    segments : tuple of Segment
        One for each label value that has a meaning; values present in `array` but not here are unnamed.
    provenance : mapping
        How the labels came to be (model, its sha256, options, versions), JSON-serialisable, without patient identity.
    """

    array: npt.NDArray[Any]
    geometry: Geometry
    segments: tuple[Segment, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_array(self.array, self.geometry, "biu")

    def mask(self, label: int) -> npt.NDArray[np.bool_]:
        """Boolean array, shape (k, j, i), of the voxels that carry `label`."""
        return np.asarray(self.array == label)

    def volume_ml(self, label: int) -> float:
        """Volume of `label` in millilitres."""
        return float(np.count_nonzero(self.array == label)) * self.geometry.voxel_volume / 1000.0


def _check_array(array: npt.NDArray[Any], geometry: Geometry, kinds: str) -> None:
    if array.dtype.kind not in kinds:
        raise InputError(
            f"Voxel values of type {array.dtype} cannot be used here; convert the image to plain numbers first."
        )
    if array.shape != geometry.shape:
        raise InputError(
            f"The image has {array.shape} voxels but its header says {geometry.shape}; the file is damaged."
        )


@dataclass(frozen=True)
class AxialView:
    """An exact, copy-free reordering of an image into the one view that slice-wise networks see.

    In the view, k runs from inferior to superior, j from anterior to posterior, i from the patient's right to the
    left: shown row by row, a slice looks as radiologists expect it (patient's right on the image's left, anterior
    up). Oblique images are reordered to the nearest such axes; nothing is interpolated, so `to_view` followed by
    `from_view` gives back the same voxels.

    Parameters
    ----------
    axes : tuple of int
        ``axes[n]`` is the array axis of the image that becomes axis n of the view.
    flips : tuple of bool
        Whether view axis n runs against the image's.
    geometry : Geometry
        Grid of the reordered array.
    """

    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]
    geometry: Geometry

    def to_view(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Reorder an array from the image's (k, j, i) to the axial view; a numpy view, not a copy."""
        return np.transpose(array, self.axes)[self._steps]

    def from_view(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Inverse of `to_view`; a numpy view, not a copy."""
        return np.transpose(array[self._steps], np.argsort(self.axes))

    @property
    def _steps(self) -> tuple[slice, slice, slice]:
        k, j, i = (slice(None, None, -1 if flip else 1) for flip in self.flips)
        return k, j, i


# RAS direction of the (k, j, i) axes of the axial view: superior, posterior, left.
_VIEW_DIRECTIONS = np.array([(0.0, 0.0, 1.0), (0.0, -1.0, 0.0), (-1.0, 0.0, 0.0)])


def axial_view(geometry: Geometry) -> AxialView:
    """Find the reordering of `geometry` that comes nearest to the canonical axial view.

    Of the 48 axis orders and flips, the one with the largest sum of direction cosines is taken, so that an oblique
    acquisition (less than 45 degrees off an axis) is treated as the plain one it was planned as.

    Parameters
    ----------
    geometry : Geometry
        Any axis order, flips and oblique directions.

    Returns
    -------
    AxialView
    """
    directions = geometry.directions[:, ::-1].T  # rows: RAS direction of array axes k, j, i
    cosines = _VIEW_DIRECTIONS @ directions.T  # [view axis, array axis]
    axes = max(itertools.permutations(range(3)), key=lambda order: sum(abs(cosines[n, order[n]]) for n in range(3)))
    flips = tuple(bool(cosines[n, axes[n]] < 0) for n in range(3))
    shape = tuple(geometry.shape[axis] for axis in axes)

    # Columns of `to_image` express one step along each view axis, and the view's origin, in image (i, j, k) indices.
    to_image = np.zeros((4, 4))
    to_image[3, 3] = 1.0
    for n, (axis, flip) in enumerate(zip(axes, flips, strict=True)):
        to_image[2 - axis, 2 - n] = -1.0 if flip else 1.0
        to_image[2 - axis, 3] = geometry.shape[axis] - 1 if flip else 0
    return AxialView(axes, flips, Geometry(shape, geometry.ijk_to_ras @ to_image))  # type: ignore[arg-type]
