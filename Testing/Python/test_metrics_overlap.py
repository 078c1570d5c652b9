"""Mask IoU, Dice, precision, recall, RVD and slice detection against their definitions."""

from __future__ import annotations

import golden_metrics as golden
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from LiverMarginLib.metrics.overlap import (
    Overlap,
    SliceDetection,
    count_overlap,
    dice,
    mask_iou,
    precision,
    recall,
)

PAIRS = golden.difficult_pairs()


@pytest.mark.parametrize("name", PAIRS)
def test_overlap_scores_equal_their_definitions(name):
    reference, prediction = PAIRS[name]
    assert mask_iou(reference, prediction) == pytest.approx(golden.iou(reference, prediction), nan_ok=True)
    assert dice(reference, prediction) == pytest.approx(golden.dice(reference, prediction), nan_ok=True)
    assert precision(reference, prediction) == pytest.approx(golden.precision(reference, prediction), nan_ok=True)
    assert recall(reference, prediction) == pytest.approx(golden.precision(prediction, reference), nan_ok=True)


def test_slices_empty_in_both_masks_are_nan_and_slices_empty_in_one_are_zero():
    # Slices: both empty, missed, extra, both with one of three pixels shared.
    counts = Overlap(np.array([0, 5, 0, 2]), np.array([0, 0, 7, 2]), np.array([0, 0, 0, 1]))
    for scores, shared in (
        (counts.iou(), 1 / 3),
        (counts.dice(), 1 / 2),
        (counts.precision(), 1 / 2),
        (counts.recall(), 1 / 2),
    ):
        assert scores == pytest.approx([np.nan, 0.0, 0.0, shared], nan_ok=True)
    assert counts.relative_volume_difference() == pytest.approx([np.nan, -1.0, np.nan, 0.0], nan_ok=True)


def test_too_much_segmented_is_a_positive_rvd():
    assert float(Overlap(np.array(100), np.array(103), np.array(90)).relative_volume_difference()) == pytest.approx(
        0.03
    )


def test_slice_detection_counts_slices_and_not_voxels():
    counts = Overlap(np.array([0, 5, 0, 2, 9, 0]), np.array([0, 0, 7, 2, 1, 0]), np.array([0, 0, 0, 1, 0, 0]))
    found = SliceDetection.from_overlap(counts)
    assert found == SliceDetection(true_positive=2, false_positive=1, false_negative=1, true_negative=2)
    assert (found.sensitivity(), found.specificity(), found.precision()) == pytest.approx((2 / 3, 2 / 3, 2 / 3))
    assert (found + found).true_negative == 4
    nothing = SliceDetection(0, 0, 0, 0)
    assert all(np.isnan(v) for v in (nothing.sensitivity(), nothing.specificity(), nothing.precision()))


def test_masks_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match="different shapes"):
        count_overlap(np.zeros((2, 3), dtype=bool), np.zeros((3, 2), dtype=bool))


@given(st.data(), hnp.arrays(bool, st.tuples(st.integers(1, 6), st.integers(1, 6))))
def test_dice_follows_from_iou(data, mask):
    other = data.draw(hnp.arrays(bool, mask.shape))
    overlap = mask_iou(mask, other)
    assert dice(mask, other) == pytest.approx(2 * overlap / (1 + overlap), nan_ok=True)
    assert overlap == pytest.approx(mask_iou(other, mask), nan_ok=True)
