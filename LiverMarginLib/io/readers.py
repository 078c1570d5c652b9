"""The one way in: `read_volume`, `read_labels`, and `list_images` for what lies under a path."""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike
from pathlib import Path

import pydicom

from LiverMarginLib.errors import InputError, ResourceError
from LiverMarginLib.events import OnEvent, ignore
from LiverMarginLib.io.dicom import place_series, read_series, source_headers
from LiverMarginLib.io.dicom_headers import ObjectKind
from LiverMarginLib.io.dicom_seg_reader import read_seg
from LiverMarginLib.io.images import read_image
from LiverMarginLib.io.label_readers import present_labels, read_label_file, read_label_stack
from LiverMarginLib.io.notes import Notes
from LiverMarginLib.io.sources import (
    DicomSource,
    FileSource,
    ImageInfo,
    Source,
    StackSource,
    describe,
    discover,
)
from LiverMarginLib.io.stacks import Spacing, read_stack
from LiverMarginLib.volume import LabelMap, Modality, Volume

_LISTED = 12


def list_images(path: str | PathLike[str], *, values: bool = True, on_event: OnEvent = ignore) -> list[ImageInfo]:
    """Describe every image, series and segmentation under a path, without patient identity.

    Parameters
    ----------
    path : path-like
        A file or a folder, searched with its subfolders.
    values : bool
        Read the middle slice of each as well, for its range of values.
    on_event : callable

    Returns
    -------
    list of ImageInfo
        Its keys are what `series` takes in `read_volume` and `read_labels`.

    Raises
    ------
    InputError
        If there is nothing that can be read.
    """
    sources = discover(_path(path), on_event)
    return [describe(source, str(n), values) for n, source in enumerate(sources, 1)]


def read_volume(
    path: str | PathLike[str],
    *,
    series: str | None = None,
    modality: Modality | None = None,
    spacing: Spacing | None = None,
    on_event: OnEvent = ignore,
) -> Volume:
    """Read an image: a DICOM series, a NIfTI, NRRD or MetaImage file, or a stack of pictures.

    The voxels keep their small native type: CT in HU as int16 wherever that is exact. Values below -1024 HU are
    padding and are raised to it. What made a NIfTI, NRRD or MetaImage file is not in the file: the rules by which it
    is guessed are those of `LiverMarginLib.io.intensities.interpret`. Every repair and assumption is a sentence in
    `Volume.notes` and a `Notice`.

    Parameters
    ----------
    path : path-like
        A file, or a folder (searched with its subfolders). A file of a DICOM series stands for its whole series.
    series : str, optional
        Key from `list_images` (or a Series Instance UID) where there are several images under `path`.
    modality : Modality, optional
        Overrides what the file says or the values suggest.
    spacing : tuple of float, optional
        Along (k, j, i) in mm, for pictures; formats that carry their own spacing keep it, and say so.
    on_event : callable
        Receives `Progress` and `Notice` events.

    Returns
    -------
    Volume

    Raises
    ------
    InputError
        If the path or its image cannot be used, or a choice is needed; `GeometryError` where it is the geometry.
    ResourceError
        If the image does not fit into memory.
    """
    source = _choose(_path(path), series, "image", _may_be_image, on_event)
    notes = Notes(on_event)
    _mention_unused_spacing(source, spacing, notes)
    try:
        match source:
            case DicomSource(series=chosen):
                return read_series(chosen, modality, notes, on_event)
            case FileSource(path=file, format=file_format):
                return read_image(file, file_format, modality, notes)
            case StackSource(files=files):
                return read_stack(files, modality, spacing, notes, on_event)
    except MemoryError as error:
        raise _out_of_memory() from error


def read_labels(
    path: str | PathLike[str],
    *,
    series: str | None = None,
    spacing: Spacing | None = None,
    on_event: OnEvent = ignore,
) -> LabelMap:
    """Read a segmentation: a label map file, seg.nrrd, DICOM SEG, or a stack of mask pictures.

    All labels are kept, in the smallest unsigned type; names, colours and terminology are those of the file.
    ``provenance["notes"]`` holds every repair and assumption.

    Parameters
    ----------
    path, series, spacing, on_event
        As for `read_volume`.

    Returns
    -------
    LabelMap

    Raises
    ------
    InputError
        If the path or its segmentation cannot be used, or a choice is needed.
    ResourceError
        If it does not fit into memory.
    """
    source = _choose(_path(path), series, "segmentation", _may_be_labels, on_event)
    notes = Notes(on_event)
    _mention_unused_spacing(source, spacing, notes)
    try:
        match source:
            case DicomSource(series=chosen):
                return read_seg(chosen, notes, on_event)
            case FileSource(path=file, format=file_format):
                return read_label_file(file, file_format, notes)
            case StackSource(files=files):
                return read_label_stack(files, spacing, notes, on_event)
    except MemoryError as error:
        raise _out_of_memory() from error


def resolve_label(labels: LabelMap, label: int | str | None) -> int:
    """Find the label value that somebody means.

    Parameters
    ----------
    labels : LabelMap
    label : int, str or None
        A value, a segment's name (upper and lower case alike), or None for the only label there is.

    Returns
    -------
    int
        A value that occurs in the array or that a segment declares (an empty segment is an answer too).

    Raises
    ------
    InputError
        If there is no such label, or no single one; the message lists those present.
    """
    names = {segment.label: segment.name for segment in labels.segments}
    present = present_labels(labels.array)
    known = sorted({*present, *names})
    if not known:
        raise InputError("The segmentation is empty: no voxel has a label; choose another file.")
    if label is None:
        candidates = sorted(present) or known
        if len(candidates) == 1:
            return candidates[0]
        raise InputError(f"The segmentation has several labels; choose one of: {_listing(candidates, names)}.")
    if isinstance(label, str):
        matches = [value for value, name in names.items() if name.casefold() == label.strip().casefold()]
        if len(matches) > 1:
            raise InputError(f"Several labels are named so; choose one by value: {_listing(known, names)}.")
        if not matches and not label.strip().isdecimal():
            raise InputError(f"The segmentation has no label of that name; it has: {_listing(known, names)}.")
        label = matches[0] if matches else int(label)
    if label not in known:
        raise InputError(f"The segmentation has no label {label}; it has: {_listing(known, names)}.")
    return int(label)


def read_source_headers(path: str | PathLike[str], *, series: str | None = None) -> list[pydicom.Dataset]:
    """Headers, in slice order, of the DICOM files that `read_volume` reads with the same arguments.

    For writers that refer to the source images (DICOM SEG). They carry the patient's identity.

    Parameters
    ----------
    path, series
        As for `read_volume`.

    Returns
    -------
    list of pydicom.Dataset
        Without pixels; one for each file, so that a multi-frame image gives one. Empty if the image is not DICOM.
    """
    source = _choose(_path(path), series, "image", _may_be_image, ignore)
    if not isinstance(source, DicomSource):
        return []
    return source_headers([place[0] for place in place_series(source.series, Notes()).places])


def _path(path: str | PathLike[str]) -> Path:
    return Path(path).expanduser()


def _choose(path: Path, key: str | None, what: str, usable: Callable[[Source], bool], on_event: OnEvent) -> Source:
    sources = discover(path, on_event)
    numbered = {str(n): source for n, source in enumerate(sources, 1)}
    candidates = {n: source for n, source in numbered.items() if usable(source)}
    if key is not None:
        wanted = {n: s for n, s in numbered.items() if n == key.strip() or (_uid(s) and _uid(s) == key.strip())}
        if not wanted:
            raise InputError(f"There is no series '{key}' here; there are: {_choices(numbered)}.")
        candidates = {n: source for n, source in wanted.items() if usable(source)}
        if not candidates:
            raise InputError(f"Series '{key}' is not {_article(what)}; there are: {_choices(numbered)}.")
    if not candidates:
        raise InputError(f"'{path.name}' holds no {what}, only: {_choices(numbered)}; choose another path.")
    if len(candidates) > 1:
        raise InputError(
            f"'{path.name}' holds several images; choose one with --series (or the argument series): "
            f"{_choices(candidates)}."
        )
    return next(iter(candidates.values()))


def _may_be_image(source: Source) -> bool:
    return not isinstance(source, DicomSource) or source.series.kind is ObjectKind.IMAGE


def _may_be_labels(source: Source) -> bool:
    return not isinstance(source, DicomSource) or source.series.kind is ObjectKind.SEGMENTATION


def _uid(source: Source) -> str:
    return source.series.uid if isinstance(source, DicomSource) else ""


def _article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def _choices(sources: dict[str, Source]) -> str:
    listed = [describe(source, key).summary for key, source in list(sources.items())[:_LISTED]]
    more = len(sources) - len(listed)
    return "; ".join(listed) + (f"; and {more} more" if more else "")


def _listing(values: list[int], names: dict[int, str]) -> str:
    return ", ".join(f"{value} ({names[value]})" if value in names else str(value) for value in values)


def _mention_unused_spacing(source: Source, spacing: Spacing | None, notes: Notes) -> None:
    if spacing is not None and not isinstance(source, StackSource):
        notes.add("The image carries its own spacing; the given one was not used.")


def _out_of_memory() -> ResourceError:
    return ResourceError("There is not enough memory for the image; close other programs or crop the image.")
