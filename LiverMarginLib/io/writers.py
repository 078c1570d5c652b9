"""The one entry for writing a segmentation: the file's name says the format.

Everything is written beside its final name and renamed when complete. The same labels always give the same bytes,
except for DICOM SEG, whose identifiers and times are new each time as the standard requires.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from LiverMarginLib.errors import InputError
from LiverMarginLib.io.atomic import atomic_path, write_error
from LiverMarginLib.volume import LabelMap

Source = Path | Sequence[Path]


def write_labelmap(
    labels: LabelMap, path: Path | str, *, source: Source | None = None, overwrite: bool = True
) -> list[Path]:
    """Write a segmentation in the format that the suffix of `path` names (see `formats`).

    Parameters
    ----------
    labels : LabelMap
    path : Path
        Missing parent folders are made. For surfaces of a label map with several segments, the name of each file is
        ``<name>_<segment>`` with this suffix (a 3MF file holds them all); segments without voxels have none.
    source : Path or sequence of Path, optional
        Folder or files of the DICOM series that was segmented; needed for DICOM SEG, ignored by other formats.
    overwrite : bool
        Whether existing files may be replaced.

    Returns
    -------
    list of Path
        The files written.

    Raises
    ------
    InputError
        For an unknown suffix, an existing file with `overwrite` False, a missing `source`, labels that the format
        cannot hold.
    GeometryError
        If the labels do not lie on the pixels of `source`.
    ResourceError
        If the disk is full or the folder must not be written to.
    """
    path = Path(path)
    return _FORMATS[_suffix(path)].write(labels, path, source, overwrite)


def check_output(path: Path | str, *, source: Source | None = None) -> None:
    """Refuse at once what `write_labelmap` would refuse after the work is done.

    Parameters
    ----------
    path, source
        As for `write_labelmap`.

    Raises
    ------
    InputError
        For an unknown suffix, a folder in the file's place, or a DICOM SEG whose `source` is no DICOM.
    ResourceError
        If the file's folder must not be written to.
    """
    path = Path(path)
    if _suffix(path) == ".dcm" and (source is None or (isinstance(source, Path) and _is_other_image(source))):
        raise InputError("A DICOM SEG refers to a DICOM series, and the input is none; choose another format for it.")
    check_place(path)


def check_place(path: Path) -> None:
    """Refuse a file that cannot be written where it is asked for.

    Raises
    ------
    InputError
        If there is a folder in the file's place, or a file in its folder's.
    ResourceError
        If the file's folder must not be written to.
    """
    if path.is_dir():
        raise InputError(f"{path.name} is a folder; give the name of a file to write.")
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir():
        raise InputError(f"{folder.name} is a file and not a folder; choose another place for {path.name}.")
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise write_error(error, path.name) from error


def _is_other_image(source: Path) -> bool:
    return source.is_file() and source.name.lower().endswith((".nii", ".nii.gz", ".nrrd", ".mha", ".mhd"))


def _suffix(path: Path) -> str:
    suffix = max((known for known in _FORMATS if path.name.lower().endswith(known)), key=len, default=None)
    if suffix is None or len(path.name) == len(suffix):
        known = ", ".join(_FORMATS)
        raise InputError(f"{path.name or path} does not end in a known format; use one of {known}.")
    return suffix


def formats() -> dict[str, str]:
    """Map each suffix that can be written to the name of its format."""
    return {suffix: entry.name for suffix, entry in _FORMATS.items()}


# The libraries behind the formats take a second to load; a session that writes one format should not wait for all.


def _write_seg_nrrd(labels: LabelMap, path: Path, source: Source | None, overwrite: bool) -> list[Path]:
    from LiverMarginLib.io.seg_nrrd import write_seg_nrrd

    write_seg_nrrd(labels, path, overwrite=overwrite)
    return [path]


def _write_nifti(labels: LabelMap, path: Path, source: Source | None, overwrite: bool) -> list[Path]:
    from LiverMarginLib.io.labelmap_files import write_nifti

    write_nifti(labels, path, overwrite=overwrite)
    return [path]


def _write_itk(labels: LabelMap, path: Path, source: Source | None, overwrite: bool) -> list[Path]:
    from LiverMarginLib.io.labelmap_files import write_itk_labelmap

    write_itk_labelmap(labels, path, overwrite=overwrite)
    return [path]


def _write_dicom_seg(labels: LabelMap, path: Path, source: Source | None, overwrite: bool) -> list[Path]:
    from LiverMarginLib.io.dicom_seg import write_dicom_seg

    if source is None:
        raise InputError("A DICOM SEG refers to the series that was segmented; give that series' folder as its source.")
    write_dicom_seg(labels, path, source, overwrite=overwrite)
    return [path]


def _write_surfaces(labels: LabelMap, path: Path, source: Source | None, overwrite: bool) -> list[Path]:
    from LiverMarginLib.io.segment_table import segment_table
    from LiverMarginLib.io.surface_files import encode_scene, encode_surface, surface_paths
    from LiverMarginLib.io.surfaces import closed_surface

    table = segment_table(labels)
    present = [row.segment for row in table if row.box is not None]
    if not present:
        raise InputError("No voxel is labelled, so there is no surface; choose another format or segment first.")
    finals = surface_paths(path, present, several=len(table) > 1)
    with ExitStack() as until_all_are_complete:
        temporary = {
            final: until_all_are_complete.enter_context(atomic_path(final, overwrite=overwrite))
            for final in dict.fromkeys(finals)
        }
        drawn = []
        for segment, final in zip(present, finals, strict=True):
            surface = closed_surface(labels.mask(segment.label), labels.geometry)
            if path.suffix.lower() == ".3mf":
                drawn.append((segment, surface))
            else:
                temporary[final].write_bytes(encode_surface(surface, path.suffix, name=segment.name))
        if drawn:
            temporary[path].write_bytes(encode_scene(drawn))
    return list(temporary)


@dataclass(frozen=True)
class _Format:
    name: str
    write: Callable[[LabelMap, Path, Source | None, bool], list[Path]]


_FORMATS: Mapping[str, _Format] = {
    ".seg.nrrd": _Format("3D Slicer segmentation", _write_seg_nrrd),
    ".nii.gz": _Format("NIfTI label map, compressed", _write_nifti),
    ".nii": _Format("NIfTI label map", _write_nifti),
    ".nrrd": _Format("NRRD label map", _write_itk),
    ".mha": _Format("MetaImage label map", _write_itk),
    ".dcm": _Format("DICOM Segmentation object", _write_dicom_seg),
    ".stl": _Format("STL surface of each segment", _write_surfaces),
    ".obj": _Format("OBJ surface of each segment", _write_surfaces),
    ".ply": _Format("PLY surface of each segment", _write_surfaces),
    ".3mf": _Format("3MF surfaces of all segments", _write_surfaces),
}
