"""Whether an image looks like those that a model has learnt from: a few numbers of it against the ranges of those.

A network gives an answer to a head or a leg as well. What is measured is plain (size of the section through the body,
shares of lung and bone, noise, pixels), so that a person understands what is strange, and a warning is all there is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from LiverMarginLib.volume import IntensityKind

ENTRY = "seen"
"""Where a manifest's training record holds the ranges: ``{"lung_share": [low, high], ...}``."""

_SLICES = 24  # looked at; more of them say no more
_COARSE_MM = 3.0
_BODY_HU, _LUNG_HU, _BONE_HU, _SOFT_HU = -300, -500, 300, (-20, 180)
_LEAST_BODY_CM2 = 30.0


@dataclass(frozen=True)
class _Measure:
    """How a measure is called, and how far beyond the training's range an image may be: nothing has seen everything."""

    words: str
    unit: str
    shrink: float
    """What the lower end is divided by."""
    grow: float
    """What the upper end is multiplied by."""
    slack: float = 0.0
    """What is added to the upper end."""
    scale: float = 1.0
    digits: int = 0


_MEASURES = {
    "slice_mm": _Measure("the distance of slices", " mm", math.inf, 2.5, digits=1),
    "width_mm": _Measure("the field of view", " mm", 1.6, 1.6),
    "body_cm2": _Measure("the section through the body", " cm²", 1.6, 1.6),
    "lung_share": _Measure("the share of lung or gas in the body, where it is least,", " %", math.inf, 1.0, 0.2, 100),
    "bone_share": _Measure("the share of bone in the body", " %", 4.0, 1.0, 0.04, 100, 1),
    "noise_hu": _Measure("the noise", " HU", math.inf, 1.8),
}


def measure(
    planes: Sequence[npt.NDArray[Any]] | npt.NDArray[Any], spacing: tuple[float, float, float], kind: IntensityKind
) -> dict[str, float]:
    """Measure an image.

    Parameters
    ----------
    planes : sequence of ndarray, shape (j, i)
        Axial slices.
    spacing : tuple of float
        mm along (k, j, i); nan where the distance of slices is not known.
    kind : IntensityKind
        Of images that are not in Hounsfield units only the size is measured.

    Returns
    -------
    dict of str to float
        ``slice_mm``, ``width_mm``, and in Hounsfield units ``body_cm2`` (median over the slices with a body),
        ``lung_share`` (least of them), ``bone_share`` (median) and ``noise_hu`` (median); what cannot be measured is
        left out.
    """
    between, down, across = spacing
    found = {"width_mm": planes[0].shape[1] * across}
    if math.isfinite(between):
        found["slice_mm"] = between
    if kind is not IntensityKind.HU:
        return found
    chosen = np.unique(np.linspace(0, len(planes) - 1, min(_SLICES, len(planes))).round().astype(int))
    rows, columns = (max(1, round(_COARSE_MM / side)) for side in (down, across))
    sections = []
    for k in chosen:
        plane = np.nan_to_num(np.asarray(planes[k], np.float32), nan=-1024.0)
        body = _body(plane[::rows, ::columns])
        area = np.count_nonzero(body) * rows * columns * down * across / 100
        if area >= _LEAST_BODY_CM2:
            inside = plane[::rows, ::columns][body]
            sections.append((area, np.mean(inside < _LUNG_HU), np.mean(inside > _BONE_HU), _noise(plane)))
    if not sections:
        return found | {"body_cm2": 0.0}
    areas, lung, bone, noise = np.array(sections, dtype=float).T
    found |= {
        "body_cm2": float(np.median(areas)),
        "lung_share": float(lung.min()),
        "bone_share": float(np.median(bone)),
    }
    if np.isfinite(noise).any():
        found["noise_hu"] = float(np.nanmedian(noise))
    return found


def ranges(measured: Iterable[Mapping[str, float]]) -> dict[str, list[float]]:
    """The ranges of some images, rounded, as a manifest holds them; empty if there are no images."""
    values: dict[str, list[float]] = {}
    for image in measured:
        for name, value in image.items():
            values.setdefault(name, []).append(value)
    return {name: [float(f"{min(seen):.4g}"), float(f"{max(seen):.4g}")] for name, seen in values.items()}


def strangeness(
    planes: npt.NDArray[Any], spacing: tuple[float, float, float], kind: IntensityKind, training: Mapping[str, Any]
) -> list[str]:
    """Say how an image differs from those of a training.

    Parameters
    ----------
    planes : ndarray, shape (k, j, i)
        In the axial view.
    spacing : tuple of float
        mm along (k, j, i).
    kind : IntensityKind
    training : mapping
        The manifest's record; models without ranges get no warning.

    Returns
    -------
    list of str
        No sentence, or one.
    """
    seen = _ranges_of(training.get(ENTRY))
    if not seen:
        return []
    found = measure(planes, spacing, kind)
    strange = []
    for name, (low, high) in seen.items():
        if name not in found:
            continue
        kind_of = _MEASURES[name]
        if not low / kind_of.shrink <= found[name] <= high * kind_of.grow + kind_of.slack:
            value, least, most = (f"{v * kind_of.scale:.{kind_of.digits}f}" for v in (found[name], low, high))
            strange.append(f"{kind_of.words} is {value}{kind_of.unit} (there {least} to {most})")
    if not strange:
        return []
    return [
        f"This image is unlike those that the model was trained on: {'; '.join(strange)}; check whether it shows the "
        "upper abdomen, and the result slice by slice."
    ]


def _ranges_of(entry: Any) -> dict[str, tuple[float, float]]:
    """The ranges in a manifest that anybody may have written: what makes no sense is left out."""
    if not isinstance(entry, Mapping):
        return {}
    usable = {}
    for name in _MEASURES:
        pair = entry.get(name)
        if (
            isinstance(pair, (list, tuple))
            and len(pair) == 2
            and all(isinstance(end, (int, float)) and not isinstance(end, bool) and math.isfinite(end) for end in pair)
            and 0 <= pair[0] <= pair[1]
        ):
            usable[name] = (float(pair[0]), float(pair[1]))
    return usable


def _body(plane: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """The largest solid piece with all that it encloses."""
    pieces, count = ndimage.label(plane > _BODY_HU)
    if not count:
        return np.zeros(plane.shape, dtype=bool)
    largest = pieces == 1 + int(np.bincount(pieces.ravel())[1:].argmax())
    return np.asarray(ndimage.binary_fill_holes(largest))


def _noise(plane: npt.NDArray[np.float32]) -> float:
    """Noise in HU by the differences of neighbouring pixels of soft tissue; nan where there is too little."""
    low, high = _SOFT_HU
    soft = (plane > low) & (plane < high)
    pairs = soft[:, 1:] & soft[:, :-1]
    if np.count_nonzero(pairs) < 200:
        return math.nan
    return float(1.4826 * np.median(np.abs(np.diff(plane, axis=1)[pairs])) / math.sqrt(2))
