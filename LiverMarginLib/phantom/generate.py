"""Phantoms: an anatomy and a scan of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from LiverMarginLib.phantom.acquisition import Acquisition, texture
from LiverMarginLib.phantom.anatomy import Anatomy, Graft, make_anatomy
from LiverMarginLib.phantom.appearance import Appearance
from LiverMarginLib.phantom.fields import FloatArray
from LiverMarginLib.phantom.mr_acquisition import MrAcquisition
from LiverMarginLib.phantom.mr_appearance import MrAppearance
from LiverMarginLib.phantom.options import PhantomOptions, check_seed
from LiverMarginLib.volume import IntensityKind, LabelMap, Modality, Volume


@dataclass(frozen=True, eq=False)
class Phantom:
    """A synthetic scan with exact labels.

    Parameters
    ----------
    volume : Volume
        int16: CT in HU, or MR in arbitrary units.
    labels : LabelMap
        uint8, values of `Organ`, on the same grid.
    description : mapping
        What was drawn, JSON-serialisable.
    """

    volume: Volume
    labels: LabelMap
    description: Mapping[str, Any]


def make_phantom(seed: int, options: PhantomOptions | None = None, graft: Graft | None = None) -> Phantom:
    """Make a synthetic scan of the abdomen.

    Parameters
    ----------
    seed : int
        Non-negative; the same seed and options give the same voxels.
    options : PhantomOptions, optional
    graft : callable, optional
        Exchanges organs of the patient; see `LiverMarginLib.phantom.anatomy.Graft`.

    Returns
    -------
    Phantom
    """
    options = options or PhantomOptions()
    anatomy = make_anatomy(seed, options, graft)
    volume, scan = render(anatomy, seed, options)
    return Phantom(volume, anatomy.labels(), {**anatomy.description, **scan})


def render(anatomy: Anatomy, seed: int, options: PhantomOptions | None = None) -> tuple[Volume, dict[str, Any]]:
    """Scan an anatomy: draw contrast, scanner settings and noise.

    One anatomy rendered with several seeds gives several scans at a fraction of the time of new patients.

    Parameters
    ----------
    anatomy : Anatomy
    seed : int
        Of the scan; independent of the anatomy's.
    options : PhantomOptions, optional
        Modality and what belongs to it (phase or sequence, contrast, noise, artefacts) are taken from it.

    Returns
    -------
    Volume
        int16: CT in HU, or MR in arbitrary units.
    dict
        What was drawn.
    """
    check_seed(seed)
    options = options or PhantomOptions()
    rng = np.random.default_rng([seed, 3])
    if options.modality is Modality.MR:
        return _render_mr(anatomy, rng, options)
    return _render_ct(anatomy, rng, options)


def _render_ct(anatomy: Anatomy, rng: np.random.Generator, options: PhantomOptions) -> tuple[Volume, dict[str, Any]]:
    appearance = Appearance.draw(rng, options.phase, options.random_contrast, _fatty(anatomy))  # type: ignore[arg-type]
    acquisition = Acquisition.draw(rng, options.noise_hu, options.streaks, options.padding)
    hu = _ideal(anatomy, appearance, rng)
    array = acquisition.expose(rng, hu, anatomy.geometry.spacing)
    return Volume(array, anatomy.geometry, Modality.CT, IntensityKind.HU), {
        "phase": str(appearance.phase),
        "random_contrast": appearance.random_contrast,
        "noise_hu": round(acquisition.noise, 1),
        "streaks": round(acquisition.streaks, 2),
    }


def _render_mr(anatomy: Anatomy, rng: np.random.Generator, options: PhantomOptions) -> tuple[Volume, dict[str, Any]]:
    appearance = MrAppearance.draw(
        rng,
        options.sequence,  # type: ignore[arg-type]  # made an enumeration by the options
        options.phase,  # type: ignore[arg-type]
        options.random_contrast,
        _fatty(anatomy),
    )
    acquisition = MrAcquisition.draw(rng, options.noise_share, options.bias, options.ringing)
    signal = np.maximum(_ideal(anatomy, appearance, rng), 0)
    array = acquisition.expose(rng, signal, anatomy.geometry.spacing)
    return Volume(array, anatomy.geometry, Modality.MR, IntensityKind.ARBITRARY), {
        "sequence": str(appearance.sequence),
        "phase": str(appearance.phase),
        "fat_suppressed": appearance.fat_suppressed,
        "random_contrast": appearance.random_contrast,
        "noise_share": round(acquisition.noise, 3),
        "bias": round(acquisition.bias, 2),
        "ringing": round(acquisition.ringing, 2),
    }


def _fatty(anatomy: Anatomy) -> bool:
    return bool(anatomy.description["findings"]["steatosis"])


def _ideal(anatomy: Anatomy, appearance: Appearance | MrAppearance, rng: np.random.Generator) -> FloatArray:
    """Intensity of every voxel before the scanner, with partial volume and tissue texture."""
    mean, fine, coarse = _tables(anatomy, appearance)
    shape, spacing = anatomy.geometry.shape, anatomy.geometry.spacing
    ideal = mean[anatomy.first]
    for size, amplitude in ((2.5, fine), (7.0, coarse)):
        field = texture(rng, shape, spacing, size)
        field *= amplitude[anatomy.first]
        ideal += field
    part = np.nonzero(anatomy.share < 255)
    share = anatomy.share[part].astype(np.float32) / 255
    ideal[part] = share * ideal[part] + (1 - share) * mean[anatomy.second[part]]
    return ideal


def _tables(anatomy: Anatomy, appearance: Appearance | MrAppearance) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Mean, fine and coarse texture amplitude by material number, each of shape (256,)."""
    mean, fine, coarse = (np.zeros(256, dtype=np.float32) for _ in range(3))
    for number, material in enumerate(anatomy.materials):
        tissue = material.tissue
        mean[number] = appearance.mean[tissue] + material.shade * appearance.shade[tissue]
        fine[number], coarse[number] = appearance.fine[tissue], appearance.coarse[tissue]
    return mean, fine, coarse
