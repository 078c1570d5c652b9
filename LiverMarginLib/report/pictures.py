"""Pictures of a comparison: the slices where each model is worst, and those where it is as usual."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from LiverMarginLib.comparison import (
    CaseComparison,
    PredictionComparison,
    case_masks,
    median_slices,
    worst_slices,
)
from LiverMarginLib.io.atomic import atomic_path
from LiverMarginLib.report.contours import SliceStack, contour_figure
from LiverMarginLib.volume import IntensityKind, LabelMap, Volume, axial_view

# What radiologists look at abdominal CT with.
ABDOMEN_WINDOW = (-160.0, 240.0)


def slice_stack(
    case: CaseComparison, reference: LabelMap, predictions: Mapping[str, LabelMap], image: Volume | None
) -> SliceStack:
    """Bring everything that is drawn into the comparison's axial view.

    Parameters
    ----------
    case : CaseComparison
    reference : LabelMap
    predictions : mapping of str to LabelMap
        By model; only those of `case` are drawn.
    image : Volume, optional
        Left out of the picture if it is not on the reference's grid.

    Returns
    -------
    SliceStack
    """
    mask, masks = case_masks(case, reference, predictions)
    shown = None
    if image is not None:
        seen = axial_view(image.geometry)
        if seen.geometry.agrees_with(case.geometry):
            shown = seen.to_view(image.array)
    window = ABDOMEN_WINDOW if image is not None and image.intensity is IntensityKind.HU else None
    return SliceStack(mask, masks, case.geometry.spacing, shown, window)


def picked_slices(prediction: PredictionComparison, worst: int, median: int) -> list[tuple[int, str]]:
    """Axial slices with titles: the worst ones first, then those in the middle of the ranking."""
    picked = [("worst", ranked) for ranked in worst_slices(prediction, worst)]
    seen = {ranked.index for _, ranked in picked}
    picked += [("median", ranked) for ranked in median_slices(prediction, median) if ranked.index not in seen]
    return [(r.index, f"{kind}: slice {r.index}, Boundary IoU {r.value:.2f}") for kind, r in picked]


def draw_case(case: CaseComparison, stack: SliceStack, folder: Path, *, worst: int = 3, median: int = 3) -> list[Path]:
    """Write one PNG for each model with its worst and its median slices.

    Parameters
    ----------
    case : CaseComparison
    stack : SliceStack
        Of this case; see `slice_stack`.
    folder : Path
        Made where it does not exist.
    worst, median : int
        Number of slices of each kind.

    Returns
    -------
    list of Path
    """
    written = []
    for name, prediction in case.predictions.items():
        picked = picked_slices(prediction, worst, median)
        if not picked:
            continue
        path = picture_path(folder, case.case, name)
        with atomic_path(path) as temporary:
            contour_figure(stack, picked).savefig(temporary, dpi=120, format="png")
        written.append(path)
    return written


def picture_path(folder: Path, case: str, model: str) -> Path:
    """Where `draw_case` puts a model's picture."""
    return folder / f"{_file_name(case)}_{_file_name(model)}.png"


def surface_path(folder: Path, case: str, model: str) -> Path:
    """Where a model's surface is put."""
    return picture_path(folder, case, model).with_suffix(".vtp")


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name)
