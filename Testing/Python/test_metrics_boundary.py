"""Boundary IoU, Trimap IoU and boundary F against their definitions, by hand, and against the official code's steps."""

from __future__ import annotations

import golden_metrics as golden
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from LiverMarginLib.metrics.boundary import (
    Width,
    boundary_f,
    boundary_iou,
    count_boundaries,
    official_width,
    trimap_iou,
)
from LiverMarginLib.metrics.morphology import dilate_box, erode_box

PAIRS = golden.difficult_pairs()
MASKS = hnp.arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 14)))


def same(a: float, b: float) -> bool:
    return bool(np.isclose(a, b, rtol=0, atol=1e-12, equal_nan=True))


@pytest.mark.parametrize(
    ("shape", "d"),
    # 2 % of the diagonal: 14.48, 7.24, 10.86, 0.04 (at least 1), 15.26, and 512 x 512 cropped to 300 x 256 is 7.89.
    [((512, 512), 14), ((256, 256), 7), ((384, 384), 11), ((1, 1), 1), ((512, 568), 15), ((300, 256), 8)],
)
def test_the_official_d_is_two_per_cent_of_the_image_diagonal(shape, d):
    assert official_width(shape) == d


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("d", [1, 2, 3, 5, 8])
def test_boundary_iou_equals_that_of_iterated_erosions(name, d):
    reference, prediction = PAIRS[name]
    scores = boundary_iou(reference, prediction, Width(d))
    for k, score in enumerate(scores):
        assert same(score, golden.boundary_iou(reference[k], prediction[k], d))


def test_boundary_iou_takes_its_d_from_the_image_by_default():
    rng = np.random.default_rng(3)
    reference, prediction = rng.random((2, 120, 160)) < 0.9
    assert same(boundary_iou(reference, prediction), golden.boundary_iou(reference, prediction))


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("d", [1, 3, 6])
def test_trimap_iou_equals_its_definition(name, d):
    reference, prediction = PAIRS[name]
    scores = trimap_iou(reference, prediction, Width(d))
    for k, score in enumerate(scores):
        assert same(score, golden.trimap_iou(reference[k], prediction[k], d))


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("d", [1, 2, 6, 14])
def test_boundary_f_equals_its_definition(name, d):
    reference, prediction = PAIRS[name]
    scores = boundary_f(reference, prediction, Width(d))
    for k, score in enumerate(scores):
        assert same(score, golden.boundary_f(reference[k], prediction[k], d))


@pytest.mark.parametrize("name", ["balls", "random, sparse", "corner"])
def test_boundary_f_in_millimetres_measures_along_each_axis_with_its_spacing(name):
    reference, prediction = PAIRS[name]
    spacing, d = (0.7, 1.9), Width(2.5, "mm")
    scores = count_boundaries(reference, prediction, [d], spacing)[d].boundary_f()
    for k, score in enumerate(scores):
        assert same(score, golden.boundary_f(reference[k], prediction[k], 2.5, spacing))


def test_a_width_in_millimetres_is_that_many_pixels_along_each_axis():
    assert Width(3.0, "mm").half_sides((0.5, 1.4)) == (6, 2)
    assert Width(0.1, "mm").half_sides((0.5, 1.4)) == (1, 1)
    reference, prediction = PAIRS["balls"]
    in_mm, in_px = Width(4.0, "mm"), Width(2)
    counts = count_boundaries(reference, prediction, [in_mm, in_px], (2.0, 2.0))
    assert np.array_equal(counts[in_mm].boundary_iou(), counts[in_px].boundary_iou(), equal_nan=True)
    assert np.array_equal(counts[in_mm].trimap_iou(), counts[in_px].trimap_iou(), equal_nan=True)
    assert np.array_equal(counts[in_mm].boundary_f(), counts[in_px].boundary_f(), equal_nan=True)


@pytest.mark.parametrize(("value", "unit"), [(0, "px"), (-1, "px"), (1.5, "px"), (0, "mm"), (float("nan"), "mm")])
def test_a_width_that_is_no_length_is_refused(value, unit):
    with pytest.raises(ValueError, match="boundary width"):
        Width(value, unit)


def test_a_hand_counted_trimap_iou():
    # G is a 4 x 4 square (rows and columns 2 to 5 of 8 x 8), P the same moved right by one column. With d = 1 the
    # band is G's outline (12 pixels) and the ring around G (20 pixels); the four pixels in G's middle are left out.
    # In the band: G ∩ P is columns 3 to 5 of G, 12 pixels, less the 4 of the middle ... (3,3) (3,4) (4,3) (4,4): 8.
    # G ∪ P there: G's 12 and P's column 6 (4 pixels, all within the ring): 16. So 8 / 16.
    reference, prediction = np.zeros((2, 8, 8), dtype=bool)
    reference[2:6, 2:6] = True
    prediction[2:6, 3:7] = True
    assert float(trimap_iou(reference, prediction, Width(1))) == 8 / 16
    # With d = 2 the whole of G is band: 12 of G ∩ P, and G ∪ P has 20.
    assert float(trimap_iou(reference, prediction, Width(2))) == 12 / 20


def test_a_trimap_iou_does_not_see_errors_outside_of_its_band():
    reference, prediction = np.zeros((2, 12, 12), dtype=bool)
    reference[2:5, 2:5] = True
    prediction[2:5, 2:5] = True
    prediction[10, 10] = True  # five pixels from G
    assert float(trimap_iou(reference, prediction, Width(2))) == 1.0
    assert float(boundary_iou(reference, prediction, Width(2))) == 9 / 10


def test_a_hand_counted_boundary_f():
    # G is a vertical line of 5 pixels in column 2, P one of 5 pixels in column 4, two rows lower: rows 2 to 6 and 4
    # to 8. Every pixel is contour. G's pixels in rows 4 to 6 have one of P at distance 2, row 3 at sqrt(5), row 2 at
    # sqrt(8); P's pixels in rows 4 to 6 at 2, row 7 at sqrt(5), row 8 at sqrt(8).
    reference, prediction = np.zeros((2, 10, 8), dtype=bool)
    reference[2:7, 2] = True
    prediction[4:9, 4] = True
    assert float(boundary_f(reference, prediction, Width(1))) == 0.0
    assert float(boundary_f(reference, prediction, Width(2))) == pytest.approx(3 / 5)
    counts = count_boundaries(reference, prediction, [Width(3), Width(2.3, "mm")])
    assert float(counts[Width(3)].boundary_f()) == 1.0
    assert float(counts[Width(2.3, "mm")].boundary_f()) == pytest.approx(4 / 5)
    # One more pixel of P far away: precision 3 / 6, recall 3 / 5, F = 2 * 0.5 * 0.6 / 1.1.
    prediction[0, 7] = True
    assert float(boundary_f(reference, prediction, Width(2))) == pytest.approx(0.6 / 1.1)


def test_what_the_image_border_cuts_off_is_boundary():
    # The mask fills the left half of the image. With d = 1 the image's border counts: the band is the outline of
    # the 6 x 3 rectangle, 14 pixels, of which the prediction (without its first column, 6 x 2 pixels, all outline)
    # shares 12 less the pixels of its own first column that are inside G's outline's middle: rows 1 to 4: 4. 8 / 18.
    reference, prediction = np.zeros((2, 6, 6), dtype=bool)
    reference[:, :3] = True
    prediction[:, 1:3] = True
    assert float(boundary_iou(reference, prediction, Width(1))) == 8 / 18


def test_both_empty_is_nan_and_one_empty_is_zero():
    empty, square = np.zeros((9, 9), dtype=bool), np.zeros((9, 9), dtype=bool)
    square[3:6, 3:6] = True
    for score in (boundary_iou, trimap_iou, boundary_f):
        assert np.isnan(score(empty, empty))
        assert float(score(square, empty)) == 0.0
        assert float(score(empty, square)) == 0.0
        assert float(score(square, square)) == 1.0


def test_pooled_scores_are_those_of_the_summed_counts():
    reference, prediction = PAIRS["balls"]
    d = Width(2)
    total = count_boundaries(reference, prediction, [d])[d].sum()
    bands = [[golden.official_boundary(plane, 2) for plane in mask] for mask in (reference, prediction)]
    assert same(total.boundary_iou(), golden.iou(np.array(bands[0]), np.array(bands[1])))


@settings(max_examples=60, deadline=None)
@given(MASKS, st.integers(0, 4), st.integers(0, 4))
def test_erosion_and_dilation_by_a_rectangle_equal_a_look_at_every_neighbour(mask, rj, ri):
    eroded, dilated = np.zeros_like(mask), np.zeros_like(mask)
    padded = np.pad(mask, ((rj, rj), (ri, ri)))
    for j, i in np.ndindex(mask.shape):
        window = padded[j : j + 2 * rj + 1, i : i + 2 * ri + 1]
        eroded[j, i], dilated[j, i] = window.all(), window.any()
    assert np.array_equal(erode_box(mask, (rj, ri)), eroded)
    assert np.array_equal(dilate_box(mask, (rj, ri)), dilated)


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(1, 5))
def test_boundary_iou_and_boundary_f_are_symmetric(data, d):
    a = data.draw(MASKS)
    b = data.draw(hnp.arrays(bool, a.shape))
    for score in (boundary_iou, boundary_f):
        assert same(score(a, b, Width(d)), score(b, a, Width(d)))


@settings(max_examples=40, deadline=None)
@given(MASKS, st.data(), st.integers(1, 4), st.integers(0, 5), st.integers(0, 5))
def test_moving_both_masks_inside_a_larger_image_changes_nothing(mask, data, d, down, right):
    other = data.draw(hnp.arrays(bool, mask.shape))
    images = [np.pad(m, ((down, 5 - down), (right, 5 - right))) for m in (mask, other)]
    for score in (boundary_iou, trimap_iou, boundary_f):
        assert same(score(mask, other, Width(d)), score(*images, Width(d)))


@settings(max_examples=40, deadline=None)
@given(MASKS, st.data())
def test_boundary_iou_becomes_mask_iou_when_d_covers_the_masks(mask, data):
    other = data.draw(hnp.arrays(bool, mask.shape))
    assert same(boundary_iou(mask, other, Width(20)), golden.iou(mask, other))
