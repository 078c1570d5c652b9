"""Bands, contours and surfaces of binary masks, as few passes over memory as possible.

All functions take stacks of slices, shape (..., j, i), and treat everything outside the array as background, so
that a mask cut off by the image's border has a boundary there and a crop to the mask's bounding box changes
nothing.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

BoolArray = npt.NDArray[np.bool_]


def erode_box(stack: BoolArray, half_sides: tuple[int, int]) -> BoolArray:
    """Erode each slice by a rectangle.

    With equal half sides d this equals d erosions by the full 3 x 3 kernel of an image padded with zeros, and so
    keeps the pixels whose chessboard distance to the background is larger than d.

    Parameters
    ----------
    stack : ndarray of bool, shape (..., j, i)
    half_sides : tuple of int
        Half side of the rectangle along (j, i) in pixels; its sides are 2 h + 1.

    Returns
    -------
    ndarray of bool, same shape
    """
    for axis, half in zip((-2, -1), half_sides, strict=True):
        if half == 0:
            continue
        out = np.zeros_like(stack)
        if stack.shape[axis] > 2 * half:
            _part(out, axis, half, -half)[...] = _running(np.logical_and, stack, 2 * half + 1, axis)
        stack = out
    return stack


def dilate_box(stack: BoolArray, half_sides: tuple[int, int]) -> BoolArray:
    """Dilate each slice by a rectangle; parameters as for `erode_box`."""
    for axis, half in zip((-2, -1), half_sides, strict=True):
        if half == 0:
            continue
        shape = list(stack.shape)
        shape[axis] += 2 * half
        padded = np.zeros(shape, dtype=bool)
        _part(padded, axis, half, -half)[...] = stack
        stack = _running(np.logical_or, padded, 2 * half + 1, axis)
    return stack


def contour_pixels(padded: BoolArray) -> BoolArray:
    """Mark the pixels of each slice's mask that have a background pixel among their four neighbours.

    Parameters
    ----------
    padded : ndarray of bool, shape (..., j + 2, i + 2)
        Masks with a ring of background around each slice.

    Returns
    -------
    ndarray of bool, shape (..., j, i)
    """
    inner = _inner_in_plane(padded)
    return padded[..., 1:-1, 1:-1] & ~inner


def surface_voxels(padded: BoolArray) -> BoolArray:
    """Mark the voxels of a mask that have a background voxel among their six neighbours.

    Parameters
    ----------
    padded : ndarray of bool, shape (k + 2, j + 2, i + 2)
        A mask with one voxel of its surroundings, or of background, on each side.

    Returns
    -------
    ndarray of bool, shape (k, j, i)
    """
    inner = _inner_in_plane(padded[1:-1])
    inner &= padded[:-2, 1:-1, 1:-1]
    inner &= padded[2:, 1:-1, 1:-1]
    return padded[1:-1, 1:-1, 1:-1] & ~inner


def count_per_slice(stack: BoolArray) -> npt.NDArray[np.int64]:
    """Number of True values in each slice of a stack of shape (n, j, i); int64, shape (n,)."""
    # One call a slice takes numpy's vectorised path for contiguous booleans; a reduction over two axes does not.
    return np.array([np.count_nonzero(plane) for plane in stack], dtype=np.int64)


def _inner_in_plane(padded: BoolArray) -> BoolArray:
    inner = padded[..., :-2, 1:-1] & padded[..., 2:, 1:-1]
    inner &= padded[..., 1:-1, :-2]
    inner &= padded[..., 1:-1, 2:]
    return inner


def _running(combine: np.ufunc, values: BoolArray, length: int, axis: int) -> BoolArray:
    """Combine every window of `length` neighbours along an axis, in log2(length) passes by doubling."""
    n = values.shape[axis]
    width = 1
    while 2 * width <= length:
        values = combine(_part(values, axis, 0, n - 2 * width + 1), _part(values, axis, width, n - width + 1))
        width *= 2
    if width < length:
        first = _part(values, axis, 0, n - length + 1)
        values = combine(first, _part(values, axis, length - width, n - width + 1))
    return values


def _part(array: BoolArray, axis: int, start: int, stop: int) -> BoolArray:
    index: list[slice] = [slice(None)] * array.ndim
    index[axis] = slice(start, stop)
    return array[tuple(index)]
