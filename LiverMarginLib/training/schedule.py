"""The optimiser and its learning rate.

The rate is ``base * warm-up(step) * decay(step) * plateau``; the first two are pure functions of the step, so that a
resumed training finds them again without a stored state. torch's schedulers cannot be combined in this way:
`ReduceLROnPlateau` and the step-wise ones overwrite each other's rate.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from LiverMarginLib.training.config import Decay, OptimiserConfig, OptimiserKind, ScheduleConfig


def build_optimiser(config: OptimiserConfig, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Return the optimiser that `config` describes, over `parameters`."""
    rate, decay = config.learning_rate, config.weight_decay
    match config.kind:
        case OptimiserKind.ADAM:
            return torch.optim.Adam(parameters, lr=rate, weight_decay=decay)
        case OptimiserKind.ADAMW:
            return torch.optim.AdamW(parameters, lr=rate, weight_decay=decay)
        case OptimiserKind.SGD:
            return torch.optim.SGD(
                parameters, lr=rate, weight_decay=decay, momentum=config.momentum, nesterov=config.momentum > 0
            )


def rate_factor(config: ScheduleConfig, step: int, total: int) -> float:
    """Return the share of the base rate that step `step` of `total` uses, without the plateau's part.

    Warm-up is linear over `warmup_steps`, from 1 / warmup_steps to 1; the decay runs over the steps that remain.
    """
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    done = min(1.0, (step - config.warmup_steps) / max(1, total - config.warmup_steps))
    match config.decay:
        case Decay.POLY:
            share = (1 - done) ** config.power
        case Decay.COSINE:
            share = 0.5 * (1 + math.cos(math.pi * done))
        case Decay.CONSTANT | Decay.PLATEAU:
            return 1.0
    return config.floor + (1 - config.floor) * share


class LearningRate:
    """Sets the learning rate of an optimiser before every step, and lowers it when the score stops rising.

    Parameters
    ----------
    optimiser : Optimizer
        Its groups' present rates are the base rates.
    config : ScheduleConfig
    total : int
        Number of steps of the whole training.
    """

    def __init__(self, optimiser: torch.optim.Optimizer, config: ScheduleConfig, total: int) -> None:
        self._optimiser = optimiser
        self._config = config
        self._total = total
        self._base = [float(group["lr"]) for group in optimiser.param_groups]
        self._plateau = 1.0
        self._best = -math.inf
        self._waited = 0

    def set(self, step: int) -> float:
        """Set the rate for `step` and return that of the first group."""
        factor = rate_factor(self._config, step, self._total) * self._plateau
        for group, base in zip(self._optimiser.param_groups, self._base, strict=True):
            group["lr"] = base * factor
        return self._base[0] * factor

    def report(self, score: float) -> None:
        """Take note of a validation score (higher is better); only a plateau schedule listens."""
        if self._config.decay is not Decay.PLATEAU:
            return
        if score > self._best:
            self._best, self._waited = score, 0
            return
        self._waited += 1
        if self._waited > self._config.patience:
            self._plateau = max(self._config.floor, self._plateau * self._config.plateau_factor)
            self._waited = 0

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"plateau": self._plateau, "best": self._best, "waited": self._waited}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._plateau, self._best, self._waited = state["plateau"], state["best"], state["waited"]
