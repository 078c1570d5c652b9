"""Detectron2's training engine, driven step by step by the trainer, and its launcher for several processes.

Importing this module needs Detectron2.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from detectron2.engine import AMPTrainer, HookBase, SimpleTrainer, hooks, launch
from detectron2.solver import build_lr_scheduler, build_optimizer
from detectron2.solver.build import get_default_optimizer_params
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from LiverMarginLib.errors import InputError, ResourceError, technical
from LiverMarginLib.training.config import OptimiserKind, ScheduleConfig, TrainConfig
from LiverMarginLib.training.detectron_task import DetectronTask
from LiverMarginLib.training.distributed import Group
from LiverMarginLib.training.engine import Engine, update_average
from LiverMarginLib.training.loader import Batch
from LiverMarginLib.training.schedule import LearningRate


class DetectronEngine(Engine):
    """Learns from batches through `detectron2.engine.SimpleTrainer`, its hooks and its solver."""

    _task: DetectronTask

    def __init__(
        self, task: DetectronTask, config: TrainConfig, device: torch.device, group: Group, total_steps: int
    ) -> None:
        self._cfg = task.detectron_config(total_steps)
        super().__init__(task, config, device, group, total_steps)
        self._fed = _Fed()
        if self._autocast is not None and device.type == "cuda":
            self._trainer: _SilentTrainer | _SilentAMPTrainer = _SilentAMPTrainer(
                self._trained, self._fed, self._optimiser, grad_scaler=self._scaler, precision=self._autocast
            )
        elif self._autocast is not None:
            raise ResourceError("Detectron2 trains in mixed precision on CUDA only; choose the precision float32.")
        else:
            self._trainer = _SilentTrainer(self._trained, self._fed, self._optimiser)
        self._trainer.max_iter = total_steps
        self._trainer.register_hooks([_Clip(self), hooks.LRScheduler(self._optimiser, self._rate)])
        self._started = False

    def _make_optimiser(self) -> torch.optim.Optimizer:
        """Detectron2's, with its rules for the weight decay of normalisations."""
        if self._config.kind is OptimiserKind.SGD:
            return build_optimizer(self._cfg, self.model)
        solver = self._cfg.SOLVER
        parameters = get_default_optimizer_params(
            self.model, base_lr=solver.BASE_LR, weight_decay_norm=solver.WEIGHT_DECAY_NORM
        )
        kind = torch.optim.AdamW if self._config.kind is OptimiserKind.ADAMW else torch.optim.Adam
        return kind(parameters, lr=solver.BASE_LR, weight_decay=solver.WEIGHT_DECAY)

    def _make_learning_rate(self, schedule: ScheduleConfig, total_steps: int) -> LearningRate:
        self._rate = build_lr_scheduler(self._cfg, self._optimiser)
        return _DetectronRate(self._rate)

    def clip(self) -> None:
        """Bound the gradients' norm, if the configuration says so; called between the backward pass and the step."""
        if self._config.clip_norm is not None:
            self._scaler.unscale_(self._optimiser)
            clip_grad_norm_(self.model.parameters(), self._config.clip_norm)

    def _step(self, batch: Batch, step: int) -> dict[str, Tensor]:
        self._trained.train()
        with torch.no_grad():
            self._fed.next = self._task.inputs(self._task.vary(batch))
        trainer = self._trainer
        trainer.iter = step
        with EventStorage(step) as storage:
            trainer.storage = storage
            try:
                if not self._started:
                    trainer.before_train()
                    self._started = True
                trainer.before_step()
                trainer.run_step()
                trainer.after_step()
            except FloatingPointError as error:
                raise InputError(
                    f"The loss is no longer a number at step {step}; lower the learning rate and start again, or "
                    "resume from the checkpoint.",
                    technical(error),
                ) from error
        if self._average is not None:
            update_average(self._average, self.model, self._config, step)
        return self._task.sums(trainer.losses, len(batch.samples))


class _Clip(HookBase):
    """Bounds the norm of all gradients together; Detectron2 itself clips each parameter's alone."""

    def __init__(self, engine: DetectronEngine) -> None:
        self._engine = engine

    def after_backward(self) -> None:
        self._engine.clip()


class _KeepsLosses:
    """Keeps a step's losses on the device, of this process alone, where Detectron2 would wait for them and gather."""

    losses: dict[str, Tensor]

    def _write_metrics(self, loss_dict: Mapping[str, Tensor], *_: Any, **__: Any) -> None:
        self.losses = {name: value.detach() for name, value in loss_dict.items()}


class _SilentTrainer(_KeepsLosses, SimpleTrainer):
    pass


class _SilentAMPTrainer(_KeepsLosses, AMPTrainer):
    pass


class _Fed:
    """The data of one step, as the iterable that Detectron2's trainer asks for."""

    next: list[dict[str, Any]]

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        while True:
            yield self.next


class _DetectronRate(LearningRate):
    """Detectron2's schedule under the trainer's interface; its hook sets the rate after each step."""

    def __init__(self, rate: Any) -> None:
        self._rate = rate

    def set(self, step: int) -> float:
        return float(self._rate.get_last_lr()[0])

    def report(self, score: float) -> None:
        pass

    def state_dict(self) -> dict[str, Any]:
        return dict(self._rate.state_dict())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._rate.load_state_dict(state)


def launch_training(processes: int, run: Callable[..., Any], *arguments: Any) -> None:
    """Call ``run(*arguments)``, which calls `train`, in several processes by Detectron2's own launcher.

    Parameters
    ----------
    processes : int
        One for each CUDA device; on a machine without one they share the CPU.
    run : callable
        A function at the level of a module.
    *arguments
        Picklable.
    """
    launch(_run_in_group, processes, dist_url="auto", args=(run, arguments))


def _run_in_group(run: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """Tell the trainer, as torchrun would, of the group that Detectron2's launcher has made."""
    if comm.get_world_size() > 1:
        numbers = {"RANK": comm.get_rank(), "WORLD_SIZE": comm.get_world_size(), "LOCAL_RANK": comm.get_local_rank()}
        os.environ |= {name: str(number) for name, number in numbers.items()}
    run(*arguments)
