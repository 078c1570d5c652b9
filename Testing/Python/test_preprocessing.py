"""Windowing and the way of a slice into the network's field and back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from LiverMarginLib.preprocessing import fit_in_plane, resampling_weights, window_to_unit


def test_the_window_maps_its_ends_to_0_and_1_and_clips_beyond():
    image = np.array([[-3024, -160, 40, 240, 3071]], np.int16)
    np.testing.assert_allclose(window_to_unit(image, -160, 240), [[0, 0, 0.5, 1, 1]], atol=1e-7)


def test_values_that_are_not_numbers_become_background():
    image = np.array([np.nan, np.inf, -np.inf, 40.0])
    np.testing.assert_allclose(window_to_unit(image, -160, 240), [0, 1, 0, 0.5])


@pytest.mark.parametrize("dtype", ["uint8", "int16", ">i2", "int32", "float32", "float64"])
def test_windowing_gives_the_same_bits_for_every_type_and_memory_order_and_leaves_its_input_alone(dtype):
    image = np.random.default_rng(0).integers(0, 200, (7, 9)).astype(dtype)
    expected = window_to_unit(image.astype(np.float32), 10, 150)
    for same in (image, np.asfortranarray(image), image[::-1][::-1]):
        before = same.copy()
        unit = window_to_unit(same, 10, 150)
        assert unit.dtype == np.float32
        assert unit.flags.c_contiguous
        np.testing.assert_array_equal(unit, expected)
        np.testing.assert_array_equal(same, before)


@pytest.mark.parametrize("spacing", [(0.7, 0.7), (0.7, 0.7 * (1 + 1e-12))])
def test_a_square_slice_of_the_networks_size_goes_through_bit_for_bit(spacing):
    fit = fit_in_plane((512, 512), spacing, (512, 512))
    image = np.random.default_rng(0).random((512, 512), dtype=np.float32)
    assert fit.is_identity
    assert fit.to_network(image) is image
    assert fit.from_network(image) is image


@pytest.mark.parametrize(("n_in", "n_out"), [(256, 512), (1024, 512), (332, 512), (700, 512), (48, 32), (5, 32)])
def test_resampling_equals_torchs_antialiased_bilinear_interpolation(n_in, n_out):
    image = np.random.default_rng(0).random((n_in, n_in), dtype=np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(image)[None, None], (n_out, n_out), mode="bilinear", align_corners=False, antialias=True
    )
    fit = fit_in_plane((n_in, n_in), (1.0, 1.0), (n_out, n_out))
    np.testing.assert_allclose(fit.to_network(image), expected[0, 0].numpy(), atol=2e-6)


@given(
    shape=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    spacing=st.tuples(st.floats(0.3, 3), st.floats(0.3, 3)),
)
@settings(deadline=None)
def test_positions_in_millimetres_are_kept_in_both_directions(shape, spacing):
    network = (40, 56)
    fit = fit_in_plane(shape, spacing, network)
    if fit.is_identity:
        return
    pixel = max(shape[0] * spacing[0] / network[0], shape[1] * spacing[1] / network[1])
    for axis, weights, back in ((0, fit.to_rows, fit.from_rows), (1, fit.to_columns, fit.from_columns)):
        ours = (np.arange(shape[axis]) + 0.5 - shape[axis] / 2) * spacing[axis]
        theirs = (np.arange(network[axis]) + 0.5 - network[axis] / 2) * pixel
        # A triangle reproduces a ramp wherever it lies wholly inside the line; a widened one nearly, as it is sampled.
        reach = max(pixel, spacing[axis])
        tolerance = 0.1 * min(pixel, spacing[axis])
        inner = np.abs(theirs) <= np.abs(ours).max() - reach
        np.testing.assert_allclose((weights @ ours)[inner], theirs[inner], atol=tolerance)
        inner = np.abs(ours) <= np.abs(theirs).max() - reach
        np.testing.assert_allclose((back @ theirs)[inner], ours[inner], atol=tolerance)


def test_the_field_has_square_pixels_and_is_centred():
    fit = fit_in_plane((30, 40), (2.0, 1.0), (64, 64))  # 60 mm x 40 mm into 64 x 64 pixels of 60 / 64 mm
    content = fit.to_network(np.ones((30, 40), np.float32))
    rows, columns = np.flatnonzero(content.any(axis=1)), np.flatnonzero(content.any(axis=0))
    assert (rows[0], rows[-1]) == (0, 63)
    assert columns[0] == 63 - columns[-1]
    assert len(columns) * 60 / 64 == pytest.approx(40, abs=60 / 64)
    np.testing.assert_allclose(content[:, columns], 1, atol=1e-6)


def test_a_mask_survives_the_way_there_and_back():
    y, x = np.mgrid[:332, :428]
    blob = (((y - 150) / 60) ** 2 + ((x - 200) / 90) ** 2 < 1).astype(np.float32)
    fit = fit_in_plane((332, 428), (0.88, 0.88), (512, 512))
    back = fit.from_network(fit.to_network(blob)) >= 0.5
    differing = np.count_nonzero(back != (blob > 0))
    assert differing <= 0.01 * np.count_nonzero(blob)


def test_several_slices_at_once_are_resampled_as_each_alone():
    images = np.random.default_rng(0).random((3, 20, 30), dtype=np.float32)
    fit = fit_in_plane((20, 30), (1.0, 1.3), (32, 32))
    together = fit.to_network(images)
    for image, resampled in zip(images, together, strict=True):
        np.testing.assert_allclose(fit.to_network(image), resampled, atol=1e-6)


@given(n_out=st.integers(1, 60), n_in=st.integers(1, 60), step=st.floats(0.05, 20))
@settings(deadline=None)
def test_weights_are_an_average_inside_the_line_and_nothing_outside(n_out, n_in, step):
    weights = resampling_weights(n_out, n_in, step)
    assert weights.min() >= 0
    totals = weights.sum(axis=1)
    centres = (np.arange(n_out) + 0.5 - n_out / 2) * step
    np.testing.assert_allclose(totals[np.abs(centres) < n_in / 2 - 1e-6], 1, atol=1e-5)
    assert not totals[np.abs(centres) > n_in / 2 + 1e-6].any()
