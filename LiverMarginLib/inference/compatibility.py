"""Whether an image is of the kind that a model was trained on, and which intensities become 0 and 1.

A network gives an answer to anything; fed with values of another kind, a wrong one without a warning. So a mismatch is
refused unless the user asks for it, and whatever is assumed is said.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from LiverMarginLib.errors import InputError
from LiverMarginLib.inference.resemblance import strangeness
from LiverMarginLib.models.intensity_fields import Window, WindowUnit
from LiverMarginLib.models.manifest import Manifest
from LiverMarginLib.models.volumetric_fields import Normalisation, NormalisationKind
from LiverMarginLib.preprocessing import FloatImage, Scale
from LiverMarginLib.volume import IntensityKind, Modality, Volume, axial_view

# Where an image of another kind is forced upon a model. 8-bit: the whole range. HU: a wide abdominal window.
_EIGHT_BIT_WINDOW = Window(0.0, 255.0)
_HU_WINDOW = Window(-160.0, 240.0)
_PERCENTILE_WINDOW = Window(2.0, 98.0, WindowUnit.PERCENTILE)

_AIR_BELOW_HU = -500.0
_SAMPLES_FOR_PERCENTILES = 1 << 21


@dataclass(frozen=True)
class InputPlan:
    """How the voxels of one image become a network's input.

    Parameters
    ----------
    low, high : float
        Intensities that become 0 and 1; those beyond are clipped.
    notices : tuple of str
        What was assumed or is amiss, one sentence each.
    scale : Scale
        What becomes of the clipped intensities.
    """

    low: float
    high: float
    notices: tuple[str, ...]
    scale: Scale

    def apply(self, image: npt.NDArray[Any]) -> FloatImage:
        """Make network inputs of intensities, of the same shape."""
        return self.scale.apply(image)


@dataclass(frozen=True)
class _Intensities:
    low: float
    high: float
    above_air: int
    not_numbers: int


def plan_input(
    volume: Volume, manifest: Manifest, *, allow_mismatch: bool = False, seen: npt.NDArray[Any] | None = None
) -> InputPlan:
    """Check an image against a model and choose the intensity window.

    Parameters
    ----------
    volume : Volume
    manifest : Manifest
    allow_mismatch : bool
        Go on, with a notice, where image and model are of different kinds.
    seen : ndarray, optional
        The part of the image that the network sees, where another has found the organ before: values that are
        normalised by the image itself go by this part, as in the training on such parts.

    Returns
    -------
    InputPlan

    Raises
    ------
    InputError
        If they are of different kinds, or the image shows nothing: only air, or one value everywhere.
    """
    found = _survey(volume)
    if not found.low < found.high:
        raise InputError("The image has the same value in every voxel, so there is nothing to segment; check the file.")
    notices = []
    if found.not_numbers:
        notices.append(f"{found.not_numbers} voxels are not numbers; they are treated as background.")
    kind = volume.intensity
    if _looks_like_hounsfield(volume, found):
        kind = IntensityKind.HU
        notices.append(
            f"The file does not say what its values mean; from {found.low:.0f} to {found.high:.0f} they are taken "
            "for Hounsfield units."
        )
    if kind is IntensityKind.HU and not found.above_air:
        raise InputError("The image shows nothing but air, so there is nothing to segment; check the file.")
    mismatch = _mismatch(volume.modality, kind, manifest, found)
    if mismatch and not allow_mismatch:
        raise InputError(f"{mismatch}; choose a model for such images, or allow the mismatch.")
    if mismatch:
        notices.append(f"{mismatch}; the result may be wrong.")
    window = manifest.window if kind is manifest.input_kind else _forced_window(kind)
    view = axial_view(volume.geometry)
    planes = view.to_view(volume.array)
    if volume.spacing_known and not mismatch:
        notices += strangeness(planes, view.geometry.spacing, kind, manifest.training)
    low, high = intensity_limits(planes if seen is None else seen, window)
    scale = plan_scale(volume.array if seen is None else seen, manifest.normalisation, low, high)
    return InputPlan(low, high, tuple(notices), scale)


def input_of(volume: Volume, manifest: Manifest) -> tuple[Modality, str]:
    """Decide as which of a model's modalities an image is taken.

    Parameters
    ----------
    volume : Volume
    manifest : Manifest
        With one modality or several.

    Returns
    -------
    Modality
        One of the model's. Whether it suits the image is for `plan_input` to say.
    str
        What was assumed, as a sentence; empty where nothing was.
    """
    if volume.modality in manifest.modalities:
        return volume.modality, ""
    if volume.modality is not Modality.UNKNOWN or len(manifest.modalities) == 1:
        return manifest.modality, ""
    found = _survey(volume)
    hounsfield = volume.intensity is IntensityKind.HU or _looks_like_hounsfield(volume, found)
    kind = IntensityKind.HU if hounsfield else volume.intensity
    for item in manifest.inputs:
        if item.input_kind is kind:
            note = (
                f"The file does not say whether it is CT or MR; its values, from {found.low:.0f} to {found.high:.0f}, "
                f"are taken for {item.modality}."
            )
            return item.modality, note
    return manifest.modality, ""


def plan_scale(array: npt.NDArray[Any], normalisation: Normalisation, low: float, high: float) -> Scale:
    """Choose what becomes of an image's intensities.

    Parameters
    ----------
    array : ndarray, shape (k, j, i)
        The image: a z-score may be that of its own values.
    normalisation : Normalisation
    low, high : float
        The window.

    Raises
    ------
    InputError
        If the z-score of an image of one value is asked for.
    """
    match normalisation.kind:
        case NormalisationKind.UNIT:
            return Scale.unit(low, high)
        case NormalisationKind.NONE:
            return Scale(-math.inf, math.inf, 0.0, 1.0)
    mean, deviation = normalisation.mean, normalisation.deviation
    if mean is None or deviation is None:
        # In the whole array's own order of voxels: sums of the same image differ in their last digits between axis
        # orders, far below what a network notices.
        count, total, squares = 0, 0.0, 0.0
        for plane in array:
            values = np.clip(plane[np.isfinite(plane)], low, high).astype(np.float64)
            count, total, squares = count + values.size, total + values.sum(), squares + (values**2).sum()
        mean = total / max(1, count)
        deviation = math.sqrt(max(0.0, squares / max(1, count) - mean**2))
        if deviation <= 1e-6 * (high - low):
            raise InputError(
                "The image has nearly the same value in every voxel, so there is nothing to segment; check the file."
            )
    return Scale(low, high, mean, deviation)


def _survey(volume: Volume) -> _Intensities:
    low, high, above_air, not_numbers = math.inf, -math.inf, 0, 0
    for plane in volume.array:
        if plane.dtype.kind == "f":
            finite = np.isfinite(plane)
            not_numbers += plane.size - int(np.count_nonzero(finite))
            if not finite.all():
                plane = plane[finite]
                if not plane.size:
                    continue
        low, high = min(low, float(plane.min())), max(high, float(plane.max()))
        above_air += int(np.count_nonzero(plane > _AIR_BELOW_HU))
    return _Intensities(low, high, above_air, not_numbers)


def _looks_like_hounsfield(volume: Volume, found: _Intensities) -> bool:
    # NIfTI, NRRD and MHA do not say what their values mean, but only CT is far below zero where there is air.
    return (
        volume.intensity is IntensityKind.ARBITRARY
        and volume.modality is not Modality.MR
        and -4096 <= found.low <= -200
        and 50 <= found.high <= 65536
    )


def _mismatch(modality: Modality, kind: IntensityKind, manifest: Manifest, found: _Intensities) -> str:
    known = Modality.UNKNOWN not in (modality, manifest.modality)
    if known and modality is not manifest.modality:
        return f"The image is {modality} but the model {manifest.name!r} was trained on {manifest.modality}"
    if kind is not manifest.input_kind:
        return (
            f"The image's values ({_KIND_NAMES[kind]}, {found.low:g} to {found.high:g}) are not what the model "
            f"{manifest.name!r} was trained on ({_KIND_NAMES[manifest.input_kind]})"
        )
    return ""


_KIND_NAMES = {
    IntensityKind.HU: "Hounsfield units",
    IntensityKind.EIGHT_BIT: "8-bit grey values",
    IntensityKind.ARBITRARY: "arbitrary units",
}


def _forced_window(kind: IntensityKind) -> Window:
    if kind is IntensityKind.EIGHT_BIT:
        return _EIGHT_BIT_WINDOW
    return _HU_WINDOW if kind is IntensityKind.HU else _PERCENTILE_WINDOW


def intensity_limits(array: npt.NDArray[Any], window: Window) -> tuple[float, float]:
    """Return the window's ends in the units of an image.

    Parameters
    ----------
    array : ndarray, shape (k, j, i)
        The image in the axial view.
    window : Window

    Raises
    ------
    InputError
        If the window is in percentiles and all of them are the same value.
    """
    if window.unit is WindowUnit.VALUE:
        return window.low, window.high
    # A regular sample in the axial view: the same for every axis order of the same image, and never a copy of it all.
    step = max(1, math.ceil((array.size / _SAMPLES_FOR_PERCENTILES) ** (1 / 3)))
    sample = array[::step, ::step, ::step].astype(np.float64)
    low, high = np.percentile(sample[np.isfinite(sample)], (window.low, window.high))
    if not low < high:
        raise InputError(
            "The image has nearly the same value in every voxel, so there is nothing to segment; check the file."
        )
    return float(low), float(high)
