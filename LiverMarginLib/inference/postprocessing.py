"""What is done to a mask after thresholding: pieces dropped, holes filled. In the axial view, in place, frugally."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from LiverMarginLib.inference.components import find_components
from LiverMarginLib.models.manifest import FillHoles, Postprocessing

LabelArray = npt.NDArray[np.unsignedinteger[Any]]


def postprocess(labels: LabelArray, voxel_volume: float, options: Postprocessing, organ: int) -> int:
    """Drop pieces and fill holes of a label array, in place.

    Pieces and holes are those of all labels together, so that a tumour at the liver's surface neither splits the liver
    nor is cut off from it. Pieces are face-connected in 3-D. Among largest pieces of the same size, the most inferior
    one stays.

    Parameters
    ----------
    labels : ndarray of unsigned integers, shape (k, j, i)
        In the axial view (slices along the first axis); changed in place, any memory layout.
    voxel_volume : float
        In mm³.
    options : Postprocessing
    organ : int
        The label that filled holes get.

    Returns
    -------
    int
        Number of pieces removed.
    """
    box = bounding_box(labels)
    if box is None:
        return 0
    labels = labels[box]
    removed = 0
    if options.largest_component or options.min_volume_ml > 0:
        removed = _drop_pieces(labels, voxel_volume, options)
    if options.fill_holes is FillHoles.SLICE:
        for plane in labels:
            plane[ndimage.binary_fill_holes(plane > 0) & (plane == 0)] = organ
    elif options.fill_holes is FillHoles.VOLUME:
        _fill_holes_in_volume(labels, organ)
    return removed


def bounding_box(labels: npt.NDArray[Any]) -> tuple[slice, slice, slice] | None:
    """Return the box of all voxels that are not 0, or None if there are none.

    Parameters
    ----------
    labels : ndarray, shape (k, j, i)
        Looked at slice by slice: no copy of the whole is made.
    """
    filled = np.array([plane.any() for plane in labels])
    if not filled.any():
        return None
    k = np.flatnonzero(filled)
    footprint = np.zeros(labels.shape[1:], np.bool_)
    for plane in labels[k[0] : k[-1] + 1]:
        footprint |= plane != 0
    j, i = np.flatnonzero(footprint.any(axis=1)), np.flatnonzero(footprint.any(axis=0))
    return slice(k[0], k[-1] + 1), slice(j[0], j[-1] + 1), slice(i[0], i[-1] + 1)


def _drop_pieces(labels: LabelArray, voxel_volume: float, options: Postprocessing) -> int:
    pieces = find_components(lambda k: labels[k] > 0, len(labels))
    keep = pieces.sizes * voxel_volume >= options.min_volume_ml * 1000.0
    if options.largest_component:
        keep &= np.arange(len(keep)) == np.argmax(pieces.sizes)
    table = np.concatenate(([True], keep))
    if not keep.all():
        for k, plane in enumerate(labels):
            plane[~table[pieces.members(k, plane > 0)]] = 0
    return int(np.count_nonzero(~keep))


def _fill_holes_in_volume(labels: LabelArray, organ: int) -> None:
    # A hole is a piece of the background that reaches none of the box's faces, beyond which all is background.
    background = find_components(lambda k: labels[k] == 0, len(labels))
    table = np.concatenate(([False], ~background.on_border))
    if table.any():
        for k, plane in enumerate(labels):
            plane[table[background.members(k, plane == 0)]] = organ
