"""One step of learning on one device: network, optimiser, precision, moving average; no data, no files, no events."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_
from torch.optim.swa_utils import get_ema_multi_avg_fn

from LiverMarginLib.errors import ResourceError, technical
from LiverMarginLib.inference.memory import is_out_of_memory
from LiverMarginLib.training.config import OptimiserConfig, Precision, ScheduleConfig, TrainConfig
from LiverMarginLib.training.distributed import Group
from LiverMarginLib.training.initial import load_initial
from LiverMarginLib.training.loader import Batch
from LiverMarginLib.training.schedule import LearningRate, build_optimiser
from LiverMarginLib.training.task import Task


def choose_device(name: str, group: Group) -> torch.device:
    """Return the device to train on; each process of a group takes the CUDA device of its local rank.

    Raises
    ------
    ResourceError
        If the device is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    kind = name.partition(":")[0]
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(kind, False):
        raise ResourceError(f"The device '{name}' is not available here; choose 'cpu' or 'auto'.")
    if kind == "cuda" and group.world > 1:
        name = f"cuda:{group.local_rank}"
    device = torch.device(name)
    if kind == "cuda":
        if (device.index or 0) >= torch.cuda.device_count():
            raise ResourceError(
                f"The device '{name}' is not there: this machine has {torch.cuda.device_count()} CUDA device(s); "
                "start at most one process for each."
            )
        torch.cuda.set_device(device)
    return device


def mixed_precision(precision: Precision, device: torch.device) -> torch.dtype | None:
    """Return the type of autocast on `device`, None for plain float32."""
    match precision:
        case Precision.FLOAT32:
            return None
        case Precision.BFLOAT16:
            return torch.bfloat16
        case Precision.FLOAT16:
            return torch.float16
    if device.type != "cuda":
        return None
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


class Engine:
    """Learns from batches.

    Parameters
    ----------
    task : Task
    config : TrainConfig
    device : torch.device
    group : Group
    total_steps : int
        Length of the training, for the learning rate.
    """

    def __init__(self, task: Task, config: TrainConfig, device: torch.device, group: Group, total_steps: int) -> None:
        self._task = task
        self._config = config.optimiser
        self._batch = config.batch
        self.device = device
        self._autocast = mixed_precision(config.precision, device)
        # Convolutions on the CPU, and those in half precision on CUDA, run at about twice the speed in this layout.
        self.model = task.build_model()
        if config.initial is not None:
            load_initial(self.model, config.initial)
        self.model.to(device)
        solid = any(isinstance(module, nn.Conv3d) for module in self.model.modules())
        layout = torch.channels_last_3d if solid else torch.channels_last
        if device.type == "mps":
            layout = torch.preserve_format
        self.model.to(memory_format=layout)  # type: ignore[call-overload]  # missing in torch's annotations
        self._average = copy.deepcopy(self.model).requires_grad_(False) if self._config.ema_decay else None
        self._trained: nn.Module = self.model
        if group.world > 1:
            ids = [device] if device.type == "cuda" else None
            self._trained = DistributedDataParallel(self.model, device_ids=ids)
        self._optimiser = self._make_optimiser()
        self.learning_rate = self._make_learning_rate(config.schedule, total_steps)
        # Only float16 has so few exponents that small gradients vanish without scaling.
        self._scaler = torch.amp.GradScaler(device.type, enabled=self._autocast is torch.float16)

    def _make_optimiser(self) -> torch.optim.Optimizer:
        return build_optimiser(self._config, self.model.parameters())

    def _make_learning_rate(self, schedule: ScheduleConfig, total_steps: int) -> LearningRate:
        return LearningRate(self._optimiser, schedule, total_steps)

    @property
    def evaluated(self) -> nn.Module:
        """The network that is validated and delivered: the moving average, where there is one."""
        return self.model if self._average is None else self._average

    def step(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Learn from a batch that is on the device; return the task's sums.

        Raises
        ------
        ResourceError
            If the device's memory is too small.
        """
        with self._memory_is_enough():
            return self._step(batch, step)

    def _step(self, batch: Batch, step: int) -> dict[str, Tensor]:
        self.learning_rate.set(step)
        self._trained.train()
        self._optimiser.zero_grad(set_to_none=True)
        batch = self._task.vary(batch)
        with self._mixed():
            loss, sums = self._task.learn(self._trained, batch)
        self._scaler.scale(loss).backward()
        if self._config.clip_norm is not None:
            self._scaler.unscale_(self._optimiser)
            clip_grad_norm_(self.model.parameters(), self._config.clip_norm)
        self._scaler.step(self._optimiser)
        self._scaler.update()
        if self._average is not None:
            update_average(self._average, self.model, self._config, step)
        return sums

    @torch.no_grad()
    def validate(self, batch: Batch, groups: int) -> dict[str, Any]:
        """Return the task's validation sums of a batch; raises `ResourceError` as `step` does."""
        self.evaluated.eval()
        with self._memory_is_enough(), self._mixed():
            return self._task.validate(self.evaluated, batch.to(self.device), groups)

    @contextmanager
    def _memory_is_enough(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # each device and allocator has its own
            if not is_out_of_memory(error):
                raise
            raise ResourceError(
                f"The device has too little memory for batches of {self._batch}; choose a smaller batch or size, and "
                "resume or start again.",
                technical(error),
            ) from error

    def _mixed(self) -> AbstractContextManager[None]:
        return torch.autocast(self.device.type, dtype=self._autocast, enabled=self._autocast is not None)

    def weights(self) -> dict[str, Tensor]:
        """Return a copy on the CPU of the weights that are delivered."""
        return {name: tensor.detach().cpu().clone() for name, tensor in self.evaluated.state_dict().items()}

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {
            "model": self.model.state_dict(),
            "average": None if self._average is None else self._average.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "learning_rate": self.learning_rate.state_dict(),
            "scaler": self._scaler.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.model.load_state_dict(state["model"])
        if self._average is not None:
            self._average.load_state_dict(state["average"])
        self._optimiser.load_state_dict(state["optimiser"])
        self.learning_rate.load_state_dict(state["learning_rate"])
        if self._scaler.is_enabled():
            self._scaler.load_state_dict(state["scaler"])


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, config: OptimiserConfig, step: int) -> None:
    """Move the averaged weights towards the present ones; buffers, which are averages already, are copied."""
    assert config.ema_decay is not None
    decay = min(config.ema_decay, (1 + step) / (10 + step))
    get_ema_multi_avg_fn(decay)(list(average.parameters()), list(model.parameters()), 0)
    for mean, buffer in zip(average.buffers(), model.buffers(), strict=True):
        mean.copy_(buffer)
