"""The switches of a volumetric training: which labels it learns, and of which modalities.

A shipped profile learns liver and tumours in CT; these functions make of it what it is for other labels and images.
This module does not import torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum

from LiverMarginLib.errors import InputError
from LiverMarginLib.models.intensity_fields import WindowUnit
from LiverMarginLib.models.volumetric_fields import NormalisationKind
from LiverMarginLib.training.config import TrainConfig
from LiverMarginLib.training.volume_config import OtherModality
from LiverMarginLib.volume import IntensityKind, Modality

# MR has no units: what lies beyond these percentiles of an image is clipped, and the rest is z-scored by itself.
MR_PERCENTILES = (2.0, 98.0)


class Target(StrEnum):
    """What a network learns to find."""

    LIVER = "liver"
    """The whole organ, with the masses in it."""
    CANCER = "cancer"
    """Masses alone."""
    BOTH = "liver+cancer"
    """The liver and the masses in it, apart."""


_LABELS = {Target.LIVER: (1,), Target.CANCER: (2,), Target.BOTH: (1, 2)}


def for_target(config: TrainConfig, target: Target) -> TrainConfig:
    """Let a profile for liver and cancer learn one of them; its class weights go with its classes.

    A network for the liver sees whole images, whatever the profile: it is what others find the liver by.

    Raises
    ------
    InputError
        If the profile does not learn both.
    """
    labels = _LABELS[target]
    if config.volume.labels != _LABELS[Target.BOTH]:
        raise InputError(f"This profile of {config.model} does not learn liver and cancer; choose another one.")
    weights = config.loss.class_weights
    if weights is not None:
        weights = (weights[0], *(weights[label] for label in labels))
    return replace(
        config,
        loss=replace(config.loss, class_weights=weights),
        volume=replace(
            config.volume,
            labels=labels,
            whole_organ=target is Target.LIVER,
            localiser=None if target is Target.LIVER else config.volume.localiser,
            # Of masses alone there may be many, and of liver and masses the largest piece is the liver.
            largest_component=config.volume.largest_component and target is not Target.CANCER,
        ),
    )


def for_modalities(config: TrainConfig, modalities: Sequence[Modality]) -> TrainConfig:
    """Let a profile for CT learn images of other modalities, each normalised in its own way.

    MR is clipped to the percentiles 2 and 98 of each image and z-scored by itself. Beside it, a window of CT that would
    become 0 to 1 becomes -2 to 2, about the range of those z-scores. The localiser of a profile is for CT: a network
    for MR alone sees whole images unless it is given one.

    Parameters
    ----------
    config : TrainConfig
    modalities : sequence of Modality
        CT, MR or both; the first one is that of the model's main manifest entries.

    Raises
    ------
    InputError
        If they are not CT and MR, each once.
    """
    if not modalities or len(set(modalities)) != len(modalities) or Modality.UNKNOWN in modalities:
        raise InputError("A network learns from CT, from MR or from both; name each once.")
    if list(modalities) == [Modality.CT]:
        return config
    if Modality.CT not in modalities:
        config = normalised_by_itself(config, MR_PERCENTILES)
        return replace(config, volume=replace(config.volume, localiser=None))
    volume = config.volume
    if volume.normalisation is NormalisationKind.UNIT:
        low, high = config.window
        volume = replace(
            volume, normalisation=NormalisationKind.Z_SCORE, mean=(low + high) / 2, deviation=(high - low) / 4
        )
    return replace(config, volume=replace(volume, other_modalities=(OtherModality(Modality.MR),)))


def normalised_by_itself(config: TrainConfig, percentiles: tuple[float, float]) -> TrainConfig:
    """Let a training clip each image to its own percentiles and z-score it by itself, as images without units need."""
    return replace(
        config,
        intensity=IntensityKind.ARBITRARY,
        window=percentiles,
        volume=replace(
            config.volume,
            window_unit=WindowUnit.PERCENTILE,
            normalisation=NormalisationKind.Z_SCORE,
            mean=None,
            deviation=None,
        ),
    )
