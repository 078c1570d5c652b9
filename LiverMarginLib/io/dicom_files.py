"""The one door through which DICOM files are parsed: what pydicom would do without measure is measured before."""

from __future__ import annotations

import io
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pydicom
from pydicom.uid import DeflatedExplicitVRLittleEndian

from LiverMarginLib.errors import InputError

_LARGEST_INFLATED = 2 << 30
_CHUNK = 1 << 20
_HEAD = 1 << 12


@contextmanager
def open_dicom(path: Path) -> Iterator[IO[bytes]]:
    """Open a DICOM file for pydicom.

    Yields
    ------
    stream
        It makes room for no more than the file holds, whatever length an element announces.

    Raises
    ------
    InputError
        If the file is deflated and would fill the memory when it is inflated, as pydicom does at once.
    OSError
        If it cannot be opened.
    """
    with io.FileIO(path) as file, _Measured(file) as stream:
        _refuse_bomb(stream)
        yield stream


def read_dicom(path: Path, **options: Any) -> pydicom.FileDataset:
    """Parse a DICOM file with `pydicom.dcmread`, whose errors and options these are; see also `open_dicom`."""
    with open_dicom(path) as stream:
        return pydicom.dcmread(stream, **options)


class _Measured(io.BufferedReader):
    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > _CHUNK:
            size = max(0, min(size, os.fstat(self.fileno()).st_size - self.tell()))
        return super().read(size)


def _refuse_bomb(stream: IO[bytes]) -> None:
    head = stream.read(_HEAD)
    if str(DeflatedExplicitVRLittleEndian).encode() in head:
        if head[128:136] != b"DICM\x02\0\0\0":  # the length of the plain part, which the standard requires here
            raise InputError("A deflated DICOM file has a damaged header; copy or export the series again.")
        stream.seek(144 + int.from_bytes(head[140:144], "little"))
        inflater, inflated = zlib.decompressobj(-zlib.MAX_WBITS), 0
        while not inflater.eof and (chunk := inflater.unconsumed_tail or stream.read(_CHUNK)):
            inflated += len(inflater.decompress(chunk, _CHUNK))
            if inflated > _LARGEST_INFLATED:
                raise InputError("A deflated DICOM file inflates without end; do not trust this file.")
    stream.seek(0)
