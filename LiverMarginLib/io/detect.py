"""Which image format a file has, by its content; a name alone is not believed."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path

from LiverMarginLib.errors import InputError, technical
from LiverMarginLib.events import Notice, OnEvent, ignore
from LiverMarginLib.io.folders import links_note, walk

HEAD_BYTES = 544


class FileFormat(StrEnum):
    """Formats that can be read; the value is how a person calls them."""

    DICOM = "DICOM"
    NIFTI = "NIfTI"
    NRRD = "NRRD"
    METAIMAGE = "MetaImage"
    PNG = "PNG"
    JPEG = "JPEG"
    TIFF = "TIFF"


PICTURES = frozenset({FileFormat.PNG, FileFormat.JPEG, FileFormat.TIFF})

_SUFFIXES = {
    ".dcm": FileFormat.DICOM,
    ".dicom": FileFormat.DICOM,
    ".ima": FileFormat.DICOM,
    ".nii": FileFormat.NIFTI,
    ".nii.gz": FileFormat.NIFTI,
    ".hdr": FileFormat.NIFTI,
    ".nrrd": FileFormat.NRRD,
    ".nhdr": FileFormat.NRRD,
    ".mha": FileFormat.METAIMAGE,
    ".mhd": FileFormat.METAIMAGE,
    ".png": FileFormat.PNG,
    ".jpg": FileFormat.JPEG,
    ".jpeg": FileFormat.JPEG,
    ".tif": FileFormat.TIFF,
    ".tiff": FileFormat.TIFF,
}


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn the system's complaints about opening or reading `path` into an `InputError` of one sentence."""
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"'{path.name}' does not exist; check the path.", technical(error)) from error
    except PermissionError as error:
        raise InputError(
            f"'{path.name}' cannot be opened: permission denied; ask for the right to read it.", technical(error)
        ) from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(
            f"'{path.name}' is truncated or damaged: its compressed data end early; copy or export it again.",
            technical(error),
        ) from error
    except OSError as error:
        raise InputError(
            f"'{path.name}' cannot be read: {error.strerror or 'input error'}.", technical(error)
        ) from error


def expected_format(path: Path) -> FileFormat | None:
    """Format that the file's name promises, or None."""
    name = path.name.lower()
    return _SUFFIXES.get(".nii.gz" if name.endswith(".nii.gz") else Path(name).suffix)


def sniff(path: Path) -> FileFormat | None:
    """Format that the file's content has, or None if it is none of ours.

    Raises
    ------
    InputError
        If the file cannot be opened, or is gzipped and broken within its first bytes.
    """
    with readable(path):
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
        if head[:2] == b"\x1f\x8b" and expected_format(path) is FileFormat.NIFTI:
            with gzip.open(path) as file:
                head = file.read(HEAD_BYTES)
    return _format_of(head)


def _format_of(head: bytes) -> FileFormat | None:
    if head[128:132] == b"DICM" or _is_bare_dicom(head):
        return FileFormat.DICOM
    if head[344:348] in (b"n+1\0", b"ni1\0") or head[4:8] in (b"n+2\0", b"ni2\0"):
        return FileFormat.NIFTI
    if head.startswith(b"NRRD000"):
        return FileFormat.NRRD
    if re.match(rb"(ObjectType|NDims|Comment)\s*=", head):
        return FileFormat.METAIMAGE
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return FileFormat.PNG
    if head.startswith(b"\xff\xd8\xff"):
        return FileFormat.JPEG
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return FileFormat.TIFF
    return None


def _is_bare_dicom(head: bytes) -> bool:
    # Old archives leave the preamble out: the file then starts with an element of group 0002 or 0008.
    if len(head) < 8 or head[:2] not in (b"\x02\x00", b"\x08\x00") or head[3] != 0:
        return False
    explicit = head[4:6].isalpha() and head[4:6].isupper()
    return explicit or head[6:8] == b"\0\0"  # implicit: a length, and a short one


def require_format(path: Path) -> FileFormat:
    """Format of a file that somebody named.

    Raises
    ------
    InputError
        If it is missing, empty, unreadable, of an unknown format, or not what its name says.
    """
    with readable(path):
        size = path.stat().st_size
    if size == 0:
        raise InputError(f"'{path.name}' is empty (0 bytes); copy or export it again.")
    found, expected = sniff(path), expected_format(path)
    if found is not None:
        return found
    if expected is not None:
        raise InputError(
            f"'{path.name}' is named like {expected} but its content is not; it is damaged or was renamed, "
            "so export it again."
        )
    raise InputError(
        f"The format of '{path.name}' is not known; DICOM, NIfTI, NRRD, MHA/MHD, PNG, JPG and TIFF can be read."
    )


def files_below(folder: Path, on_event: OnEvent = ignore) -> list[Path]:
    """All files in `folder` and its subfolders in a stable order, without those that `LiverMarginLib.io.folders` omits.

    Links that lead out of the folder are told of.
    """

    def refuse(error: OSError) -> None:
        with readable(Path(error.filename or folder)):
            raise error

    found, leading_out = walk(folder, refuse)
    if leading_out:
        on_event(Notice(links_note(leading_out)))
    found.sort(key=lambda path: [natural_key(part) for part in path.parts])
    return [path for path in found if path.name.upper() != "DICOMDIR"]


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sort key under which "image 9" comes before "image 10"."""
    parts = re.findall(r"(\d+)|(\D+)", name.lower())
    return [(0, int(digits), "") if digits else (1, 0, text) for digits, text in parts]
