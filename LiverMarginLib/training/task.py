"""What a network learns, apart from how: the seam between the trainer and the networks it trains."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor, nn

from LiverMarginLib.errors import InputError
from LiverMarginLib.training.config import TrainConfig
from LiverMarginLib.training.data import Source
from LiverMarginLib.training.loader import Batch, Item

if TYPE_CHECKING:
    import torch

    from LiverMarginLib.training.distributed import Group
    from LiverMarginLib.training.engine import Engine

Sums = Mapping[str, np.ndarray]
Scores = dict[str, float]


class Task(ABC):
    """How samples are read, varied, learnt from and scored.

    Everything a task measures is a set of named sums, which add up over batches and over the processes of a
    distributed training; scores are computed from the totals. A task is copied to the loader's processes.

    Parameters
    ----------
    config : TrainConfig
    """

    monitor: str
    """Validation score that decides which weights are the best; higher is better."""
    training_monitor: str
    """Training score that is drawn beside it."""
    sees_context = False
    """Whether the network can see neighbouring slices as further channels."""

    def __init__(self, config: TrainConfig) -> None:
        if config.context and not self.sees_context:
            raise InputError(f"The network {config.model} does not see neighbouring slices; set context to 0.")
        self.config = config

    @abstractmethod
    def build_model(self) -> nn.Module:
        """Make the untrained network."""

    def engine(self, device: torch.device, group: Group, total_steps: int) -> Engine:
        """Make what learns from this task's batches; tasks that another library trains bring their own."""
        from LiverMarginLib.training.engine import Engine

        return Engine(self, self.config, device, group, total_steps)

    @abstractmethod
    def read_training(self, source: Source, index: int, sample: int) -> Item:
        """Read item `index` as sample number `sample` of the training, as arrays of one shape for all samples."""

    @abstractmethod
    def read_validation(self, source: Source, index: int, group: int) -> Item:
        """Read item `index` of the patient with number `group`."""

    @property
    def validation_batch(self) -> int:
        """Slices that are validated together; 1 where they differ in size."""
        return self.config.batch

    @abstractmethod
    def vary(self, batch: Batch) -> Batch:
        """Augment or degrade a training batch, on its device; random numbers from `keyed_rng` alone."""

    @abstractmethod
    def learn(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a varied batch, and detached sums; ``n`` is the number of samples."""

    @abstractmethod
    def training_scores(self, sums: Sums) -> Scores:
        """Turn the sums of an epoch's `learn` into scores; ``loss`` is one of them."""

    @abstractmethod
    def validate(self, model: nn.Module, batch: Batch, groups: int) -> dict[str, np.ndarray]:
        """Return the sums of a validation batch, of which there are `groups` patients in all."""

    @abstractmethod
    def validation_scores(self, sums: Sums) -> Scores:
        """Turn the sums of a validation into scores; ``loss`` and `monitor` are among them."""

    def thresholds(self, sums: Sums) -> dict[str, float]:
        """Return the thresholds that serve the validation patients best; none for most tasks."""
        return {}


# The task of each trainable network, imported when it is needed; other rooms add theirs by `register_task`.
_TASKS: dict[str, str] = {
    "unet": "LiverMarginLib.training.segmentation:SegmentationTask",
    "unet3d": "LiverMarginLib.training.volume_task:VolumeTask",
    "medformer": "LiverMarginLib.training.volume_task:MedFormerTask",
    "dncnn-sr": "LiverMarginLib.training.restoration:RestorationTask",
    "detectron2": "LiverMarginLib.training.detectron_task:DetectronTask",
}


def register_task(model: str, reference: str) -> None:
    """Make the network `model` trainable by the task class ``"module:name"``."""
    _TASKS[model] = reference


def build_task(config: TrainConfig) -> Task:
    """Return the task of `config`'s model.

    Raises
    ------
    InputError
        If no task knows the model.
    """
    if config.model not in _TASKS:
        known: Sequence[str] = sorted(_TASKS)
        raise InputError(f"The model '{config.model}' cannot be trained here; choose one of {', '.join(known)}.")
    module, _, name = _TASKS[config.model].partition(":")
    task: Task = getattr(importlib.import_module(module), name)(config)
    return task
