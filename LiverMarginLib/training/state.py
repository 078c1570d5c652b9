"""Where a training is: kept in a checkpoint, and taken up again in the middle of an epoch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from LiverMarginLib.errors import InputError
from LiverMarginLib.events import Notice, OnEvent
from LiverMarginLib.training import checkpoint
from LiverMarginLib.training.config import MAY_CHANGE_ON_RESUME, TrainConfig
from LiverMarginLib.training.determinism import rng_state, set_rng_state
from LiverMarginLib.training.distributed import Group
from LiverMarginLib.training.engine import Engine


@dataclass
class TrainingState:
    """Where a training is, apart from the engine.

    Parameters
    ----------
    step : int
        Done so far.
    history : list of dict
        One row for each epoch that is done.
    sums : dict of str to Tensor
        What the present epoch has added up, on the device.
    best : dict
        The best weights so far and their scores; empty before the first validation.
    since_best : int
        Validations since then.
    seconds : float
        Spent training, until the last checkpoint.
    """

    step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    sums: dict[str, torch.Tensor] = field(default_factory=dict)
    best: dict[str, Any] = field(default_factory=dict)
    since_best: int = 0
    seconds: float = 0.0

    def add(self, sums: Mapping[str, torch.Tensor]) -> None:
        """Add a step's sums, on the device: asking for a number would make the processor wait for it every time."""
        for name, value in sums.items():
            value = value.to(torch.float32 if value.device.type == "mps" else torch.float64)
            self.sums[name] = self.sums[name] + value if name in self.sums else value


class Keeper:
    """Saves and loads the state of a training with its settings, network and random numbers.

    Parameters
    ----------
    config : TrainConfig
    steps_per_epoch : int
    group : Group
    device : torch.device
    """

    def __init__(self, config: TrainConfig, steps_per_epoch: int, group: Group, device: torch.device) -> None:
        self._config = config
        self._steps_per_epoch = steps_per_epoch
        self._group = group
        self._device = device
        self._folder = Path(config.out)

    def save(self, state: TrainingState, engine: Engine) -> None:
        """Write the checkpoint; every process of the group must call it.

        Raises
        ------
        ResourceError
            If the disk is full; the checkpoint before it is intact.
        """
        sums = {name: value.cpu() for name, value in state.sums.items()}
        processes = self._group.gather({"rng": rng_state(), "sums": sums})
        if not self._group.is_main:
            return
        values = {item.name: getattr(state, item.name) for item in dataclasses.fields(state) if item.name != "sums"}
        checkpoint.save_checkpoint(
            self._folder,
            {
                "config": self._config.to_dict(),
                "steps_per_epoch": self._steps_per_epoch,
                "state": values,
                "processes": processes,
                "engine": engine.state_dict(),
            },
        )

    def load(self, engine: Engine, on_event: OnEvent) -> TrainingState | None:
        """Take up the training in the folder; None if it holds none.

        Raises
        ------
        InputError
            If it was not to be resumed, or has other settings or data.
        """
        saved = checkpoint.load_checkpoint(self._folder)
        if saved is None:
            return None
        self._check(saved)
        engine.load_state_dict(saved["engine"])
        state = TrainingState(**saved["state"])
        processes: list[Mapping[str, Any]] = saved["processes"]
        mine = processes[min(self._group.rank, len(processes) - 1)]
        if len(processes) == self._group.world:
            state.sums = {name: value.to(self._device) for name, value in mine["sums"].items()}
            set_rng_state(mine["rng"])
            return state
        on_event(
            Notice(
                f"The training was saved by {len(processes)} process(es) and goes on in {self._group.world}: it will "
                "not be the same to the bit."
            )
        )
        if self._group.is_main:
            for process in processes:
                state.add({name: value.to(self._device) for name, value in process["sums"].items()})
        elif mine["sums"]:
            state.add({name: torch.zeros_like(value, device=self._device) for name, value in mine["sums"].items()})
        return state

    def _check(self, saved: Mapping[str, Any]) -> None:
        if not self._config.resume:
            raise InputError("The folder holds a training already; resume it, or choose another folder.")
        present = self._config.to_dict()
        # Settings that are younger than the checkpoint had their defaults.
        earlier = TrainConfig.from_dict(saved["config"]).to_dict()
        differing = sorted(name for name in set(present) - MAY_CHANGE_ON_RESUME if earlier[name] != present[name])
        if differing:
            raise InputError(
                f"The training in this folder has another '{differing[0]}'; resume it with its own settings, or "
                "choose another folder."
            )
        if saved["steps_per_epoch"] != self._steps_per_epoch:
            raise InputError("The training in this folder has other data; resume it with the same slices.")
