"""Plain label maps: NIfTI, NRRD and MetaImage. They hold values and geometry, but no names or colours.

NRRD and MetaImage go through ITK and are read back, because on a full disk ITK may lose the end of a file without an
error. NIfTI is written here, because ITK also changes axes that are not at right angles (both seen with SimpleITK
2.5).
"""

from __future__ import annotations

import gzip
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from LiverMarginLib.errors import GeometryError, ResourceError
from LiverMarginLib.io.atomic import atomic_path
from LiverMarginLib.io.segment_table import PROVENANCE_KEY, provenance_text, stored_labels
from LiverMarginLib.volume import Geometry, LabelMap

_RAS_TO_LPS = np.diag((-1.0, -1.0, 1.0))

_NIFTI_LABEL_INTENT = 1002
_NIFTI_MILLIMETRES = 2
_NIFTI_SCANNER_SPACE = 1
_NIFTI_DATA_TYPES = {np.dtype(np.uint8): 2, np.dtype(np.uint16): 512}
_NIFTI_DATA_OFFSET = 352
_NIFTI_LARGEST_AXIS = 32767


def write_itk_labelmap(labels: LabelMap, path: Path, *, overwrite: bool = True) -> None:
    """Write a compressed NRRD (``.nrrd``) or MetaImage (``.mha``) label map in the smallest integer type.

    An NRRD also carries the provenance, as JSON under the key ``LiverMargin.Provenance``.

    Raises
    ------
    InputError, ResourceError
        See `stored_labels`, `write_image` and `atomic_path`.
    """
    is_nrrd = path.name.lower().endswith(".nrrd")
    metadata = {PROVENANCE_KEY: provenance_text(labels.provenance)} if is_nrrd and labels.provenance else {}
    write_image(stored_labels(labels), labels.geometry, metadata, path, overwrite=overwrite)


def write_image(
    array: npt.NDArray[np.unsignedinteger],
    geometry: Geometry,
    metadata: Mapping[str, str],
    path: Path,
    *,
    overwrite: bool = True,
) -> None:
    """Write an array with ITK in LPS millimetres, compressed, under `path` when it is complete.

    Parameters
    ----------
    array : ndarray, shape (k, j, i)
    geometry : Geometry
    metadata : mapping of str to str
        Header fields.
    path : Path
    overwrite : bool

    Raises
    ------
    InputError, ResourceError
        See `atomic_path`.
    """
    image = sitk.GetImageFromArray(array)
    image.SetOrigin((_RAS_TO_LPS @ geometry.ijk_to_ras[:3, 3]).tolist())
    image.SetSpacing(geometry.spacing[::-1])
    image.SetDirection((_RAS_TO_LPS @ geometry.directions).ravel().tolist())
    for key, value in metadata.items():
        image.SetMetaData(key, value)
    with atomic_path(path, overwrite=overwrite) as temporary:
        try:
            sitk.WriteImage(image, str(temporary), useCompression=True)
            del image  # makes room for what is read back
            written = sitk.ReadImage(str(temporary))  # named, because the view below does not keep it alive
            view = sitk.GetArrayViewFromImage(written)
            complete = view.shape == array.shape and all(map(np.array_equal, view, array))
            reason = "read back differently"
        except RuntimeError as error:
            complete, reason = False, type(error).__name__
        if not complete:
            # ITK does not say why; the folder itself has been proved writable.
            raise ResourceError(
                f"{path.name} could not be written completely; free some space or choose another disk.", reason
            )


def write_nifti(labels: LabelMap, path: Path, *, overwrite: bool = True) -> None:
    """Write a NIfTI-1 label map (``.nii`` or ``.nii.gz``) in the smallest integer type.

    The sform holds the affine (float32, RAS mm); the qform holds the same where the axes are at right angles and is
    marked unknown where they are not, because a quaternion cannot hold a shear. NIfTI has no place for names,
    colours or provenance.

    Parameters
    ----------
    labels : LabelMap
    path : Path
    overwrite : bool

    Raises
    ------
    GeometryError
        If an axis has more than 32767 voxels, the format's limit.
    InputError, ResourceError
        See `stored_labels` and `atomic_path`.
    """
    stored = stored_labels(labels)
    header = _nifti_header(labels.geometry, stored.dtype)
    with atomic_path(path, overwrite=overwrite) as temporary, temporary.open("wb") as file:
        if path.name.lower().endswith(".gz"):
            # Without a name and a time in the gzip header, the same labels always give the same bytes.
            with gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=file, mtime=0) as stream:
                _write_nifti_stream(stream, header, stored)
        else:
            _write_nifti_stream(file, header, stored)


def _write_nifti_stream(
    stream: BinaryIO | gzip.GzipFile, header: bytes, stored: npt.NDArray[np.unsignedinteger]
) -> None:
    stream.write(header)
    little_endian = stored.dtype.newbyteorder("<")
    for plane in stored:  # slice by slice: a permuted or flipped view needs no second copy of the volume
        stream.write(np.ascontiguousarray(plane, dtype=little_endian).tobytes())


def _nifti_header(geometry: Geometry, dtype: np.dtype[np.unsignedinteger]) -> bytes:
    """Return the 348 bytes of the NIfTI-1 header and the 4 that say no extension follows."""
    if max(geometry.shape) > _NIFTI_LARGEST_AXIS:
        raise GeometryError(
            f"NIfTI holds at most {_NIFTI_LARGEST_AXIS} voxels along an axis; choose .nrrd or crop the image."
        )
    right_angles = np.allclose(geometry.directions.T @ geometry.directions, np.eye(3), atol=1e-5)
    handedness = float(np.sign(np.linalg.det(geometry.directions)))
    rotation = Rotation.from_matrix(geometry.directions * (1.0, 1.0, handedness))
    x, y, z, _ = rotation.as_quat(canonical=True)
    header = bytearray(_NIFTI_DATA_OFFSET)

    def put(offset: int, layout: str, *values: float) -> None:
        struct.pack_into("<" + layout, header, offset, *values)

    put(0, "i", 348)
    put(40, "8h", 3, *geometry.shape[::-1], 1, 1, 1, 1)
    put(68, "3h", _NIFTI_LABEL_INTENT, _NIFTI_DATA_TYPES[np.dtype(dtype)], 8 * dtype.itemsize)
    put(76, "8f", handedness, *geometry.spacing[::-1], 0, 0, 0, 0)
    put(108, "3f", _NIFTI_DATA_OFFSET, 1.0, 0.0)  # data offset, scale slope and intercept
    put(123, "B", _NIFTI_MILLIMETRES)
    put(252, "2h", _NIFTI_SCANNER_SPACE if right_angles else 0, _NIFTI_SCANNER_SPACE)
    put(256, "6f", x, y, z, *geometry.ijk_to_ras[:3, 3])
    put(280, "12f", *geometry.ijk_to_ras[:3].ravel())
    header[344:348] = b"n+1\0"
    return bytes(header)
