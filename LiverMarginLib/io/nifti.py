"""NIfTI-1 and NIfTI-2 files, read straight into one array.

ITK's reader fills the rest of a truncated file with whatever was in memory and says nothing (seen with SimpleITK
2.5), refuses sheared grids, and does not tell which of two disagreeing transforms it took. The format is a fixed
header and an array, so it is read here; the definition is that of nifti1.h and nifti2.h (NIfTI Data Format Working
Group), the choice of transform that of nibabel.
"""

from __future__ import annotations

import gzip
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt

from LiverMarginLib.errors import InputError
from LiverMarginLib.io.detect import readable
from LiverMarginLib.io.limits import check_memory, check_stored_size
from LiverMarginLib.io.notes import Notes
from LiverMarginLib.terminology import Segment
from LiverMarginLib.volume import Geometry

_NIFTI_1 = {
    "size": ("i4", 0),
    "dim": ("8i2", 40),
    "datatype": ("i2", 70),
    "pixdim": ("8f4", 76),
    "vox_offset": ("f4", 108),
    "scl_slope": ("f4", 112),
    "scl_inter": ("f4", 116),
    "xyzt_units": ("u1", 123),
    "qform_code": ("i2", 252),
    "sform_code": ("i2", 254),
    "quatern": ("3f4", 256),
    "qoffset": ("3f4", 268),
    "srow": ("(3,4)f4", 280),
    "magic": ("S4", 344),
}
_NIFTI_2 = {
    "size": ("i4", 0),
    "magic": ("S8", 4),
    "datatype": ("i2", 12),
    "dim": ("8i8", 16),
    "pixdim": ("8f8", 104),
    "vox_offset": ("i8", 168),
    "scl_slope": ("f8", 176),
    "scl_inter": ("f8", 184),
    "qform_code": ("i4", 344),
    "sform_code": ("i4", 348),
    "quatern": ("3f8", 352),
    "qoffset": ("3f8", 376),
    "srow": ("(3,4)f8", 400),
    "xyzt_units": ("i4", 500),
}
_DTYPES = {
    2: "u1",
    4: "i2",
    8: "i4",
    16: "f4",
    64: "f8",
    256: "i1",
    512: "u2",
    768: "u4",
    1024: "i8",
    1280: "u8",
}
_COLOUR_TYPES = (128, 2304)
_MILLIMETRES = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
_BLOCK = 1 << 22
_FARTHEST = 1 << 40


@dataclass(frozen=True)
class NiftiHeader:
    """What is needed of a NIfTI header.

    Parameters
    ----------
    path : Path
        The file with the header.
    dtype : numpy dtype
        Of the stored voxels, with their byte order.
    shape : tuple of int
        Along (k, j, i).
    slope, intercept : float
        Value = stored * slope + intercept.
    qform, sform : ndarray, shape (4, 4), or None
        IJK to RAS in mm; None where the code is 0.
    data_offset : int
        Byte at which the voxels start in `data_path`.
    segments : tuple of Segment
        Labels named in a Connectome Workbench header extension (TotalSegmentator writes one).
    """

    path: Path
    dtype: np.dtype[Any]
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    slope: float
    intercept: float
    qform: npt.NDArray[np.float64] | None
    sform: npt.NDArray[np.float64] | None
    data_offset: int
    segments: tuple[Segment, ...]

    @property
    def data_path(self) -> Path:
        """File with the voxels: the ``.img`` of a pair, else the file itself."""
        if self.path.suffix.lower() != ".hdr":
            return self.path
        pair = self.path.with_suffix(".img")
        return pair if pair.exists() else self.path.with_suffix(".img.gz")

    def geometry(self, notes: Notes) -> Geometry:
        """Grid of the image: by the sform where its code is not 0, else the qform, else spacing alone.

        Raises
        ------
        GeometryError
            If the matrix is not usable, for example because a spacing is zero.
        """
        plain = np.diag([*self.spacing[::-1], 1.0])
        matrix = self.sform if self.sform is not None else self.qform if self.qform is not None else plain
        geometry = Geometry(self.shape, matrix)
        if self.sform is None and self.qform is None:
            notes.add(
                "The NIfTI file carries no orientation; its axes were taken as left to right, back to front, feet to "
                "head, which may be mirrored."
            )
        elif self.sform is not None and self.qform is not None:
            distance = np.abs(((self.sform - self.qform) @ _corner_indices(self.shape))[:3]).max()
            if distance > 0.1 * min(geometry.spacing):
                notes.add(
                    f"The two positions in the NIfTI header disagree (by up to {distance:.1f} mm); the sform was used, "
                    "not the qform."
                )
        return geometry


def _corner_indices(shape: tuple[int, int, int]) -> npt.NDArray[np.float64]:
    k, j, i = (n - 1 for n in shape)
    return np.array([(a, b, c, 1.0) for a in (0, i) for b in (0, j) for c in (0, k)]).T


def read_header(path: Path) -> NiftiHeader:
    """Read and check the header, not the voxels.

    Raises
    ------
    InputError
        If the file is no NIfTI image of three dimensions with plain numbers.
    """
    with readable(path), _open(path) as file:
        raw = file.read(540)
        header, byte_order = _parse(raw)
        if not 0 <= header["vox_offset"] < _FARTHEST:  # not a number neither
            raise InputError("The NIfTI header is damaged: it does not say where the voxels are; export it again.")
        offset = int(header["vox_offset"])
        extensions = raw[348:] + file.read(max(0, min(offset, 1 << 24) - len(raw)))
    dim = [int(n) for n in header["dim"]]
    if not 2 <= dim[0] <= 7:
        raise InputError("The NIfTI header is damaged: it has no valid number of axes; export the image again.")
    sizes = dim[1 : dim[0] + 1]
    if math.prod(sizes[3:]) != 1:
        raise InputError(
            f"The NIfTI image has {len(sizes)} dimensions ({' x '.join(map(str, sizes))}), for example time points; "
            "export one of them as a 3-D image."
        )
    i, j, k = (*sizes, 1)[:3]
    datatype = int(header["datatype"])
    if datatype not in _DTYPES:
        kind = "colours" if datatype in _COLOUR_TYPES else f"voxels of an unusual type (code {datatype})"
        raise InputError(f"The NIfTI image holds {kind}; export it with plain grey values.")
    dtype = np.dtype(_DTYPES[datatype]).newbyteorder(byte_order)  # type: ignore[arg-type]
    check_memory((k, j, i), dtype.itemsize)
    scale = _MILLIMETRES.get(int(header["xyzt_units"]) & 7, 1.0)
    si, sj, sk = (abs(float(s)) * scale for s in header["pixdim"][1:4])
    if dim[0] == 2:
        sk = sk or 1.0
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if not math.isfinite(slope) or slope == 0 or not math.isfinite(intercept):
        slope, intercept = 1.0, 0.0
    return NiftiHeader(
        path=path,
        dtype=dtype,
        shape=(k, j, i),
        spacing=(sk, sj, si),
        slope=slope,
        intercept=intercept,
        qform=_qform(header, (si, sj, sk), scale) if header["qform_code"] > 0 else None,
        sform=_sform(header, scale) if header["sform_code"] > 0 else None,
        data_offset=offset if path.suffix.lower() == ".hdr" else max(offset, 352),
        segments=_named_labels(extensions),
    )


def _parse(raw: bytes) -> tuple[Any, str]:
    for size, fields in ((348, _NIFTI_1), (540, _NIFTI_2)):
        for byte_order in "<>":
            if len(raw) >= size and int.from_bytes(raw[:4], "little" if byte_order == "<" else "big") == size:
                layout = np.dtype(
                    {
                        "names": list(fields),
                        "formats": [kind for kind, _ in fields.values()],
                        "offsets": [offset for _, offset in fields.values()],
                        "itemsize": size,
                    }
                )
                return np.frombuffer(raw[:size], layout.newbyteorder(byte_order))[0], byte_order  # type: ignore[arg-type]
    raise InputError("The NIfTI header is truncated or damaged; copy or export the image again.")


def _sform(header: Any, scale: float) -> npt.NDArray[np.float64]:
    matrix = np.eye(4)
    matrix[:3] = np.asarray(header["srow"], np.float64) * scale
    return matrix


def _qform(header: Any, spacing: tuple[float, float, float], scale: float) -> npt.NDArray[np.float64]:
    b, c, d = (float(q) for q in header["quatern"])
    square = 1.0 - b * b - c * c - d * d
    # b, c, d are rounded to float32: what they leave within its precision is a half turn (a = 0), as nibabel has it.
    a = math.sqrt(square) if square > 3 * np.finfo(np.float32).eps else 0.0
    rotation = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    handedness = -1.0 if header["pixdim"][0] < 0 else 1.0
    matrix = np.eye(4)
    matrix[:3, :3] = rotation * (*spacing[:2], spacing[2] * handedness)
    matrix[:3, 3] = np.asarray(header["qoffset"], np.float64) * scale
    return matrix


def _named_labels(extensions: bytes) -> tuple[Segment, ...]:
    start, end = extensions.find(b"<LabelTable"), extensions.find(b"</LabelTable>")
    if start < 0 or end < 0:
        return ()
    try:
        table = ElementTree.fromstring(extensions[start:end] + b"</LabelTable>")
        return tuple(
            Segment(
                int(label.attrib["Key"]),
                (label.text or "").strip(),
                tuple(round(255 * min(1.0, max(0.0, float(label.get(c, "0"))))) for c in ("Red", "Green", "Blue")),  # type: ignore[arg-type]
            )
            for label in table.iter("Label")
            if int(label.attrib["Key"]) > 0
        )
    except (ElementTree.ParseError, KeyError, ValueError):
        return ()  # names are a courtesy; the voxels do not depend on them


def read_stored(header: NiftiHeader, slices: slice = slice(None)) -> npt.NDArray[Any]:
    """Read the voxels as stored, before slope and intercept.

    Parameters
    ----------
    header : NiftiHeader
    slices : slice
        Which ones along k; all by default. Whatever is read is checked to be complete.

    Returns
    -------
    ndarray, shape (k, j, i), in the machine's byte order

    Raises
    ------
    InputError
        If the file ends early or its checksum is wrong.
    ResourceError
        If there is not enough memory.
    """
    path = header.data_path
    start, stop, _ = slices.indices(header.shape[0])
    shape = (stop - start, *header.shape[1:])
    slice_bytes = math.prod(header.shape[1:]) * header.dtype.itemsize
    with readable(path), path.open("rb") as probe:
        compressed = probe.read(2) == b"\x1f\x8b"
        check_stored_size(header.data_offset + header.shape[0] * slice_bytes, path.stat().st_size, compressed)
    array = np.empty(shape, header.dtype)
    with readable(path), _open(path) as file:
        file.seek(header.data_offset + start * slice_bytes)
        target = memoryview(array.reshape(-1).view(np.uint8).data)
        filled = 0
        while filled < len(target):
            count = file.readinto(target[filled : filled + _BLOCK])  # type: ignore[attr-defined]
            if not count:
                raise EOFError("the file ends before its voxels do")
            filled += count
        if slices == slice(None):
            file.read(1)  # gzip compares its checksum when the end is met
    if not array.dtype.isnative:
        array = array.byteswap(inplace=True).view(array.dtype.newbyteorder("="))
    return array


@contextmanager
def _open(path: Path) -> Iterator[IO[bytes]]:
    with path.open("rb") as raw:
        compressed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        if not compressed:
            yield raw
            return
        with gzip.GzipFile(fileobj=raw) as file:
            yield file  # type: ignore[misc]
