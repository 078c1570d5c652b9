"""Two stages for CT and MR: a liver model of each draws the missing livers, then one network learns liver and cancer.

After the two-stage universal liver cancer network (doi 10.1177/08953996261439100), of which the abstract alone is
public: mixed-label training on true and drawn labels, multi-type training on several modalities and kinds of label.
Both are switches here (`Variant`), and so is the first stage, so that each can be judged by leaving it out.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from LiverMarginLib.errors import Cancelled, InputError
from LiverMarginLib.events import CancelToken, Event, Notice, OnEvent, Progress
from LiverMarginLib.inference.model import SegmentationModel, load_model
from LiverMarginLib.models.bundle import Bundle
from LiverMarginLib.terminology import LIVER, LIVER_MASS
from LiverMarginLib.training.bundling import bundle_from_training
from LiverMarginLib.training.config import TrainConfig
from LiverMarginLib.training.leakage import refuse_seen_cases
from LiverMarginLib.training.pool import MixedLabelPool, PoolPart, balanced
from LiverMarginLib.training.pseudo_labels import (
    PseudoRecord,
    QualityGate,
    pseudo_label,
    read_pseudo_label,
    write_provenance,
    write_pseudo_label,
)
from LiverMarginLib.training.trainer import Ending, train
from LiverMarginLib.training.two_stage_scores import CaseScore, score_case
from LiverMarginLib.training.variants import Target, for_modalities, for_target
from LiverMarginLib.training.volume_data import PreparedVolumes, VolumeSample, case_hash
from LiverMarginLib.volume import Geometry, IntensityKind, Modality, Volume


@dataclass(frozen=True)
class Cohort:
    """The patients of one modality.

    Parameters
    ----------
    train, validation, test : tuple of PoolPart
        No patient in two of them.
    """

    train: tuple[PoolPart, ...]
    validation: tuple[PoolPart, ...]
    test: tuple[PoolPart, ...]


@dataclass(frozen=True)
class Variant:
    """One way to train the second stage.

    Parameters
    ----------
    target : Target
        Cancer, or liver and cancer.
    modalities : tuple of Modality
    two_stage : bool
        Whether the network sees the surroundings of the liver alone; otherwise the whole image.
    """

    target: Target
    modalities: tuple[Modality, ...]
    two_stage: bool = True

    def __post_init__(self) -> None:
        if self.target is Target.LIVER:
            raise InputError("The second stage learns cancer, or liver and cancer.")
        if not self.two_stage and self.target is not Target.BOTH:
            raise InputError("A single stage learns liver and cancer, for nothing else would find the liver.")

    @property
    def name(self) -> str:
        """Of its bundle."""
        labels = self.target.value.replace("+", "-")
        return "-".join([labels, *(m.value.lower() for m in self.modalities), *([] if self.two_stage else ["single"])])


class TwoStageStudy:
    """Trains the stages and tests them; whatever is there already goes on or is not repeated.

    Parameters
    ----------
    cohorts : mapping of Modality to Cohort
    liver, cancer : TrainConfig
        Profiles for liver and cancer in CT, of the first and of the second stage.
    folder : Path
        Receives the bundles, the liver models beside those that need them.
    work : Path
        Folder of the trainings and of the drawn labels.
    gate : QualityGate
    liver_models : mapping of Modality to Bundle
        Taken instead of a first stage of one's own.
    notes : mapping
        For the model cards.
    onnx : bool
        Whether bundles get an ONNX graph.
    on_event, cancel
        As for `train`.
    """

    def __init__(
        self,
        cohorts: Mapping[Modality, Cohort],
        liver: TrainConfig,
        cancer: TrainConfig,
        folder: Path,
        work: Path,
        *,
        gate: QualityGate,
        liver_models: Mapping[Modality, Bundle],
        notes: Mapping[str, Any],
        onnx: bool,
        on_event: OnEvent,
        cancel: CancelToken,
    ) -> None:
        self._cohorts = dict(cohorts)
        self._liver, self._cancer = liver, cancer
        self._folder, self._work = folder, work
        self._gate = gate
        self._notes, self._onnx = notes, onnx
        self._on_event, self._cancel = on_event, cancel
        self._tests = {modality: self._test_cases(cohort) for modality, cohort in self._cohorts.items()}
        self._livers: dict[Modality, Bundle] = {}
        self._drawn: dict[Modality, tuple[PoolPart, ...]] = {}
        self.records: dict[Modality, list[PseudoRecord]] = {}
        for modality, bundle in liver_models.items():
            self._check_unseen(bundle)
            self._livers[modality] = _beside(bundle, folder)

    # -- the first stage

    def liver_model(self, modality: Modality) -> Bundle:
        """Train the liver model of a modality, or give the one that was given.

        Raises
        ------
        InputError
            If no case has liver labels.
        """
        if modality not in self._livers:
            cohort, name = self._cohorts[modality], f"liver-{modality.value.lower()}"
            config = for_modalities(for_target(self._liver, Target.LIVER), [modality])
            self._livers[modality] = self._learn(config, cohort.train, cohort.validation, name, modality)
        return self._livers[modality]

    def drawn(self, modality: Modality) -> tuple[PoolPart, ...]:
        """The training parts of a modality, with a drawn liver where nobody marked one; see `records` for the gate."""
        if modality not in self._drawn:
            parts = self._cohorts[modality].train
            records: list[PseudoRecord] = []
            model: SegmentationModel | None = None
            done = []
            for part in parts:
                if LIVER.label in part.annotated:
                    cancer = "true" if LIVER_MASS.label in part.annotated else "none"
                    first = len(records) + 1
                    records += [PseudoRecord(f"{first + n}", "true", cancer) for n in range(len(part.volumes))]
                    done.append(part)
                    continue
                model = model or load_model(
                    self.liver_model(modality), device=self._cancer.device, threads=self._cancer.threads
                )
                done.append(self._draw(part, model, records))
            folder = self._work / f"pseudo-{modality.value.lower()}"
            if model is not None:
                write_provenance(folder, model.bundle, self._gate, records)
            self.records[modality], self._drawn[modality] = records, tuple(done)
        return self._drawn[modality]

    def _draw(self, part: PoolPart, model: SegmentationModel, records: list[PseudoRecord]) -> PoolPart:
        folder = self._work / f"pseudo-{part.modality.value.lower()}"
        marked = LIVER_MASS.label in part.annotated
        weights = "".join(sorted(model.bundle.manifest.weights.values()))
        drawn = {}
        for index in range(len(part.volumes)):
            self._cancel.check()
            self._on_event(Progress(index, len(part.volumes), "pseudo-labels"))
            path = folder / f"{case_hash(weights + part.volumes.key(index))}.npz"
            if not path.exists():
                self._draw_one(replace(part.volumes.read(index), modality=part.modality), marked, model, path)
            label = read_pseudo_label(path, self._gate)
            name = str(len(records) + 1)
            records.append(
                PseudoRecord(
                    name, "pseudo", "true" if marked else "none", label.litres, label.cancer_inside, label.reason
                )
            )
            if label.reason:
                self._on_event(Notice(f"The drawn liver of {part.modality} case {name} was dropped: {label.reason}."))
                continue
            drawn[index] = path
        self._on_event(Progress(len(part.volumes), len(part.volumes), "pseudo-labels"))
        return replace(part, drawn=drawn)

    def _draw_one(self, sample: VolumeSample, marked: bool, model: SegmentationModel, path: Path) -> None:
        found = model.segment(volume_of(sample), None, self._notices, self._cancel).labels.array
        cancer = np.asarray(sample.labels) == LIVER_MASS.label if marked else None
        write_pseudo_label(pseudo_label(found, cancer, float(np.prod(sample.spacing)), self._gate), path)

    # -- the second stage

    def cancer_model(self, variant: Variant) -> Bundle:
        """Train the network of a variant.

        Raises
        ------
        InputError
            If the pool has no case for it.
        Cancelled
            If the training was stopped; the same call goes on with it.
        """
        config = for_modalities(for_target(self._cancer, variant.target), variant.modalities)
        livers = {m: self.liver_model(m).manifest.name for m in variant.modalities} if variant.two_stage else {}
        volume = replace(
            config.volume,
            localiser=livers.get(variant.modalities[0]),
            keep_organ=variant.target is Target.CANCER,
            other_modalities=tuple(
                replace(item, localiser=livers.get(item.modality)) for item in config.volume.other_modalities
            ),
        )
        train_parts = [part for m in variant.modalities for part in self.drawn(m)]
        validation = [part for m in variant.modalities for part in self._cohorts[m].validation]
        return self._learn(replace(config, volume=volume), train_parts, validation, variant.name, variant.modalities[0])

    def _learn(
        self,
        config: TrainConfig,
        parts: Sequence[PoolPart],
        validation: Sequence[PoolPart],
        name: str,
        modality: Modality,
    ) -> Bundle:
        config = replace(config, out=str(self._work / f"{name}.training"), resume=True)
        cropped, labels = config.volume.localiser is not None, config.volume.labels
        pool = MixedLabelPool(parts, labels, cropped=cropped)
        if pool.left_out:
            self._on_event(Notice(f"{pool.left_out} volumes lack what the model {name!r} learns, and were left out."))
        prepared = self._prepare(pool, config)
        try:
            others = self._prepare(MixedLabelPool(validation, labels, cropped=cropped), config)
        except InputError:
            self._on_event(Notice(f"No validation case has what {name!r} learns; its last weights are kept."))
            others = None
        result = train(config, balanced(prepared), others, self._on_event, self._cancel)
        if result.ending is Ending.STOPPED:
            raise Cancelled("Stopped; the same command goes on where this one was.")
        bundle = bundle_from_training(
            result,
            config,
            self._folder / name,
            name=name,
            modality=modality,
            notes={**self._notes, "pool": pool.counts()},
            onnx=self._onnx,
            overwrite=True,
        )
        self._check_unseen(bundle)
        return bundle

    def _prepare(self, pool: MixedLabelPool, config: TrainConfig) -> PreparedVolumes:
        prepared = PreparedVolumes(pool, config.volume, self._work / "prepared")
        prepared.prepare(self._on_event, self._cancel)
        return prepared

    # -- tests

    def test(self, bundle: Bundle, variant: Variant) -> list[CaseScore]:
        """Score a variant's bundle on the test cases of the modalities that it has learnt, on their own grids."""
        model = load_model(bundle, device=self._cancer.device, threads=self._cancer.threads)
        scores: list[CaseScore] = []
        for modality in variant.modalities:
            for part in self._cohorts[modality].test:
                for index in range(len(part.volumes)):
                    self._cancel.check()
                    self._on_event(Progress(index, len(part.volumes), "test", f"{bundle.manifest.name}, {modality}"))
                    sample = replace(part.volumes.read(index), modality=modality)
                    found = model.segment(volume_of(sample), None, self._notices, self._cancel).labels
                    case = f"{modality.value} {len(scores) + 1}"
                    scores.append(score_case(case, modality, np.asarray(sample.labels), found.array, part.annotated))
        return scores

    @staticmethod
    def _test_cases(cohort: Cohort) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for number, part in enumerate(cohort.test):
            for index in range(len(part.volumes)):
                cases = found.setdefault(f"{number} {part.volumes.patient(index)}", set())
                cases.add(part.volumes.read(index).case)
        return found

    def _check_unseen(self, bundle: Bundle) -> None:
        tests = {f"{m} {patient}": cases for m, found in self._tests.items() for patient, cases in found.items()}
        refuse_seen_cases([bundle], tests, self._on_event)

    def _notices(self, event: Event) -> None:
        if isinstance(event, Notice):
            self._on_event(event)


def volume_of(sample: VolumeSample) -> Volume:
    """A training volume as inference takes it: in the axial view, with its corner at the origin."""
    k, j, i = sample.spacing
    shape = sample.image.shape
    # i grows to the patient's left, j to posterior, k to superior.
    geometry = Geometry((shape[0], shape[1], shape[2]), np.diag([-i, -j, k, 1.0]))
    kind = IntensityKind.ARBITRARY if sample.modality is Modality.MR else IntensityKind.HU
    return Volume(np.asarray(sample.image), geometry, sample.modality, kind)


def _beside(bundle: Bundle, folder: Path) -> Bundle:
    """Copy a liver model beside the models that will need it."""
    place = folder / bundle.manifest.name
    if place.resolve() != bundle.folder.resolve():
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copytree(bundle.folder, place, dirs_exist_ok=True)
    return Bundle.load(place)
