"""A DICOM image series, classic or multi-frame, as a volume."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom

from LiverMarginLib.errors import InputError
from LiverMarginLib.events import OnEvent, ignore
from LiverMarginLib.io.detect import readable
from LiverMarginLib.io.dicom_files import read_dicom
from LiverMarginLib.io.dicom_geometry import Arrangement, arrange, require_images
from LiverMarginLib.io.dicom_headers import Frame, Series
from LiverMarginLib.io.dicom_pixels import read_frames_into
from LiverMarginLib.io.intensities import AIR_HU, interpret, rescaled, value_range
from LiverMarginLib.io.limits import check_memory
from LiverMarginLib.io.notes import Notes
from LiverMarginLib.volume import IntensityKind, Modality, Volume

Array = npt.NDArray[Any]

_MODALITIES = {"CT": Modality.CT, "MR": Modality.MR}
_TISSUE_HU = (-900, 3000)


def place_series(series: Series, notes: Notes) -> Arrangement:
    """Order and place the images of a series by their headers alone.

    Raises
    ------
    InputError
        If files are damaged, or the images do not form one regular grid.
    """
    if series.damaged:
        raise InputError(
            f"{series.damaged} DICOM file{'s' if series.damaged > 1 else ''} in the series' folder cannot be read "
            "and may belong to it; copy the series again, or take the damaged files away."
        )
    require_images(series.frames)
    return arrange(series.frames, notes)


def read_series(series: Series, modality: Modality | None, notes: Notes, on_event: OnEvent = ignore) -> Volume:
    """Read an image series.

    CT is given in HU, in 16-bit integers wherever those hold the values exactly.

    Parameters
    ----------
    series : Series
        Of kind IMAGE, from `dicom_headers.scan`.
    modality : Modality, optional
        Overrides the header's.
    notes : Notes
    on_event : callable

    Raises
    ------
    InputError
        If the images do not form one grid, cannot be decoded, or are a CT without rescale.
    ResourceError
        If the series cannot fit into memory.
    """
    arrangement = place_series(series, notes)
    doubled = [place for place in arrangement.places if len(place) > 1]
    if doubled:
        _drop_copies(doubled, len(arrangement.places), notes)
    frames = [place[0] for place in arrangement.places]
    dtype = _common_dtype(frames)
    check_memory(arrangement.geometry.shape, dtype.itemsize)
    stored = np.empty(arrangement.geometry.shape, dtype)
    read_frames_into(frames, stored, on_event)

    modality = modality or _MODALITIES.get(series.modality, Modality.UNKNOWN)
    slopes, intercepts = _rescale(frames, modality, stored, notes)
    if modality is Modality.CT:
        _replace_padding(frames, stored, slopes, intercepts, notes)
    if frames[0].file.photometric == "MONOCHROME1" and modality is not Modality.CT:
        low, high = value_range(stored)
        np.subtract(int(low + high), stored, out=stored, casting="unsafe")
        notes.add("The images are stored inverted (MONOCHROME1) and were turned, so that bright is high.")
    array, modality, intensity = interpret(
        rescaled(stored, slopes, intercepts), modality, notes, hu=_is_hu(frames) if modality is Modality.CT else None
    )
    if modality is Modality.CT and intensity is IntensityKind.ARBITRARY:
        notes.add("The CT's values are not Hounsfield units (spectral or material images); they are arbitrary.")
    return Volume(array, arrangement.geometry, modality, intensity, notes=notes.sentences)


def source_headers(frames: Sequence[Frame]) -> list[pydicom.Dataset]:
    """Full headers (without pixels) of the files behind frames, each file once, in the frames' order.

    For writers that refer to the source images, such as DICOM SEG. They carry the patient's identity.
    """
    headers: list[pydicom.Dataset] = []
    for path in dict.fromkeys(frame.file.path for frame in frames):
        with readable(path):
            headers.append(read_dicom(path, force=True, stop_before_pixels=True))
    return headers


def _common_dtype(frames: Sequence[Frame]) -> np.dtype[Any]:
    return np.result_type(*{frame.file.dtype for frame in frames})


def _drop_copies(doubled: list[tuple[Frame, ...]], total: int, notes: Notes) -> None:
    """Accept several images at one position only if they are copies of each other."""
    for place in doubled:
        file = place[0].file
        pixels = np.empty((len(place), file.rows, file.columns), _common_dtype(place))
        read_frames_into(place, pixels)
        same_scale = len({(frame.slope, frame.intercept) for frame in place}) == 1
        if not same_scale or any(not np.array_equal(pixels[0], other) for other in pixels[1:]):
            raise InputError(
                f"The series holds several different images at {len(doubled)} of {total} positions (phases, echoes or "
                "repetitions); export one of them as a series of its own."
            )
    copies = sum(len(place) - 1 for place in doubled)
    notes.add(
        f"{copies} image{'s are copies' if copies > 1 else ' is a copy'} of others at the same position and "
        f"{'were' if copies > 1 else 'was'} left out."
    )


def _rescale(
    frames: Sequence[Frame], modality: Modality, stored: Array, notes: Notes
) -> tuple[list[float], list[float]]:
    """Slope and intercept of each frame; decides what a CT without them means."""
    missing = [frame.slope is None or frame.intercept is None for frame in frames]
    if modality is Modality.CT and any(missing) and frames[0].file.bits_stored > 8:
        low, _ = value_range(stored)
        if not (all(missing) and stored.dtype.kind == "i" and low <= -900):
            raise InputError(
                "The CT series has no rescale slope and intercept, so its Hounsfield units are unknown; export the "
                "original series."
            )
        notes.add("The CT has no rescale slope and intercept; its values look like Hounsfield units and were kept.")
    slopes = [1.0 if frame.slope is None else frame.slope for frame in frames]
    intercepts = [0.0 if frame.intercept is None else frame.intercept for frame in frames]
    if any(slope == 0 or not np.isfinite(slope) for slope in slopes) or not np.isfinite(intercepts).all():
        raise InputError("The rescale slope of the DICOM series is zero or invalid; export the original series.")
    return slopes, intercepts


def _is_hu(frames: Sequence[Frame]) -> bool | None:
    first = frames[0]
    if first.file.rescale_type not in ("", "HU", "US"):
        return False
    scaled = first.slope is not None and first.intercept is not None
    return True if scaled and (first.file.bits_stored > 8 or first.intercept != 0) else None


def _replace_padding(
    frames: Sequence[Frame], stored: Array, slopes: list[float], intercepts: list[float], notes: Notes
) -> None:
    """Set Pixel Padding Value to air where it would not be mistaken for tissue; lower values are clipped later."""
    replaced = ignored = 0
    for frame, part, slope, intercept in zip(frames, stored, slopes, intercepts, strict=True):
        if frame.file.padding is None:
            continue
        low, high = (value * slope + intercept for value in frame.file.padding)
        if high <= _TISSUE_HU[0]:
            continue  # air or below it
        padded = (part >= frame.file.padding[0]) & (part <= frame.file.padding[1])
        count = int(np.count_nonzero(padded))
        if low < _TISSUE_HU[1]:
            ignored += count
            continue
        limits = np.iinfo(stored.dtype)
        part[padded] = np.clip(round((AIR_HU - intercept) / slope), limits.min, limits.max)
        replaced += count
    if replaced:
        notes.add(f"{replaced} voxels of padding (above any tissue) were set to air.")
    if ignored:
        notes.add("The header's padding value is one that tissue has too; voxels with it were kept.")


def sample_range(frame: Frame) -> tuple[float, float]:
    """Lowest and highest value of one image, after its rescale."""
    pixels = np.empty((1, frame.file.rows, frame.file.columns), _common_dtype([frame]))
    read_frames_into([frame], pixels)
    return value_range(rescaled(pixels, [frame.slope or 1.0], [frame.intercept or 0.0]))
