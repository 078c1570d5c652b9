"""Tiny volumes with a liver and a tumour, and tiny trainings on them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from LiverMarginLib.training.config import LossConfig, LossKind, OptimiserConfig, OptimiserKind, TrainConfig
from LiverMarginLib.training.volume_config import VolumeConfig
from LiverMarginLib.training.volume_data import InMemoryVolumes, VolumeSample
from LiverMarginLib.volume import Modality

SHAPE = (20, 24, 24)


def volume(seed: int, shape: tuple[int, int, int] = SHAPE, tumour: bool = True) -> VolumeSample:
    """A bright ball of liver with a dark ball of tumour in it, in fat, with noise."""
    rng = np.random.default_rng(seed)
    place = np.stack(np.mgrid[tuple(slice(n) for n in shape)])
    centre = [n / 2 + rng.uniform(-2, 2) for n in shape]
    distance = np.sqrt(sum((axis - c) ** 2 for axis, c in zip(place, centre, strict=True)))
    inner = np.sqrt(sum((axis - c - 2) ** 2 for axis, c in zip(place, centre, strict=True)))
    labels = np.where(distance < 7, 1, 0).astype(np.uint8)
    if tumour:
        labels[inner < 3] = 2
    image = np.choose(labels, (-100, 120, 20)) + rng.normal(0, 8, shape)
    return VolumeSample(image.astype(np.int16), labels, (4.0, 4.0, 4.0), Modality.CT)


def source(*patients: int) -> InMemoryVolumes:
    """A source of the toy patients with these seeds."""
    return InMemoryVolumes([volume(seed) for seed in patients], [f"patient {seed}" for seed in patients])


def config(out: Path, **changes: object) -> TrainConfig:
    """A deterministic training of a tiny 3-D U-Net."""
    tiny = TrainConfig(
        model="unet3d",
        model_options={"widths": [4, 8], "dropout": 0.1, "input_dropout": 0.0},
        out=str(out),
        volume=VolumeConfig(patch=(16, 16, 16), spacing=(4.0, 4.0, 4.0)),
        loss=LossConfig(LossKind.CE_DICE),
        optimiser=OptimiserConfig(OptimiserKind.ADAMW, 1e-2, ema_decay=0.9),
        batch=2,
        epochs=2,
        steps_per_epoch=3,
        deterministic=True,
        device="cpu",
        threads=1,
    )
    return replace(tiny, **changes)  # type: ignore[arg-type]  # names and types are those of TrainConfig
