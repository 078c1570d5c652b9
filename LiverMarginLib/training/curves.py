"""What a training leaves to look at: a CSV of its epochs, the curves, and TensorBoard events if asked for."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from LiverMarginLib.errors import DependencyError
from LiverMarginLib.training.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LOG = "log.csv"
CURVES = "curves.png"
_SERIES = {"train": ("Training", "#1f77b4"), "validation": ("Validation", "#d95f02")}
_AXES = {
    "loss": "Loss",
    "mask_iou": "Mask IoU",
    "dice": "Dice",
    "psnr_body": "PSNR (dB)",
}

Row = Mapping[str, float]


def write_log(folder: Path, history: Sequence[Row]) -> None:
    """Write ``log.csv``: one row for each epoch, a column for each score, empty where there is none.

    The whole file is written every time, so that a resumed training leaves no double rows.
    """
    columns = list(dict.fromkeys(name for row in history for name in row))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for row in history:
        writer.writerow({name: f"{value:.8g}" for name, value in row.items() if not math.isnan(value)})
    write_atomically(folder / LOG, text.getvalue().encode())


def draw_curves(
    path: Path, history: Sequence[Row], monitor: str, training_monitor: str | None = None, best_epoch: int | None = None
) -> None:
    """Draw training and validation loss and score over the epochs, as in the liver-margin paper's Fig. 4.

    Parameters
    ----------
    path : Path
        A PNG.
    history : sequence of mapping
        ``epoch``, and scores named ``train_*`` and ``validation_*``.
    monitor : str
        The validation score beside the loss, such as ``mask_iou``.
    training_monitor : str, optional
        The training score in the same panel, where it has another name.
    best_epoch : int, optional
        Is marked.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), dpi=120)
    figure.subplots_adjust(left=0.07, right=0.98, bottom=0.13, top=0.96, wspace=0.18)
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    _draw_panel(left, history, {"train": "loss", "validation": "loss"}, best_epoch)
    _draw_panel(right, history, {"train": training_monitor or monitor, "validation": monitor}, best_epoch)
    content = io.BytesIO()
    figure.savefig(content, format="png")
    write_atomically(path, content.getbuffer())


def _draw_panel(axes: Axes, history: Sequence[Row], names: Mapping[str, str], best_epoch: int | None) -> None:
    from matplotlib.ticker import MaxNLocator

    for series, (label, colour) in _SERIES.items():
        key = f"{series}_{names[series]}"
        points = [(row["epoch"], row[key]) for row in history if math.isfinite(row.get(key, math.nan))]
        if points:
            marker = "o" if len(points) < 15 else None
            axes.plot(*zip(*points, strict=True), color=colour, label=label, marker=marker, markersize=3.5)
            if series == "validation" and best_epoch is not None and best_epoch in dict(points):
                axes.plot(best_epoch, dict(points)[best_epoch], "*", color=colour, markersize=13, label="Best weights")
    axes.set_xlabel("Epoch")
    axes.set_ylabel(_AXES.get(names["validation"], names["validation"]))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if names["validation"] == "mask_iou":
        axes.set_ylim(0, 1)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False)


def open_tensorboard(folder: Path, first_epoch: int) -> Any:
    """Return a TensorBoard writer for ``folder/tensorboard``; events from `first_epoch` on replace those there are.

    Raises
    ------
    DependencyError
        If tensorboard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise DependencyError("TensorBoard is not installed; run 'pip install tensorboard' or leave it off.") from error
    return SummaryWriter(str(folder / "tensorboard"), purge_step=first_epoch)
