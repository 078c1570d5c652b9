"""Label maps from image files (NIfTI, NRRD, MetaImage), 3D Slicer's seg.nrrd, and stacks of mask pictures."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from LiverMarginLib.errors import InputError, technical
from LiverMarginLib.events import OnEvent, ignore
from LiverMarginLib.io.detect import FileFormat
from LiverMarginLib.io.images import ImageHeader, read_image_array
from LiverMarginLib.io.intensities import value_range
from LiverMarginLib.io.notes import Notes
from LiverMarginLib.io.segment_table import read_provenance
from LiverMarginLib.io.stacks import Spacing, read_pictures, stack_geometry
from LiverMarginLib.terminology import Segment, Terminology
from LiverMarginLib.volume import LabelMap

Array = npt.NDArray[Any]

UNNAMED_COLOUR = (128, 174, 128)  # 3D Slicer's "tissue"
_JPEG_THRESHOLD = 128


def read_label_file(path: Path, file_format: FileFormat, notes: Notes) -> LabelMap:
    """Read a label map, or a seg.nrrd with its segments' names, colours and terminology.

    Float voxels are accepted where all are integers. Segments of a seg.nrrd that overlap (several layers) are
    flattened: the later one in the file is kept, as 3D Slicer's export does.

    Raises
    ------
    InputError
        If the voxels are not labels.
    """
    array, header = read_image_array(path, file_format, notes)
    if header.is_segmentation:
        labels, segments = _flatten(array, header, notes)
        form = "seg.nrrd"
    elif header.layers > 1:
        raise InputError(f"'{path.name}' is a colour image, not a label map; export the labels as plain numbers.")
    else:
        labels, form = as_labels(array), str(file_format)
        # A table in a NIfTI header is a vocabulary: TotalSegmentator lists all its classes, found or not.
        present = present_labels(labels) if header.segments else {}
        segments = tuple(segment for segment in header.segments if segment.label in present)
    provenance = {**read_provenance(header.fields), "format": form, "notes": list(notes.sentences)}
    return LabelMap(labels, header.geometry, segments, provenance)


def read_label_stack(
    files: Sequence[Path], spacing: Spacing | None, notes: Notes, on_event: OnEvent = ignore
) -> LabelMap:
    """Read mask pictures; geometry as for `LiverMarginLib.io.stacks.read_stack`.

    PNG and TIFF keep their values (0 and 255 stay so); the palette of a palette picture is not looked at. JPEG blurs
    values, so it is taken as one mask, thresholded at 128, and said.
    """
    array = read_pictures(files, notes, on_event, as_labels=True)
    if all(path.suffix.lower() in (".jpg", ".jpeg") for path in files):
        np.multiply(array >= _JPEG_THRESHOLD, 255, out=array, casting="unsafe")
        notes.add("JPEG does not keep label values; the pictures were taken as one mask, inside from 128 up (255).")
    if spacing is None:
        notes.add(
            "The spacing of the pictures is not known; 1 mm was taken, so millimetres and millilitres mean nothing."
        )
    provenance = {"format": "pictures", "spacing_known": spacing is not None, "notes": list(notes.sentences)}
    labels = as_labels(array)
    return LabelMap(labels, stack_geometry(labels.shape, spacing), (), provenance)


def as_labels(array: Array) -> Array:
    """Voxel values as labels in the smallest unsigned type that holds them.

    Parameters
    ----------
    array : ndarray, shape (k, j, i)
        Any real type.

    Raises
    ------
    InputError
        If a value is not a whole number of at least 0.
    """
    for part in array if array.dtype.kind == "f" else ():
        if not np.array_equal(part, np.rint(part)):  # NaN is not equal to itself
            raise InputError(
                "The label map holds values that are not whole numbers; it is an image or a probability map."
            )
    low, high = value_range(array)
    if low < 0:
        raise InputError(f"The label map holds negative values (down to {low:g}); it is an image, not a label map.")
    if high >= 1 << 31:
        raise InputError(f"The label map holds values up to {high:g}; labels must be small whole numbers.")
    dtype = np.uint8 if high < 1 << 8 else np.uint16 if high < 1 << 16 else np.uint32
    return array if array.dtype == dtype else array.astype(dtype)


def present_labels(array: Array) -> dict[int, int]:
    """Number of voxels of every label but 0 that occurs, in ascending order."""
    counts: dict[int, int] = {}
    for part in array:
        if part.dtype.kind == "b" or part.dtype.itemsize <= 2:
            found = np.bincount(part.reshape(-1))
            pairs = ((int(n), int(found[n])) for n in np.flatnonzero(found))
        else:
            pairs = ((int(n), int(count)) for n, count in zip(*np.unique(part, return_counts=True), strict=True))
        for label, count in pairs:
            counts[label] = counts.get(label, 0) + count
    counts.pop(0, None)
    return dict(sorted(counts.items()))


def _number(text: str | None, missing: int) -> int:
    if text is None:
        return missing
    try:
        return int(text)
    except ValueError as error:
        raise InputError(
            "The segments that this file describes cannot be understood; save it again with 3D Slicer.",
            technical(error),
        ) from error


def slicer_segments(fields: Mapping[str, str]) -> list[tuple[int, Segment]]:
    """Layer and meaning of each segment that the key/value pairs of a seg.nrrd describe, in file order.

    The keys are those of 3D Slicer's vtkMRMLSegmentationStorageNode (``Segment0_Name``, ``_LabelValue``, ``_Layer``,
    ``_Color``, ``_Tags``); files of before Slicer 5 have one layer per segment and no label value.
    """
    numbers = sorted({int(m[1]) for key in fields if (m := re.match(r"Segment(\d+)_", key))})
    segments = []
    for n in numbers:
        layer = _number(fields.get(f"Segment{n}_Layer"), n)
        segment = Segment(
            _number(fields.get(f"Segment{n}_LabelValue"), 1),
            fields.get(f"Segment{n}_Name") or fields.get(f"Segment{n}_ID") or f"Segment {n + 1}",
            _colour(fields.get(f"Segment{n}_Color", "")),
            _terminology(fields.get(f"Segment{n}_Tags", "")),
        )
        segments.append((layer, segment))
    return segments


def _flatten(array: Array, header: ImageHeader, notes: Notes) -> tuple[Array, tuple[Segment, ...]]:
    """One label per voxel from the layers of a seg.nrrd."""
    try:
        described = slicer_segments(header.fields)
    except ValueError as error:
        raise InputError(
            "The segments of the seg.nrrd file are described wrongly; save it again.", technical(error)
        ) from error
    if any(layer >= header.layers for layer, _ in described):
        raise InputError("The seg.nrrd file has fewer layers than its segments need; save it again.")
    values = [segment.label for _, segment in described]
    if header.layers == 1 and len(set(values)) == len(values):
        return as_labels(array), tuple(segment for _, segment in described)
    # Layers count their labels each on its own: number the segments anew where values meet twice.
    unique = len(set(values)) == len(values)
    renumbered = [s if unique else Segment(n, s.name, s.colour, s.terminology) for n, (_, s) in enumerate(described, 1)]
    layers = array if header.layers > 1 else array[..., np.newaxis]
    highest = max(segment.label for segment in renumbered)
    labels = np.zeros(layers.shape[:3], np.uint8 if highest < 1 << 8 else np.uint16)
    overlapping = 0
    for (layer, original), segment in zip(described, renumbered, strict=True):
        for source, target in zip(layers[..., layer], labels, strict=True):
            inside = source == original.label
            overlapping += int(np.count_nonzero(inside & (target != 0)))
            target[inside] = segment.label
    if not unique:
        notes.add("Segments of several layers share label values; they were numbered anew in the file's order.")
    if overlapping:
        notes.add(f"{overlapping} voxels belong to several segments; the last of them was kept.")
    return labels, tuple(renumbered)


def _colour(text: str) -> tuple[int, int, int]:
    try:
        red, green, blue = (round(255 * min(1.0, max(0.0, float(part)))) for part in text.split())
    except ValueError:
        return UNNAMED_COLOUR
    return red, green, blue


def _terminology(tags: str) -> Terminology | None:
    match = re.search(r"(?:TerminologyEntry|Terminology):([^|]*)", tags)
    return Terminology.from_slicer(match[1]) if match else None
