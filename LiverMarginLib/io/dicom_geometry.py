"""From single planes to a grid: order by position, duplicates, gaps, stray images and a tilted gantry.

Positions come from Image Position (Patient) alone (DICOM PS3.3 C.7.6.2.1.1); file names, instance numbers and slice
locations say nothing reliable about where an image lies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from LiverMarginLib.errors import GeometryError, InputError
from LiverMarginLib.io.dicom_headers import Frame, Plane
from LiverMarginLib.io.images import LPS_TO_RAS
from LiverMarginLib.io.notes import Notes
from LiverMarginLib.volume import Geometry

_SAME_PLACE_MM = 0.01
_SAME_DIRECTION = 1e-3  # of a direction cosine: 0.06 degrees
_UNEVEN = 0.1  # share of the slice spacing by which a slice may be off the regular grid
_TILT_DEGREES = 0.1

Vectors = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Arrangement:
    """Frames in the order of their positions.

    Parameters
    ----------
    places : tuple of tuple of Frame
        The frames at each position, from first to last along the normal (row x column); more than one where a
        position is taken twice.
    geometry : Geometry
    """

    places: tuple[tuple[Frame, ...], ...]
    geometry: Geometry


def arrange(frames: Sequence[Frame], notes: Notes) -> Arrangement:
    """Put the frames of a series in order and find their common grid.

    Images of another orientation, matrix or pixel spacing than most (localisers) are left out and said. A tilted
    gantry shifts each slice against the one before: the grid keeps that shear exactly (``ijk_to_ras`` then has a k
    axis that is not perpendicular to the slices) instead of resampling, so that every voxel is one that was measured
    and a segmentation lies on the slices of the series.

    Raises
    ------
    GeometryError
        If frames have no position or spacing, no orientation prevails, a slice is missing, or the spacing is uneven.
    """
    kept = _prevailing(_without_localisers(frames, notes), notes)
    planes = [_require_plane(frame) for frame in kept]
    normal = normal_of(planes[0])
    heights = np.array([plane.position for plane in planes]) @ normal
    order = np.argsort(heights, kind="stable")
    places: list[list[Frame]] = []
    last = -np.inf
    for n in order:
        if heights[n] - last > _SAME_PLACE_MM:
            places.append([])
            last = heights[n]
        places[-1].append(kept[n])
    step = _step([_require_plane(place[0]) for place in places], normal, kept[0], notes)
    geometry = grid(_require_plane(places[0][0]), step, (len(places), kept[0].file.rows, kept[0].file.columns))
    return Arrangement(tuple(tuple(place) for place in places), geometry)


def normal_of(plane: Plane) -> Vectors:
    """Unit vector perpendicular to the plane, LPS, shape (3,)."""
    cross = np.cross(plane.row, plane.column)
    return np.asarray(cross / np.linalg.norm(cross))


def grid(first: Plane, step: npt.ArrayLike, shape: tuple[int, int, int]) -> Geometry:
    """Grid of parallel planes.

    Parameters
    ----------
    first : Plane
        The one with k = 0.
    step : array_like, shape (3,)
        LPS vector in mm from one plane to the next.
    shape : tuple of int
        Along (k, j, i).
    """
    matrix = np.eye(4)
    matrix[:3, 0] = np.asarray(first.row) * first.spacing[1]
    matrix[:3, 1] = np.asarray(first.column) * first.spacing[0]
    matrix[:3, 2] = step
    matrix[:3, 3] = first.position
    return Geometry(shape, LPS_TO_RAS @ matrix)


def _without_localisers(frames: Sequence[Frame], notes: Notes) -> list[Frame]:
    images = [frame for frame in frames if "LOCALIZER" not in frame.file.image_type]
    if not images or len(images) == len(frames):
        return list(frames)
    notes.add(f"{len(frames) - len(images)} of {len(frames)} images are localisers and were left out.")
    return images


def _prevailing(frames: list[Frame], notes: Notes) -> list[Frame]:
    groups: list[tuple[tuple[Any, ...], Vectors, list[Frame]]] = []
    for frame in frames:
        plane = _require_plane(frame)
        matrix = (frame.file.rows, frame.file.columns, *(round(s, 4) for s in plane.spacing))
        direction = np.array([*plane.row, *plane.column])
        for other_matrix, other_direction, members in groups:
            if matrix == other_matrix and np.abs(direction - other_direction).max() <= _SAME_DIRECTION:
                members.append(frame)
                break
        else:
            groups.append((matrix, direction, [frame]))
    largest = max(groups, key=lambda group: len(group[2]))[2]
    stray = len(frames) - len(largest)
    if 2 * len(largest) <= len(frames):
        raise GeometryError(
            f"The series mixes {len(groups)} orientations, matrix or pixel sizes and none prevails; separate them and "
            "read one at a time."
        )
    if stray:
        notes.add(
            f"{stray} of {len(frames)} images have another orientation, matrix or pixel size than the rest "
            "(a localiser, a screenshot) and were left out."
        )
    return largest


def _require_plane(frame: Frame) -> Plane:
    plane = frame.plane
    if plane is None:
        raise GeometryError(
            "The DICOM images do not say where they lie in the patient (no Image Position and Orientation); export the "
            "original series, or read the images as a stack of pictures."
        )
    if not all(np.isfinite(s) and s > 0 for s in plane.spacing):
        raise GeometryError("The DICOM images have no valid pixel spacing; export the original series.")
    row, column = np.array(plane.row), np.array(plane.column)
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if not (np.allclose(lengths, 1, atol=0.01) and abs(row @ column) < 0.01 and np.isfinite(plane.position).all()):
        raise GeometryError("The DICOM images have an invalid position or orientation; export the original series.")
    return plane


def _step(planes: list[Plane], normal: Vectors, frame: Frame, notes: Notes) -> Vectors:
    """Vector in mm from one plane to the next."""
    positions = np.array([plane.position for plane in planes])
    if len(planes) == 1:
        thickness = frame.thickness
        if not thickness:
            notes.add("The single slice does not say how thick it is; 1 mm was taken.")
        return normal * (thickness or 1.0)
    heights = positions @ normal
    _require_even(np.diff(heights))
    step = (positions[-1] - positions[0]) / (len(planes) - 1)
    spacing = float(step @ normal)
    expected = positions[0] + np.arange(len(planes))[:, None] * step
    if np.linalg.norm(positions - expected, axis=1).max() > _UNEVEN * max(spacing, *planes[0].spacing):
        raise GeometryError("The slices of the series are shifted against each other irregularly; export it again.")
    drift = np.linalg.norm(positions[-1] - positions[0] - (heights[-1] - heights[0]) * normal)
    if drift <= _UNEVEN * min(planes[0].spacing):
        return normal * spacing  # rounding of the positions, not a tilt
    angle = float(np.degrees(np.arctan2(np.linalg.norm(step - spacing * normal), spacing)))
    if angle > _TILT_DEGREES:
        notes.add(
            f"The gantry was tilted by {angle:.1f} degrees: each slice is shifted against the next; the voxels are "
            "kept as they were measured, on a sheared grid."
        )
    return step


def _require_even(distances: Vectors) -> None:
    """Accept a regular grid; tell missing slices from irregular ones."""
    usual = float(np.median(distances))
    ideal = np.arange(1, len(distances) + 1) * distances.mean()
    if np.abs(np.cumsum(distances) - ideal).max() <= _UNEVEN * usual:
        return
    steps = np.round(distances / usual)
    if (steps >= 1).all() and np.abs(distances - steps * usual).max() <= _UNEVEN * usual:
        missing = int((steps - 1).sum())
        at = int(np.argmax(steps > 1)) + 1
        raise GeometryError(
            f"{missing} slice{'s are' if missing > 1 else ' is'} missing in the series, the first after slice {at} of "
            f"{len(distances) + 1} (spacing {usual:g} mm); copy or export the whole series again."
        )
    raise GeometryError(
        f"The slices of the series are unevenly spaced ({distances.min():.2f} to {distances.max():.2f} mm); export it "
        "as one evenly spaced series, or resample it first."
    )


def require_images(frames: Sequence[Frame]) -> None:
    """Refuse frames that hold no single grey value per pixel.

    Raises
    ------
    InputError
    """
    for frame in frames:
        if frame.file.samples != 1 or not frame.file.photometric.startswith("MONOCHROME"):
            raise InputError(
                "The DICOM series is in colour (a screenshot or a fused image), not one grey value per pixel; choose "
                "the original series."
            )
        if frame.file.rows < 1 or frame.file.columns < 1:
            raise InputError("The DICOM images have no rows or columns; export the series again.")
