"""Label maps on another grid, against SimpleITK's nearest neighbour interpolation and by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from LiverMarginLib.resampling import resample_labels
from LiverMarginLib.volume import Geometry, LabelMap, axial_view


def _geometry(shape: tuple[int, int, int], spacing=(1.0, 1.0, 1.0), origin=(0.0, 0.0, 0.0), rotation=None) -> Geometry:
    matrix = np.eye(4)
    matrix[:3, :3] = (np.eye(3) if rotation is None else rotation) @ np.diag(spacing[::-1])
    matrix[:3, 3] = origin
    return Geometry(shape, matrix)


def _random_labels(geometry: Geometry, seed: int = 0) -> LabelMap:
    values = np.random.default_rng(seed).integers(0, 6, geometry.shape, dtype=np.uint8)
    return LabelMap(values, geometry)


def _rotation(degrees: float) -> np.ndarray:
    a = np.deg2rad(degrees)
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    return about_z @ about_x


def test_a_grid_resampled_onto_itself_is_unchanged():
    labels = _random_labels(_geometry((4, 5, 6), (3.0, 0.7, 0.8), (10.0, -20.0, 30.0), _rotation(12)))
    assert np.array_equal(resample_labels(labels, labels.geometry).array, labels.array)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_every_axis_order_and_flip_comes_back_exactly(order):
    labels = _random_labels(_geometry((4, 5, 6), (3.0, 0.7, 0.8), (1.0, 2.0, 3.0)))
    for flips in itertools.product((False, True), repeat=3):
        to_source = np.zeros((4, 4))
        to_source[3, 3] = 1
        for n, axis in enumerate(order):
            to_source[2 - axis, 2 - n] = -1 if flips[n] else 1
            to_source[2 - axis, 3] = labels.geometry.shape[axis] - 1 if flips[n] else 0
        shape = tuple(labels.geometry.shape[a] for a in order)
        other = Geometry(shape, labels.geometry.ijk_to_ras @ to_source)
        expected = labels.array.transpose(order)[tuple(slice(None, None, -1 if f else 1) for f in flips)]
        assert np.array_equal(resample_labels(labels, other).array, expected)


def test_the_canonical_axial_view_is_one_of_these_reorderings():
    labels = _random_labels(_geometry((4, 5, 6), (3.0, 0.7, 0.8), rotation=np.diag((-1.0, -1.0, 1.0))))
    view = axial_view(labels.geometry)
    assert np.array_equal(resample_labels(labels, view.geometry).array, view.to_view(labels.array))


def test_voxels_outside_the_source_are_background():
    labels = LabelMap(np.full((2, 2, 2), 3, np.int16), _geometry((2, 2, 2)))
    moved = resample_labels(labels, _geometry((2, 2, 4), origin=(-1.0, 0.0, 0.0)))
    assert moved.array.dtype == np.int16
    assert moved.array[0, 0].tolist() == [0, 3, 3, 0]


def test_a_border_between_two_voxels_goes_to_the_upper_one():
    # Centres at 0 and 1; wanted centres at -0.5, 0.5 and 1.5, that is on the voxels' borders.
    labels = LabelMap(np.array([[[1, 2]]], np.uint8), _geometry((1, 1, 2)))
    wanted = _geometry((1, 1, 3), origin=(-0.5, 0.0, 0.0))
    assert resample_labels(labels, wanted).array[0, 0].tolist() == [1, 2, 0]


@pytest.mark.parametrize("degrees", [0.0, 17.0])
def test_labels_are_those_of_simpleitk(degrees):
    sitk = pytest.importorskip("SimpleITK", reason="SimpleITK gives the golden values")
    # Odd spacings keep the wanted centres off the source voxels' borders, where both rules are right.
    source = _random_labels(_geometry((9, 11, 13), (2.03, 0.71, 0.83), (4.0, 5.0, 6.0)))
    wanted = _geometry((12, 14, 10), (1.31, 0.57, 0.93), (3.1, 5.2, 5.3), _rotation(degrees))

    def image(array: np.ndarray, geometry: Geometry):
        out = sitk.GetImageFromArray(array)
        out.SetSpacing(geometry.spacing[::-1])
        out.SetOrigin(tuple(geometry.ijk_to_ras[:3, 3]))
        out.SetDirection(geometry.directions.ravel().tolist())
        return out

    golden = sitk.Resample(
        image(source.array, source.geometry),
        image(np.zeros(wanted.shape, np.uint8), wanted),
        sitk.Transform(),
        sitk.sitkNearestNeighbor,
        0,
    )
    assert np.array_equal(resample_labels(source, wanted).array, sitk.GetArrayFromImage(golden))
