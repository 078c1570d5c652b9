"""What lies under a path: every image, DICOM series, segmentation and stack of pictures, before any is read."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom

from LiverMarginLib.errors import InputError, LiverMarginError
from LiverMarginLib.events import OnEvent, ignore
from LiverMarginLib.io.detect import (
    PICTURES,
    FileFormat,
    expected_format,
    files_below,
    natural_key,
    readable,
    require_format,
    sniff,
)
from LiverMarginLib.io.dicom import place_series, sample_range
from LiverMarginLib.io.dicom_headers import DIRECTORY_CLASS, ObjectKind, Series, read_frames, scan
from LiverMarginLib.io.dicom_seg_reader import read_seg_header
from LiverMarginLib.io.images import read_image_array, read_image_header
from LiverMarginLib.io.intensities import value_range
from LiverMarginLib.io.label_readers import slicer_segments
from LiverMarginLib.io.notes import Notes
from LiverMarginLib.io.stacks import read_pictures
from LiverMarginLib.volume import Geometry, Modality


@dataclass(frozen=True)
class DicomSource:
    """A DICOM series, segmentation or other object."""

    series: Series


@dataclass(frozen=True)
class FileSource:
    """An image file with its own geometry."""

    path: Path
    format: FileFormat


@dataclass(frozen=True)
class StackSource:
    """Pictures of one format in one folder, or one picture file."""

    files: tuple[Path, ...]
    format: FileFormat


Source = DicomSource | FileSource | StackSource


@dataclass(frozen=True)
class ImageInfo:
    """One image under a path, described without patient identity.

    Parameters
    ----------
    key : str
        What ``--series`` takes to choose it.
    kind : str
        "DICOM series", "DICOM SEG", "NIfTI", "seg.nrrd", "PNG stack" and so on.
    path : Path
        The file, or the folder of a series or stack.
    files : int
        Number of files.
    modality : Modality, optional
        None where the file does not say.
    shape : tuple of int, optional
        Voxels along (k, j, i).
    spacing : tuple of float, optional
        Along (k, j, i) in mm; None where not known.
    orientation : str
        Directions in which i, j and k increase, such as "LPS"; the nearest ones of an oblique image.
    voxel_type : str
        Numpy name of the stored type.
    value_range : tuple of float, optional
        Lowest and highest value of the middle slice, as the file scales them.
    series_number : int, optional
        DICOM Series Number.
    segments : tuple of str
        Names of the segments of a segmentation.
    problem : str
        Why it cannot be read; empty if its header is in order.
    """

    key: str
    kind: str
    path: Path
    files: int = 1
    modality: Modality | None = None
    shape: tuple[int, int, int] | None = None
    spacing: tuple[float, float, float] | None = None
    orientation: str = ""
    voxel_type: str = ""
    value_range: tuple[float, float] | None = None
    series_number: int | None = None
    segments: tuple[str, ...] = ()
    problem: str = ""

    @property
    def summary(self) -> str:
        """One line to choose by, such as ``1: CT, 20 slices, 0.98 x 0.98 x 2.00 mm, series number 4``."""
        parts = [self.kind if self.modality in (None, Modality.UNKNOWN) else str(self.modality)]
        if self.files == 1 and not self.kind.startswith("DICOM"):
            parts.append(f"'{self.path.name}'")
        if self.shape is not None:
            parts.append(f"{self.shape[0]} slice{'s' if self.shape[0] > 1 else ''}")
        if self.spacing is not None:
            parts.append(" x ".join(f"{s:.2f}" for s in self.spacing[::-1]) + " mm")
        if self.series_number is not None:
            parts.append(f"series number {self.series_number}")
        if self.problem:
            parts.append("cannot be used as an image")
        return f"{self.key}: {', '.join(parts)}"


def discover(path: Path, on_event: OnEvent = ignore) -> list[Source]:
    """Find what lies under a path, in a stable order: DICOM by series number, then files and stacks by name.

    A DICOM file stands for its series in the same folder; a DICOMDIR for everything in its folder.

    Raises
    ------
    InputError
        If there is nothing, or the file that is named cannot be used.
    """
    with readable(path):
        is_folder = path.stat() is not None and path.is_dir()
    if is_folder:
        return _in_folder(path, on_event)
    file_format = require_format(path)
    if file_format is FileFormat.DICOM:
        return _around_dicom(path, on_event)
    return [StackSource((path,), file_format) if file_format in PICTURES else FileSource(path, file_format)]


def _in_folder(folder: Path, on_event: OnEvent) -> list[Source]:
    files = files_below(folder, on_event)
    if not files:
        raise InputError(f"The folder '{folder.name}' is empty; choose one with images.")
    dicom: list[Path] = []
    others: list[Source] = []
    stacks: dict[tuple[Path, FileFormat], list[Path]] = defaultdict(list)
    for path in files:
        file_format = _format_or_promise(path)
        if file_format is FileFormat.DICOM:
            dicom.append(path)
        elif file_format in PICTURES:
            stacks[path.parent, file_format].append(path)
        elif file_format is not None:
            others.append(FileSource(path, file_format))
    others += [StackSource(tuple(paths), file_format) for (_, file_format), paths in stacks.items()]
    others.sort(key=lambda source: natural_key(str(place_of(source))))
    found = [DicomSource(series) for series in scan(dicom, on_event)] + others
    if not found:
        raise InputError(
            f"The folder '{folder.name}' holds no image; DICOM, NIfTI, NRRD, MHA/MHD, PNG, JPG and TIFF can be read."
        )
    return found


def _format_or_promise(path: Path) -> FileFormat | None:
    """Format by content; a broken file counts as what its name says, so that it is not passed over in silence."""
    try:
        return sniff(path) or expected_format(path)
    except InputError:
        return expected_format(path)


def _around_dicom(path: Path, on_event: OnEvent) -> list[Source]:
    if _is_directory_object(path):
        return _in_folder(path.parent, on_event)
    file, _ = read_frames(path)
    if file.kind is not ObjectKind.IMAGE or file.frame_count > 1:
        return [DicomSource(series) for series in scan([path], on_event)]
    with readable(path.parent):
        siblings = [p for p in files_below(path.parent, on_event) if p.parent == path.parent]
    images = [p for p in siblings if p == path or _format_or_promise(p) is FileFormat.DICOM]
    return [DicomSource(s) for s in scan(images, on_event) if any(member.path == path for member in s.files)]


def _is_directory_object(path: Path) -> bool:
    with readable(path):
        try:
            meta = pydicom.filereader.read_file_meta_info(path)
            return bool(meta.get("MediaStorageSOPClassUID") == DIRECTORY_CLASS)
        # Whatever pydicom makes of damaged file meta information, now or when it is asked for a value, it is not
        # that of a DICOMDIR.
        except Exception:
            return False


def place_of(source: Source) -> Path:
    """The file, or the folder of a series or stack of several files."""
    match source:
        case FileSource(path=path):
            return path
        case DicomSource(series=series):
            paths: Sequence[Path] = [file.path for file in series.files]
        case StackSource(files=files):
            paths = files
    return paths[0] if len(paths) == 1 else paths[0].parent


def describe(source: Source, key: str, values: bool = False) -> ImageInfo:
    """Describe a source by its headers; with `values`, the middle slice is read as well."""
    try:
        match source:
            case DicomSource(series=series):
                return _describe_dicom(series, key, values)
            case FileSource(path=path, format=file_format):
                return _describe_file(path, file_format, key, values)
            case StackSource(files=files, format=file_format):
                return _describe_stack(files, file_format, key, values)
    except LiverMarginError as error:
        return _unusable(source, key, error.message)


def _unusable(source: Source, key: str, problem: str) -> ImageInfo:
    match source:
        case DicomSource(series=series):
            kinds = {
                ObjectKind.IMAGE: "DICOM series",
                ObjectKind.SEGMENTATION: "DICOM SEG",
                ObjectKind.OTHER: f"DICOM {series.modality or 'object'}",
            }
            return ImageInfo(
                key,
                kinds[series.kind],
                place_of(source),
                len(series.files),
                modality=_dicom_modality(series),
                series_number=series.number,
                problem=problem,
            )
        case StackSource(files=files):
            return ImageInfo(key, f"{source.format} stack", place_of(source), len(files), problem=problem)
        case FileSource():
            return ImageInfo(key, str(source.format), source.path, problem=problem)


def _dicom_modality(series: Series) -> Modality | None:
    if series.kind is not ObjectKind.IMAGE:
        return None
    return Modality(series.modality) if series.modality in ("CT", "MR") else Modality.UNKNOWN


def _describe_dicom(series: Series, key: str, values: bool) -> ImageInfo:
    source = DicomSource(series)
    if series.kind is ObjectKind.OTHER:
        return _unusable(source, key, "This DICOM object holds no image.")
    segments: tuple[str, ...] = ()
    found: tuple[float, float] | None = None
    if series.kind is ObjectKind.SEGMENTATION:
        header = read_seg_header(series)
        geometry, segments = header.geometry, tuple(segment.name for segment in header.segments)
    else:
        arrangement = place_series(series, Notes())
        geometry = arrangement.geometry
        if values:
            found = sample_range(arrangement.places[len(arrangement.places) // 2][0])
    return ImageInfo(
        key,
        "DICOM series" if series.kind is ObjectKind.IMAGE else "DICOM SEG",
        place_of(source),
        len(series.files),
        _dicom_modality(series),
        geometry.shape,
        geometry.spacing,
        orientation_code(geometry),
        series.files[0].dtype.name,
        found,
        series.number,
        segments,
    )


def _describe_file(path: Path, file_format: FileFormat, key: str, values: bool) -> ImageInfo:
    header = read_image_header(path, file_format, Notes())
    geometry = header.geometry
    found = None
    if values:
        middle = geometry.shape[0] // 2
        found = value_range(read_image_array(path, file_format, Notes(), slice(middle, middle + 1))[0])
    named = [segment for _, segment in slicer_segments(header.fields)] if header.is_segmentation else header.segments
    return ImageInfo(
        key,
        "seg.nrrd" if header.is_segmentation else str(file_format),
        path,
        shape=geometry.shape,
        spacing=geometry.spacing,
        orientation=orientation_code(geometry),
        voxel_type=header.voxel_type,
        value_range=found,
        segments=tuple(segment.name for segment in named),
        problem="It has several values per voxel." if header.layers > 1 and not header.is_segmentation else "",
    )


def _describe_stack(files: tuple[Path, ...], file_format: FileFormat, key: str, values: bool) -> ImageInfo:
    middle = sorted(files, key=lambda path: natural_key(path.name))[len(files) // 2]
    sample = read_pictures([middle], Notes())
    pages = sample.shape[0] if len(files) == 1 else len(files)
    return ImageInfo(
        key,
        f"{file_format} stack" if pages > 1 else str(file_format),
        place_of(StackSource(files, file_format)),
        len(files),
        shape=(pages, sample.shape[1], sample.shape[2]),
        voxel_type=sample.dtype.name,
        value_range=value_range(sample) if values else None,
    )


def orientation_code(geometry: Geometry) -> str:
    """Letters of the directions in which i, j and k increase, for example "LPS"."""
    letters = ("RL", "AP", "SI")
    code = ""
    for column in geometry.directions.T:
        axis = int(np.argmax(np.abs(column)))
        code += letters[axis][0 if column[axis] > 0 else 1]
    return code
