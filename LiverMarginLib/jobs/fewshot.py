"""Learn an organ from few subjects by one preset, with k folds or a learning curve as evidence."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from LiverMarginLib.errors import InputError
from LiverMarginLib.events import CancelToken, Notice, OnEvent, Progress
from LiverMarginLib.jobs.base import modality_named
from LiverMarginLib.jobs.cohort import TEST_SEEDS
from LiverMarginLib.jobs.dataset import DatasetJob
from LiverMarginLib.jobs.train import TrainJob, phantom_grid, require_torch

if TYPE_CHECKING:
    from LiverMarginLib.models.bundle import Bundle
    from LiverMarginLib.terminology import Segment
    from LiverMarginLib.training.config import TrainConfig
    from LiverMarginLib.training.few_shot import Subject
    from LiverMarginLib.training.few_shot_study import Score

CSV, FIGURE, SUMMARY, MODEL = "scores.csv", "learning_curve.png", "fewshot.json", "model"


@dataclass(frozen=True)
class FewShotJob(DatasetJob):
    """Train by the preset FewShot3D; see docs/training.md.

    Parameters
    ----------
    data : str
        A data set (see `DatasetJob`); empty to learn from phantoms.
    out : str
        Folder for the scores, the figure and the bundle ``model``.
    work : str, optional
        Folder of the trainings; by default `out` with ``.training`` added. The same job goes on with what is there.
    profile : str
        "few_shot", or "few_shot_small" for a processor alone.
    labels : tuple of int
        Values of the label maps to learn; empty for the liver with the masses in it.
    subjects : tuple of int
        Points of the learning curve; empty for none.
    tests : int, optional
        Subjects that the curve is tested on: 4 phantoms, or a quarter of the data set's.
    folds : int, optional
        Cross-validate over all subjects.
    repeats : int
        Of the curve, each with another draw of subjects.
    steps : int, optional
        Of every training; None takes the profile's.
    phantoms : int, optional
        Phantom subjects, when `data` is empty; by default as many as the curve or the folds need.
    phantom_shape, phantom_spacing : tuple, optional
        Their voxels and mm along (k, j, i).
    median_spacing : bool
        Resample to the training subjects' median spacing instead of the preset's.
    largest_component : bool
        The finished model keeps one connected piece of a single label.
    modality : str, optional
        "CT" or "MR", where the images do not say it.
    seed : int
        Of the draws and the trainings.
    device : str
    threads : int, optional
    settings : dict of str to str
        As for `TrainJob`; none is needed.
    """

    kind: ClassVar[str] = "fewshot"

    data: str = ""
    out: str = "fewshot"
    work: str | None = None
    profile: str = "few_shot"
    labels: tuple[int, ...] = ()
    subjects: tuple[int, ...] = (1, 2, 4, 8)
    tests: int | None = None
    folds: int | None = None
    repeats: int = 1
    steps: int | None = None
    phantoms: int | None = None
    phantom_shape: tuple[int, int, int] | None = None
    phantom_spacing: tuple[float, float, float] | None = None
    median_spacing: bool = False
    largest_component: bool = False
    modality: str | None = None
    seed: int = 0
    device: str = "auto"
    threads: int | None = None
    settings: dict[str, str] = field(default_factory=dict)

    def execute(self, on_event: OnEvent, cancel: CancelToken) -> dict[str, Any]:
        """Train, test, write; see `LiverMarginLib.jobs.run`."""
        self._check()
        require_torch()
        from LiverMarginLib.training.few_shot_study import (
            FewShotStudy,
            cross_validate,
            learning_curve,
            scores_csv,
            summary,
        )
        from LiverMarginLib.training.few_shot_subjects import held, segments_of

        started = time.perf_counter()
        config = self._config()
        pool, tests = self._subjects(config, on_event)
        segments = self._segments(segments_of(pool[0], self.labels) if self.labels else None)
        counts = [count for count in self.subjects if count <= len(pool)]
        if len(counts) < len(self.subjects):
            on_event(Notice(f"The learning curve ends at {len(pool)} subjects, for there are no more to learn from."))
        if self.subjects and not counts:
            counts = [len(pool)]
        runs = len(set(counts)) * self.repeats + (self.folds or 0)
        study = FewShotStudy(
            config,
            segments,
            Path(self.work or f"{self.out.rstrip('/')}.training"),
            use_median_spacing=self.median_spacing,
            notes={
                "data": "a data set of the user's own" if self.data else "procedural phantoms",
                "profile": self.profile,
            },
            on_event=_without_training_curves(on_event),
            cancel=cancel,
        )
        scores: list[Score] = []
        done = 0

        def on_run(found: list[Score]) -> None:
            nonlocal done
            scores.extend(found)
            done += 1
            on_event(Progress(done, runs, "subjects"))

        on_event(Progress(0, runs, "subjects"))
        bundle = None
        if counts:
            bundle = learning_curve(study, pool, held(tests), counts, self.repeats, self.seed, on_run)
        if self.folds is not None:
            cross_validate(study, [*pool, *tests], self.folds, self.seed, on_run)
        if bundle is None:
            bundle = study.learn([*pool, *tests], "all-subjects")
        curve = summary(scores, "curve")
        result = {
            "profile": self.profile,
            "steps": config.epochs * (config.steps_per_epoch or 1),
            "seed": self.seed,
            "labels": [{"value": segment.label, "name": segment.name} for segment in segments],
            "test_subjects": len(tests),
            "curve": curve,
            "folds": summary(scores, "fold"),
            "minutes": round((time.perf_counter() - started) / 60, 2),
        }
        return {**result, **_write(Path(self.out), result, scores_csv(scores), curve, scores, bundle)}

    def _check(self) -> None:
        if not self.subjects and self.folds is None:
            raise InputError("Nothing is to be done: name the points of a learning curve (--subjects) or --folds.")
        if any(count < 1 for count in self.subjects) or self.repeats < 1:
            raise InputError("A training needs at least one subject and one repetition; raise the numbers.")
        if self.steps is not None and self.steps < 1:
            raise InputError("A training needs at least one step; raise --steps.")
        if len(set(self.labels)) != len(self.labels) or not all(0 < label < 256 for label in self.labels):
            raise InputError(f"The labels {self.labels} cannot be learnt; give different values from 1 to 255.")
        if self.largest_component and len(self.labels) > 1:
            raise InputError("Keeping the largest piece is for a single label: other organs would vanish beside it.")
        if self.profile not in ("few_shot", "few_shot_small"):
            raise InputError(f"There is no few-shot preset {self.profile!r}; choose few_shot or few_shot_small.")

    def _config(self) -> TrainConfig:
        settings = dict(self.settings)
        base = TrainJob(model="unet3d", profile=self.profile, settings=settings).config()
        steps = self.steps or base.epochs * (base.steps_per_epoch or 1)
        # Epochs only divide the steps into stretches; there is nothing to validate on between them.
        epochs = max(1, round(steps / 500))
        return replace(
            base,
            epochs=epochs,
            steps_per_epoch=-(-steps // epochs),
            validate_every=epochs,
            seed=self.seed,
            device=self.device,
            threads=self.threads,
            volume=replace(
                base.volume, labels=self.labels or (1,), largest_component=self.largest_component, localiser=None
            ),
        )

    def _subjects(self, config: TrainConfig, on_event: OnEvent) -> tuple[list[Subject], list[Subject]]:
        """The subjects to learn from, and those to test the curve on."""
        import numpy as np

        from LiverMarginLib.training.few_shot_subjects import dataset_subjects, phantom_subjects

        raw = bool(self.labels)
        if not self.data:
            from LiverMarginLib.phantom import PhantomOptions

            shape, spacing = phantom_grid(config.volume)
            options = PhantomOptions(shape=self.phantom_shape or shape, spacing=self.phantom_spacing or spacing)
            count = self.phantoms or max((*self.subjects, self.folds or 0))
            tests = (4 if self.tests is None else self.tests) if self.subjects else 0
            return (
                phantom_subjects(range(count), options, raw=raw),
                phantom_subjects(range(TEST_SEEDS, TEST_SEEDS + tests), options, raw=raw),
            )
        dataset = self.open()
        if (modality := modality_named(self.modality)) is not None:
            dataset = replace(dataset, options=replace(dataset.options, modality=modality))
        everyone = dataset_subjects(dataset, raw=raw)
        if not self.subjects:
            return everyone, []
        count = max(1, len(everyone) // 4) if self.tests is None else self.tests
        if not 0 < count < len(everyone):
            raise InputError(
                f"Of {len(everyone)} subjects {count} cannot be left for testing; at least one is needed on each side."
            )
        order = np.random.default_rng(self.seed).permutation(len(everyone))
        dealt = [everyone[n] for n in order]
        return dealt[count:], dealt[:count]

    def _segments(self, chosen: Sequence[Segment] | None) -> Sequence[Segment]:
        from LiverMarginLib.terminology import LIVER

        return chosen or [LIVER]


def _without_training_curves(on_event: OnEvent) -> OnEvent:
    """Pass on what a person can use of the single trainings: progress and notices."""

    def listen(event: Any) -> None:
        if isinstance(event, Progress | Notice):
            on_event(event)

    return listen


def _write(
    folder: Path,
    result: dict[str, Any],
    csv: str,
    curve: list[dict[str, Any]],
    scores: Sequence[Score],
    bundle: Bundle,
) -> dict[str, Any]:
    import shutil

    from LiverMarginLib.io.atomic import atomic_path
    from LiverMarginLib.jsonable import dumps
    from LiverMarginLib.report.learning_curve import learning_curve_figure

    folder.mkdir(parents=True, exist_ok=True)
    outputs = [folder / SUMMARY, folder / CSV]
    for path, text in zip(outputs, (dumps(result, indent=2) + "\n", csv), strict=True):
        with atomic_path(path) as temporary:
            temporary.write_text(text)
    if curve:
        outputs.append(folder / FIGURE)
        points = [(score.label, score.subjects, score.dice) for score in scores if score.part == "curve"]
        with atomic_path(outputs[-1]) as temporary:
            learning_curve_figure(curve, points).savefig(temporary, dpi=150)
    model = folder / MODEL
    if model.exists():
        shutil.rmtree(model)
    shutil.copytree(bundle.folder, model)
    return {"outputs": [str(path) for path in outputs], "bundle": str(model)}
