"""Tiny trainings for the tests, and a program that runs one: ``python training_toys.py CONFIG.json [kill step]``."""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from LiverMarginLib.events import Event
from LiverMarginLib.training.config import (
    AugmentationConfig,
    Decay,
    LossConfig,
    LossKind,
    OptimiserConfig,
    OptimiserKind,
    ScheduleConfig,
    TrainConfig,
)
from LiverMarginLib.training.data import InMemorySource, SliceSample

SIDE = 32


def slices(seed: int, count: int = 4) -> list[SliceSample]:
    """Slices of a toy patient: fat, a bright liver on the image's left in all but the first, noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE]
    made = []
    for k in range(count):
        image = np.where(((y - 16) / 14) ** 2 + ((x - 16) / 15) ** 2 < 1, -80.0, -1000.0)
        row, column, radius = rng.uniform(12, 20), rng.uniform(9, 13), rng.uniform(4, 6)
        liver = ((y - row) ** 2 + (x - column) ** 2 < radius**2) & (k > 0)
        image[liver] = 110
        image += rng.normal(0, 10, image.shape)
        made.append(SliceSample(image.astype(np.float32), liver.astype(np.uint8), (1.0, 1.0)))
    return made


def source(*patients: int) -> InMemorySource:
    """A source of the toy patients with these seeds."""
    samples = [(sample, f"patient {seed}") for seed in patients for sample in slices(seed)]
    return InMemorySource([sample for sample, _ in samples], [patient for _, patient in samples])


def config(out: Path, **changes: object) -> TrainConfig:
    """A deterministic training of a tiny U-Net with everything on that has a state: 3 epochs of 4 steps."""
    tiny = TrainConfig(
        model_options={"widths": [4, 8, 16], "dropout": 0.1},
        out=str(out),
        size=SIDE,
        batch=4,
        epochs=3,
        steps_per_epoch=4,
        loss=LossConfig(LossKind.BCE_DICE),
        optimiser=OptimiserConfig(OptimiserKind.ADAMW, 3e-3, weight_decay=1e-2, clip_norm=1.0, ema_decay=0.9),
        schedule=ScheduleConfig(Decay.PLATEAU, warmup_steps=2, patience=0),
        augmentation=AugmentationConfig(rotation_p=0.5, elastic_p=0.5, noise_p=0.5, gamma_p=0.5),
        deterministic=True,
        device="cpu",
        threads=1,
        checkpoint_steps=1,
    )
    return replace(tiny, **changes)  # type: ignore[arg-type]  # names and types are those of TrainConfig


class KillAt:
    """Listens, and kills the process without warning as soon as it hears of a step in the middle of an epoch."""

    def __init__(self, step: int) -> None:
        self._step = step

    def __call__(self, event: Event) -> None:
        if event.name == "progress" and event.to_dict()["done"] >= self._step:
            os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Train as the JSON file says and write the result's hash into the training's folder."""
    from LiverMarginLib.training import trainer

    trainer._SECONDS_BETWEEN_EVENTS = 0.0
    settings = TrainConfig.from_dict(json.loads(Path(sys.argv[1]).read_text()))
    listener = KillAt(int(sys.argv[2])) if len(sys.argv) > 2 else lambda event: None
    result = trainer.train(settings, source(1, 2, 3), source(4, 5), listener)
    if int(os.environ.get("RANK", 0)) == 0:
        found = {"hash": result.weights_sha256, "ending": result.ending.value, "rows": len(result.history)}
        (result.folder / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
