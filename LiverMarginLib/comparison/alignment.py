"""Bringing a prediction to the reference: which of its labels is meant, and on which grid it lies."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt

from LiverMarginLib.errors import GeometryError, InputError
from LiverMarginLib.metrics.slicepass import Extent
from LiverMarginLib.resampling import resample_labels
from LiverMarginLib.volume import Geometry, LabelMap, axial_view

Labels = int | tuple[int, ...]

# Below this share of the smaller grid in the other, the two belong to different patients or body parts.
LEAST_OVERLAP = 0.25


def as_tuple(labels: Labels) -> tuple[int, ...]:
    """Label values as a tuple without repetitions.

    Raises
    ------
    InputError
        If there are none, or one is 0, which is background.
    """
    values = tuple(dict.fromkeys((int(labels),) if isinstance(labels, int | np.integer) else (int(v) for v in labels)))
    if not values or 0 in values:
        raise InputError("A label must be a whole number other than 0, which is the background.")
    return values


def labels_in(labels: LabelMap) -> tuple[int, ...]:
    """Label values present in the array, without 0, in ascending order."""
    found: set[int] = set()
    for plane in labels.array:
        found.update(np.unique(plane).tolist())
    return tuple(sorted(int(v) for v in found if v))


def describe_labels(labels: LabelMap) -> str:
    """Say in words which labels there are, for an error message."""
    names = {s.label: s.name for s in labels.segments}
    present = labels_in(labels)
    if not present:
        return "it is empty"
    shown = [f"{v} ({names[v]})" if v in names else str(v) for v in present[:12]]
    return "it has " + ", ".join(shown) + (" and others" if len(present) > 12 else "")


def labels_of_prediction(
    reference: LabelMap, prediction: LabelMap, labels: tuple[int, ...], wanted: Labels | None, name: str
) -> tuple[tuple[int, ...], list[str]]:
    """Decide which labels of a prediction are to be compared with those of the reference.

    In this order: what the caller wants; the segments whose terminology is that of the reference's segments; the
    same values, if the prediction has one of them; the only value it has; 1, the liver, if the prediction names it
    so. An empty prediction is compared as it is.

    Returns
    -------
    labels : tuple of int
    notes : list of str
        One sentence if the prediction's values differ from the reference's without the caller having said so.

    Raises
    ------
    InputError
        If nothing decides.
    """
    if wanted is not None:
        return as_tuple(wanted), []
    meanings = [s.terminology for s in reference.segments if s.label in labels and s.terminology]
    same_meaning = tuple(s.label for s in prediction.segments if s.terminology in meanings)
    if len(meanings) == len(labels) == len(same_meaning):
        chosen = same_meaning
    elif any((plane == value).any() for plane in prediction.array for value in labels):
        chosen = labels
    else:
        present = labels_in(prediction)
        if len(present) > 1:
            raise InputError(
                f"Prediction '{name}' has no label {join(labels)} and {describe_labels(prediction)[3:]}; "
                "say which label of the prediction is to be compared."
            )
        chosen = present or labels
    if set(chosen) == set(labels):
        return chosen, []
    return chosen, [
        f"Label {join(chosen)} of prediction '{name}' is compared with label {join(labels)} of the reference."
    ]


def align(prediction: LabelMap, grid: Geometry, name: str) -> tuple[npt.NDArray[Any], list[str]]:
    """Reorder, or if need be resample, a prediction to the reference's axial view.

    Parameters
    ----------
    prediction : LabelMap
    grid : Geometry
        The axial view of the reference.
    name : str
        For messages.

    Returns
    -------
    array : ndarray, shape of `grid`
        A view of the prediction's array where the grids agree.
    notes : list of str

    Raises
    ------
    GeometryError
        If the grids hardly overlap.
    """
    view = axial_view(prediction.geometry)
    if view.geometry.agrees_with(grid):
        return view.to_view(prediction.array), []
    if prediction.geometry.overlap_fraction(grid) < LEAST_OVERLAP:
        raise GeometryError(
            f"Prediction '{name}' and the reference hardly overlap in space; "
            "check that they belong to the same patient and the same series."
        )
    moved = resample_labels(prediction, grid)
    spacing = " x ".join(f"{s:.3g}" for s in view.geometry.spacing[::-1])
    size = " x ".join(str(n) for n in view.geometry.shape[::-1])
    return moved.array, [
        f"Prediction '{name}' lies on another grid ({size} voxels of {spacing} mm) and was resampled to the "
        "reference's by nearest neighbour; its margin cannot be better than that allows."
    ]


def beyond_grid(extent: Extent, grid: Geometry, prediction: Geometry, name: str) -> list[str]:
    """Say so if the reference reaches beyond the prediction's voxels, where nothing can have been segmented.

    Parameters
    ----------
    extent : Extent
        Of the reference in `grid`.
    grid : Geometry
        The axial view of the reference.
    prediction : Geometry
    name : str
        Of the prediction, for the message.
    """
    ends = [(low, high - 1) for low, high in (extent.i, extent.j, extent.k)]
    corners = np.array([(*corner, 1.0) for corner in itertools.product(*ends)])
    index = corners @ (np.linalg.inv(prediction.ijk_to_ras) @ grid.ijk_to_ras).T
    if (index[:, :3] < -0.6).any() or (index[:, :3] > np.array(prediction.shape[::-1]) - 0.4).any():
        return [f"The reference reaches beyond the grid of prediction '{name}'; what lies there counts as missed."]
    return []


def join(labels: tuple[int, ...]) -> str:
    """Label values for a message."""
    return " + ".join(str(v) for v in labels)
