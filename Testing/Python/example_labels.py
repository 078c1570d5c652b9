"""Small label maps with every kind of geometry, for the tests of the writers."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from scipy.spatial.transform import Rotation

from LiverMarginLib.terminology import LIVER, LIVER_MASS, Segment
from LiverMarginLib.volume import Geometry, LabelMap

SPACING = (0.75, 0.8, 2.5)  # along i, j, k in mm
OBLIQUE = Rotation.from_euler("zyx", (12.0, -7.0, 20.0), degrees=True).as_matrix()
NOT_NAMED = 7


def affine(rotation: np.ndarray = OBLIQUE, origin: tuple[float, float, float] = (11.3, -27.9, 405.1)) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = rotation * SPACING
    matrix[:3, 3] = origin
    return matrix


def example(rotation: np.ndarray = OBLIQUE, segments: tuple[Segment, ...] = (LIVER, LIVER_MASS)) -> LabelMap:
    """Two named segments and an unnamed one in a map without any symmetry."""
    array = np.zeros((4, 6, 8), dtype=np.int16)
    array[1:3, 1:5, 2:6] = LIVER.label
    array[1, 2, 2:4] = LIVER_MASS.label
    array[3, 5, 7] = NOT_NAMED
    array[0, 0, 0] = LIVER.label
    return LabelMap(array, Geometry(array.shape, affine(rotation)), segments, {"model": "unet", "note": 'a|b "c" \\ ü'})


def reorder(labels: LabelMap, axes: tuple[int, ...], flips: tuple[bool, ...]) -> LabelMap:
    """The same labels in patient space with other array axes."""
    steps = tuple(slice(None, None, -1 if flip else 1) for flip in flips)
    to_old = np.zeros((4, 4))
    to_old[3, 3] = 1
    for new, old in enumerate(axes):
        to_old[2 - old, 2 - new] = -1 if flips[new] else 1
        to_old[2 - old, 3] = labels.array.shape[old] - 1 if flips[new] else 0
    array = np.transpose(labels.array, axes)[steps]
    geometry = Geometry(array.shape, labels.geometry.ijk_to_ras @ to_old)
    return LabelMap(array, geometry, labels.segments, labels.provenance)


def axis_orders() -> Iterator[tuple[tuple[int, ...], tuple[bool, ...]]]:
    """All 48 axis orders and flips."""
    for axes in itertools.permutations(range(3)):
        for flips in itertools.product((False, True), repeat=3):
            yield axes, flips


def in_patient_space(array: np.ndarray, ijk_to_ras: np.ndarray) -> dict[tuple[float, ...], int]:
    """Label of every labelled voxel by its RAS position, rounded to a thousandth of a millimetre."""
    k, j, i = np.nonzero(array)
    world = np.stack([i, j, k, np.ones_like(i)]).T @ ijk_to_ras.T
    rounded = np.round(world[:, :3], 3) + 0.0  # no negative zeros
    return {tuple(point): int(value) for point, value in zip(rounded.tolist(), array[k, j, i], strict=True)}


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Let no file grow beyond `size` bytes, as on a full disk (POSIX only)."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
