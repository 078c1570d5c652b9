"""DICOM Segmentation objects (BINARY, FRACTIONAL, LABELMAP) as label maps; DICOM PS3.3 A.51 and C.8.20."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.pixels import iter_pixels
from vtkmodules.vtkCommonCore import vtkMath  # Slicer has it, and not scikit-image

from LiverMarginLib.errors import GeometryError, InputError, LiverMarginError, technical
from LiverMarginLib.events import OnEvent, Progress, ignore
from LiverMarginLib.io.detect import readable
from LiverMarginLib.io.dicom_files import read_dicom
from LiverMarginLib.io.dicom_geometry import grid, normal_of
from LiverMarginLib.io.dicom_headers import DicomFile, Frame, Plane, Series
from LiverMarginLib.io.dicom_pixels import pixel_source
from LiverMarginLib.io.label_readers import UNNAMED_COLOUR
from LiverMarginLib.io.limits import check_memory
from LiverMarginLib.io.notes import Notes
from LiverMarginLib.terminology import Code, Segment, Terminology
from LiverMarginLib.volume import Geometry, LabelMap

# Planes without a frame are empty: a few distant frames must not stand for a volume that fills the memory.
_MOST_PLANES = 4096
_MOST_PLANES_PER_FRAME = 64

_TAGS = [
    "SpecificCharacterSet",
    "SegmentationType",
    "SegmentSequence",
    "MaximumFractionalValue",
    "PerFrameFunctionalGroupsSequence",
    "SharedFunctionalGroupsSequence",
]


@dataclass(frozen=True)
class SegHeader:
    """What a segmentation object says before its pixels are read.

    Parameters
    ----------
    geometry : Geometry
        The grid of all its planes, those without a frame between them included.
    places : tuple of int
        k of each frame, in the file's order.
    segment_of_frame : tuple of int or None
        Segment Number of each frame; None in a LABELMAP, whose pixels are the numbers.
    kind : str
        Segmentation Type.
    maximum : int
        Stored value that stands for 1.0 in a FRACTIONAL one.
    """

    geometry: Geometry
    places: tuple[int, ...]
    segment_of_frame: tuple[int | None, ...]
    segments: tuple[Segment, ...]
    kind: str
    maximum: int


def read_seg_header(series: Series) -> SegHeader:
    """Place the frames of a DICOM SEG and name its segments.

    Raises
    ------
    InputError
        If it is damaged, or its planes do not form one regular grid.
    """
    file = series.files[0]
    with readable(file.path):
        dataset = read_dicom(file.path, force=True, stop_before_pixels=True, specific_tags=_TAGS)
    try:
        return _parse(series, dataset)
    except LiverMarginError:
        raise
    # pydicom raises a dozen unrelated types on damaged values; each means that the header cannot be used.
    except Exception as error:
        raise InputError(
            "The DICOM segmentation has a damaged header; copy or export it again.", type(error).__name__
        ) from error


def _parse(series: Series, dataset: pydicom.Dataset) -> SegHeader:
    file = series.files[0]
    kind = str(dataset.get("SegmentationType") or "")
    if kind not in ("BINARY", "FRACTIONAL", "LABELMAP") or not dataset.get("SegmentSequence"):
        raise InputError("The DICOM segmentation has no segments or an unknown type; export it again.")
    geometry, places = _place(series.frames)
    return SegHeader(
        geometry=geometry,
        places=places,
        segment_of_frame=tuple(_segment_numbers(dataset, file.frame_count, kind)),
        segments=tuple(_segment(item) for item in dataset.SegmentSequence if int(item.get("SegmentNumber") or 0) > 0),
        kind=kind,
        maximum=int(dataset.get("MaximumFractionalValue") or 1),
    )


def read_seg(series: Series, notes: Notes, on_event: OnEvent = ignore) -> LabelMap:
    """Read a DICOM SEG; where segments overlap, the later one in the object is kept, and said.

    Raises
    ------
    InputError
        If it is damaged, or its planes do not form one regular grid.
    """
    header = read_seg_header(series)
    file = series.files[0]
    # Labels can only be the declared numbers, except in a LABELMAP, whose stored type bounds them.
    highest = max((segment.label for segment in header.segments), default=0)
    bits = 16 if highest > 255 or (header.kind == "LABELMAP" and file.bits_allocated > 8) else 8
    dtype = np.dtype(f"u{bits // 8}")
    check_memory(header.geometry.shape, dtype.itemsize)
    labels = np.zeros(header.geometry.shape, dtype)
    rank = {segment.label: n for n, segment in enumerate(header.segments)}
    # Later segments win: frames are painted in the order of the segments, whatever their order in the file.
    order = sorted(range(file.frame_count), key=lambda n: rank.get(header.segment_of_frame[n] or 0, -1))
    overlapping = 0
    for done, (n, pixels) in enumerate(zip(order, _pixels(file, order), strict=True), 1):
        target, number = labels[header.places[n]], header.segment_of_frame[n]
        inside = 2 * pixels.astype(np.uint16) >= header.maximum if header.kind == "FRACTIONAL" else pixels != 0
        overlapping += int(np.count_nonzero(inside & (target != 0)))
        target[inside] = pixels[inside] if number is None else number
        on_event(Progress(done, file.frame_count, "read"))
    if header.kind == "FRACTIONAL":
        notes.add("The DICOM segmentation is fractional; voxels of at least 0.5 were taken as inside.")
    if overlapping:
        notes.add(f"{overlapping} voxels belong to several segments; the last of them was kept.")
    return LabelMap(labels, header.geometry, header.segments, {"format": "DICOM SEG", "notes": list(notes.sentences)})


def _pixels(file: DicomFile, order: Sequence[int]) -> Iterable[npt.NDArray[Any]]:
    try:
        yield from iter_pixels(pixel_source(file), indices=list(order), raw=True)
    # Decoders raise whatever their libraries do; each means that the object cannot be used.
    except Exception as error:
        raise InputError(
            "The frames of the DICOM segmentation cannot be decoded; it is truncated or damaged, so export it again.",
            technical(error),
        ) from error


def _place(frames: Sequence[Frame]) -> tuple[Geometry, tuple[int, ...]]:
    planes = [frame.plane for frame in frames if frame.plane is not None]
    if not frames or len(planes) != len(frames):
        raise GeometryError("The frames of the DICOM segmentation do not say where they lie; export it again.")
    first = planes[0]
    if any(
        not np.allclose([*p.row, *p.column, *p.spacing], [*first.row, *first.column, *first.spacing], atol=1e-3)
        for p in planes
    ):
        raise GeometryError(
            "The frames of the DICOM segmentation have several orientations or spacings; export it again."
        )
    normal = normal_of(first)
    positions = np.array([plane.position for plane in planes])
    heights = positions @ normal
    origin = int(np.argmin(heights))
    top = int(np.argmax(heights))
    spacing = _plane_spacing(np.unique(np.round(heights, 2)), frames[0].thickness)
    indices = (heights - heights[origin]) / spacing
    if indices.max() > max(_MOST_PLANES, _MOST_PLANES_PER_FRAME * len(frames)):
        raise GeometryError("The frames of the DICOM segmentation lie absurdly far apart; export it again.")
    places = np.round(indices).astype(int)
    # A tilted gantry shifts the planes: the step follows the frames, not the normal.
    step = (positions[top] - positions[origin]) / places[top] if places[top] else normal * spacing
    misplaced = np.linalg.norm(positions - positions[origin] - places[:, None] * step, axis=1).max()
    if misplaced > 0.1 * max(spacing, *first.spacing):
        raise GeometryError("The planes of the DICOM segmentation are unevenly spaced or shifted; export it again.")
    shape = (int(places.max()) + 1, frames[0].file.rows, frames[0].file.columns)
    return grid(_at(first, positions[origin]), step, shape), tuple(int(k) for k in places)


def _at(plane: Plane, position: npt.NDArray[np.float64]) -> Plane:
    return Plane(tuple(float(p) for p in position), plane.row, plane.column, plane.spacing)


def _plane_spacing(heights: npt.NDArray[np.float64], stated: float | None) -> float:
    """Distance between planes in mm; planes without a frame leave gaps of whole multiples of it."""
    if len(heights) == 1:
        return stated or 1.0
    nearest = float(np.diff(heights).min())
    if stated:
        ratio = nearest / stated
        # The stated spacing may be the slice thickness of overlapping slices: believe it only where planes fit it.
        if ratio > 0.9 and abs(ratio - round(ratio)) < 0.1:
            return nearest / round(ratio)
    return nearest


def _segment_numbers(dataset: pydicom.Dataset, frame_count: int, kind: str) -> Iterable[int | None]:
    if kind == "LABELMAP":
        return [None] * frame_count
    shared = dataset.get("SharedFunctionalGroupsSequence") or [pydicom.Dataset()]
    numbers = []
    for groups in dataset.get("PerFrameFunctionalGroupsSequence") or []:
        found = groups.get("SegmentIdentificationSequence") or shared[0].get("SegmentIdentificationSequence")
        if not found:
            raise InputError("A frame of the DICOM segmentation does not say its segment; export it again.")
        numbers.append(int(found[0].ReferencedSegmentNumber))
    return numbers


def _segment(item: pydicom.Dataset) -> Segment:
    category = _code(item.get("SegmentedPropertyCategoryCodeSequence"))
    type_ = _code(item.get("SegmentedPropertyTypeCodeSequence"))
    region = _code(item.get("AnatomicRegionSequence"))
    return Segment(
        int(item.SegmentNumber),
        str(item.get("SegmentLabel") or (type_.meaning if type_ else f"Segment {item.SegmentNumber}")),
        _colour(item.get("RecommendedDisplayCIELabValue")),
        Terminology(category, type_, region) if category and type_ else None,
    )


def _code(sequence: Any) -> Code | None:
    if not sequence:
        return None
    item = sequence[0]
    value = item.get("CodeValue") or item.get("LongCodeValue") or item.get("URNCodeValue")
    return Code(str(value), str(item.get("CodeMeaning") or ""), str(item.get("CodingSchemeDesignator") or ""))


def _colour(stored: Any) -> tuple[int, int, int]:
    """From DICOM's scaled CIELab (PS3.3 C.10.7.1.1) to sRGB."""
    if stored is None or len(stored) != 3:
        return UNNAMED_COLOUR
    lightness, a, b = (float(v) for v in stored)
    lab = (lightness * 100 / 65535, a * 255 / 65535 - 128, b * 255 / 65535 - 128)
    srgb = [0.0, 0.0, 0.0]
    vtkMath.LabToRGB(lab, srgb)
    red, green, blue = (round(255 * min(1.0, max(0.0, c))) for c in srgb)
    return red, green, blue
