"""Phantoms: an anatomy and a scan of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from LiverMarginLib.phantom.acquisition import Acquisition, texture
from LiverMarginLib.phantom.anatomy import Anatomy, make_anatomy
from LiverMarginLib.phantom.appearance import Appearance
from LiverMarginLib.phantom.fields import FloatArray
from LiverMarginLib.phantom.options import PhantomOptions, check_seed
from LiverMarginLib.volume import IntensityKind, LabelMap, Modality, Volume


@dataclass(frozen=True, eq=False)
class Phantom:
    """A synthetic CT with exact labels.

    Parameters
    ----------
    volume : Volume
        CT in HU, int16.
    labels : LabelMap
        uint8, values of `Organ`, on the same grid.
    description : mapping
        What was drawn, JSON-serialisable.
    """

    volume: Volume
    labels: LabelMap
    description: Mapping[str, Any]


def make_phantom(seed: int, options: PhantomOptions | None = None) -> Phantom:
    """Make a synthetic abdominal CT.

    Parameters
    ----------
    seed : int
        Non-negative; the same seed and options give the same voxels.
    options : PhantomOptions, optional

    Returns
    -------
    Phantom
    """
    options = options or PhantomOptions()
    anatomy = make_anatomy(seed, options)
    volume, scan = render(anatomy, seed, options)
    return Phantom(volume, anatomy.labels(), {**anatomy.description, **scan})


def render(anatomy: Anatomy, seed: int, options: PhantomOptions | None = None) -> tuple[Volume, dict[str, Any]]:
    """Scan an anatomy: draw contrast phase, scanner settings and noise.

    One anatomy rendered with several seeds gives several scans at a fraction of the time of new patients.

    Parameters
    ----------
    anatomy : Anatomy
    seed : int
        Of the scan; independent of the anatomy's.
    options : PhantomOptions, optional
        Phase, contrast, noise, streaks and padding are taken from it.

    Returns
    -------
    Volume
        CT in HU, int16.
    dict
        What was drawn.
    """
    check_seed(seed)
    options = options or PhantomOptions()
    rng = np.random.default_rng([seed, 3])
    steatosis = bool(anatomy.description["findings"]["steatosis"])
    appearance = Appearance.draw(rng, options.phase, options.random_contrast, steatosis)  # type: ignore[arg-type]
    acquisition = Acquisition.draw(rng, options.noise_hu, options.streaks, options.padding)
    hu = _ideal(anatomy, appearance, rng)
    array = acquisition.expose(rng, hu, anatomy.geometry.spacing)
    volume = Volume(array, anatomy.geometry, Modality.CT, IntensityKind.HU)
    scan = {
        "phase": str(appearance.phase),
        "random_contrast": appearance.random_contrast,
        "noise_hu": round(acquisition.noise, 1),
        "streaks": round(acquisition.streaks, 2),
    }
    return volume, scan


def _ideal(anatomy: Anatomy, appearance: Appearance, rng: np.random.Generator) -> FloatArray:
    """HU of every voxel before the scanner, with partial volume and tissue texture."""
    mean, fine, coarse = appearance.tables(list(anatomy.materials))
    shape, spacing = anatomy.geometry.shape, anatomy.geometry.spacing
    hu = mean[anatomy.first]
    for size, amplitude in ((2.5, fine), (7.0, coarse)):
        field = texture(rng, shape, spacing, size)
        field *= amplitude[anatomy.first]
        hu += field
    part = np.nonzero(anatomy.share < 255)
    share = anatomy.share[part].astype(np.float32) / 255
    hu[part] = share * hu[part] + (1 - share) * mean[anatomy.second[part]]
    return hu
