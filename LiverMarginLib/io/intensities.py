"""What stored numbers mean: rescaling in the smallest exact type, padding, broken voxels, and the guess of CT or not.

Everything here works slice by slice, so that beside the image itself only one slice of temporary memory is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from LiverMarginLib.errors import InputError
from LiverMarginLib.io.notes import Notes
from LiverMarginLib.volume import IntensityKind, Modality

Array = npt.NDArray[Any]

AIR_HU = -1024
"""Lowest value kept in a CT; below it is only padding outside the reconstructed circle."""

_AIR_BELOW_HU = -900  # air is -1000 +- noise
_TISSUE_HU = (-200, 300)
_BODY_ABOVE_HU = -500  # lung parenchyma begins about here; a CT without any such voxel shows nothing


def value_range(array: Array) -> tuple[float, float]:
    """Smallest and largest value."""
    return min(float(part.min()) for part in array), max(float(part.max()) for part in array)


def rescaled(stored: Array, slopes: Sequence[float], intercepts: Sequence[float]) -> Array:
    """Apply ``stored * slope + intercept``, each slice with its own factors.

    Parameters
    ----------
    stored : ndarray, shape (k, j, i)
        Stored values; its memory is used again for the result where the type allows it.
    slopes, intercepts : sequence of float, length k

    Returns
    -------
    ndarray, shape (k, j, i)
        Integers (16 bits where the values fit, else 32) if all factors are integers, else float32.
    """
    if all(slope == 1 for slope in slopes) and all(intercept == 0 for intercept in intercepts):
        return stored if stored.dtype != np.float64 else stored.astype(np.float32)
    factors = (*slopes, *intercepts)
    exact = stored.dtype.kind in "iu" and all(float(f).is_integer() and abs(f) < 1 << 31 for f in factors)
    if exact:
        extremes = [
            value * slope + intercept
            for part, slope, intercept in zip(stored, slopes, intercepts, strict=True)
            for value in (int(part.min()), int(part.max()))
        ]
        low, high = min(extremes), max(extremes)
        exact = _fits(low, high, np.int32)
    target = np.float32 if not exact else np.int16 if _fits(low, high, np.int16) else np.int32
    in_place = np.dtype(target).itemsize == stored.dtype.itemsize
    result: Array = stored.view(target) if in_place else np.empty(stored.shape, target)
    for part, slope, intercept, out in zip(stored, slopes, intercepts, result, strict=True):
        if exact:
            out[...] = part.astype(np.int64) * int(slope) + int(intercept)
        else:
            with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and that is dealt with
                out[...] = part.astype(np.float64) * slope + intercept
    return result


def _fits(low: float, high: float, dtype: type[np.signedinteger[Any]]) -> bool:
    return bool(np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max)


def interpret(
    array: Array, modality: Modality | None, notes: Notes, *, hu: bool | None = None
) -> tuple[Array, Modality, IntensityKind]:
    """Decide what the values of an image mean, and mend what can be mended.

    Parameters
    ----------
    array : ndarray, shape (k, j, i)
        Values as the file has them after its own scaling; changed in place.
    modality : Modality, optional
        As the header or the user says; None if neither does. The values then decide by these rules:

        * 8-bit voxels: `IntensityKind.EIGHT_BIT`, modality unknown. A CT that was exported as 8-bit pictures has
          lost its Hounsfield units.
        * at least 0.5 % of the voxels are -900 or lower (air) and at least 5 % lie between -200 and 300 (soft
          tissue, fat, water): CT in HU.
        * anything else: `IntensityKind.ARBITRARY`, modality unknown.
    notes : Notes
        Told about the guess and every repair.
    hu : bool, optional
        Whether the file states that the values of a CT are HU; None if it does not say.

    Returns
    -------
    tuple of ndarray, Modality, IntensityKind

    Raises
    ------
    InputError
        If no voxel is finite, all have the same value, or a CT shows nothing but air.
    """
    array = _finite(array, notes, AIR_HU if modality is Modality.CT else None)
    low, high = value_range(array)
    if low == high:
        raise InputError(
            f"Every voxel of the image has the same value ({low:g}); it shows nothing, so export it again."
        )
    if modality in (None, Modality.CT) and hu is not False and low <= _AIR_BELOW_HU and high < _BODY_ABOVE_HU:
        raise InputError(f"The CT shows nothing but air (its highest value is {high:g} HU); choose another series.")
    if array.dtype in (np.uint8, np.bool_) and hu is not True:
        return array, modality or Modality.UNKNOWN, IntensityKind.EIGHT_BIT
    if modality is None and _looks_like_hu(array, low):
        modality = Modality.CT
        notes.add(
            "The file does not say what made the image; its values look like Hounsfield units, so it is taken as CT."
        )
    elif modality is None:
        notes.add(
            "The file does not say what made the image; its values are not Hounsfield units, so they are arbitrary."
        )
    if modality is not Modality.CT or hu is False:
        return array, modality or Modality.UNKNOWN, IntensityKind.ARBITRARY
    if hu is None and low > _AIR_BELOW_HU and low >= 0:
        notes.add(f"The values of the CT start at {low:g}, so they may not be Hounsfield units; check the export.")
    if low < AIR_HU:
        _raise_to_air(array, notes)
    return array, Modality.CT, IntensityKind.HU


def _finite(array: Array, notes: Notes, fill: float | None) -> Array:
    if array.dtype.kind != "f":
        return array
    broken = sum(int(np.count_nonzero(~np.isfinite(part))) for part in array)
    if broken == array.size:
        raise InputError("No voxel of the image is a finite number (all are NaN or infinite); export it again.")
    if broken:
        if fill is None:
            fill = min(float(part[np.isfinite(part)].min(initial=np.inf)) for part in array)
        for part in array:
            part[~np.isfinite(part)] = fill
        notes.add(
            f"{_share(broken, array.size)} were NaN or infinite and were set to {fill:g}, as if outside the image."
        )
    return array


def _looks_like_hu(array: Array, low: float) -> bool:
    if low > _AIR_BELOW_HU:
        return False
    air = sum(int(np.count_nonzero(part <= _AIR_BELOW_HU)) for part in array)
    tissue = sum(int(np.count_nonzero((part >= _TISSUE_HU[0]) & (part <= _TISSUE_HU[1]))) for part in array)
    return air >= 0.005 * array.size and tissue >= 0.05 * array.size


def _raise_to_air(array: Array, notes: Notes) -> None:
    padded = 0
    for part in array:
        below = part < AIR_HU
        padded += int(np.count_nonzero(below))
        part[below] = AIR_HU
    notes.add(
        f"{_share(padded, array.size)} were below {AIR_HU} HU (padding outside the scanned field) "
        f"and were set to {AIR_HU} HU."
    )


def _share(count: int, total: int) -> str:
    percent = 100 * count / total
    return f"{percent:.1f} % of the voxels" if percent >= 0.1 else f"{count} of the voxels"
