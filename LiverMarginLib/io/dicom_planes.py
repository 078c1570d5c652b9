"""The planes of a DICOM series in patient space, and how a label map of any axis order falls onto them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import SegmentationStorage

from LiverMarginLib.errors import InputError
from LiverMarginLib.io.detect import files_below
from LiverMarginLib.io.dicom_files import read_dicom
from LiverMarginLib.volume import FloatMatrix, Geometry

# Pixels must coincide as `Geometry.agrees_with` has it. Slices may be less regular than an affine grid says, and the
# nearest one is beyond doubt up to half a slice.
_IN_PLANE_TOLERANCE = 0.1
_THROUGH_PLANE_TOLERANCE = 0.25

_SAME_ORIENTATION = 1e-3  # mm per pixel step
_SAME_POSITION = 1e-3  # mm


@dataclass(frozen=True, eq=False)
class SourceSeries:
    """One series: its headers, and the place of every plane.

    Parameters
    ----------
    headers : list of Dataset
        Without pixels; single-frame headers in the order of `planes`, or one multi-frame header.
    planes : ndarray of float64, shape (n, 3, 3)
        For each plane the LPS vectors, as columns, of one step along a row, one step along a column, and of the first
        pixel's centre, in mm.
    """

    headers: list[Dataset]
    planes: FloatMatrix

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns."""
        return int(self.headers[0].Rows), int(self.headers[0].Columns)

    @cached_property
    def _distances(self) -> FloatMatrix:
        return np.diff(np.sort(self.planes[:, :, 2] @ _normal(self.planes[0])))

    @property
    def slice_distance(self) -> float | None:
        """Median distance in mm between neighbouring planes; None for a single plane."""
        return float(np.median(self._distances)) if self._distances.size else None

    @property
    def has_planes_twice(self) -> bool:
        """Whether two planes lie at the same position, as phases or repetitions in one series do."""
        return bool((self._distances < _SAME_POSITION).any())


@dataclass(frozen=True, eq=False)
class Placement:
    """Where each pixel of a series lies in a label map's array.

    Parameters
    ----------
    series : SourceSeries
    axes : tuple of int
        Array axes that run across the planes, down their columns and along their rows.
    steps : tuple of int
        +1 or -1: whether column and row run with or against those axes.
    origins : ndarray of int, shape (n, 3)
        For each plane the index of its first pixel along `axes`.
    """

    series: SourceSeries
    axes: tuple[int, int, int]
    steps: tuple[int, int]
    origins: npt.NDArray[np.int64]

    def frames(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Take the series' planes out of `array`; pixels outside it are 0.

        Parameters
        ----------
        array : ndarray, shape (k, j, i)

        Returns
        -------
        ndarray, shape (n, rows, columns)
        """
        turned = np.transpose(array, self.axes)
        frames = np.zeros((len(self.origins), *self.series.size), dtype=array.dtype)
        for frame, origin in zip(frames, self.origins, strict=True):
            if not 0 <= origin[0] < turned.shape[0]:
                continue
            indices = self._pixel_indices(origin)
            inside = [(index >= 0) & (index < size) for index, size in zip(indices, turned.shape[1:], strict=True)]
            found = [index[mask] for index, mask in zip(indices, inside, strict=True)]
            frame[np.ix_(*inside)] = turned[origin[0]][np.ix_(*found)]
        return frames

    def meets(self, shape: tuple[int, int, int]) -> bool:
        """Whether any pixel of the series lies in an array of this shape (k, j, i)."""
        depth, height, width = (shape[axis] for axis in self.axes)
        across = self.origins[:, 0]
        within = self.origins[(across >= 0) & (across < depth)]
        return any(
            all(
                ((index >= 0) & (index < size)).any()
                for index, size in zip(self._pixel_indices(origin), (height, width), strict=True)
            )
            for origin in within
        )

    def _pixel_indices(self, origin: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
        return [origin[n + 1] + self.steps[n] * np.arange(size) for n, size in enumerate(self.series.size)]


def place_on_series(series: SourceSeries, geometry: Geometry) -> Placement | None:
    """Find how the pixels of `series` fall onto the voxels of a label map.

    Parameters
    ----------
    series : SourceSeries
    geometry : Geometry
        Of the label map.

    Returns
    -------
    Placement or None
        None if the two grids do not coincide or have no voxel in common.
    """
    ijk_from_lps = np.linalg.inv(np.diag((-1.0, -1.0, 1.0, 1.0)) @ geometry.ijk_to_ras)
    # Per plane, in array order (k, j, i): columns are the row step, the column step and the first pixel.
    index = (ijk_from_lps[:3, :3] @ series.planes)[:, ::-1]
    index[:, :, 2] += ijk_from_lps[:3, 3][::-1]

    steps = np.rint(index[0, :, :2]).astype(int)
    if not (np.abs(steps).sum(axis=0) == 1).all() or np.abs(steps).sum(axis=1).max() != 1:
        return None
    row_axis, column_axis = (int(axis) for axis in np.abs(steps).argmax(axis=0))
    axes = (3 - row_axis - column_axis, column_axis, row_axis)

    rows, columns = series.size
    corners = np.array([(column, row, 1) for column in (0, columns - 1) for row in (0, rows - 1)]).T
    nearest = np.rint(index[:, :, 2]).astype(np.int64)
    whole = np.concatenate([np.broadcast_to(steps, (len(index), 3, 2)), nearest[:, :, None]], axis=2)
    deviation = np.abs((index - whole) @ corners).max(axis=(0, 2))
    tolerance = np.full(3, _IN_PLANE_TOLERANCE)
    tolerance[axes[0]] = _THROUGH_PLANE_TOLERANCE
    if (deviation > tolerance).any():
        return None
    placement = Placement(series, axes, (int(steps[column_axis, 1]), int(steps[row_axis, 0])), nearest[:, list(axes)])
    return placement if placement.meets(geometry.shape) else None


def read_source_series(source: Path | Sequence[Path]) -> list[SourceSeries]:
    """Read the headers of every image series with known plane positions.

    Parameters
    ----------
    source : Path or sequence of Path
        A folder (with its subfolders), a file, or several of them.

    Returns
    -------
    list of SourceSeries
        At least one.

    Raises
    ------
    InputError
        If there is none.
    """
    given = [Path(source)] if isinstance(source, str | Path) else [Path(one) for one in source]
    grouped: dict[tuple[Any, ...], dict[str, Dataset]] = defaultdict(dict)
    for file in _files(given):
        header = _header(file)
        if header is not None:
            uid = str(header.SOPInstanceUID)
            alone = uid if "NumberOfFrames" in header else ""
            key = (str(header.get("SeriesInstanceUID", "")), alone, int(header.Rows), int(header.Columns))
            grouped[key].setdefault(uid, header)
    if not grouped:
        raise InputError(
            "No DICOM images with a position in the patient were found as the source of the DICOM SEG; give the "
            "folder of the series that was segmented."
        )
    return [_series(part) for headers in grouped.values() for part in _parallel(list(headers.values()))]


def _files(given: Iterable[Path]) -> list[Path]:
    files: list[Path] = []
    for path in given:
        if not path.exists():
            raise InputError("The folder or file given as the source of the DICOM SEG does not exist; check its path.")
        files += files_below(path) if path.is_dir() else [path]
    return files


def _header(file: Path) -> Dataset | None:
    """Return the header of an image with plane positions, None for every other file."""
    try:
        header = read_dicom(file, stop_before_pixels=True)
        for keyword in ("SOPClassUID", "SOPInstanceUID"):
            # Some de-identifiers empty these in the data set but leave their copies in the file's preamble.
            if not header.get(keyword):
                setattr(header, keyword, header.file_meta[f"MediaStorage{keyword}"].value)
        if header.SOPClassUID == SegmentationStorage or not header.get("FrameOfReferenceUID"):
            return None
        _planes(header)
    except (InvalidDicomError, OSError, EOFError, AttributeError, KeyError, IndexError, TypeError, ValueError):
        return None
    return header


def _parallel(headers: list[Dataset]) -> list[list[Dataset]]:
    """Part a series by orientation: some scanners store the scout among the slices."""
    parts: list[list[Dataset]] = []
    for header in headers:
        orientation = _planes(header)[0, :, :2]
        for part in parts:
            if np.allclose(_planes(part[0])[0, :, :2], orientation, atol=_SAME_ORIENTATION):
                part.append(header)
                break
        else:
            parts.append([header])
    return parts


def _series(headers: list[Dataset]) -> SourceSeries:
    planes = np.concatenate([_planes(header) for header in headers])
    if len(headers) == 1:  # the frames of a multi-frame image keep their order
        return SourceSeries(headers, planes)
    order = np.argsort(planes[:, :, 2] @ _normal(planes[0]), kind="stable")
    return SourceSeries([headers[n] for n in order], planes[order])


def _planes(header: Dataset) -> FloatMatrix:
    """Row step, column step and origin of each frame as columns, shape (n, 3, 3), LPS mm."""
    if "PerFrameFunctionalGroupsSequence" not in header:
        return _plane(header.ImageOrientationPatient, header.PixelSpacing, header.ImagePositionPatient)[None]
    shared = header.SharedFunctionalGroupsSequence[0]
    planes = []
    for frame in header.PerFrameFunctionalGroupsSequence:
        orientation, measures, position = (
            (frame if keyword in frame else shared)[keyword][0]
            for keyword in ("PlaneOrientationSequence", "PixelMeasuresSequence", "PlanePositionSequence")
        )
        planes.append(_plane(orientation.ImageOrientationPatient, measures.PixelSpacing, position.ImagePositionPatient))
    return np.stack(planes)


def _plane(orientation: Sequence[float], spacing: Sequence[float], position: Sequence[float]) -> FloatMatrix:
    along_row, along_column = np.array(orientation, dtype=float).reshape(2, 3)
    between_rows, between_columns = (float(value) for value in spacing)
    plane = np.stack(
        [along_row * between_columns, along_column * between_rows, np.array(position, dtype=float)], axis=1
    )
    if not np.isfinite(plane).all() or not plane[:, :2].any(axis=0).all():
        raise ValueError("no usable plane")
    return plane


def _normal(plane: FloatMatrix) -> FloatMatrix:
    normal = np.cross(plane[:, 0], plane[:, 1])
    return normal / np.linalg.norm(normal)
