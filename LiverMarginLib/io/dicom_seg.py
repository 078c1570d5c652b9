"""DICOM Segmentation objects that refer, frame by frame, to the series that was segmented.

A DICOM SEG keeps the references that the standard requires: it belongs to the same patient and study as its source,
so the Patient and Study modules (name, identifiers, dates, accession number) are copied from the source's headers.
De-identify the source first if the result is to leave the clinic.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path

import highdicom as hd
import numpy as np
import numpy.typing as npt
from pydicom.datadict import keyword_for_tag
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code as DicomCode
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from LiverMarginLib import __version__
from LiverMarginLib.errors import GeometryError, InputError
from LiverMarginLib.io.atomic import atomic_path
from LiverMarginLib.io.dicom_planes import SourceSeries, place_on_series, read_source_series
from LiverMarginLib.io.segment_table import TableRow, algorithm, provenance_text, segment_table, stored_labels
from LiverMarginLib.terminology import Code
from LiverMarginLib.volume import Geometry, LabelMap

# What 3D Slicer and dcmqi write where nothing more is known.
_TISSUE = Code("85756007", "Tissue")

_LONG_STRING = 64
_log = logging.getLogger(__name__)
logging.getLogger("highdicom").setLevel(logging.WARNING)  # below, it names the images of the source by their UIDs
_SERIES_NUMBER = 300

_MUST_NOT_BE_EMPTY = ("StudyInstanceUID", "SeriesInstanceUID")

# Type 2 in the standard (required, may be empty), yet often missing after anonymisation.
_MAY_BE_EMPTY = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
)

# What a DICOM SEG takes over of the source's Patient, General Study and Patient Study modules (docs/formats.md).
_KEPT = {
    *_MUST_NOT_BE_EMPTY,
    *_MAY_BE_EMPTY,
    "ReferringPhysicianName",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
}
# Of the groups that describe people, visits and requests, nothing else; what tells image from image is needed.
_PERSONAL_GROUPS = (0x0008, 0x0010, 0x0012, 0x0032, 0x0038, 0x0040, 0x4008)
_OF_THE_IMAGE = {"SpecificCharacterSet", "ImageType", "SOPClassUID", "SOPInstanceUID", "Modality"}


def write_dicom_seg(labels: LabelMap, path: Path, source: Path | Sequence[Path], *, overwrite: bool = True) -> None:
    """Write a DICOM SEG (type BINARY) on the planes of the series that was segmented.

    The labels are put onto the source's own planes in patient space, voxel by voxel and without interpolation,
    whatever the label map's axis order and flips; it may also cover less than the series. Empty frames are left out
    (all are kept if nothing is labelled), and every instance of the series is listed in the Referenced Series
    Sequence. BINARY is chosen over the newer LABELMAP because every reader knows it.

    Parameters
    ----------
    labels : LabelMap
        At least one segment, described or present. Label values become segment numbers 1, 2, ... in their order.
    path : Path
    source : Path or sequence of Path
        Folder (searched with its subfolders) or files of the segmented series, single-frame or multi-frame. If there
        are several series, the one whose planes carry the labels is taken.
    overwrite : bool

    Raises
    ------
    InputError
        If `source` holds no usable series, or several that fit; if there is no segment; if required header fields
        of the source are missing.
    GeometryError
        If the labels do not lie on the planes and pixels of a series of `source`.
    ResourceError
        See `atomic_path`.
    """
    stored = stored_labels(labels)
    table = segment_table(labels, stored)
    if not table:
        raise InputError("The label map has no segment and no labelled voxel; there is nothing to write as DICOM SEG.")
    numbers = np.zeros(max(row.segment.label for row in table) + 1, dtype=np.uint16)
    for number, row in enumerate(table, start=1):
        numbers[row.segment.label] = number
    series, frames = _on_matching_series(read_source_series(source), numbers[stored], labels.geometry)
    dataset = _segmentation(series, frames, table, labels)
    with atomic_path(path, overwrite=overwrite) as temporary:
        dataset.save_as(temporary, enforce_file_format=True)


def _on_matching_series(
    candidates: Sequence[SourceSeries], array: npt.NDArray[np.uint16], geometry: Geometry
) -> tuple[SourceSeries, npt.NDArray[np.uint16]]:
    """Return the one series whose pixels carry every labelled voxel, and `array` on its planes."""
    fitting = []
    for series in candidates:
        placement = place_on_series(series, geometry)
        if placement is None:
            continue
        frames = placement.frames(array)
        if series.has_planes_twice:
            raise InputError(
                "The DICOM series has several images at the same position; give only the files that were segmented."
            )
        if np.count_nonzero(frames) == np.count_nonzero(array):
            fitting.append((series, frames))
    if not fitting:
        raise GeometryError(
            "The segmentation does not lie on the pixels of the DICOM series; give the series that was segmented, "
            "or resample the segmentation to it first."
        )
    if len(fitting) > 1:
        raise InputError(
            f"{len(fitting)} of the DICOM series found fit the segmentation; give the folder or files of the one that "
            "was segmented."
        )
    return fitting[0]


def _segmentation(
    series: SourceSeries, frames: npt.NDArray[np.uint16], table: Sequence[TableRow], labels: LabelMap
) -> hd.seg.Segmentation:
    _complete(series)
    names = ", ".join(row.segment.name for row in table)
    try:
        with warnings.catch_warnings():
            # highdicom warns that nothing is left out of an empty segmentation, which is what is wanted.
            warnings.simplefilter("ignore")
            return hd.seg.Segmentation(
                source_images=series.headers,
                pixel_array=frames,
                segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
                segment_descriptions=[_description(number, row, labels) for number, row in enumerate(table, start=1)],
                series_instance_uid=hd.UID(),
                series_number=_SERIES_NUMBER,
                sop_instance_uid=hd.UID(),
                instance_number=1,
                manufacturer="LiverMargin",
                manufacturer_model_name="LiverMarginLib",
                software_versions=__version__,
                device_serial_number="0",  # required by the standard; software has none
                content_label="SEGMENTATION",
                content_description=_text(names),
                series_description=_text(f"Segmentation: {names}"),
                pixel_measures=_pixel_measures(series),
                transfer_syntax_uid=ExplicitVRLittleEndian,
                specific_character_set="ISO_IR 192",  # UTF-8: a segment's name need not fit the source's set
                omit_empty_frames=True,
            )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        # The library's text may quote the header, and with it the patient.
        raise InputError(
            "A DICOM SEG cannot refer to this series because its headers lack or break a required field; export the "
            "series again from its archive.",
            type(error).__name__,
        ) from error


def _complete(series: SourceSeries) -> None:
    """Drop what a segmentation need not know and fill what de-identification often takes out, in memory only.

    highdicom copies whole modules, with whatever the nested items of their sequences hold. Study and series
    identifiers that are gone are made anew from the frame of reference, so that every segmentation of the series gets
    the same ones.
    """
    missing = [keyword for keyword in _MUST_NOT_BE_EMPTY if not series.headers[0].get(keyword)]
    if missing:
        _log.warning("The source series has no %s; the DICOM SEG refers to made-up ones.", " and no ".join(missing))
    for header in series.headers:
        tags = list(header.keys())
        for tag in tags:
            if tag.group in _PERSONAL_GROUPS and keyword_for_tag(tag) not in _KEPT | _OF_THE_IMAGE:
                del header[tag]
        for keyword in missing:
            setattr(header, keyword, generate_uid(entropy_srcs=[keyword, str(header.FrameOfReferenceUID)]))
        for keyword in _MAY_BE_EMPTY:
            if keyword not in header:
                setattr(header, keyword, "")
        if header.PatientSex not in ("", "M", "F", "O"):
            header.PatientSex = ""
        if not header.get("SliceThickness") and series.slice_distance is not None:
            header.SliceThickness = series.slice_distance


def _pixel_measures(series: SourceSeries) -> hd.PixelMeasuresSequence | None:
    """Measures with the distance between slices, which the source's headers often lack or state wrongly."""
    header = series.headers[0]
    if "PixelSpacing" not in header or series.slice_distance is None:
        return None
    return hd.PixelMeasuresSequence(
        pixel_spacing=[float(value) for value in header.PixelSpacing],
        slice_thickness=float(header.SliceThickness),
        spacing_between_slices=series.slice_distance,
    )


def _description(number: int, row: TableRow, labels: LabelMap) -> hd.seg.SegmentDescription:
    segment = row.segment
    terminology = segment.terminology
    made_by = algorithm(labels.provenance)
    identification = None
    if made_by is not None:
        identification = hd.AlgorithmIdentificationSequence(
            name=_text(made_by.name),
            family=codes.cid7162.ArtificialIntelligence,
            version=_text(made_by.version),
            source="LiverMargin",
            parameters={"provenance": provenance_text(labels.provenance)},
        )
    region = terminology.region if terminology else None
    return hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=_text(segment.name) or f"Segment_{segment.label}",
        segmented_property_category=_code(terminology.category if terminology else _TISSUE),
        segmented_property_type=_code(terminology.type if terminology else _TISSUE),
        algorithm_type="AUTOMATIC" if made_by else "MANUAL",
        algorithm_identification=identification,
        anatomic_regions=[_code(region)] if region else None,
        display_color=hd.color.CIELabColor.from_rgb(*segment.colour),
    )


def _code(code: Code) -> DicomCode:
    return DicomCode(code.value, code.scheme, _text(code.meaning))


def _text(text: str) -> str:
    """A value of DICOM's type LO: one line of 64 characters without the backslash that separates values."""
    return " ".join(text.replace("\\", "/").split())[:_LONG_STRING].rstrip()
