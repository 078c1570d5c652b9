"""What the training of a volumetric network adds to the others. Does not import torch."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from LiverMarginLib.errors import InputError
from LiverMarginLib.models.intensity_fields import WindowUnit
from LiverMarginLib.models.volumetric_fields import NormalisationKind
from LiverMarginLib.volume import IntensityKind, Modality


class Preparation(StrEnum):
    """How whole images become what patches are cut from."""

    SPACING = "spacing"
    """Resampled to the network's spacing in mm."""
    MLF_CORE = "mlf-core"
    """As liver-ct-segmentation did: halved along each axis whatever the spacing, a cube about the reference's liver."""


@dataclass(frozen=True)
class OtherModality:
    """How a network that learns several modalities sees the images of a further one.

    Parameters
    ----------
    modality : Modality
    intensity : IntensityKind
    window : tuple of float
    window_unit : WindowUnit
    normalisation : NormalisationKind
    mean, deviation : float, optional
    localiser : str, optional
        As in `VolumeConfig` and `TrainConfig`.
    """

    modality: Modality
    intensity: IntensityKind = IntensityKind.ARBITRARY
    window: tuple[float, float] = (2.0, 98.0)
    window_unit: WindowUnit = WindowUnit.PERCENTILE
    normalisation: NormalisationKind = NormalisationKind.Z_SCORE
    mean: float | None = None
    deviation: float | None = None
    localiser: str | None = None


@dataclass(frozen=True)
class VolumeConfig:
    """How a volumetric network sees images.

    Parameters
    ----------
    patch : tuple of int
        (k, j, i) of the network's input.
    spacing : tuple of float
        (k, j, i) in mm; in voxels of the image for mlf-core's preparation.
    preparation : Preparation
    labels : tuple of int
        Label values that are learnt, in the order of the network's channels after the background. The first one is
        the organ: where a further one was not annotated, its voxels are part of the organ.
    whole_organ : bool
        Labels that are not learnt are part of the first one, as masses are of the liver; otherwise background.
    pseudo_weight : float
        Share in the loss of voxels whose label a model has drawn (`VolumeSample.pseudo`).
    foreground : float
        Share of the patches whose centre is a labelled voxel; of several labels each is as likely.
    window_unit : WindowUnit
        Whether `TrainConfig.window` is in the image's values or in percentiles of each image.
    normalisation : NormalisationKind
    mean, deviation : float, optional
        For z-scores, those of the training set; None takes those of each image.
    overlap : float
        Of the blocks in validation.
    localiser : str, optional
        Name of the model that finds the organ when the network is used. Training then sees the reference's box, grown
        by `margin_mm`.
    margin_mm : float
    keep_organ : bool
        The finished model's result has the organ that the localiser finds.
    largest_component : bool
        Whether the bundle keeps the largest piece alone.
    other_modalities : tuple of OtherModality
        Learnt by the same network; all else is for the images of the first modality.

    Raises
    ------
    InputError
        If a value is out of its range.
    """

    patch: tuple[int, int, int] = (96, 96, 96)
    spacing: tuple[float, float, float] = (1.5, 1.5, 1.5)
    preparation: Preparation = Preparation.SPACING
    labels: tuple[int, ...] = (1, 2)
    whole_organ: bool = False
    pseudo_weight: float = 0.5
    foreground: float = 1 / 3
    window_unit: WindowUnit = WindowUnit.VALUE
    normalisation: NormalisationKind = NormalisationKind.UNIT
    mean: float | None = None
    deviation: float | None = None
    overlap: float = 0.5
    localiser: str | None = None
    margin_mm: float = 20.0
    keep_organ: bool = False
    largest_component: bool = True
    other_modalities: tuple[OtherModality, ...] = ()

    def __post_init__(self) -> None:
        if min(self.patch) < 1:
            raise InputError(f"The patch {self.patch} is empty; give three numbers of voxels (k, j, i).")
        if not all(0 < s < 100 for s in self.spacing):
            raise InputError(f"The spacing {self.spacing} cannot be used; give three lengths (k, j, i) above 0.")
        if not self.labels or len(set(self.labels)) != len(self.labels) or not all(0 < v < 256 for v in self.labels):
            raise InputError(f"The labels {self.labels} cannot be learnt; give different values from 1 to 255.")
        if not 0 <= self.foreground <= 1:
            raise InputError("The share of patches about labelled voxels must lie between 0 and 1.")
        if not 0 <= self.pseudo_weight <= 1:
            raise InputError("The weight of pseudo-labels must lie between 0 and 1.")
        if not 0 <= self.overlap <= 0.9:
            raise InputError("The overlap of blocks must lie between 0 and 0.9.")
