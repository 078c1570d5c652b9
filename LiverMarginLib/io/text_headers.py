"""Where a NRRD or MetaImage file keeps its voxels: found, and checked, before ITK sees the file.

ITK's MetaImage reader ends the process, or spoils its memory, on some damaged files (seen with SimpleITK 2.5: an absurd
NDims, detached voxels that end early, voxels written as text), and both readers follow a header to whatever file of
the machine it names.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from LiverMarginLib.errors import InputError
from LiverMarginLib.io.detect import FileFormat, readable

_LONGEST_HEADER = 1 << 20  # a seg.nrrd of a hundred segments has about 60 kB
_LONGEST_LINE = 4000  # MetaIO reads lines into buffers of 4096
_VECTORS = ("DimSize", "Offset", "Position", "Origin", "CenterOfRotation", "ElementSpacing", "ElementSize")
_MATRICES = ("TransformMatrix", "Rotation", "Orientation")
_MOST_AXES = 7
_MOST_CHANNELS = 1000


@dataclass(frozen=True)
class StoredVoxels:
    """Where the voxels are.

    Parameters
    ----------
    files : tuple of Path
        The file itself, or the detached ones that it names.
    offset : int
        Byte at which they begin.
    compressed : bool
    """

    files: tuple[Path, ...]
    offset: int
    compressed: bool

    def size(self) -> int:
        """Bytes that are there for the voxels.

        Raises
        ------
        InputError
            If a detached file is missing.
        """
        total = 0
        for file in self.files:
            with readable(file):
                total += file.stat().st_size
        return total - self.offset


def locate_voxels(path: Path, file_format: FileFormat) -> StoredVoxels:
    """Read a text header as far as ITK must be kept from doing it wrongly.

    Parameters
    ----------
    path : Path
    file_format : FileFormat
        NRRD or METAIMAGE.

    Raises
    ------
    InputError
        If the header is damaged in a way that ITK does not bear, or names a file that is not beside or below it.
    """
    with readable(path), path.open("rb") as file:
        head = file.read(_LONGEST_HEADER)
    return _in_nrrd(path, head) if file_format is FileFormat.NRRD else _in_metaimage(path, head)


def _in_nrrd(path: Path, head: bytes) -> StoredVoxels:
    end = re.search(rb"\r?\n\r?\n|\Z", head)
    assert end is not None
    text = head[: end.start()].decode("utf-8", "replace")
    compressed = re.search(r"^encoding:(?! *raw)", text, re.MULTILINE | re.IGNORECASE) is not None
    detached = re.search(r"^data ?file *: *(.*)$", text, re.MULTILINE | re.IGNORECASE)
    if detached is None:
        return StoredVoxels((path,), end.end(), compressed)
    names = [detached[1]]
    if detached[1].upper().startswith("LIST"):
        names = [line for line in text[detached.end() :].splitlines() if line.strip()]
    elif "%" in detached[1]:  # a pattern: "slice%03d.raw 1 20 1"
        name, first, last, step = _pattern(detached[1], path)
        names = [name % n for n in range(first, last + 1, step)]
    return StoredVoxels(tuple(_below(path, name) for name in names), 0, compressed)


def _pattern(text: str, path: Path) -> tuple[str, int, int, int]:
    found = re.fullmatch(r"([^%]*%0?\d{0,2}d[^%]*?)\s+(\d{1,6})\s+(\d{1,6})\s+(\d{1,4})(?:\s+\d)?\s*", text)
    if found is None or int(found[4]) == 0:
        raise _damaged(path, FileFormat.NRRD)
    return found[1], int(found[2]), int(found[3]), int(found[4])


def _in_metaimage(path: Path, head: bytes) -> StoredVoxels:
    fields: dict[str, str] = {}
    end = 0
    for line in head.splitlines(keepends=True):
        key, mark, value = line[: _LONGEST_LINE + 1].decode("utf-8", "replace").partition("=")
        end += len(line)
        if not mark or key.strip() in fields or len(line) > _LONGEST_LINE:
            break
        fields[key.strip()] = value.strip()
        if key.strip() == "ElementDataFile":
            break
    name = fields.get("ElementDataFile", "")
    skipped = _numbers(fields.get("HeaderSize", "0"))
    if not name or not _is_sound(fields) or len(skipped) != 1:
        raise _damaged(path, FileFormat.METAIMAGE)
    if not fields.get("BinaryData", "True").upper().startswith(("T", "1")):
        raise InputError(f"'{path.name}' keeps its voxels as text; save the image in binary form.")
    if name.upper().startswith("LIST") or "%" in name:
        raise InputError(f"'{path.name}' keeps its voxels in a list of files; save the image in one file.")
    compressed = fields.get("CompressedData", "").upper().startswith(("T", "1"))
    inside = name.upper() == "LOCAL"
    if inside and skipped[0] not in (0, -1):
        raise _damaged(path, FileFormat.METAIMAGE)
    return StoredVoxels(
        (path if inside else _below(path, name),), end if inside else max(0, int(skipped[0])), compressed
    )


def _is_sound(fields: Mapping[str, str]) -> bool:
    """Whether every number of a MetaImage header is one, and there are as many as its axes need."""
    axes = _numbers(fields.get("NDims", ""))
    if len(axes) != 1 or not 1 <= axes[0] <= _MOST_AXES:
        return False
    counts = dict.fromkeys(_VECTORS, int(axes[0])) | dict.fromkeys(_MATRICES, int(axes[0]) ** 2)
    found = {key: _numbers(fields[key]) for key in counts if key in fields}
    channels = _numbers(fields.get("ElementNumberOfChannels", "1"))
    return (
        all(len(numbers) == counts[key] for key, numbers in found.items())
        and all(1 <= size < 1 << 31 for size in found.get("DimSize", [0]))
        and len(channels) == 1
        and 1 <= channels[0] <= _MOST_CHANNELS
    )


def _numbers(text: str) -> list[float]:
    """The finite numbers of a field; none where one of them is something else."""
    try:
        values = [float(part) for part in text.split()]
    except ValueError:
        return []
    return values if all(map(math.isfinite, values)) else []


def _below(path: Path, name: str) -> Path:
    """The file beside or below `path` that its header names."""
    plain = name.strip().replace("\\", "/")
    away = not plain or "\0" in plain or ":" in plain or ".." in PurePosixPath(plain).parts
    file = path.parent / plain
    if away or not file.resolve().is_relative_to(path.parent.resolve()):
        raise InputError(
            f"'{path.name}' names a file outside of its own folder as its voxels; put both into one folder, or do not "
            "trust this file."
        )
    return file


def _damaged(path: Path, file_format: FileFormat) -> InputError:
    return InputError(f"The {file_format} header of '{path.name}' is damaged; copy or export the image again.")
