"""Checks a data set and trains a network on it, in workers. Needs no window."""

from __future__ import annotations

import csv
import importlib.util
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from LiverMarginLib.errors import InputError
from LiverMarginLib.events import Event, Metric
from LiverMarginLib.jobs.dataset import CheckDatasetJob
from LiverMarginLib.jobs.train import TrainJob
from LiverMarginLib.training.profiles import weighs_slices
from LiverMarginPanels.file_names import check_file_name
from LiverMarginPanels.run_logic import RunLogic, Step
from LiverMarginPanels.signals import Signal
from LiverMarginPanels.worker_client import Command, WorkerClient

NEEDED = ("torch", "safetensors", "onnx", "onnxscript")
"""What training needs beyond segmenting; without the last two there is no bundle in the end."""

_CHECKPOINT = "checkpoint.pt"
_HISTORY = "log.csv"


@dataclass(frozen=True)
class TrainSettings:
    """What a user chooses.

    Parameters
    ----------
    folder : Path
        Receives the bundle, in a folder of its own, and beside it the folder of the training.
    name : str
        Of the model.
    data : str
        A data set; empty to train on phantoms.
    label : str
        Value or name of the liver in its masks; empty where there is only one label.
    with_phantoms : bool
        Whether there are phantoms beside `data`.
    phantoms : int
        How many, when `data` is empty or phantoms are wanted beside it.
    data_weight : float
        Share of the slices of `data` in the loss, above 0 and up to 1; see `weighs_data`.
    model, profile : str
        Keys of `LiverMarginLib.training.profiles.PROFILES`.
    modality : str
        "CT" or "MR".
    device : str
        "auto", "cpu", "cuda" or "mps".
    epochs : int
        0 takes the profile's.
    initial : str
        Folder of a model to start from; empty for none.
    """

    folder: Path
    name: str
    data: str = ""
    label: str = ""
    with_phantoms: bool = False
    phantoms: int = 40
    data_weight: float = 1.0
    model: str = "unet"
    profile: str = "robust"
    modality: str = "CT"
    device: str = "auto"
    epochs: int = 0
    initial: str = ""

    @property
    def bundle(self) -> Path:
        """Where the model will be."""
        return self.folder / self.name

    @property
    def work(self) -> Path:
        """Where checkpoint, log and curves are."""
        return self.folder / f"{self.name}.training"

    @property
    def resumes(self) -> bool:
        """Whether a training of this name has begun already, and would be gone on with."""
        return (self.work / _CHECKPOINT).is_file()

    @property
    def makes_phantoms(self) -> bool:
        """Whether phantoms are trained on."""
        return self.with_phantoms or not self.data

    @property
    def weighs_data(self) -> bool:
        """Whether there are slices that `data_weight` can be given to, and a network that heeds it."""
        return bool(self.data) and weighs_slices(self.model)

    def job(self) -> TrainJob:
        """What the worker is asked for.

        Raises
        ------
        InputError
            If the name cannot be that of a folder, or is that of a model which did not come from here.
        """
        check_file_name(self.name)
        if self.bundle.exists() and not self.resumes:
            raise InputError(f"There is a model {self.name!r} already; choose another name.")
        settings = {"device": self.device, **({"epochs": str(self.epochs)} if self.epochs else {})}
        return TrainJob(
            data=self.data,
            label=_label(self.label),
            model=self.model,
            profile=self.profile,
            out=str(self.bundle),
            initial=self.initial or None,
            work=str(self.work),
            with_phantoms=self.with_phantoms,
            data_weight=self.data_weight if self.weighs_data else 1.0,
            phantoms=self.phantoms,
            validation_phantoms=max(2, self.phantoms // 8),
            settings=settings,
            resume=self.resumes,
            modality=self.modality,
            name=self.name,
            overwrite=self.resumes,
            bundle_when_stopped=True,
        )


@dataclass(frozen=True)
class Trained:
    """What a training has given so far.

    Parameters
    ----------
    ending : str
        "finished", "early stopping", "time is up", or "stopped": the user wanted that, and it can be resumed.
    bundle : Path, optional
        The best weights as a model; None if there are none yet.
    epochs : int
        Done so far.
    best_epoch : int, optional
    scores : mapping of str to float
        Of the best weights, on the validation patients.
    """

    ending: str
    bundle: Path | None
    epochs: int
    best_epoch: int | None
    scores: Mapping[str, float]


@dataclass(frozen=True)
class DatasetReport:
    """What a check of a data set found.

    Parameters
    ----------
    cases : int
    problems : tuple of str
    text : str
        The whole report.
    """

    cases: int
    problems: tuple[str, ...]
    text: str


class CheckLogic(RunLogic[DatasetReport]):
    """Checks one data set at a time; see `RunLogic`."""

    def start(self, data: str, label: str, command: Command) -> None:
        """Read everything in a data set once; `succeeded` brings the report.

        Parameters
        ----------
        data, label
            As in `TrainSettings`.
        command : Command
            How the worker is started.

        Raises
        ------
        LiverMarginError
            If it cannot be started.
        """
        with self._preparing():
            self._client.start(command, CheckDatasetJob(data, label=_label(label)))

    def _take(self, values: Mapping[str, Any]) -> DatasetReport:
        return DatasetReport(len(values["cases"]), tuple(values["problems"]), values["text"])


class TrainLogic(RunLogic[Trained]):
    """Runs one training at a time; see `RunLogic`.

    The training itself lives in its own folder, where it survives whatever happens here.
    """

    def __init__(self, client: WorkerClient, temporary: Path | None = None) -> None:
        super().__init__(client, temporary)
        self.measured: Signal[[Metric]] = Signal()
        """A point of a curve; those of earlier runs come first when a training is resumed."""

    def start(self, settings: TrainSettings, command: Command) -> None:
        """Start or resume a training; the signals tell of everything that follows.

        Raises
        ------
        LiverMarginError
            If it cannot be started; nothing has happened then.
        """
        with self._preparing():
            job = settings.job()
            for point in read_history(settings.work) if settings.resumes else ():
                self.measured.emit(point)
            self.progressed.emit(Step("starting"))
            self._client.start(command, job)

    def stop(self) -> None:
        """Let the training save itself and make a model of what it has; `succeeded` tells when it has."""
        self._client.stop()

    def _hear(self, event: Event) -> None:
        if isinstance(event, Metric):
            self.measured.emit(event)

    def _take(self, values: Mapping[str, Any]) -> Trained:
        return Trained(
            values["ending"],
            None if values["bundle"] is None else Path(values["bundle"]),
            values["epochs"],
            values["best_epoch"],
            values["scores"],
        )


def missing_for_training() -> str:
    """One sentence if this Python lacks what training needs, otherwise nothing; nothing is imported."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if not missing:
        return ""
    return f"Training needs {', '.join(missing)}; install what is missing in the Environment panel."


def _label(text: str) -> int | str | None:
    return (int(text) if text.isdecimal() else text) if text else None


def read_history(work: Path) -> list[Metric]:
    """The points of a training's curves so far; none if its log cannot be read."""
    points = []
    try:
        with (work / _HISTORY).open(newline="", encoding="utf-8") as stream:
            for row in csv.DictReader(stream):
                for key, text in row.items():
                    series, _, name = key.partition("_")
                    if series in ("train", "validation") and text and math.isfinite(float(text)):
                        points.append(Metric(name, float(text), int(float(row["epoch"])), series))
    except (OSError, ValueError, KeyError, AttributeError):  # a log that somebody has edited is no reason to stop
        return []
    return points
