"""Spans of rows: what is computed of them holds whatever a window over the same mask touches."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from LiverMarginLib.models.row_spans import RowSpans

MASKS = [np.random.default_rng(seed).random((12, 20)) < share for seed in range(4) for share in (0, 0.01, 0.05, 0.5, 1)]


def filled(mask):
    """Each row from its first to its last pixel."""
    return np.logical_or.accumulate(mask, 1) & np.logical_or.accumulate(mask[:, ::-1], 1)[:, ::-1]


@pytest.mark.parametrize("mask", MASKS)
def test_a_span_reaches_from_the_first_to_the_last_pixel_of_a_row(mask):
    spans = RowSpans.of(mask)
    np.testing.assert_array_equal(spans.mask(), filled(mask))
    assert (spans.height, spans.width) == mask.shape


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("by", [1, 2, 7])
def test_widened_spans_are_those_of_the_dilated_mask(mask, by):
    dilated = ndimage.binary_dilation(mask, np.ones((2 * by + 1, 2 * by + 1)))
    np.testing.assert_array_equal(RowSpans.of(mask).widened(by).mask(), filled(dilated))


@pytest.mark.parametrize("mask", MASKS)
def test_halved_spans_are_those_of_the_pooled_mask(mask):
    pooled = mask.reshape(6, 2, 10, 2).any(axis=(1, 3))
    np.testing.assert_array_equal(RowSpans.of(mask).halved().mask(), filled(pooled))


@pytest.mark.parametrize("mask", MASKS)
def test_the_span_over_rows_holds_the_pixels_of_all_of_them(mask):
    spans = RowSpans.of(mask)
    for first, last in [(0, 5), (5, 6), (6, 12)]:
        some = np.flatnonzero(mask[first:last].any(axis=0))
        assert spans.over(first, last) == ((some[0], some[-1] + 1) if some.size else (0, 0))


def test_rows_beyond_the_map_hold_nothing():
    spans = RowSpans.whole(4, 6)
    assert spans.mask().all()
    assert spans.over(-3, 9) == (0, 6)
    assert spans.over(4, 9) == spans.over(-3, 0) == (0, 0)
