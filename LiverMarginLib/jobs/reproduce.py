"""Train the same network several times and say how far the results differ."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from LiverMarginLib.errors import Cancelled, InputError
from LiverMarginLib.events import CancelToken, Event, OnEvent, Progress
from LiverMarginLib.jobs.dataset import DatasetJob
from LiverMarginLib.jobs.train import TrainJob, require_torch

if TYPE_CHECKING:
    from LiverMarginLib.training.config import TrainConfig
    from LiverMarginLib.training.data import Source
    from LiverMarginLib.training.reproducibility import Run, Setup


@dataclass(frozen=True)
class ReproduceJob(DatasetJob):
    """The reproducibility experiment; see `LiverMarginLib.training.reproducibility`.

    Parameters
    ----------
    data : str
        A data set; empty to train on phantoms. The validation part is what the runs are scored on.
    setups : tuple of str
        Any of "random", "seed" and "deterministic".
    runs : int
        Trainings of each setup.
    folder : str
        Receives the tables, the figure, and a folder with log and run manifest for each training. It must be new.
    model, profile, split, fold, cache, settings
        As for `TrainJob`.
    phantoms, validation_phantoms : int
        Number of phantom patients, when `data` is empty.
    """

    kind: ClassVar[str] = "reproduce"

    data: str = ""
    setups: tuple[str, ...] = ("deterministic",)
    runs: int = 3
    folder: str = "reproduce"
    model: str = "unet3d"
    profile: str = "tiny"
    split: str | None = None
    fold: int | None = None
    cache: str | None = None
    phantoms: int = 6
    validation_phantoms: int = 3
    settings: dict[str, str] = field(default_factory=dict)

    def execute(self, on_event: OnEvent, cancel: CancelToken) -> dict[str, Any]:
        """Train, compare, write; see `LiverMarginLib.jobs.run`."""
        require_torch()
        from LiverMarginLib.training.reproducibility import Setup, summary, write_experiment

        folder = Path(self.folder)
        if folder.exists():
            raise InputError(f"The folder {folder.name} exists already; choose another one for the experiment.")
        if self.runs < 1 or not self.setups:
            raise InputError("There is nothing to repeat; ask for one run or more of at least one setup.")
        unknown = sorted(set(self.setups) - set(Setup))
        if unknown:
            raise InputError(f"There is no setup {unknown[0]!r}; choose among {', '.join(Setup)}.")
        training = self._training()
        base = training.config()
        train_source, validation = training.sources(base, Path(self.cache or folder / "cache"), on_event, cancel)
        if validation is None:
            raise InputError("There are no patients to compare the runs on; make a split with a validation part.")
        runs: list[Run] = []
        for setup in dict.fromkeys(Setup(name) for name in self.setups):
            for number in range(1, self.runs + 1):
                told = _named(on_event, f"{setup} {number} of {self.runs}")
                runs.append(self._run(base, setup, number, (train_source, validation), told, cancel))
        written = write_experiment(runs, folder)
        return {"folder": self.folder, "outputs": [str(path) for path in written], "setups": summary(runs)}

    def _training(self) -> TrainJob:
        shared = {item.name: getattr(self, item.name) for item in dataclasses.fields(DatasetJob)}
        return TrainJob(
            **shared,
            model=self.model,
            profile=self.profile,
            out=self.folder,
            split=self.split,
            fold=self.fold,
            phantoms=self.phantoms,
            validation_phantoms=self.validation_phantoms,
            settings=self.settings,
        )

    def _run(
        self,
        base: TrainConfig,
        setup: Setup,
        number: int,
        sources: tuple[Source, Source],
        on_event: OnEvent,
        cancel: CancelToken,
    ) -> Run:
        from LiverMarginLib.training.reproducibility import Run, iou_by_label, run_config
        from LiverMarginLib.training.trainer import Ending, train

        config = run_config(base, setup, Path(self.folder) / f"{setup}-{number}")
        result = train(config, *sources, on_event, cancel)
        if result.ending is Ending.STOPPED:
            raise Cancelled("Cancelled; the trainings that were done are kept in their folders.")
        scores = iou_by_label(dict(result.scores))
        return Run(setup, number, config.seed, result.weights_sha256, scores, result.seconds)


def _named(on_event: OnEvent, name: str) -> OnEvent:
    """Say in each `Progress` which training it is."""

    def listen(event: Event) -> None:
        on_event(replace(event, message=f"{name}: {event.message}") if isinstance(event, Progress) else event)

    return listen
