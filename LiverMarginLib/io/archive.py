"""Read the files of a folder or of a zip in the same way, without ever unpacking the zip.

A zip comes from somebody else, so it is read as a hostile one: its entries are checked before the first byte is
used, and decompression stops at a limit whatever the directory of the zip declares.
"""

from __future__ import annotations

import os
import re
import stat
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Protocol

from LiverMarginLib.errors import InputError, technical
from LiverMarginLib.io.folders import is_hidden, walk

# An empty mask of 16 bits packs about 1000 to 1 inside its PNG, not in the zip around it; small files are harmless.
_MAX_RATIO = 1000
_HARMLESS_BYTES = 1 << 20
# LZMA makes room for a dictionary of up to 4 GB before it unpacks a byte.
_METHODS = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})


@dataclass(frozen=True)
class ZipLimits:
    """How much a zip may hold before it is refused.

    Parameters
    ----------
    entries : int
        Number of files.
    file_bytes : int
        Uncompressed size of one file.
    total_bytes : int
        Uncompressed size of all files.
    """

    entries: int = 500_000
    file_bytes: int = 512 << 20
    total_bytes: int = 64 << 30


class FileTree(Protocol):
    """Named files below a root; names are relative, with forward slashes."""

    @property
    def path(self) -> Path:
        """The folder or the zip itself."""

    @property
    def names(self) -> tuple[str, ...]:
        """All files, sorted by name."""

    def read(self, name: str) -> bytes:
        """Return a file's content; `InputError` where it cannot be read."""


@dataclass(frozen=True)
class FolderTree:
    """The files below a folder, hidden ones left out."""

    path: Path

    @cached_property
    def names(self) -> tuple[str, ...]:
        """All files, sorted by name."""
        files, _ = self._walked
        return tuple(sorted(file.relative_to(self.path).as_posix() for file in files))

    @property
    def links_leading_out(self) -> int:
        """Number of links to files elsewhere, which are not followed."""
        return self._walked[1]

    @cached_property
    def _walked(self) -> tuple[list[Path], int]:
        return walk(self.path)

    def read(self, name: str) -> bytes:
        """Return a file's content.

        Raises
        ------
        InputError
            If the file is gone or may not be read.
        """
        try:
            return (self.path / name).read_bytes()
        except OSError as error:
            raise InputError(
                f"{PurePosixPath(name).name} cannot be read; check that the file is still there and readable.",
                technical(error),
            ) from error


@dataclass(frozen=True)
class ZipTree:
    """The files in a zip, after its directory was found harmless.

    The zip is opened anew in every process that reads from it, so that the object can be pickled and forked.

    Raises
    ------
    InputError
        If the file is not a zip, is encrypted, holds links, names that leave the zip or the same name twice, or is
        larger than `limits`.
    """

    path: Path
    limits: ZipLimits = field(default_factory=ZipLimits)

    def __post_init__(self) -> None:
        _ = self.names  # refuse a bad zip where it is opened, not where it is first read

    @cached_property
    def names(self) -> tuple[str, ...]:
        """All files, sorted by name."""
        with _open_zip(self.path) as archive:
            _refuse_hostile_directory(archive.infolist(), self.limits, self.path.name)
            names = [info.filename for info in archive.infolist() if not info.is_dir()]
        return tuple(sorted(name for name in names if not any(map(is_hidden, PurePosixPath(name).parts))))

    def read(self, name: str) -> bytes:
        """Return a file's content, at most as many bytes as the checked directory declares.

        Raises
        ------
        InputError
            If the file is damaged, missing or not what the directory declares.
        """
        try:
            # zipfile stops at the declared size, which was checked, and then compares the checksum: a file that
            # unpacks to more ends here.
            return self._archive.read(name)
        except (zipfile.BadZipFile, zlib.error, KeyError, EOFError, OSError, RuntimeError, ValueError) as error:
            raise InputError(
                f"{PurePosixPath(name).name} in {self.path.name} is damaged; make the zip again.", technical(error)
            ) from error

    @property
    def _archive(self) -> zipfile.ZipFile:
        # Frozen dataclasses still have a __dict__; __getstate__ leaves this entry out.
        owner, archive = self.__dict__.get("_open", (None, None))
        if owner != os.getpid():
            archive = _open_zip(self.path)
            self.__dict__["_open"] = (os.getpid(), archive)
        return archive

    def __getstate__(self) -> dict[str, object]:
        return {key: value for key, value in self.__dict__.items() if key != "_open"}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)


def open_tree(path: str | os.PathLike[str], limits: ZipLimits | None = None) -> FileTree:
    """Open a folder or a zip.

    Parameters
    ----------
    path : path-like
    limits : ZipLimits, optional

    Raises
    ------
    InputError
        If the path does not exist, or is a file that is not a harmless zip.
    """
    path = Path(path)
    if path.is_dir():
        return FolderTree(path)
    if not path.exists():
        raise InputError(f"{path.name or path} does not exist; check the path of the data set.")
    return ZipTree(path, limits or ZipLimits())


def _open_zip(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise InputError(
            f"{path.name} is not a zip that can be read; export it again, or give the unpacked folder.",
            technical(error),
        ) from error


def _refuse_hostile_directory(entries: Iterable[zipfile.ZipInfo], limits: ZipLimits, zip_name: str) -> None:
    total = 0
    seen: set[str] = set()
    for number, info in enumerate(entries, start=1):
        total += info.file_size
        if number > limits.entries or info.file_size > limits.file_bytes or total > limits.total_bytes:
            raise InputError(f"{zip_name} unpacks to more than is allowed; unpack it yourself and give the folder.")
        if info.file_size > _HARMLESS_BYTES and info.file_size > _MAX_RATIO * max(info.compress_size, 1):
            raise InputError(
                f"{zip_name} is packed more than {_MAX_RATIO} to 1, like a zip bomb; do not trust this file."
            )
        if info.compress_type not in _METHODS:
            raise InputError(f"{zip_name} is packed in an unusual way; unpack it yourself and give the folder.")
        # zipfile cuts a name at a zero byte; orig_filename is what the zip really says.
        if _leaves_root(info.orig_filename):
            raise InputError(f"{zip_name} holds a file name that points outside the zip; do not trust this file.")
        if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise InputError(f"{zip_name} holds a link or a device; unpack it yourself and give the folder.")
        if info.flag_bits & 0x1:
            raise InputError(f"{zip_name} is protected by a password; unpack it and give the folder.")
        if info.filename in seen:
            raise InputError(f"{zip_name} holds two files of the same name; make the zip again.")
        seen.add(info.filename)


def _leaves_root(name: str) -> bool:
    plain = name.replace("\\", "/")
    return (
        not plain
        or plain.startswith("/")
        or bool(re.match(r"[A-Za-z]:", plain))
        or "\0" in plain
        or ".." in plain.split("/")
    )
