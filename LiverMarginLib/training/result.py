"""What a training gives, and why it ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class Ending(StrEnum):
    """Why a training ended."""

    FINISHED = "finished"
    EARLY = "early stopping"
    TIME = "time is up"
    STOPPED = "stopped"


@dataclass(frozen=True)
class TrainResult:
    """What a training gave.

    Parameters
    ----------
    ending : Ending
        Only a training that was `STOPPED` can be resumed to where it was going.
    folder : Path
    epochs, steps : int
        Done so far.
    best_epoch : int or None
        None if it was stopped before the first validation.
    scores : mapping of str to float
        Validation scores of the best weights.
    thresholds : mapping of str to float
        Tuned on the validation patients with the best weights.
    weights : Path or None
        The best weights, a safetensors file.
    weights_sha256 : str
        `weights_hash` of the best weights; of the present ones where there are no best.
    history : tuple of mapping
        One row for each epoch, as in ``log.csv``.
    seconds : float
        Time spent training, over all resumptions.
    """

    ending: Ending
    folder: Path
    epochs: int
    steps: int
    best_epoch: int | None
    scores: Mapping[str, float]
    thresholds: Mapping[str, float]
    weights: Path | None
    weights_sha256: str
    history: tuple[Mapping[str, float], ...]
    seconds: float
