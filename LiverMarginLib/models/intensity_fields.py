"""What the intensities of a model's images are: its window, and those of the further modalities that it takes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from LiverMarginLib.models.json_reader import JsonObject
from LiverMarginLib.models.manifest_error import ManifestError
from LiverMarginLib.models.volumetric_fields import Localiser, Normalisation
from LiverMarginLib.volume import IntensityKind, Modality


class WindowUnit(StrEnum):
    """What the two ends of an intensity window are."""

    VALUE = "value"
    PERCENTILE = "percentile"


@dataclass(frozen=True)
class Window:
    """The intensities that become 0 and 1 at the network's input; beyond them is clipped.

    Parameters
    ----------
    low, high : float
        In the units of the image, or percentiles of the finite voxels of the volume.
    unit : WindowUnit
        Percentiles for images of arbitrary units, such as MR.
    """

    low: float
    high: float
    unit: WindowUnit = WindowUnit.VALUE

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ManifestError("the intensity window must have a finite lower end below its upper end")
        if self.unit is WindowUnit.PERCENTILE and not (self.low >= 0 and self.high <= 100):
            raise ManifestError("percentiles of the intensity window must lie between 0 and 100")

    @classmethod
    def from_json(cls, values: JsonObject) -> Window:
        """Read `to_json`'s form."""
        window = cls(values.number("low"), values.number("high"), values.choice("unit", WindowUnit))
        values.finish()
        return window

    def to_json(self) -> dict[str, Any]:
        """Return the JSON-serialisable form."""
        return {"low": self.low, "high": self.high, "unit": self.unit.value}


@dataclass(frozen=True)
class ModalityInput:
    """How a network that was trained on several modalities takes images of one of them.

    Parameters
    ----------
    modality : Modality
    input_kind : IntensityKind
    window : Window
    normalisation : Normalisation
    localiser : Localiser, optional
        The model that finds the organ in such images.
    """

    modality: Modality
    input_kind: IntensityKind
    window: Window
    normalisation: Normalisation = field(default_factory=Normalisation)
    localiser: Localiser | None = None

    def __post_init__(self) -> None:
        if self.window.unit is WindowUnit.PERCENTILE and self.input_kind is not IntensityKind.ARBITRARY:
            raise ManifestError(f"a window in percentiles contradicts an input in {self.input_kind}")

    @classmethod
    def from_json(cls, values: JsonObject) -> ModalityInput:
        """Read `to_json`'s form."""
        found = cls(
            values.choice("modality", Modality),
            values.choice("input_kind", IntensityKind),
            Window.from_json(values.object("window")),
            Normalisation.from_json(values.object("normalisation")),
            None if values.null("localiser") else Localiser.from_json(values.object("localiser")),
        )
        values.finish()
        return found

    def to_json(self) -> dict[str, Any]:
        """Return the JSON-serialisable form."""
        return {
            "modality": self.modality.value,
            "input_kind": self.input_kind.value,
            "window": self.window.to_json(),
            "normalisation": self.normalisation.to_json(),
            "localiser": None if self.localiser is None else self.localiser.to_json(),
        }
