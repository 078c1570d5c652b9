"""The mixed-label pool: true and drawn liver labels with true cancer labels, of CT and MR, as one source of volumes.

0 is background, 1 liver, 2 cancer; cancer overrides. Every volume says which labels were looked for and which a model
drew, so that the loss can tell (`LiverMarginLib.training.volume_task`).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from LiverMarginLib.digest import sha256_of
from LiverMarginLib.errors import InputError
from LiverMarginLib.terminology import LIVER, LIVER_MASS
from LiverMarginLib.training.data import Source
from LiverMarginLib.training.volume_data import PreparedVolumes, VolumeSample, VolumeSource
from LiverMarginLib.volume import Modality


@dataclass(frozen=True)
class PoolPart:
    """Volumes of one modality that were annotated alike.

    Parameters
    ----------
    volumes : VolumeSource
    modality : Modality
    annotated : tuple of int
        What a person has marked in them: 1 liver, 2 cancer. Other values in their labels are not believed.
    drawn : mapping of int to Path
        File of the liver that a model drew, by the number of the volume (`LiverMarginLib.training.two_stage` writes
        it). Volumes whose label did not pass the gate are missing.
    """

    volumes: VolumeSource
    modality: Modality
    annotated: tuple[int, ...]
    drawn: Mapping[int, Path] = field(default_factory=dict)


class MixedLabelPool:
    """The volumes of several parts that are of use for a network, as a `VolumeSource`.

    Parameters
    ----------
    parts : sequence of PoolPart
    labels : tuple of int
        What the network learns, as in `VolumeConfig.labels`. A volume of which the first of them is not known, by a
        person or by a model, is left out.
    cropped : bool
        Whether the network sees the surroundings of the liver alone; volumes without a liver label are then left out.

    Raises
    ------
    InputError
        If nothing is left.
    """

    def __init__(self, parts: Sequence[PoolPart], labels: tuple[int, ...], *, cropped: bool) -> None:
        self._parts = list(parts)
        self._places: list[tuple[int, int]] = []
        self.left_out = 0
        for number, part in enumerate(self._parts):
            for index in range(len(part.volumes)):
                known = self._known(part, index)
                if labels[0] in known and (LIVER.label in known or not cropped):
                    self._places.append((number, index))
                else:
                    self.left_out += 1
        if not self._places:
            raise InputError(
                "No volume of the pool has the labels that are to be learnt; add annotated ones, or look at why the "
                "drawn livers were dropped."
            )

    @staticmethod
    def _known(part: PoolPart, index: int) -> tuple[int, ...]:
        drawn = (LIVER.label,) if index in part.drawn else ()
        return tuple(sorted({*part.annotated, *drawn}))

    def __len__(self) -> int:
        return len(self._places)

    def patient(self, index: int) -> str:
        """Whose volume it is."""
        number, inside = self._places[index]
        return self._parts[number].volumes.patient(inside)

    def modality(self, index: int) -> Modality:
        """What made volume `index`."""
        return self._parts[self._places[index][0]].modality

    def key(self, index: int) -> str:
        """What identifies the volume with its mixed labels."""
        number, inside = self._places[index]
        part = self._parts[number]
        drawn = part.drawn.get(inside)
        how = f"{part.modality} {part.annotated} {'' if drawn is None else sha256_of(drawn)}"
        return hashlib.sha256(f"{part.volumes.key(inside)} {how}".encode()).hexdigest()

    def read(self, index: int) -> VolumeSample:
        """Read volume `index` with its mixed labels; raises `InputError` where that fails."""
        number, inside = self._places[index]
        part = self._parts[number]
        sample = part.volumes.read(inside)
        given = np.asarray(sample.labels)
        labels = np.zeros(given.shape, np.uint8)
        pseudo: tuple[int, ...] = ()
        if LIVER.label in part.annotated:
            labels[given > 0] = LIVER.label
        elif inside in part.drawn:
            labels[np.load(part.drawn[inside])["labels"] > 0] = LIVER.label
            pseudo = (LIVER.label,)
        if LIVER_MASS.label in part.annotated:
            labels[given == LIVER_MASS.label] = LIVER_MASS.label
        known = self._known(part, inside)
        return replace(sample, labels=labels, modality=part.modality, known=known, pseudo=pseudo)

    def counts(self) -> dict[str, dict[str, int]]:
        """How many volumes have which labels, by modality; "liver*" is drawn by a model."""
        found: dict[str, Counter[str]] = {}
        for number, inside in self._places:
            part = self._parts[number]
            names = ["liver*" if inside in part.drawn else "liver"] if LIVER.label in self._known(part, inside) else []
            names += ["cancer"] if LIVER_MASS.label in part.annotated else []
            found.setdefault(part.modality.value, Counter())["+".join(names)] += 1
        return {modality: dict(counter) for modality, counter in found.items()}


class Balanced:
    """A source that draws as often from each modality, however many volumes there are of it.

    Volumes of the rarer one are repeated, in turn, until a pass over all has as many of each.

    Parameters
    ----------
    source : PreparedVolumes
    """

    def __init__(self, source: PreparedVolumes) -> None:
        self._source = source
        groups: dict[Modality, list[int]] = {}
        for index in range(len(source)):
            groups.setdefault(source.modality(index), []).append(index)
        most = max(map(len, groups.values()), default=0)
        self._indices = [group[n % len(group)] for n in range(most) for group in groups.values()]

    def __len__(self) -> int:
        return len(self._indices)

    def patient(self, index: int) -> str:
        """Whose volume it is."""
        return self._source.patient(self._indices[index])

    def annotated(self, index: int) -> bool:
        """Whether somebody looked at it."""
        return self._source.annotated(self._indices[index])

    def read(self, index: int) -> Any:
        """Read volume `index`."""
        return self._source.read(self._indices[index])

    def cases(self) -> list[str]:
        """Each case once, see `PreparedVolumes.cases`."""
        return self._source.cases()

    def fingerprint(self) -> str:
        """Of the source without repetitions."""
        return self._source.fingerprint()


def balanced(source: PreparedVolumes) -> Source:
    """The source itself if it is of one modality, otherwise a balanced one."""
    modalities = {source.modality(index) for index in range(len(source))}
    return source if len(modalities) < 2 else Balanced(source)
