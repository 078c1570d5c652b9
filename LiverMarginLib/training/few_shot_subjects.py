"""Where the subjects of a few-shot training come from: a labelled data set with any labels, or phantoms."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

import LiverMarginLib.phantom
from LiverMarginLib.datasets.align import labels_on_grid
from LiverMarginLib.datasets.model import Case, Dataset
from LiverMarginLib.datasets.slice_store import case_fingerprint
from LiverMarginLib.datasets.sources import LabelFile
from LiverMarginLib.errors import InputError
from LiverMarginLib.io.readers import read_labels
from LiverMarginLib.io.segment_table import segment_table
from LiverMarginLib.phantom import PhantomOptions, liver_target, make_phantom
from LiverMarginLib.terminology import LIVER, Segment
from LiverMarginLib.training.few_shot import Subject
from LiverMarginLib.volume import LabelMap, Volume


@dataclass(frozen=True)
class DatasetVolume:
    """A case of a data set.

    Parameters
    ----------
    dataset : Dataset
    case : Case
    raw : bool
        Keep the label file's own values; otherwise 1 is the liver with the masses in it.
    """

    dataset: Dataset
    case: Case
    raw: bool

    def read(self) -> tuple[Volume, LabelMap]:
        """Read image and labels.

        Raises
        ------
        InputError
            If a file is damaged, slices were not annotated, or the case has no label file where values are asked for.
        """
        if not self.raw:
            volume, labels, annotated = self.dataset.load(self.case)
            if labels is None or not annotated.all():
                raise InputError(f"Case {self.case.id} has slices that nobody annotated; leave it out.")
            return volume, replace(labels, array=(labels.array > 0).astype(np.uint8), segments=(LIVER,))
        if not isinstance(self.case.masks, LabelFile):
            raise InputError(
                f"Case {self.case.id} has no label map, so labels cannot be chosen by value; leave it out."
            )
        volume = self.dataset.load_volume(self.case)
        labels, _ = labels_on_grid(read_labels(self.case.masks.path), volume.geometry)
        return volume, labels

    def key(self) -> str:
        """Name of the files' content and of how it is read."""
        return f"{case_fingerprint(self.dataset, self.case)} {self.raw}"


@dataclass(frozen=True)
class PhantomVolume:
    """A procedural phantom, made when read.

    Parameters
    ----------
    seed : int
    options : PhantomOptions
    raw : bool
        Keep the phantom's organs apart; otherwise 1 is the liver with the masses in it.
    """

    seed: int
    options: PhantomOptions
    raw: bool

    def read(self) -> tuple[Volume, LabelMap]:
        """Make image and labels."""
        phantom = make_phantom(self.seed, self.options)
        return phantom.volume, phantom.labels if self.raw else liver_target(phantom.labels)

    def key(self) -> str:
        """Name of the seed, the options and the generator's source."""
        digest = hashlib.sha256(json.dumps(dataclasses.asdict(self), sort_keys=True).encode())
        for path in sorted(Path(LiverMarginLib.phantom.__path__[0]).glob("*.py")):
            digest.update(path.read_bytes())
        return digest.hexdigest()


class HeldVolume:
    """A labelled volume that is read once and kept in memory, for tests that are repeated.

    Parameters
    ----------
    volume : DatasetVolume or PhantomVolume
    """

    def __init__(self, volume: DatasetVolume | PhantomVolume) -> None:
        self._volume = volume
        self._held: tuple[Volume, LabelMap] | None = None

    def read(self) -> tuple[Volume, LabelMap]:
        """Read, or give what was read."""
        if self._held is None:
            self._held = self._volume.read()
        return self._held

    def key(self) -> str:
        """What identifies the content."""
        return self._volume.key()


def dataset_subjects(dataset: Dataset, *, raw: bool) -> list[Subject]:
    """The patients of a data set who have masks, in its order.

    Raises
    ------
    InputError
        If there are none.
    """
    cases: dict[str, list[Case]] = {}
    for case in dataset.cases:
        if case.masks is not None:
            cases.setdefault(case.patient, []).append(case)
    if not cases:
        raise InputError("No case of the data set has masks, so nothing can be learnt from it; add label maps.")
    return [Subject(name, tuple(DatasetVolume(dataset, case, raw) for case in own)) for name, own in cases.items()]


def phantom_subjects(seeds: Iterable[int], options: PhantomOptions, *, raw: bool) -> list[Subject]:
    """Phantom patients."""
    return [Subject(f"phantom {seed}", (PhantomVolume(seed, options, raw),)) for seed in seeds]


def held(subjects: Sequence[Subject]) -> list[Subject]:
    """The same subjects, whose volumes stay in memory once they are read."""
    return [
        replace(subject, volumes=tuple(HeldVolume(volume) for volume in subject.volumes))  # type: ignore[arg-type]
        for subject in subjects
    ]


def segments_of(subject: Subject, labels: Sequence[int]) -> list[Segment]:
    """What label values mean in a subject's label map.

    Raises
    ------
    InputError
        If a value is neither in the label map nor named by it.
    """
    _, label_map = subject.volumes[0].read()
    known = {row.segment.label: row.segment for row in segment_table(label_map)}
    missing = [label for label in labels if label not in known]
    if missing:
        listed = ", ".join(f"{label} ({segment.name})" for label, segment in sorted(known.items()))
        raise InputError(f"The first subject has no label {missing[0]}; it has: {listed}.")
    return [known[label] for label in labels]
