"""Stored pixel values of DICOM frames: plain ones straight from the file, compressed ones through a decoder.

pydicom decodes what its installed plugins can; the rest (JPEG Lossless above all) goes to GDCM inside SimpleITK.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
import SimpleITK as sitk
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.pixels import get_decoder, iter_pixels
from pydicom.uid import SecondaryCaptureImageStorage, generate_uid

from LiverMarginLib.errors import InputError, technical
from LiverMarginLib.events import OnEvent, Progress, ignore
from LiverMarginLib.io.detect import readable
from LiverMarginLib.io.dicom_files import read_dicom
from LiverMarginLib.io.dicom_headers import DicomFile, Frame
from LiverMarginLib.io.parallel import for_each

Array = npt.NDArray[Any]


def read_frames_into(frames: Sequence[Frame], out: Array, on_event: OnEvent = ignore) -> None:
    """Read the stored values of frames, each into its slice of one array.

    Parameters
    ----------
    frames : sequence of Frame
        Of equal size.
    out : ndarray, shape (frame, row, column)
        Receives them; of a type that holds the stored values.
    on_event : callable
        Receives progress.

    Raises
    ------
    InputError
        If pixels are missing or cannot be decoded; the message says which slice.
    """
    by_file: dict[Path, list[int]] = defaultdict(list)
    for place, frame in enumerate(frames):
        by_file[frame.file.path].append(place)

    def read_file(places: list[int]) -> int:
        wanted = sorted(places, key=lambda place: frames[place].index)
        file = frames[wanted[0]].file
        try:
            for place, pixels in zip(
                wanted, stored_frames(file, [frames[place].index for place in wanted]), strict=True
            ):
                out[place] = pixels
        except _Undecodable as error:
            raise InputError(
                f"Slice {wanted[0] + 1} of {len(frames)} cannot be decoded ({file.transfer_syntax.name}); it is "
                "damaged, or its compression is not supported, so copy it again or export the series uncompressed.",
                technical(error),
            ) from error
        return len(places)

    done = 0

    def report(count: int) -> None:
        nonlocal done
        done += count
        on_event(Progress(done, len(frames), "read"))

    for_each(read_file, by_file.values(), report)


class _Undecodable(Exception):
    """No decoder could make pixels of a frame; the text is for the log."""


def stored_frames(file: DicomFile, indices: Sequence[int]) -> Iterator[Array]:
    """Yield the stored values of some frames of one file, in ascending order of `indices`.

    Yields
    ------
    ndarray, shape (row, column)
        Unused high bits cleared (or filled with the sign).
    """
    decoded = _native_frames(file, indices) if _is_plain(file) else _decoded_frames(file, indices)
    for pixels in decoded:
        if pixels.shape != (file.rows, file.columns):
            raise _Undecodable(f"decoded shape {pixels.shape}, header {file.rows} x {file.columns}")
        yield _without_unused_bits(pixels, file)


def _is_plain(file: DicomFile) -> bool:
    return file.native_offset is not None and file.bits_allocated in (8, 16, 32) and file.samples == 1


def _native_frames(file: DicomFile, indices: Sequence[int]) -> Iterator[Array]:
    dtype = file.dtype.newbyteorder("<")
    count = file.rows * file.columns
    with readable(file.path), file.path.open("rb") as stream:
        for index in indices:
            stream.seek((file.native_offset or 0) + index * count * dtype.itemsize)
            pixels = np.fromfile(stream, dtype, count)
            if pixels.size != count:
                raise _Undecodable("the pixel data are shorter than the header says")
            yield pixels.reshape(file.rows, file.columns)


def _decoded_frames(file: DicomFile, indices: Sequence[int]) -> Iterator[Array]:
    done = 0
    failure = "no pydicom plugin"
    if _pydicom_decodes(file):
        try:
            for pixels in iter_pixels(pixel_source(file), indices=list(indices), raw=True):
                yield pixels
                done += 1
            return
        # Plugins raise whatever their C libraries do; GDCM gets the chance before the frame is given up.
        except Exception as error:
            failure = technical(error)
    if not _is_compressed(file):
        raise _Undecodable(failure)
    for index in indices[done:]:
        try:
            yield _gdcm_frame(file, index)
        except Exception as error:
            raise _Undecodable(f"{failure}; GDCM: {technical(error)}") from error


def pixel_source(file: DicomFile) -> Path | pydicom.Dataset:
    """What pydicom's pixel functions are to read; they do not find the pixels of a deflated file by its path."""
    return file.path if _is_compressed(file) else read_dicom(file.path, force=True)


def _is_compressed(file: DicomFile) -> bool:
    syntax = file.transfer_syntax
    # A private or made-up syntax is left to the decoders, which will say that they do not know it.
    return not syntax.is_transfer_syntax or (syntax.is_compressed and not syntax.is_deflated)


def _pydicom_decodes(file: DicomFile) -> bool:
    if not _is_compressed(file):
        return True
    try:
        return bool(get_decoder(file.transfer_syntax).is_available)
    except NotImplementedError:
        return False


def _gdcm_frame(file: DicomFile, index: int) -> Array:
    """Decode one compressed frame with GDCM.

    SimpleITK reads files only, and applies the rescale by rules of its own; a temporary file with nothing but this
    frame and its pixel description gives the stored values.
    """
    source = read_dicom(file.path, specific_tags=["PixelData", "NumberOfFrames"])
    one = pydicom.Dataset()
    one.file_meta = FileMetaDataset()
    one.file_meta.TransferSyntaxUID = file.transfer_syntax
    one.SOPClassUID = one.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    one.Modality = "OT"
    one.Rows, one.Columns = file.rows, file.columns
    one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
    one.BitsAllocated, one.BitsStored, one.HighBit = file.bits_allocated, file.bits_stored, file.bits_stored - 1
    one.PixelRepresentation = int(file.signed)
    one.PixelData = encapsulate([get_frame(source.PixelData, index, number_of_frames=file.frame_count)])
    with tempfile.TemporaryDirectory(prefix="livermargin-") as folder:
        path = Path(folder, "frame.dcm")
        one.save_as(path, enforce_file_format=True)
        reader = sitk.ImageFileReader()
        reader.SetImageIO("GDCMImageIO")
        reader.SetFileName(str(path))
        return sitk.GetArrayFromImage(reader.Execute()).reshape(file.rows, file.columns)


def _without_unused_bits(pixels: Array, file: DicomFile) -> Array:
    # Bits above Bits Stored may carry old overlays; they are no part of the value (DICOM PS3.5 8.1.1).
    unused = file.bits_allocated - file.bits_stored
    if not 0 < unused < 8 * pixels.dtype.itemsize or file.bits_allocated < 8:
        return pixels
    if file.signed:
        limit = 1 << (file.bits_stored - 1)
        if pixels.min() >= -limit and pixels.max() < limit:
            return pixels
        return (pixels << unused) >> unused
    limit = 1 << file.bits_stored
    return pixels if pixels.max() < limit else pixels & pixels.dtype.type(limit - 1)
