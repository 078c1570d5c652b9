"""Train a network on a data set or on phantoms, and save the best weights as a bundle."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from LiverMarginLib.errors import DependencyError, InputError
from LiverMarginLib.events import CancelToken, OnEvent
from LiverMarginLib.jobs.base import modality_named
from LiverMarginLib.jobs.cohort import VALIDATION_SEEDS, PhantomCohort
from LiverMarginLib.jobs.dataset import DatasetJob
from LiverMarginLib.volume import Modality

if TYPE_CHECKING:
    from LiverMarginLib.datasets.model import Dataset
    from LiverMarginLib.datasets.split import Split
    from LiverMarginLib.training.config import TrainConfig
    from LiverMarginLib.training.data import Source
    from LiverMarginLib.training.volume_config import VolumeConfig


@dataclass(frozen=True)
class TrainJob(DatasetJob):
    """Train a network.

    Parameters
    ----------
    data : str
        A data set (see `DatasetJob`); empty to train on phantoms.
    model, profile : str
        Keys of `LiverMarginLib.training.profiles.PROFILES`.
    out : str
        Folder of the bundle; it appears when the training ends.
    initial : str, optional
        Name or folder of a bundle to start from: its layers that fit are taken.
    work : str, optional
        Folder of the training: checkpoint, log, curves, run manifest. By default `out` with ``.training`` added.
    cache : str, optional
        Folder of decoded slices and phantoms, to be shared by trainings; in `work` by default.
    split : str, optional
        A split.json; by default 15 % of the patients are held out for validation, and as many for testing.
    fold : int, optional
        Which fold of a k-fold split is the test part.
    with_phantoms : bool
        Train on phantoms beside `data`, and validate on phantoms where the split leaves nobody for it.
    data_weight : float
        Share of the slices of `data` in the loss, such as 0.5 for drawn labels; for networks that weigh slices.
    phantoms, validation_phantoms : int
        Number of phantom patients, when `data` is empty or phantoms are wanted beside it.
    phantoms_without_liver : int
        Further phantoms to train on, that show the chest or the pelvis alone.
    phantoms_from_labels : str, optional
        A label map whose organs, deformed, further phantoms to train on have.
    label_names : tuple of str
        What its values mean: "amos", "totalsegmentator", or "liver=1", "spleen=2" and so on.
    phantoms_with_its_organs : int
        How many further phantoms these are.
    phantom_shape, phantom_spacing : tuple, optional
        Their voxels and mm along (k, j, i); by default what suits the network.
    phantom_lesions : int, optional
    phantom_lesion_mm : tuple of float, optional
    phantom_random_contrast : float
        See `PhantomCohort`.
    settings : dict of str to str
        Settings that differ from the profile's, such as ``optimiser.learning_rate``, as JSON values.
    resume : bool
        Continue the training in `work`.
    modality : str
        "CT" or "MR", of the training images; what a volumetric network does to their intensities follows from it.
    target : str, optional
        "liver", "cancer" or "liver+cancer", for volumetric networks; None learns what the profile says.
    name, description : str, optional
        Of the bundle.
    half : bool
        Store the weights in half precision.
    overwrite : bool
        Replace a bundle that is there.
    bundle_when_stopped : bool
        Save a bundle of the best weights so far also when the training was stopped.
    """

    kind: ClassVar[str] = "train"

    data: str = ""
    model: str = "unet"
    profile: str = "robust"
    out: str = "model"
    initial: str | None = None
    work: str | None = None
    cache: str | None = None
    split: str | None = None
    fold: int | None = None
    with_phantoms: bool = False
    data_weight: float = 1.0
    phantoms: int = 80
    validation_phantoms: int = 10
    phantoms_without_liver: int = 0
    phantoms_from_labels: str | None = None
    label_names: tuple[str, ...] = ()
    phantoms_with_its_organs: int = 20
    phantom_shape: tuple[int, int, int] | None = None
    phantom_spacing: tuple[float, float, float] | None = None
    phantom_lesions: int | None = None
    phantom_lesion_mm: tuple[float, float] | None = None
    phantom_random_contrast: float = PhantomCohort.random_contrast
    settings: dict[str, str] = field(default_factory=dict)
    resume: bool = False
    modality: str = "CT"
    target: str | None = None
    name: str | None = None
    description: str = ""
    half: bool = True
    overwrite: bool = False
    bundle_when_stopped: bool = False

    def execute(self, on_event: OnEvent, cancel: CancelToken) -> dict[str, Any]:
        """Prepare the data, train, save the bundle; see `LiverMarginLib.jobs.run`."""
        require_torch()
        from LiverMarginLib.training.trainer import train

        out = Path(self.out)
        if out.exists() and not self.overwrite:
            raise InputError(f"The folder {out.name} exists already; choose another name for the model.")
        config = self.config()
        cache = Path(self.cache or Path(config.out) / "cache")
        train_source, validation = self.sources(config, cache, on_event, cancel)
        result = train(config, train_source, validation, on_event, cancel)
        values: dict[str, Any] = {
            "ending": result.ending.value,
            "folder": str(result.folder),
            "epochs": result.epochs,
            "steps": result.steps,
            "best_epoch": result.best_epoch,
            "scores": dict(result.scores),
            "thresholds": dict(result.thresholds),
            "weights_hash": result.weights_sha256,
            "minutes": round(result.seconds / 60, 2),
            "bundle": None,
        }
        complete = result.ending.value != "stopped" or self.bundle_when_stopped
        if result.weights is not None and complete and is_first_process():
            values["bundle"] = str(self._save(result, config, out, train_source).folder)
        return values

    def config(self) -> TrainConfig:
        """The profile with this job's settings.

        Raises
        ------
        InputError
            If a setting is unknown or of the wrong type.
        """
        from LiverMarginLib.training.config import TrainConfig
        from LiverMarginLib.training.profiles import profile

        values = self._variant(profile(self.model, self.profile)).to_dict()
        for key, text in self.settings.items():
            _set(values, key, text)
        work = self.work or f"{self.out.rstrip('/')}.training"
        config = TrainConfig.from_dict(values)
        return replace(config, out=work, resume=self.resume, initial=self.initial or config.initial)

    def _variant(self, config: TrainConfig) -> TrainConfig:
        """The profile for this job's labels and modality."""
        from LiverMarginLib.training.profiles import is_volumetric
        from LiverMarginLib.training.variants import Target, for_modalities, for_target

        modality = modality_named(self.modality)
        if not is_volumetric(self.model):
            if self.target is not None:
                raise InputError(f"What is learnt can be chosen for volumetric networks, which {self.model} is not.")
            if modality is not Modality.CT and (self.with_phantoms or not self.data):
                raise InputError(
                    f"The network {self.model} learns from phantoms of CT alone; give MR images by "
                    "--data, without phantoms."
                )
            return config
        if self.target is not None:
            if self.target not in list(Target):
                raise InputError(f"There is no target {self.target!r}; choose one of {', '.join(Target)}.")
            config = for_target(config, Target(self.target))
        return for_modalities(config, [modality or Modality.CT])

    def sources(
        self, config: TrainConfig, cache: Path, on_event: OnEvent, cancel: CancelToken
    ) -> tuple[Source, Source | None]:
        """Make ready what is trained and validated on: slices, or whole volumes for a volumetric network."""
        from LiverMarginLib.training.data import JoinedSource
        from LiverMarginLib.training.profiles import weighs_slices

        weighted = weighs_slices(self.model) and self.data
        if self.data_weight != 1 and not (weighted and 0 < self.data_weight < 1):
            raise InputError("A weight of the data set lies between 0 and 1, and is for the model unet and --data.")
        if not self.data:
            return self._phantom_sources(config, cache, on_event, cancel)
        train, validation = self._data_sources(config, cache, on_event, cancel)
        if not self.with_phantoms:
            return train, validation
        phantoms, others = self._phantom_sources(config, cache, on_event, cancel)
        return JoinedSource([train, phantoms]), validation or others

    def _data_sources(
        self, config: TrainConfig, cache: Path, on_event: OnEvent, cancel: CancelToken
    ) -> tuple[Source, Source | None]:
        from LiverMarginLib.training.profiles import is_volumetric

        dataset = self.open()
        split = self._split(dataset, on_event, cancel)
        if is_volumetric(self.model):
            return self._volumes(config, dataset, split, cache, on_event, cancel)
        from LiverMarginLib.datasets.slice_store import SliceStore

        stores = [
            SliceStore(dataset, cases, folder=cache, weight=self.data_weight, on_event=on_event, cancel=cancel)
            if cases
            else None
            for cases in (split.slices("train", self.fold), split.slices("val", self.fold))
        ]
        if stores[0] is None:
            raise InputError("The split leaves no patient to train on; make it with other shares.")
        return stores[0], stores[1]

    def _phantom_sources(
        self, config: TrainConfig, cache: Path, on_event: OnEvent, cancel: CancelToken
    ) -> tuple[Source, Source]:
        from LiverMarginLib.training.profiles import is_volumetric

        volumetric = is_volumetric(self.model)
        shape, spacing = self.phantom_shape, self.phantom_spacing
        if shape is None or spacing is None:
            shape, spacing = phantom_grid(config.volume) if volumetric else (PhantomCohort.shape, PhantomCohort.spacing)
        train = PhantomCohort(
            self.phantoms,
            shape=shape,
            spacing=spacing,
            without_liver=self.phantoms_without_liver,
            from_labels=self.phantoms_from_labels,
            label_names=self.label_names,
            with_its_organs=self.phantoms_with_its_organs,
            lesions=self.phantom_lesions,
            lesion_mm=self.phantom_lesion_mm,
            random_contrast=self.phantom_random_contrast,
            modality=self.modality.upper(),
        )
        if self.model == "dncnn-sr":  # learns from clean slices, which it spoils itself
            train = replace(train, noise_hu=1.0, streaks=0.0)
        validation = replace(train, patients=self.validation_phantoms, first_seed=VALIDATION_SEEDS, without_liver=0)
        validation = replace(validation, from_labels=None)
        if volumetric:
            return (
                train.volumes(cache, config.volume, on_event, cancel),
                validation.volumes(cache, config.volume, on_event, cancel),
            )
        return train.source(cache, on_event, cancel), validation.source(cache, on_event, cancel)

    def _volumes(
        self,
        config: TrainConfig,
        dataset: Dataset,
        split: Split,
        cache: Path,
        on_event: OnEvent,
        cancel: CancelToken,
    ) -> tuple[Source, Source | None]:
        from LiverMarginLib.training.volume_data import PreparedVolumes
        from LiverMarginLib.training.volume_sources import CaseVolumes

        made: list[Source | None] = []
        for part in ("train", "val"):
            cases = split.slices(part, self.fold)
            if any(chosen is not None for chosen in cases.values()):
                raise InputError("A volumetric network learns from whole volumes; split the data by patient.")
            if not cases:
                made.append(None)
                continue
            prepared = PreparedVolumes(CaseVolumes(dataset, cases), config.volume, cache / "prepared")
            prepared.prepare(on_event, cancel)
            made.append(prepared)
        if made[0] is None:
            raise InputError("The split leaves no patient to train on; make it with other shares.")
        return made[0], made[1]

    def _split(self, dataset: Dataset, on_event: OnEvent, cancel: CancelToken) -> Split:
        from LiverMarginLib.datasets.split import load_split, split_dataset

        if self.split is None:
            return split_dataset(dataset, fractions=(0.7, 0.15, 0.15), on_event=on_event, cancel=cancel)
        split = load_split(self.split)
        split.check_against(dataset)
        return split

    def _save(self, result: Any, config: TrainConfig, out: Path, source: Source) -> Any:
        from LiverMarginLib.inference.resemblance import ENTRY
        from LiverMarginLib.training.bundling import bundle_from_training
        from LiverMarginLib.training.profiles import is_volumetric
        from LiverMarginLib.training.seen import ranges_seen
        from LiverMarginLib.volume import IntensityKind

        notes = {
            "data": self._data_in_words(),
            "profile": self.profile,
            "settings": dict(self.settings),
        }
        if config.intensity is IntensityKind.HU and self.model != "dncnn-sr" and not is_volumetric(self.model):
            notes[ENTRY] = ranges_seen(source, config.intensity)
        return bundle_from_training(
            result,
            config,
            out,
            name=self.name or out.name,
            modality=Modality(self.modality.upper()),
            description=self.description,
            licence="Apache-2.0" if not self.data else "",
            notes=notes,
            half=self.half,
            overwrite=self.overwrite,
        )

    def _data_in_words(self) -> str:
        words = ["a data set of the user's own"] if self.data else []
        if self.with_phantoms or not self.data:
            words.append(f"{self.phantoms} procedural phantoms")
            if self.phantoms_without_liver:
                words.append(f"{self.phantoms_without_liver} of chest or pelvis alone")
            if self.phantoms_from_labels is not None:
                words.append(f"{self.phantoms_with_its_organs} with the deformed organs of a label map")
        return ", ".join(words)


def phantom_grid(config: VolumeConfig) -> tuple[tuple[int, int, int], tuple[float, float, float]]:
    """Voxels and mm of phantoms that show the liver whole, at the spacing that a volumetric network sees."""
    from LiverMarginLib.training.volume_config import Preparation

    if config.preparation is Preparation.MLF_CORE:  # sees half of whatever resolution it is given
        return PhantomCohort.shape, PhantomCohort.spacing
    extent = [n * s for n, s in zip(PhantomCohort.shape, PhantomCohort.spacing, strict=True)]
    k, j, i = (round(length / spacing) for length, spacing in zip(extent, config.spacing, strict=True))
    return (k, j, i), config.spacing


def require_torch() -> None:
    """Raise `DependencyError` where PyTorch is missing."""
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise DependencyError("Training needs PyTorch; install livermargin[train].") from error


def is_first_process() -> bool:
    """Whether this process writes the results of a training by several (torchrun sets RANK)."""
    return os.environ.get("RANK", "0") == "0"


def _set(values: dict[str, Any], key: str, text: str) -> None:
    """Put a setting such as ``augmentation.noise_p`` into the nested `values`; `text` is JSON, or plain text."""
    import json

    *path, last = key.split(".")
    place: Any = values
    for part in path:
        place = place.get(part) if isinstance(place, Mapping) else None
    if not isinstance(place, dict) or (last not in place and path[:1] != ["model_options"] and place is not values):
        raise InputError(f"There is no setting {key!r} of a training; see docs/training.md.")
    try:
        place[last] = json.loads(text)
    except ValueError:
        place[last] = text
