"""DICOM headers: which objects and series lie in a set of files, and where each of their frames lies.

Only the elements that place, scale and decode an image are looked at; patient, dates and descriptions are never read.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from LiverMarginLib.errors import InputError
from LiverMarginLib.events import OnEvent, Progress, ignore
from LiverMarginLib.io.detect import natural_key, readable
from LiverMarginLib.io.dicom_files import open_dicom

SEGMENTATION_CLASSES = frozenset({"1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7"})
DIRECTORY_CLASS = "1.2.840.10008.1.3.10"
_NOT_IMAGES = frozenset({"1.2.840.10008.5.1.4.1.1.481.2"})  # RT Dose has pixels, but they are dose
# How much larger than its file an image may claim to be, compressed (an even slice packs well) or plain.
_MOST_BYTES_PER_BYTE = {False: 10_000, True: 16}

_TAGS = [
    "SpecificCharacterSet",
    "SOPClassUID",
    "Modality",
    "ImageType",
    "BodyPartExamined",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SeriesNumber",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SliceThickness",
    "SpacingBetweenSlices",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "BitsAllocated",
    "BitsStored",
    "PixelRepresentation",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "RescaleSlope",
    "RescaleIntercept",
    "RescaleType",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
]


class ObjectKind(Enum):
    """What a DICOM object is to us."""

    IMAGE = auto()
    SEGMENTATION = auto()
    OTHER = auto()


@dataclass(frozen=True)
class Plane:
    """Where a frame lies, in DICOM's LPS millimetres.

    Parameters
    ----------
    position : tuple of float
        Centre of the first pixel (Image Position (Patient)).
    row, column : tuple of float
        Unit vectors along which the column index and the row index increase (Image Orientation (Patient)).
    spacing : tuple of float
        Between rows, between columns (Pixel Spacing).
    """

    position: tuple[float, ...]
    row: tuple[float, ...]
    column: tuple[float, ...]
    spacing: tuple[float, float]


@dataclass(frozen=True)
class DicomFile:
    """One DICOM object on disk: what its frames have in common.

    Parameters
    ----------
    native_offset : int, optional
        Byte at which uncompressed little-endian pixels start in the file; None if they are encoded otherwise.
    padding : tuple of int, optional
        Lowest and highest stored value of padding.
    study : str
        Study Instance UID.
    body_part : str
        Body Part Examined, in capitals; often missing and sometimes wrong.
    """

    path: Path
    kind: ObjectKind
    series: tuple[str, ...]
    series_number: int | None
    modality: str
    image_type: tuple[str, ...]
    transfer_syntax: UID
    rows: int
    columns: int
    frame_count: int
    samples: int
    photometric: str
    bits_allocated: int
    bits_stored: int
    signed: bool
    padding: tuple[int, int] | None
    rescale_type: str
    native_offset: int | None
    study: str = ""
    body_part: str = ""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the stored values."""
        return np.dtype(f"{'i' if self.signed else 'u'}{max(1, self.bits_allocated // 8)}")


@dataclass(frozen=True)
class Frame:
    """One image plane of a file.

    Parameters
    ----------
    file : DicomFile
    index : int
        Number of the frame in the file, from 0.
    plane : Plane, optional
        None where the header does not place it.
    slope, intercept : float, optional
        Rescale of the stored values; None where the header has none.
    thickness : float, optional
        Distance to the next plane as the header says it, in mm; only needed for single slices and sparse SEG.
    """

    file: DicomFile
    index: int
    plane: Plane | None
    slope: float | None
    intercept: float | None
    thickness: float | None


@dataclass(frozen=True)
class Series:
    """Objects of one kind that share a Series Instance UID.

    Parameters
    ----------
    damaged : int
        DICOM files among those looked at that could not be read, in the folders of this series.
    """

    kind: ObjectKind
    uid: str
    number: int | None
    modality: str
    files: tuple[DicomFile, ...]
    frames: tuple[Frame, ...]
    damaged: int = 0


def scan(paths: Sequence[Path], on_event: OnEvent = ignore) -> list[Series]:
    """Read the headers of DICOM files and group them by series.

    Parameters
    ----------
    paths : sequence of Path
        Files that look like DICOM by content or name.
    on_event : callable

    Returns
    -------
    list of Series
        In the order of series numbers; segmentations and other objects each in groups of their own. A file without
        Series Instance UID (de-identified) belongs with those in its folder that have the same series number.
    """
    groups: dict[tuple[Any, ...], tuple[list[DicomFile], list[Frame]]] = {}
    damaged: dict[Path, int] = {}
    for done, path in enumerate(paths, 1):
        try:
            file, frames = read_frames(path)
        except InputError:
            damaged[path.parent] = damaged.get(path.parent, 0) + 1
        else:
            # Each segmentation is a result of its own, even where its maker gave several one series UID.
            own = (str(path),) if file.kind is ObjectKind.SEGMENTATION else ()
            files, all_frames = groups.setdefault((file.kind, file.series, file.modality, own), ([], []))
            files.append(file)
            all_frames += frames
        on_event(Progress(done, len(paths), "read headers"))
    if paths and not groups:
        raise InputError("None of the DICOM files can be read; they are damaged, so copy or export them again.")
    series = [
        Series(
            kind=kind,
            uid=identity[0],
            number=files[0].series_number,
            modality=modality,
            files=tuple(files),
            frames=tuple(frames),
            damaged=sum(damaged.get(folder, 0) for folder in {file.path.parent for file in files}),
        )
        for (kind, identity, modality, _), (files, frames) in groups.items()
    ]
    big = 1 << 31
    return sorted(
        series,
        key=lambda s: (
            s.number if s.number is not None else big,
            s.kind.value,
            s.uid,
            natural_key(str(s.files[0].path)),
        ),
    )


def read_frames(path: Path) -> tuple[DicomFile, list[Frame]]:
    """Read the header of one DICOM file.

    Raises
    ------
    InputError
        If it is not DICOM, or is an image whose header is damaged.
    """
    with readable(path), open_dicom(path) as stream:
        try:
            dataset = pydicom.dcmread(stream, force=True, stop_before_pixels=True, specific_tags=_TAGS)
            file = _describe(path, dataset, *_pixel_element(stream, dataset))
            frames = list(_frames(dataset, file)) if file.kind is not ObjectKind.OTHER else []
        except InputError:
            raise
        # pydicom raises a dozen unrelated types on damaged values; each means that the header cannot be used.
        except Exception as error:
            raise InputError(
                "A DICOM file has a damaged header; copy or export the series again.", type(error).__name__
            ) from error
    return file, frames


def _pixel_element(stream: Any, dataset: pydicom.Dataset) -> tuple[bool, int | None]:
    """Whether Pixel Data follow, and where they start if they are plain little-endian numbers."""
    syntax = getattr(getattr(dataset, "file_meta", None), "TransferSyntaxUID", ImplicitVRLittleEndian)
    if syntax == "1.2.840.10008.1.2.1.99":
        return True, None  # deflated: the stream's position says nothing about the inflated elements
    big = syntax == "1.2.840.10008.1.2.2"
    start = stream.tell()
    head = stream.read(12)
    if head[:4] != (b"\x7f\xe0\x00\x10" if big else b"\xe0\x7f\x10\x00"):
        return False, None
    if syntax == ExplicitVRLittleEndian:
        return True, start + 12
    if syntax == ImplicitVRLittleEndian:
        length = struct.unpack("<I", head[4:8])[0]
        return True, None if length == 0xFFFFFFFF else start + 8
    return True, None


def _describe(path: Path, dataset: pydicom.Dataset, has_pixels: bool, native_offset: int | None) -> DicomFile:
    meta = getattr(dataset, "file_meta", pydicom.Dataset())
    sop_class = UID(str(dataset.get("SOPClassUID") or meta.get("MediaStorageSOPClassUID") or ""))
    if not sop_class and "Rows" not in dataset:
        raise InputError("A DICOM file has no header that can be used; copy or export the series again.")
    if not has_pixels and "Image Storage" in sop_class.name:
        raise InputError("A DICOM image ends before its pixels; copy or export the series again.")
    if sop_class in SEGMENTATION_CLASSES:
        kind = ObjectKind.SEGMENTATION
    elif has_pixels and sop_class not in _NOT_IMAGES:
        kind = ObjectKind.IMAGE
    else:
        kind = ObjectKind.OTHER
    frame_count = int(dataset.get("NumberOfFrames") or 1)
    if frame_count < 1:
        raise InputError("A DICOM image announces no frames; export the series again.")
    bits_allocated = int(dataset.get("BitsAllocated") or 16)
    if kind is not ObjectKind.OTHER and bits_allocated not in (1, 8, 16, 32):
        raise InputError("A DICOM image has an unusual number of bits per pixel; export the series with 16 bits.")
    rows, columns = int(dataset.get("Rows") or 0), int(dataset.get("Columns") or 0)
    samples = int(dataset.get("SamplesPerPixel") or 1)
    announced = rows * columns * samples * frame_count * bits_allocated // 8
    most = _MOST_BYTES_PER_BYTE[native_offset is not None]
    if kind is not ObjectKind.OTHER and not 0 <= announced <= most * path.stat().st_size:
        raise InputError("A DICOM image announces far more pixels than it holds; copy or export the series again.")
    uid = str(dataset.get("SeriesInstanceUID") or "")
    number = dataset.get("SeriesNumber")
    identity = (uid,) if uid else ("", str(path.parent), str(dataset.get("StudyInstanceUID") or ""), str(number))
    low = dataset.get("PixelPaddingValue")
    high = dataset.get("PixelPaddingRangeLimit", low)
    return DicomFile(
        path=path,
        kind=kind,
        series=identity,
        series_number=None if number in (None, "") else int(number),
        modality=str(dataset.get("Modality") or ""),
        image_type=tuple(str(part).upper() for part in dataset.get("ImageType") or ()),
        transfer_syntax=UID(str(meta.get("TransferSyntaxUID", ImplicitVRLittleEndian))),
        rows=rows,
        columns=columns,
        frame_count=frame_count,
        samples=samples,
        photometric=str(dataset.get("PhotometricInterpretation") or "MONOCHROME2"),
        bits_allocated=bits_allocated,
        bits_stored=int(dataset.get("BitsStored") or dataset.get("BitsAllocated") or 16),
        signed=bool(dataset.get("PixelRepresentation") or 0),
        padding=None if low is None else (min(int(low), int(high)), max(int(low), int(high))),
        rescale_type=str(dataset.get("RescaleType") or ""),
        native_offset=native_offset,
        study=str(dataset.get("StudyInstanceUID") or ""),
        body_part=str(dataset.get("BodyPartExamined") or "").strip().upper(),
    )


def _frames(dataset: pydicom.Dataset, file: DicomFile) -> Iterable[Frame]:
    shared = _first(dataset.get("SharedFunctionalGroupsSequence"))
    per_frame = dataset.get("PerFrameFunctionalGroupsSequence")
    if not per_frame:
        # One position cannot serve several frames: they stay unplaced, and one stands for all of them.
        yield _frame(file, 0, [dataset, shared] if file.frame_count == 1 else [])
        return
    if len(per_frame) != file.frame_count:
        raise InputError("A multi-frame DICOM header does not describe all of its frames; export the image again.")
    for index, groups in enumerate(per_frame):
        yield _frame(file, index, [groups, shared, dataset])


def _frame(file: DicomFile, index: int, sources: list[pydicom.Dataset]) -> Frame:
    def value(keyword: str, sequence: str) -> Any:
        for source in sources:
            found = _first(source.get(sequence)).get(keyword)
            if found is None or found == "":
                found = source.get(keyword)
            if found is not None and found != "":
                return found
        return None

    position = value("ImagePositionPatient", "PlanePositionSequence")
    orientation = value("ImageOrientationPatient", "PlaneOrientationSequence")
    spacing = value("PixelSpacing", "PixelMeasuresSequence")
    between = value("SpacingBetweenSlices", "PixelMeasuresSequence")
    thickness = between or value("SliceThickness", "PixelMeasuresSequence")
    slope = value("RescaleSlope", "PixelValueTransformationSequence")
    intercept = value("RescaleIntercept", "PixelValueTransformationSequence")
    plane = None
    if position is not None and orientation is not None and len(position) == 3 and len(orientation) == 6:
        cosines = tuple(float(c) for c in orientation)
        pixel = tuple(float(s) for s in spacing) if spacing is not None else (float("nan"), float("nan"))
        plane = Plane(tuple(float(p) for p in position), cosines[:3], cosines[3:], (pixel[0], pixel[-1]))
    return Frame(
        file=file,
        index=index,
        plane=plane,
        slope=None if slope is None else float(slope),
        intercept=None if intercept is None else float(intercept),
        thickness=None if thickness is None else abs(float(thickness)),
    )


def _first(sequence: Any) -> pydicom.Dataset:
    return sequence[0] if sequence else pydicom.Dataset()
