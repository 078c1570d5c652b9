"""The preparation of mlf-core's liver-ct-segmentation, faults and all but one, for comparisons with its runs.

Its published data are cubes of 128 voxels that were cut about the liver of the reference: the network cannot be used
that way without knowing the answer, which is why bundles of such trainings name a localiser. What is kept: every axis
is halved whatever the spacing, so that thick slices become thicker still; labels are averaged and rounded, so that
where tumour meets background there is liver; a liver wider than the cube is cut; where the cube reaches beyond the
image it is filled up at its end with 0 HU, which is water. What is not kept: where the cube would begin before the
image, the original's negative index gives an empty or wrong cube; here it begins with the image.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

_SLICES = 512
_FACTOR = 2


def liver_cube(
    image: npt.NDArray[Any], labels: npt.NDArray[np.uint8], side: tuple[int, int, int]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    """Cut a block about the liver of the reference.

    Parameters
    ----------
    image : ndarray, shape (k, j, i)
        HU.
    labels : ndarray of uint8, shape (k, j, i)
        1 liver, 2 tumour.
    side : tuple of int
        (k, j, i) of the block; 128 in the publication.

    Returns
    -------
    image : ndarray of float32, shape `side`
        HU as they are.
    labels : ndarray of uint8, shape `side`
    """
    values = _to_slices(np.asarray(image, np.float32), float(image.min()))
    targets = _to_slices(np.asarray(labels, np.float32), 0.0)
    small = _averaged(values)
    found = np.clip(np.round(_averaged(targets)), 0, 2).astype(np.uint8)
    place = tuple(_extent(found, axis, n) for axis, n in enumerate(side))
    return _filled_up(small[place], side), _filled_up(found[place], side)


def _to_slices(array: npt.NDArray[np.float32], fill: float) -> npt.NDArray[np.float32]:
    """Pad or cut to 512 slices, evenly at both ends."""
    missing = _SLICES - len(array)
    if missing < 0:
        first = -missing // 2
        return array[first : first + _SLICES]
    before = missing // 2
    return np.pad(array, ((before, missing - before), (0, 0), (0, 0)), constant_values=fill)


def _averaged(array: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Mean of blocks of 2 x 2 x 2 voxels; odd sides are filled up with 0, as scikit-image does it."""
    array = np.pad(array, [(0, n % _FACTOR) for n in array.shape])
    k, j, i = (n // _FACTOR for n in array.shape)
    # Along k first, slice by slice pairs: a copy of 512 slices at a time is enough.
    pairs = (array[0::2] + array[1::2]) / 2
    return np.asarray(pairs.reshape(k, j, 2, i, 2).mean(axis=(2, 4)), np.float32)


def _extent(labels: npt.NDArray[np.uint8], axis: int, side: int) -> slice:
    """Where the block lies along an axis: its middle is that of the liver's extent."""
    used = np.flatnonzero(labels.any(axis=tuple(n for n in range(3) if n != axis)))
    middle = (int(used[0]) + int(used[-1])) // 2 if len(used) else labels.shape[axis] // 2
    return slice(max(0, middle - side // 2), middle + side // 2)


def _filled_up(array: npt.NDArray[Any], side: tuple[int, int, int]) -> npt.NDArray[Any]:
    return np.pad(array, [(0, wanted - have) for have, wanted in zip(array.shape, side, strict=True)])
