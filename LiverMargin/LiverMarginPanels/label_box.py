"""The part of a label map where something is labelled; a liver fills a tenth of a CT."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from LiverMarginLib.volume import Geometry, LabelMap

Box = tuple[slice, slice, slice]


def label_box(array: npt.NDArray[Any]) -> Box:
    """Find the smallest box around all voxels that are not 0; the whole array if there are none.

    Parameters
    ----------
    array : ndarray, shape (k, j, i)
    """
    sides = []
    for axes, length in zip(((1, 2), (0, 2), (0, 1)), array.shape, strict=True):
        used = np.flatnonzero(array.any(axis=axes))
        sides.append(slice(int(used[0]), int(used[-1]) + 1) if len(used) else slice(0, length))
    k, j, i = sides
    return k, j, i


def cropped(labels: LabelMap) -> LabelMap:
    """Copy the part of a label map where something is labelled, in the same place."""
    box = label_box(labels.array)
    array = labels.array[box].copy()
    matrix = labels.geometry.ijk_to_ras.copy()
    matrix[:, 3] = labels.geometry.ijk_to_ras @ (*(side.start for side in reversed(box)), 1.0)
    return replace(labels, array=array, geometry=Geometry(array.shape, matrix))
