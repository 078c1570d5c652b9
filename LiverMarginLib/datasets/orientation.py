"""Doubts about how a stack lies: upside down, or mirrored."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage.filters import threshold_otsu

# Bowel gas takes a few per cent of a slice's body; lungs a third and more.
_MIN_LUNG_EXCESS = 0.10
_MIN_SLICES = 8
# In the liver-margin paper's 25 cases the liver lies within the upper 52 % of each stack.
_LOWEST_CENTRE = 0.60

Slice = tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]


def orientation_doubts(slices: Sequence[Slice], *, order_is_assumed: bool) -> tuple[str, ...]:
    """Find signs that a stack is not what its geometry says.

    Parameters
    ----------
    slices : sequence of (image, liver)
        Axial slices from inferior to superior in the canonical view, shape (h, w) each; coarse ones will do.
    order_is_assumed : bool
        Whether the order of the slices comes from file names alone.

    Returns
    -------
    tuple of str
        One sentence a doubt. A doubt is a reason to look, not a proof: situs inversus exists.
    """
    if not slices:
        return ()
    # One threshold for the stack: a slice of pure air has none of its own.
    values = np.concatenate([image.ravel()[::7] for image, _ in slices])
    values = values[np.isfinite(values)]
    if values.size == 0 or values.min() == values.max():
        return ()
    threshold = float(threshold_otsu(np.clip(values, *np.percentile(values, (0.5, 99.5)))))
    bodies = [_body(image, threshold) for image, _ in slices]
    doubts = [_mirrored(slices, bodies), _upside_down(slices, bodies)]
    if order_is_assumed and not any(doubts):
        doubts.append(_liver_low(slices))
    return tuple(doubt for doubt in doubts if doubt)


def _body(image: npt.NDArray[np.float32], threshold: float) -> npt.NDArray[np.bool_]:
    """The largest bright piece with everything it encloses."""
    pieces, count = ndimage.label(image > threshold)
    if count == 0:
        return np.zeros(image.shape, dtype=bool)
    largest = 1 + int(np.argmax(np.bincount(pieces.ravel())[1:]))
    return np.asarray(ndimage.binary_fill_holes(pieces == largest))


def _mirrored(slices: Sequence[Slice], bodies: Sequence[npt.NDArray[np.bool_]]) -> str:
    weight = liver_sum = body_sum = width = 0.0
    for (image, liver), body in zip(slices, bodies, strict=True):
        if not liver.any() or not body.any():
            continue
        pixels = float(liver.sum())
        weight += pixels
        liver_sum += pixels * float(np.nonzero(liver)[1].mean())
        body_sum += pixels * float(np.nonzero(body)[1].mean())
        width = float(image.shape[1])
    if weight == 0 or (liver_sum - body_sum) / weight <= 0.02 * width:
        return ""
    return "The liver lies on the image's right, where the patient's left should be: the images may be mirrored."


def _upside_down(slices: Sequence[Slice], bodies: Sequence[npt.NDArray[np.bool_]]) -> str:
    if len(slices) < _MIN_SLICES:
        return ""
    shares = []
    for (image, _), body in zip(slices, bodies, strict=True):
        inside = image[body]
        # Air within the body: as dark as what is outside of it.
        outside = image[~body]
        level = (float(np.median(outside)) + float(np.median(inside))) / 2 if inside.size and outside.size else -np.inf
        shares.append(float((inside < level).mean()) if inside.size else 0.0)
    third = len(shares) // 3
    if np.mean(shares[:third]) - np.mean(shares[-third:]) < _MIN_LUNG_EXCESS:
        return ""
    return "There is more air inside the body at the lower end than at the upper: the slices may be upside down."


def _liver_low(slices: Sequence[Slice]) -> str:
    with_liver = [index for index, (_, liver) in enumerate(slices) if liver.any()]
    if len(slices) < _MIN_SLICES or not with_liver or len(with_liver) > 0.8 * len(slices):
        return ""
    from_top = 1 - (with_liver[0] + with_liver[-1]) / 2 / (len(slices) - 1)
    if from_top <= _LOWEST_CENTRE:
        return ""
    return "The liver lies in the lower part of the stack: the file order may be from inferior to superior."
