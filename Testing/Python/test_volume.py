"""Geometry and the canonical axial view."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from LiverMarginLib.errors import GeometryError, InputError
from LiverMarginLib.volume import Geometry, LabelMap, Volume, axial_view

AXIS_ORDERS_AND_FLIPS = list(itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)))


def affine(spacing=(0.8, 0.9, 2.5), order=(0, 1, 2), signs=(1, 1, 1), rotation=None, origin=(10.0, -20.0, 30.0)):
    """IJK-to-RAS matrix whose array axis n runs along world axis order[n]."""
    matrix = np.eye(4)
    directions = np.zeros((3, 3))
    for axis in range(3):
        directions[order[axis], axis] = signs[axis]
    if rotation is not None:
        directions = rotation.as_matrix() @ directions
    matrix[:3, :3] = directions * spacing
    matrix[:3, 3] = origin
    return matrix


def positions(array_shape, matrix):
    k, j, i = np.indices(array_shape)
    return np.stack([i, j, k, np.ones(array_shape)], axis=-1) @ matrix.T


@pytest.mark.parametrize(("order", "signs"), AXIS_ORDERS_AND_FLIPS)
def test_the_axial_view_points_superior_posterior_left_for_every_axis_order_and_flip(order, signs):
    geometry = Geometry((4, 5, 6), affine(order=order, signs=signs))
    directions = axial_view(geometry).geometry.directions
    np.testing.assert_allclose(directions, np.array([[-1, 0, 0], [0, -1, 0], [0, 0, 1]]).T, atol=1e-12)


@given(
    order_and_signs=st.sampled_from(AXIS_ORDERS_AND_FLIPS),
    angles=st.tuples(*[st.floats(-30, 30)] * 3),
    shape=st.tuples(*[st.integers(1, 5)] * 3),
)
def test_every_voxel_keeps_its_place_in_the_patient(order_and_signs, angles, shape):
    order, signs = order_and_signs
    matrix = affine(order=order, signs=signs, rotation=Rotation.from_euler("xyz", angles, degrees=True))
    geometry = Geometry(shape, matrix)
    view = axial_view(geometry)
    index = np.arange(np.prod(shape)).reshape(shape)
    seen = view.to_view(index)
    assert np.shares_memory(seen, index)
    np.testing.assert_allclose(
        positions(seen.shape, view.geometry.ijk_to_ras).reshape(-1, 4),
        positions(shape, matrix).reshape(-1, 4)[seen.ravel()],
        atol=1e-9,
    )
    np.testing.assert_array_equal(view.from_view(seen), index)


def test_spacing_is_in_array_order_and_voxel_volume_counts_shear():
    geometry = Geometry((2, 2, 2), affine(spacing=(0.5, 0.6, 3.0)))
    assert geometry.spacing == pytest.approx((3.0, 0.6, 0.5))
    assert geometry.voxel_volume == pytest.approx(0.9)
    sheared = affine(spacing=(1, 1, 1))
    sheared[:3, 2] = (0.0, 1.0, 1.0)
    assert Geometry((2, 2, 2), sheared).voxel_volume == pytest.approx(1.0)


def test_grids_agree_within_a_tenth_of_a_voxel_and_not_beyond():
    base = Geometry((10, 20, 30), affine())
    near, far = affine(), affine()
    near[0, 3] += 0.07
    far[0, 3] += 0.5
    assert base.agrees_with(Geometry((10, 20, 30), near))
    assert not base.agrees_with(Geometry((10, 20, 30), far))
    assert not base.agrees_with(Geometry((10, 20, 31), affine()))


def test_overlap_of_a_shifted_grid_is_the_shared_share():
    base = Geometry((10, 10, 10), affine(spacing=(1, 1, 1)))
    half, away = affine(spacing=(1, 1, 1)), affine(spacing=(1, 1, 1))
    half[0, 3] += 5
    away[0, 3] += 50
    assert base.overlap_fraction(Geometry((10, 10, 10), half)) == pytest.approx(0.5)
    assert base.overlap_fraction(Geometry((10, 10, 10), away)) == 0


@pytest.mark.parametrize(
    "matrix",
    [affine(spacing=(0, 1, 1)), np.full((4, 4), np.nan), np.ones((4, 4)), affine(order=(0, 0, 1))],
    ids=["zero spacing", "nan", "not affine", "parallel axes"],
)
def test_an_unusable_geometry_is_refused(matrix):
    with pytest.raises(GeometryError):
        Geometry((2, 2, 2), matrix)


def test_arrays_that_do_not_fit_their_geometry_are_refused():
    geometry = Geometry((2, 3, 4), affine())
    with pytest.raises(InputError):
        Volume(np.zeros((2, 3, 5)), geometry)
    with pytest.raises(InputError):
        Volume(np.zeros((2, 3, 4), complex), geometry)
    with pytest.raises(InputError):
        LabelMap(np.zeros((2, 3, 4), np.float32), geometry)


def test_label_volume_is_in_millilitres():
    array = np.zeros((10, 10, 10), np.uint8)
    array[:5] = 1
    assert LabelMap(array, Geometry((10, 10, 10), affine(spacing=(2, 2, 2)))).volume_ml(1) == pytest.approx(4.0)
