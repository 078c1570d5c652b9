"""Pieces and holes of a mask, against scipy's whole-volume functions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from LiverMarginLib.inference.components import find_components
from LiverMarginLib.inference.postprocessing import bounding_box, postprocess
from LiverMarginLib.models.manifest import FillHoles, Postprocessing

shapes = st.tuples(*[st.integers(1, 9)] * 3)
masks = shapes.flatmap(lambda shape: hnp.arrays(np.uint8, shape, elements=st.integers(0, 1)))


@st.composite
def blobs(draw):
    """Masks with thick walls, holes and several pieces, more often than random voxels have them."""
    shape = draw(st.tuples(*[st.integers(3, 14)] * 3))
    noise = np.random.default_rng(draw(st.integers(0, 2**32))).random(shape)
    smooth = ndimage.gaussian_filter(noise, draw(st.floats(0.5, 1.2)))
    return (smooth > np.quantile(smooth, draw(st.floats(0.2, 0.8)))).astype(np.uint8)


@given(mask=st.one_of(masks, blobs()))
@settings(max_examples=300, deadline=None)
def test_pieces_found_slice_by_slice_are_those_of_scipy(mask):
    pieces = find_components(lambda k: mask[k] > 0, len(mask))
    ours = np.stack([pieces.members(k, plane > 0) for k, plane in enumerate(mask)])
    theirs, count = ndimage.label(mask)
    assert len(pieces.sizes) == count
    pairs = set(zip(ours.ravel().tolist(), theirs.ravel().tolist(), strict=True))
    assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})
    inner = np.zeros(mask.shape, bool)
    inner[1:-1, 1:-1, 1:-1] = True
    for piece in range(count):
        voxels = ours == piece + 1
        assert pieces.sizes[piece] == np.count_nonzero(voxels)
        assert pieces.on_border[piece] == bool((voxels & ~inner).any())


@given(mask=blobs())
@settings(max_examples=200, deadline=None)
def test_the_largest_piece_and_the_filled_holes_are_those_of_scipy(mask):
    pieces, count = ndimage.label(mask)
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)[1:]
    largest = pieces == 1 + np.argmax(sizes)
    whole = mask.copy()
    removed = postprocess(whole, 1.0, Postprocessing(True, FillHoles.VOLUME), organ=1)
    assert removed == count - 1
    if np.count_nonzero(sizes == sizes.max()) == 1:
        np.testing.assert_array_equal(whole > 0, ndimage.binary_fill_holes(largest))
        by_slice = mask.copy()
        postprocess(by_slice, 1.0, Postprocessing(True, FillHoles.SLICE), organ=1)
        for plane, expected in zip(by_slice, largest, strict=True):
            np.testing.assert_array_equal(plane > 0, ndimage.binary_fill_holes(expected))


@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
def test_the_memory_layout_of_the_array_does_not_matter(axes):
    smooth = ndimage.gaussian_filter(np.random.default_rng(1).random((12, 16, 20)), 1)
    mask = (smooth > np.quantile(smooth, 0.7)).astype(np.uint8)
    expected = mask.copy()
    options = Postprocessing(True, FillHoles.VOLUME, 0.01)
    postprocess(expected, 1.0, options, organ=1)
    stored = np.transpose(mask, np.argsort(axes)).copy(order="C")
    view = np.transpose(stored, axes)[::-1][::-1]
    postprocess(view, 1.0, options, organ=1)
    np.testing.assert_array_equal(np.transpose(stored, axes), expected)
    assert 0 < np.count_nonzero(expected) != np.count_nonzero(mask)


def test_a_tumour_at_the_surface_stays_with_the_liver_and_holes_become_liver():
    labels = np.zeros((7, 12, 12), np.uint8)
    labels[1:6, 2:8, 2:8] = 1
    labels[1:6, 8:10, 3:6] = 2
    labels[3, 4, 4] = 0
    labels[0, 0, 11] = 2
    postprocess(labels, 1.0, Postprocessing(True, FillHoles.VOLUME), organ=1)
    assert labels[3, 9, 4] == 2
    assert labels[3, 4, 4] == 1
    assert labels[0, 0, 11] == 0


def test_pieces_below_the_smallest_volume_are_removed_in_millilitres():
    labels = np.zeros((3, 10, 10), np.uint8)
    labels[1, 1:3, 1:3] = 1  # 4 voxels of 500 mm³: 2 ml
    labels[1, 5, 5:8] = 1  # 1.5 ml
    assert postprocess(labels, 500.0, Postprocessing(min_volume_ml=2.0), organ=1) == 1
    assert np.count_nonzero(labels) == 4


def test_an_empty_and_a_full_mask_stay_as_they_are():
    for value in (0, 1):
        labels = np.full((4, 5, 6), value, np.uint8)
        assert postprocess(labels, 1.0, Postprocessing(True, FillHoles.VOLUME, 0.0), organ=1) == 0
        assert (labels == value).all()
    assert bounding_box(np.zeros((2, 3, 4), np.uint8)) is None


@given(mask=masks)
@settings(deadline=None)
def test_the_bounding_box_is_that_of_scipy(mask):
    box = bounding_box(mask)
    assert box == (ndimage.find_objects(mask)[0] if mask.any() else None)
