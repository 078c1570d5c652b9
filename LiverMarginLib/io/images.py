"""Image files that carry their geometry: NIfTI, NRRD (also 3D Slicer's seg.nrrd) and MetaImage.

NIfTI is read by `LiverMarginLib.io.nifti`, the others by SimpleITK. ITK's world is LPS; everything that leaves this
module is RAS.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from LiverMarginLib.errors import InputError, technical
from LiverMarginLib.io import nifti
from LiverMarginLib.io.detect import FileFormat
from LiverMarginLib.io.intensities import interpret, rescaled
from LiverMarginLib.io.limits import check_memory, check_stored_size
from LiverMarginLib.io.notes import Notes
from LiverMarginLib.io.text_headers import StoredVoxels, locate_voxels
from LiverMarginLib.terminology import Segment
from LiverMarginLib.volume import Geometry, Modality, Volume

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class ImageHeader:
    """What an image file says before its voxels are read.

    Parameters
    ----------
    path : Path
    geometry : Geometry
    voxel_type : str
        Numpy name of the stored voxels' type.
    layers : int
        Numbers per voxel; more than 1 in a colour image and in a seg.nrrd with overlapping segments.
    fields : mapping of str to str
        NRRD key/value pairs, MetaImage fields.
    segments : tuple of Segment
        Labels that a NIfTI header extension names.
    """

    path: Path
    geometry: Geometry
    voxel_type: str
    layers: int = 1
    fields: Mapping[str, str] = field(default_factory=dict)
    segments: tuple[Segment, ...] = ()

    @property
    def is_segmentation(self) -> bool:
        """Whether the file says of itself that it is a segmentation (3D Slicer's seg.nrrd)."""
        return any(re.fullmatch(r"Segment\d+_ID|Segment\d+_LabelValue", key) for key in self.fields)


def read_image_header(path: Path, file_format: FileFormat, notes: Notes) -> ImageHeader:
    """Read geometry and voxel type, not the voxels.

    Raises
    ------
    InputError
        If the header cannot be used, or announces what the file cannot hold.
    ResourceError
        If the image cannot fit into memory.
    """
    if file_format is FileFormat.NIFTI:
        return _from_nifti(nifti.read_header(path), notes)
    return _itk_header(*_reader(path, file_format), path, file_format, notes)


def read_image_array(
    path: Path, file_format: FileFormat, notes: Notes, slices: slice = slice(None)
) -> tuple[npt.NDArray[Any], ImageHeader]:
    """Read the voxels with the file's own scaling applied, and its header.

    Parameters
    ----------
    path : Path
    file_format : FileFormat
        NIFTI, NRRD or METAIMAGE.
    notes : Notes
    slices : slice
        Which ones along k; all by default.

    Returns
    -------
    array : ndarray, shape (k, j, i), or (k, j, i, layer) if the header has more than one layer
    header : ImageHeader
        Of the whole image.
    """
    if file_format is FileFormat.NIFTI:
        nifti_header = nifti.read_header(path)
        image_header = _from_nifti(nifti_header, notes)
        stored = nifti.read_stored(nifti_header, slices)
        n = stored.shape[0]
        return rescaled(stored, [nifti_header.slope] * n, [nifti_header.intercept] * n), image_header
    reader, voxels = _reader(path, file_format)
    image_header = _itk_header(reader, voxels, path, file_format, notes)
    start, stop, _ = slices.indices(image_header.geometry.shape[0])
    size = list(reader.GetSize())
    index = [0] * len(size)
    if len(size) > 2:
        index[2], size[2] = start, stop - start
        reader.SetExtractIndex(index)
        reader.SetExtractSize([*size[:3], *(0 for _ in size[3:])])  # drops the 4th axis, which has length 1
    try:
        image = reader.Execute()
    except RuntimeError as error:
        raise InputError(
            f"The voxels of '{path.name}' cannot be read; the {file_format} file is truncated or damaged, so copy or "
            "export it again.",
            technical(error),
        ) from error
    array = np.asarray(_Pixels(image))
    return array.reshape((stop - start, *array.shape[-2 - (image_header.layers > 1) :])), image_header


def read_image(path: Path, file_format: FileFormat, modality: Modality | None, notes: Notes) -> Volume:
    """Read an image file as a volume; see `LiverMarginLib.io.readers.read_volume`."""
    array, header = read_image_array(path, file_format, notes)
    if header.layers > 1 or header.is_segmentation:
        what = "a segmentation" if header.is_segmentation else "a colour image"
        raise InputError(f"'{path.name}' is {what}, not an image with one grey value per voxel; choose another file.")
    array, modality, intensity = interpret(array, modality, notes)
    return Volume(array, header.geometry, modality, intensity, notes=notes.sentences)


def _from_nifti(header: nifti.NiftiHeader, notes: Notes) -> ImageHeader:
    return ImageHeader(header.path, header.geometry(notes), header.dtype.name, segments=header.segments)


class _Pixels:
    """The pixels of a SimpleITK image for numpy, without a copy.

    SimpleITK's own view does not keep its image alive and cannot be written to; an array made from this object
    holds it, and owns the pixels alone.
    """

    def __init__(self, image: sitk.Image) -> None:
        self._image = image
        view = sitk.GetArrayViewFromImage(image)
        interface = dict(view.__array_interface__)
        interface["data"] = (interface["data"][0], False)
        self.__array_interface__ = interface


def _reader(path: Path, file_format: FileFormat) -> tuple[sitk.ImageFileReader, StoredVoxels]:
    reader = sitk.ImageFileReader()
    reader.SetImageIO("NrrdImageIO" if file_format is FileFormat.NRRD else "MetaImageIO")
    reader.SetFileName(str(path))
    voxels = locate_voxels(path, file_format)
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise InputError(
            f"The {file_format} header of '{path.name}' is damaged; copy or export the image again.", technical(error)
        ) from error
    return reader, voxels


def _itk_header(
    reader: sitk.ImageFileReader, voxels: StoredVoxels, path: Path, file_format: FileFormat, notes: Notes
) -> ImageHeader:
    size = reader.GetSize()
    if len(size) not in (2, 3) and math.prod(size[3:]) != 1:
        raise InputError(
            f"'{path.name}' has {len(size)} dimensions ({' x '.join(map(str, size))}), for example time points; export "
            "one of them as a 3-D image."
        )
    i, j, k = (*size, 1)[:3]
    layers = reader.GetNumberOfComponents()
    pixel_id = reader.GetPixelID()
    voxel_type = _NUMPY_NAMES.get(sitk.GetPixelIDValueAsString(pixel_id).replace("vector of ", ""))
    if voxel_type is None:
        raise InputError(f"'{path.name}' holds complex or otherwise unusual numbers; export it with plain grey values.")
    needed = check_memory((k, j, i, layers), np.dtype(voxel_type).itemsize)
    check_stored_size(needed, voxels.size(), voxels.compressed)
    dimension = len(size)
    matrix = np.eye(4)
    directions = np.array(reader.GetDirection()).reshape(dimension, dimension)
    n = min(dimension, 3)
    matrix[:n, :n] = directions[:n, :n] * np.array(reader.GetSpacing()[:n])
    matrix[:n, 3] = reader.GetOrigin()[:n]
    fields = _fields(reader)
    if file_format is FileFormat.NRRD and "NRRD_space" not in fields:
        notes.add(
            "The NRRD file does not name its coordinate system; its axes were taken as right to left, front to back, "
            "feet to head, which may be mirrored."
        )
    return ImageHeader(path, Geometry((k, j, i), LPS_TO_RAS @ matrix), voxel_type, layers, fields)


_NUMPY_NAMES = {
    "8-bit unsigned integer": "uint8",
    "8-bit signed integer": "int8",
    "16-bit unsigned integer": "uint16",
    "16-bit signed integer": "int16",
    "32-bit unsigned integer": "uint32",
    "32-bit signed integer": "int32",
    "64-bit unsigned integer": "uint64",
    "64-bit signed integer": "int64",
    "32-bit float": "float32",
    "64-bit float": "float64",
}


def _fields(reader: sitk.ImageFileReader) -> dict[str, str]:
    fields = {}
    for key in reader.GetMetaDataKeys():
        # SimpleITK cannot pass text that is not UTF-8; nothing that we look for is written otherwise.
        with suppress(TypeError, UnicodeError):
            fields[key] = reader.GetMetaData(key)
    return fields
