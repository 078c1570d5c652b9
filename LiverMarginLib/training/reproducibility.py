"""How far trainings that should be the same differ: the experiment of mlf-core (Heumos et al. 2023), for any network.

The same training is run several times and the scores of the same held-out patients are compared. In the publication,
ten runs of the 3-D U-Net on LiTS spread over .052 of liver IoU without seeds and .037 with the same seeds, and were
one and the same result with deterministic algorithms.
"""

from __future__ import annotations

import csv
import io
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np

from LiverMarginLib.errors import InputError
from LiverMarginLib.jsonable import dumps
from LiverMarginLib.training.config import TrainConfig
from LiverMarginLib.training.files import write_atomically

RUNS_FILE, SUMMARY_FILE, FIGURE_FILE = "runs.csv", "summary.json", "spread.png"
_LARGEST_SEED = 2**31


class Setup(StrEnum):
    """What is held fixed from run to run."""

    RANDOM = "random"
    """Nothing: a new seed for every run."""
    SEED = "seed"
    """The seed of all random numbers."""
    DETERMINISTIC = "deterministic"
    """The seed, and only algorithms that give the same bits every time."""


@dataclass(frozen=True)
class Run:
    """One training.

    Parameters
    ----------
    setup : Setup
    number : int
        From 1.
    seed : int
    weights_sha256 : str
        `LiverMarginLib.training.determinism.weights_hash` of the last weights.
    iou : dict of str to float
        By label: mean over the held-out patients.
    seconds : float
    """

    setup: Setup
    number: int
    seed: int
    weights_sha256: str
    iou: dict[str, float]
    seconds: float


@dataclass(frozen=True)
class Spread:
    """What the runs of one setup have given for one label.

    Parameters
    ----------
    mean, minimum, maximum : float
    deviation : float
        Standard deviation with n - 1; not a number for one run.
    """

    mean: float
    minimum: float
    maximum: float
    deviation: float


def run_config(base: TrainConfig, setup: Setup, out: Path) -> TrainConfig:
    """The settings of one run: a seed, and one validation after the last epoch, so that no run chooses its weights."""
    return replace(
        base,
        out=str(out),
        resume=False,
        seed=secrets.randbelow(_LARGEST_SEED) if setup is Setup.RANDOM else base.seed,
        deterministic=setup is Setup.DETERMINISTIC,
        validate_every=base.epochs,
        early_stopping=None,
        max_minutes=None,
    )


def iou_by_label(scores: dict[str, float]) -> dict[str, float]:
    """The IoU of each label among a training's validation scores.

    Raises
    ------
    InputError
        If the network has none.
    """
    found = {name.removeprefix("iou_"): value for name, value in scores.items() if name.startswith("iou_")}
    if not found and "mask_iou" in scores:
        found = {"liver": scores["mask_iou"]}
    if not found:
        raise InputError("This network has no IoU to compare; choose one that segments, such as unet3d.")
    return found


def distinct(runs: Sequence[Run]) -> int:
    """Number of different results, by the hash of the weights."""
    return len({run.weights_sha256 for run in runs})


def spread(runs: Sequence[Run], label: str) -> Spread:
    """Mean, extremes and standard deviation of a label's IoU; runs in which it is not a number are left out."""
    values = np.array([run.iou[label] for run in runs])
    values = values[np.isfinite(values)]
    if not len(values):
        return Spread(*[float("nan")] * 4)
    deviation = float(values.std(ddof=1)) if len(values) > 1 else float("nan")
    return Spread(float(values.mean()), float(values.min()), float(values.max()), deviation)


def by_setup(runs: Sequence[Run]) -> dict[Setup, list[Run]]:
    """The runs of each setup, in the order in which they were made."""
    return {setup: [run for run in runs if run.setup is setup] for setup in dict.fromkeys(run.setup for run in runs)}


def summary(runs: Sequence[Run]) -> dict[str, Any]:
    """The experiment as plain JSON types: for each setup the runs, the distinct results, the spread by label."""
    return {
        setup.value: {
            "runs": len(group),
            "distinct_results": distinct(group),
            "iou": {label: vars(spread(group, label)) for label in group[0].iou},
            "weights_sha256": [run.weights_sha256 for run in group],
            "seeds": [run.seed for run in group],
            "seconds": [round(run.seconds, 1) for run in group],
        }
        for setup, group in by_setup(runs).items()
    }


def write_experiment(runs: Sequence[Run], folder: Path) -> list[Path]:
    """Write the table of the runs, the summary and the figure.

    Returns
    -------
    list of Path
    """
    labels = list(runs[0].iou)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["setup", "run", "seed", *(f"iou_{label}" for label in labels), "weights_sha256", "seconds"])
    for run in runs:
        scores = [f"{run.iou[label]:.9g}" for label in labels]
        writer.writerow([run.setup, run.number, run.seed, *scores, run.weights_sha256, f"{run.seconds:.1f}"])
    write_atomically(folder / RUNS_FILE, text.getvalue().encode())
    write_atomically(folder / SUMMARY_FILE, (dumps(summary(runs), indent=2) + "\n").encode())
    write_atomically(folder / FIGURE_FILE, draw_spread(runs))
    return [folder / name for name in (RUNS_FILE, SUMMARY_FILE, FIGURE_FILE)]


def draw_spread(runs: Sequence[Run]) -> bytes:
    """Draw the IoU of every run, a panel a label, a column a setup; the bar is the mean.

    Returns
    -------
    bytes
        A PNG.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    labels, groups = list(runs[0].iou), by_setup(runs)
    figure = Figure(figsize=(1.2 + 3.4 * len(labels), 3.6), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(labels), squeeze=False)[0]
    for axes, label in zip(panels, labels, strict=True):
        for place, group in enumerate(groups.values()):
            values = np.array([run.iou[label] for run in group])
            beside = np.linspace(-0.16, 0.16, len(values)) if len(values) > 1 else np.zeros(1)
            axes.plot(place + beside, values, "o", color="#1f77b4", markersize=5, alpha=0.75, clip_on=False)
            mean = spread(group, label).mean
            axes.plot((place - 0.28, place + 0.28), (mean, mean), color="black", linewidth=1.4)
        axes.set_title(label.replace("_", " ").capitalize(), fontsize=10)
        axes.set_ylabel("IoU" if axes is panels[0] else "")
        axes.set_xlim(-0.6, len(groups) - 0.4)
        axes.set_ylim(*_limits([run.iou[label] for run in runs]))
        axes.set_xticks(range(len(groups)), [_tick(setup, group) for setup, group in groups.items()], fontsize=9)
        axes.grid(axis="y", color="0.9", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()


def _limits(values: Sequence[float]) -> tuple[float, float]:
    """Room about all values, and never so little of it that the last bits look like a spread."""
    finite = [value for value in values if np.isfinite(value)] or [0.5]
    low, high = min(finite), max(finite)
    margin = max(0.02, 0.25 * (high - low))
    return max(0.0, low - margin), min(1.0, high + margin)


def _tick(setup: Setup, group: Sequence[Run]) -> str:
    count = distinct(group)
    return f"{setup.value}\n{len(group)} runs, {count} {'result' if count == 1 else 'results'}"
