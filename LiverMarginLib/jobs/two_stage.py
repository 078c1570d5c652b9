"""Train liver cancer segmentation of CT and MR in two stages, once or in every variant."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from LiverMarginLib.errors import InputError
from LiverMarginLib.events import CancelToken, Notice, OnEvent, Progress
from LiverMarginLib.jobs.cohort import TEST_SEEDS, VALIDATION_SEEDS, PhantomCohort
from LiverMarginLib.jobs.dataset import DatasetJob
from LiverMarginLib.jobs.train import TrainJob, phantom_grid, require_torch
from LiverMarginLib.volume import Modality

if TYPE_CHECKING:
    from LiverMarginLib.models.bundle import Bundle
    from LiverMarginLib.training.config import TrainConfig
    from LiverMarginLib.training.pool import PoolPart
    from LiverMarginLib.training.two_stage import Cohort, TwoStageStudy, Variant
    from LiverMarginLib.training.two_stage_scores import CaseScore

MODELS, CASES, SUMMARY, TABLE, FIGURE = "models", "cases.csv", "two_stage.json", "two_stage.csv", "two_stage.png"

_ANNOTATED = {"liver": (1,), "cancer": (2,), "liver+cancer": (1, 2)}
# Profiles of the liver and of the cancer stage, on a GPU and on two processor cores.
_PROFILES = {
    ("unet3d", False): ("spacing_aware", "spacing_aware"),
    ("unet3d", True): ("small", "crop_small"),
    ("medformer", False): ("lits", "lits"),
    ("medformer", True): ("small", "crop_small"),
}
# Patients of the two modalities are different ones.
_MR_SEEDS = 20_000
# There must be something to learn and to miss.
_LESIONS, _LESION_MM = 5, (8.0, 25.0)


@dataclass(frozen=True)
class TwoStageJob(DatasetJob):
    """Train both stages, test, save the bundles; see docs/two_stage.md.

    Parameters
    ----------
    sources : tuple of str
        Data sets as ``MODALITY:ANNOTATED:PATH``, such as ``MR:cancer:hospital``: CT or MR, and what was marked in it,
        liver, cancer or liver+cancer. Empty for phantoms. (`data` is not used.)
    out : str
        Folder for tables, figure and the bundles (in ``models``).
    work : str, optional
        Folder of the trainings, drawn labels and cache; by default `out` with ``.training`` added. The same job goes on
        with what is there.
    modalities : tuple of str
        CT, MR or both: what one network learns together.
    target : str
        "cancer" or "liver+cancer".
    single_stage : bool
        Train the network on whole images instead, without the liver's box.
    backbone : str
        "unet3d" or "medformer".
    small : bool
        The profiles for two processor cores.
    liver_profile, profile : str, optional
        Other profiles of the backbone, for the first and for the second stage.
    liver_models : tuple of str
        Finished liver models as ``MODALITY:NAME``, instead of a first stage.
    phantoms : tuple of int
        Phantom patients of each modality with liver and cancer marked, with the liver, and with cancer alone.
    validation_phantoms, test_phantoms : int
        Of each modality.
    phantom_shape, phantom_spacing : tuple, optional
        Their voxels and mm along (k, j, i).
    phantom_lesions : int, optional
    phantom_lesion_mm : tuple of float, optional
        Lesions of each phantom, and their smallest and largest radius; 5 of 8 to 25 mm if None.
    fractions : tuple of float
        Shares of the patients of each data set for training, validation and tests.
    min_litres, max_litres, min_cancer_inside : float
        Gate of the drawn livers.
    liver_steps, steps : int, optional
        Of a training of the first and of the second stage; None takes the profiles'.
    seed : int
    device : str
    threads : int, optional
    settings : dict of str to str
        Settings of the second stage, as for `TrainJob`.
    """

    kind: ClassVar[str] = "two-stage"

    data: str = ""
    sources: tuple[str, ...] = ()
    out: str = "two-stage"
    work: str | None = None
    modalities: tuple[str, ...] = ("CT", "MR")
    target: str = "liver+cancer"
    single_stage: bool = False
    backbone: str = "unet3d"
    small: bool = False
    liver_profile: str | None = None
    profile: str | None = None
    liver_models: tuple[str, ...] = ()
    phantoms: tuple[int, int, int] = (8, 4, 8)
    validation_phantoms: int = 2
    test_phantoms: int = 6
    phantom_shape: tuple[int, int, int] | None = None
    phantom_spacing: tuple[float, float, float] | None = None
    phantom_lesions: int | None = None
    phantom_lesion_mm: tuple[float, float] | None = None
    fractions: tuple[float, float, float] = (0.7, 0.1, 0.2)
    min_litres: float = 0.5
    max_litres: float = 4.0
    min_cancer_inside: float = 0.9
    liver_steps: int | None = None
    steps: int | None = None
    seed: int = 0
    device: str = "auto"
    threads: int | None = None
    settings: dict[str, str] = field(default_factory=dict)

    def variants(self) -> list[Variant]:
        """What is trained and tested.

        Raises
        ------
        InputError
            If a switch is unknown.
        """
        from LiverMarginLib.training.two_stage import Variant
        from LiverMarginLib.training.variants import Target

        if self.target not in (Target.CANCER, Target.BOTH):
            raise InputError(f"The second stage learns cancer or liver+cancer, not {self.target!r}.")
        return [Variant(Target(self.target), self._modalities(), not self.single_stage)]

    @property
    def onnx(self) -> bool:
        """Whether the bundles get a graph that ONNX Runtime runs."""
        return True

    def execute(self, on_event: OnEvent, cancel: CancelToken) -> dict[str, Any]:
        """Train, test, write; see `LiverMarginLib.jobs.run`."""
        require_torch()
        from LiverMarginLib.training.two_stage_scores import summary

        started = time.perf_counter()
        variants = self.variants()
        study, cancer = self._study(on_event, cancel)
        scores: dict[str, list[CaseScore]] = {}
        result: dict[str, Any] = {
            "backbone": self.backbone,
            "seed": self.seed,
            "data": _data_in_words(self.sources),
            "steps": cancer.epochs * cancer.steps_per_epoch if cancer.steps_per_epoch else None,
            "rows": [],
        }
        outputs: list[str] = []
        for number, variant in enumerate(variants):
            on_event(Progress(number, len(variants), "variants", variant.name))
            bundle = study.cancer_model(variant)
            scores[variant.name] = study.test(bundle, variant)
            about = {
                "model": variant.name,
                "learns": variant.target.value,
                "from": "+".join(variant.modalities),
                "stages": 2 if variant.two_stage else 1,
            }
            result["rows"] += [{**about, **row} for row in summary(scores[variant.name])]
            result["pseudo_labels"] = _gated(study)
            result["minutes"] = round((time.perf_counter() - started) / 60, 2)
            outputs = _write(Path(self.out), result, scores)  # so that a study that is stopped has a table
        on_event(Progress(len(variants), len(variants), "variants"))
        bundles = [str(Path(self.out) / MODELS / variant.name) for variant in variants]
        return {**result, "outputs": outputs, "bundles": bundles}

    def _modalities(self) -> tuple[Modality, ...]:
        if not self.modalities or not set(self.modalities) <= {"CT", "MR"}:
            raise InputError("The modalities are CT, MR or both.")
        return tuple(modality for modality in (Modality.CT, Modality.MR) if modality.value in self.modalities)

    def _study(self, on_event: OnEvent, cancel: CancelToken) -> tuple[TwoStageStudy, TrainConfig]:
        from LiverMarginLib.models.store import find_bundle
        from LiverMarginLib.training.pseudo_labels import QualityGate
        from LiverMarginLib.training.two_stage import TwoStageStudy

        gate = QualityGate(self.min_litres, self.max_litres, self.min_cancer_inside)
        if (self.backbone, self.small) not in _PROFILES:
            raise InputError(f"The backbone is unet3d or medformer, not {self.backbone!r}.")
        profiles = _PROFILES[self.backbone, self.small]
        liver = self._config(self.liver_profile or profiles[0], self.liver_steps, {})
        cancer = self._config(self.profile or profiles[1], self.steps, self.settings)
        work = Path(self.work or f"{self.out.rstrip('/')}.training")
        livers: dict[Modality, Bundle] = {}
        for modality, _, name in (self._parsed(text, 2) for text in self.liver_models):
            livers[modality] = find_bundle(name)
        cohorts = self._cohorts(cancer, work / "phantoms", on_event, cancel)
        study = TwoStageStudy(
            cohorts,
            liver,
            cancer,
            Path(self.out) / MODELS,
            work,
            gate=gate,
            liver_models=livers,
            notes={"data": _data_in_words(self.sources)},
            onnx=self.onnx,
            on_event=_without_training_curves(on_event),
            cancel=cancel,
        )
        return study, cancer

    def _config(self, profile: str, steps: int | None, settings: dict[str, str]) -> TrainConfig:
        config = TrainJob(model=self.backbone, profile=profile, settings=settings).config()
        if steps is not None:
            if steps < 1:
                raise InputError("A training needs at least one step; raise the number of steps.")
            epochs = max(1, min(config.epochs, steps // 100))
            config = replace(
                config, epochs=epochs, steps_per_epoch=-(-steps // epochs), validate_every=max(1, epochs // 2)
            )
        return replace(config, seed=self.seed, device=self.device, threads=self.threads)

    def _cohorts(
        self, config: TrainConfig, cache: Path, on_event: OnEvent, cancel: CancelToken
    ) -> dict[Modality, Cohort]:
        from LiverMarginLib.training.two_stage import Cohort

        if not self.sources:
            return {m: self._phantoms(m, config, cache, on_event, cancel) for m in self._modalities()}
        parsed = [self._parsed(text, 3) for text in self.sources]
        cohorts = {}
        for modality in self._modalities():
            own = [self._parts(*source, on_event, cancel) for source in parsed if source[0] is modality]
            train, validation, test = ([part for parts in own for part in parts[n]] for n in range(3))
            if not train or not test:
                raise InputError(
                    f"There is no data set of {modality} to learn from and to test on; add one (--source)."
                )
            cohorts[modality] = Cohort(tuple(train), tuple(validation), tuple(test))
        return cohorts

    def _parts(
        self, modality: Modality, annotated: str, path: str, on_event: OnEvent, cancel: CancelToken
    ) -> tuple[list[PoolPart], ...]:
        """Of one data set, what is for training, for validation and for tests."""
        from LiverMarginLib.datasets.split import PARTS, split_dataset
        from LiverMarginLib.training.pool import PoolPart
        from LiverMarginLib.training.volume_sources import CaseVolumes

        dataset = replace(self, data=path).open()
        dataset = replace(dataset, options=replace(dataset.options, modality=modality))
        split = split_dataset(dataset, fractions=self.fractions, seed=self.seed, on_event=on_event, cancel=cancel)
        parts = split.parts()
        return tuple(
            [PoolPart(CaseVolumes(dataset, parts[name]), modality, _ANNOTATED[annotated])] if parts[name] else []
            for name in PARTS
        )

    def _phantoms(
        self, modality: Modality, config: TrainConfig, cache: Path, on_event: OnEvent, cancel: CancelToken
    ) -> Cohort:
        from LiverMarginLib.training.pool import PoolPart
        from LiverMarginLib.training.two_stage import Cohort

        shape, spacing = phantom_grid(config.volume)
        start = _MR_SEEDS if modality is Modality.MR else 0

        def part(count: int, first: int, annotated: str) -> tuple[PoolPart, ...]:
            if count < 1:
                return ()
            cohort = PhantomCohort(
                count,
                first_seed=start + first,
                scans=1,
                shape=self.phantom_shape or shape,
                spacing=self.phantom_spacing or spacing,
                lesions=_LESIONS if self.phantom_lesions is None else self.phantom_lesions,
                lesion_mm=self.phantom_lesion_mm or _LESION_MM,
                modality=modality.value,
            )
            volumes = cohort.scanned(cache, on_event, cancel)
            return tuple(PoolPart(scans, modality, _ANNOTATED[annotated]) for scans in volumes)

        both, liver, cancer = self.phantoms
        return Cohort(
            (
                *part(both, 0, "liver+cancer"),
                *part(liver, both, "liver"),
                *part(cancer, both + liver, "cancer"),
            ),
            part(self.validation_phantoms, VALIDATION_SEEDS, "liver+cancer"),
            part(self.test_phantoms, TEST_SEEDS, "liver+cancer"),
        )

    @staticmethod
    def _parsed(text: str, parts: int) -> tuple[Modality, str, str]:
        """Take ``MODALITY:ANNOTATED:PATH`` or ``MODALITY:NAME`` apart."""
        words = text.split(":", parts - 1)
        if len(words) != parts or words[0] not in ("CT", "MR") or (parts == 3 and words[1] not in _ANNOTATED):
            form = (
                "MODALITY:ANNOTATED:PATH, such as MR:cancer:data" if parts == 3 else "MODALITY:NAME, such as MR:liver"
            )
            raise InputError(f"{text!r} cannot be read; write {form}.")
        return Modality(words[0]), words[1] if parts == 3 else "", words[-1]


@dataclass(frozen=True)
class AblationJob(TwoStageJob):
    """Train and test the second stage in all six variants, and its network in a single stage.

    {cancer, liver + cancer} x {CT, MR, CT + MR}; the single stage is the same network with the same settings on whole
    images of both modalities. Parameters are those of `TwoStageJob`; its switches are what is varied.
    """

    kind: ClassVar[str] = "ablation"

    out: str = "ablation"

    def variants(self) -> list[Variant]:
        """All six, and the single stage."""
        from LiverMarginLib.training.two_stage import Variant
        from LiverMarginLib.training.variants import Target

        both = (Modality.CT, Modality.MR)
        groups = ((Modality.CT,), (Modality.MR,), both)
        found = [Variant(target, group) for target in (Target.CANCER, Target.BOTH) for group in groups]
        return [*found, Variant(Target.BOTH, both, two_stage=False)]

    @property
    def onnx(self) -> bool:
        """Not for networks that are there to be compared."""
        return False


def _data_in_words(sources: Sequence[str]) -> str:
    return "data sets of the user's own" if sources else "procedural phantoms"


def _gated(study: TwoStageStudy) -> dict[str, dict[str, int]]:
    """How many livers were drawn, and how many of them did not pass."""
    return {
        modality.value: {
            "drawn": sum(record.liver == "pseudo" for record in records),
            "dropped": sum(bool(record.reason) for record in records),
        }
        for modality, records in study.records.items()
    }


def _without_training_curves(on_event: OnEvent) -> OnEvent:
    """Pass on what a person can use of the single trainings: progress and notices."""

    def listen(event: Any) -> None:
        if isinstance(event, Progress | Notice):
            on_event(event)

    return listen


def _write(folder: Path, result: dict[str, Any], scores: Mapping[str, Sequence[CaseScore]]) -> list[str]:
    import csv
    import io

    from LiverMarginLib.io.atomic import atomic_path
    from LiverMarginLib.jsonable import dumps
    from LiverMarginLib.report.ablation import ablation_figure
    from LiverMarginLib.training.two_stage_scores import scores_csv

    folder.mkdir(parents=True, exist_ok=True)
    table = io.StringIO()
    writer = csv.DictWriter(table, list(result["rows"][0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(result["rows"])
    texts = {SUMMARY: dumps(result, indent=2) + "\n", TABLE: table.getvalue(), CASES: scores_csv(scores)}
    for name, text in texts.items():
        with atomic_path(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    with atomic_path(folder / FIGURE) as temporary:
        ablation_figure(result["rows"]).savefig(temporary, dpi=150, format="png")
    return [str(folder / name) for name in (*texts, FIGURE)]
