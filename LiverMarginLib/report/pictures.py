"""Pictures of a comparison: the slices where each model is worst, and those where it is as usual."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from LiverMarginLib.comparison import CaseComparison, PredictionComparison, median_slices, worst_slices
from LiverMarginLib.comparison.alignment import align, labels_of_prediction
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
    view = axial_view(reference.geometry)
    masks = {}
    for name in case.predictions:
        chosen, _ = labels_of_prediction(reference, predictions[name], case.labels, None, name)
        aligned, _ = align(predictions[name], view.geometry, name)
        masks[name] = np.isin(aligned, chosen)
    shown = None
    if image is not None:
        seen = axial_view(image.geometry)
        if seen.geometry.agrees_with(view.geometry):
            shown = seen.to_view(image.array)
    window = ABDOMEN_WINDOW if image is not None and image.intensity is IntensityKind.HU else None
    mask = np.isin(view.to_view(reference.array), case.labels)
    return SliceStack(mask, masks, case.geometry.spacing, shown, window)


def picked_slices(prediction: PredictionComparison, worst: int, median: int) -> list[tuple[int, str]]:
    """Axial slices with titles: the worst ones first, then those in the middle of the ranking."""
    picked = [("worst", ranked) for ranked in worst_slices(prediction, worst)]
    seen = {ranked.index for _, ranked in picked}
    picked += [("median", ranked) for ranked in median_slices(prediction, median) if ranked.index not in seen]
    return [(r.index, f"{kind}: slice {r.index}, Boundary IoU {r.value:.2f}") for kind, r in picked]


def draw_case(
    case: CaseComparison,
    reference: LabelMap,
    predictions: Mapping[str, LabelMap],
    image: Volume | None,
    folder: Path,
    *,
    worst: int = 3,
    median: int = 3,
) -> list[Path]:
    """Write one PNG for each model with its worst and its median slices.

    Parameters
    ----------
    case, reference, predictions, image
        As for `slice_stack`.
    folder : Path
        Made where it does not exist.
    worst, median : int
        Number of slices of each kind.

    Returns
    -------
    list of Path
    """
    stack = slice_stack(case, reference, predictions, image)
    written = []
    for name, prediction in case.predictions.items():
        picked = picked_slices(prediction, worst, median)
        if not picked:
            continue
        path = folder / f"{_file_name(case.case)}_{_file_name(name)}.png"
        with atomic_path(path) as temporary:
            contour_figure(stack, picked).savefig(temporary, dpi=120, format="png")
        written.append(path)
    return written


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name)
