"""FewShot3D: one preset for any organ and few subjects, after Ekman, Barakat and Heiberg (3D Printing in Medicine 11:9,
2025, doi 10.1186/s41205-025-00254-1).

The publication's code, architecture, patch and subject counts are not public; what its abstract promises is kept: one
set of settings for every task, few subjects, a modest GPU. Nothing here is tuned to a task. What depends on the data is
measured on the training subjects alone, by fixed rules: the intensity scale, and the spacing where it is asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from LiverMarginLib.errors import InputError
from LiverMarginLib.models.intensity_fields import WindowUnit
from LiverMarginLib.models.volumetric_fields import NormalisationKind
from LiverMarginLib.training.config import TrainConfig
from LiverMarginLib.training.variants import normalised_by_itself
from LiverMarginLib.training.volume_data import VolumeSample
from LiverMarginLib.volume import IntensityKind, LabelMap, Modality, Volume, axial_view

# Of the foreground (CT), or of each whole image (MR): what lies beyond is clipped.
PERCENTILES = (0.5, 99.5)
_SAMPLES_PER_VOLUME = 20_000


class LabelledVolume(Protocol):
    """An image with its labels, read when asked for. Implementations must be picklable."""

    def read(self) -> tuple[Volume, LabelMap]:
        """Read both, on one grid."""
        ...

    def key(self) -> str:
        """Return what identifies the content, without reading it."""
        ...


@dataclass(frozen=True)
class Subject:
    """A patient with all labelled volumes there are of them, which never part.

    Parameters
    ----------
    name : str
        Of the patient, as the data set has it.
    volumes : tuple of LabelledVolume
    """

    name: str
    volumes: tuple[LabelledVolume, ...]


class SubjectVolumes:
    """The volumes of subjects as a `VolumeSource`.

    Parameters
    ----------
    subjects : sequence of Subject
    """

    def __init__(self, subjects: Sequence[Subject]) -> None:
        self._volumes = [(subject.name, volume) for subject in subjects for volume in subject.volumes]

    def __len__(self) -> int:
        return len(self._volumes)

    def patient(self, index: int) -> str:
        """Whose volume it is."""
        return self._volumes[index][0]

    def key(self, index: int) -> str:
        """What identifies the content of volume `index`."""
        return self._volumes[index][1].key()

    def read(self, index: int) -> VolumeSample:
        """Read volume `index` in the axial view.

        Raises
        ------
        InputError
            If it cannot be read, or its voxel spacing is not known.
        """
        volume, labels = self._volumes[index][1].read()
        if not volume.spacing_known:
            raise InputError("The voxel spacing of a volume is not known; give it with --spacing.")
        view = axial_view(volume.geometry)
        array = view.to_view(labels.array)
        if array.max(initial=0) > 255:
            raise InputError("A label above 255 cannot be learnt; renumber the labels first.")
        spacing = view.geometry.spacing
        return VolumeSample(view.to_view(volume.array), array.astype(np.uint8), spacing, volume.modality)


def median_spacing(volumes: Iterable[VolumeSample]) -> tuple[float, float, float]:
    """Median of the volumes' spacings along each axis (k, j, i), mm."""
    k, j, i = np.median([volume.spacing for volume in volumes], axis=0)
    return float(k), float(j), float(i)


def measured(config: TrainConfig, volumes: Iterable[VolumeSample]) -> TrainConfig:
    """Set the intensity scale of a preset by what the training volumes are.

    CT: clipped to the percentiles 0.5 and 99.5 of the labelled voxels, less their mean, divided by their standard
    deviation (Isensee et al. 2021, doi 10.1038/s41592-020-01008-z). MR, whose units mean nothing: each image is clipped
    to its own percentiles 0.5 and 99.5 and z-scored by itself.

    Parameters
    ----------
    config : TrainConfig
    volumes : iterable of VolumeSample
        Of the training subjects only.

    Returns
    -------
    TrainConfig

    Raises
    ------
    InputError
        If the volumes are of several modalities or of none that is known, or no voxel carries a label to be learnt.
    """
    modalities = set()
    samples = []
    rng = np.random.default_rng(config.seed)
    for volume in volumes:
        modalities.add(volume.modality)
        inside = np.asarray(volume.image)[np.isin(volume.labels, config.volume.labels)]
        if len(inside) > _SAMPLES_PER_VOLUME:
            inside = rng.choice(inside, _SAMPLES_PER_VOLUME, replace=False)
        samples.append(inside.astype(np.float64))
    if len(modalities) != 1 or modalities == {Modality.UNKNOWN}:
        raise InputError("Learning from few subjects needs images of one kind; say CT or MR and leave the others out.")
    foreground = np.concatenate(samples)
    if not len(foreground):
        raise InputError("No voxel of the training subjects carries a label to be learnt; check the labels.")
    if modalities == {Modality.MR}:
        return normalised_by_itself(config, PERCENTILES)
    low, high = np.percentile(foreground, PERCENTILES)
    clipped = np.clip(foreground, low, high)
    if not low < high:
        raise InputError("All labelled voxels have the same value, so there is nothing to learn; check the images.")
    return replace(
        config,
        intensity=IntensityKind.HU,
        window=(float(low), float(high)),
        volume=replace(
            config.volume,
            window_unit=WindowUnit.VALUE,
            normalisation=NormalisationKind.Z_SCORE,
            mean=float(clipped.mean()),
            deviation=float(clipped.std()),
        ),
    )
