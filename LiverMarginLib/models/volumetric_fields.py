"""What a volumetric model says beyond a slice-wise one: its grid's unit, its intensities, where it looks.

All of it is optional in ``model.json``: a manifest without these entries means what it always meant.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from LiverMarginLib.models.json_reader import JsonObject
from LiverMarginLib.models.manifest_error import ManifestError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_LARGEST_MARGIN_MM = 500.0


class SpacingUnit(StrEnum):
    """What the numbers of a volumetric model's spacing are."""

    MM = "mm"
    VOXEL = "voxel"
    """Whole multiples of the image's own voxels, which are averaged; the network then sees no millimetres."""


class NormalisationKind(StrEnum):
    """What becomes of the intensities before the network sees them."""

    UNIT = "unit"
    """The window becomes [0, 1]; beyond it is clipped."""
    Z_SCORE = "z-score"
    """Clipped to the window, less the mean, divided by the standard deviation."""
    NONE = "none"
    """As they are; the window is not used."""


@dataclass(frozen=True)
class Normalisation:
    """How intensities become network inputs.

    Parameters
    ----------
    kind : NormalisationKind
    mean, deviation : float, optional
        For z-scores: those of the training set, in the units of the image; None takes those of each image, inside its
        window.
    """

    kind: NormalisationKind = NormalisationKind.UNIT
    mean: float | None = None
    deviation: float | None = None

    def __post_init__(self) -> None:
        given = (self.mean is not None, self.deviation is not None)
        if given[0] != given[1] or (given[0] and self.kind is not NormalisationKind.Z_SCORE):
            raise ManifestError("mean and deviation belong to a z-score, and come together")
        mean, deviation = self.mean or 0.0, 1.0 if self.deviation is None else self.deviation
        if not (math.isfinite(mean) and math.isfinite(deviation) and deviation > 0):
            raise ManifestError("the z-score needs a finite mean and a positive deviation")

    @classmethod
    def from_json(cls, values: JsonObject) -> Normalisation:
        """Read `to_json`'s form."""
        kind = values.choice("kind", NormalisationKind)
        mean = None if values.null("mean") else values.number("mean")
        deviation = None if values.null("deviation") else values.number("deviation")
        values.finish()
        return cls(kind, mean, deviation)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON-serialisable form."""
        return {"kind": self.kind.value, "mean": self.mean, "deviation": self.deviation}


@dataclass(frozen=True)
class Localiser:
    """The model that finds the organ first, so that the volumetric network sees its surroundings alone.

    Parameters
    ----------
    model : str
        Name of another bundle, looked up where this one is.
    margin_mm : float
        What is added around the organ's bounding box.
    keep_organ : bool
        The organ as the localiser found it is part of the result, for networks that find masses alone.
    """

    model: str
    margin_mm: float = 20.0
    keep_organ: bool = False

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.model):
            raise ManifestError("the localiser's model must be a name of 1 to 64 letters, digits, dots or dashes")
        if not 0 <= self.margin_mm <= _LARGEST_MARGIN_MM:
            raise ManifestError(f"the localiser's margin must be 0 to {_LARGEST_MARGIN_MM:g} mm")

    @classmethod
    def from_json(cls, values: JsonObject) -> Localiser:
        """Read `to_json`'s form."""
        keep = values.flag("keep_organ") if values.has("keep_organ") else False
        localiser = cls(values.text("model"), values.number("margin_mm"), keep)
        values.finish()
        return localiser

    def to_json(self) -> dict[str, Any]:
        """Return the JSON-serialisable form."""
        return {
            "model": self.model,
            "margin_mm": self.margin_mm,
            **({"keep_organ": True} if self.keep_organ else {}),
        }
