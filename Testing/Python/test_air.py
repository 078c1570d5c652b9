"""Air: slices and pixels around the body that no network needs to see, and in which nothing is found."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from model_tools import OBLONG, SQUARE, Fake, bare, ct
from test_device_slices import OnDevice

from LiverMarginLib.events import SliceReady
from LiverMarginLib.inference.compatibility import plan_input
from LiverMarginLib.inference.options import SegmentOptions
from LiverMarginLib.inference.segmenter import load_segmenter
from LiverMarginLib.inference.slice_inputs import SliceInputs
from LiverMarginLib.inference.slicewise import segment_volume
from LiverMarginLib.models.intensity_fields import Window
from LiverMarginLib.models.row_spans import RowSpans
from LiverMarginLib.preprocessing import Scale, SliceContext, fit_in_plane

AIR = [0, 1, 2, 5, 8, 9]


def ct_with_air(slices=10, shape=(32, 32), air=AIR, **changes):
    """A CT, some of whose slices are air with noise."""
    volume = ct((slices, *shape), **changes)
    noise = np.random.default_rng(0).integers(-1100, -900, (len(air), *shape))
    volume.array[air] = noise
    return volume


class Sure(Fake):
    """Finds the organ everywhere but where it is bright, in the air most of all."""

    def predict(self, batch):
        return 1 - super().predict(batch)


class Everywhere(Fake):
    """Finds the organ in every pixel that it is given."""

    def predict(self, batch):
        return np.ones_like(super().predict(batch))


def ct_of_a_body(slices=6, shape=(32, 32), **changes):
    """A CT with air around an ellipse, larger in some slices than in others, and a table below it."""
    volume = ct((slices, *shape), **changes)
    y, x = np.ogrid[: shape[0], : shape[1]]
    for k, plane in enumerate(volume.array):
        wider = 0.02 * (k % 6)
        far = ((y - 0.45 * shape[0]) / (0.2 + wider)) ** 2 + ((x - 0.5 * shape[1]) / (0.25 + wider)) ** 2
        outside = (far > shape[0] * shape[1]) & ~((y == shape[0] - 4) & (abs(x - 0.5 * shape[1]) < 0.3 * shape[1]))
        plane[outside] = -1000
        plane[~outside] = np.maximum(plane[~outside], -150)
    return volume


def every_slice(volume, bundle, segmenter):
    """Labels of slices computed one by one, each in a run of its own."""
    ranges = [SegmentOptions(slice_range=(k, k + 1)) for k in range(len(volume.array))]
    return np.stack([segment_volume(volume, bundle, segmenter, one).array[k] for k, one in enumerate(ranges)])


@pytest.mark.parametrize("batch_size", [1, 2, 3, 10])
def test_the_network_sees_no_slice_of_air(tiny_model, batch_size):
    volume, fake = ct_with_air(), Sure()
    found = segment_volume(volume, tiny_model, fake, SegmentOptions(batch_size=batch_size))
    assert sum(fake.batches) == 10 - len(AIR)
    assert max(fake.batches) <= batch_size
    np.testing.assert_array_equal(found.array, every_slice(volume, tiny_model, Sure()))
    assert not found.array[AIR].any() and found.array.any()
    assert [found.provenance["slice_confidence"][k] for k in AIR] == [None] * len(AIR)


@pytest.mark.parametrize("runtime", ["onnx", "torch", "device"])
def test_what_comes_of_a_real_network_is_what_comes_of_every_slice_computed(tiny_model, runtime):
    volume = ct_with_air(dtype=np.float32)
    segmenter = (
        OnDevice(tiny_model) if runtime == "device" else load_segmenter(tiny_model, device="cpu", runtime=runtime)
    )
    found = segment_volume(volume, tiny_model, segmenter, SegmentOptions(batch_size=2)).array
    np.testing.assert_array_equal(found, every_slice(volume, tiny_model, segmenter))
    assert 0 < found[3:5].mean() < 1


def slice_inputs(volume, bundle):
    """The inputs of a volume whose axes are those of the axial view."""
    shape, spacing = volume.geometry.shape[1:], volume.geometry.spacing[1:]
    fit = fit_in_plane(shape, spacing, bundle.manifest.input_size)
    return SliceInputs(volume.array, plan_input(volume, bundle.manifest), fit, bundle.manifest.context, None)


class EverywhereOnDevice(OnDevice):
    def probabilities(self, images):
        return torch.ones_like(super().probabilities(images))


@pytest.mark.parametrize("way", [Everywhere, EverywhereOnDevice])
def test_nothing_is_found_beside_the_body(tiny_model, way):
    volume = ct_of_a_body()
    segmenter = Everywhere() if way is Everywhere else way(tiny_model)
    labels = segment_volume(volume, tiny_model, segmenter).array
    for row, found in zip(volume.array.reshape(-1, 32), labels.reshape(-1, 32), strict=True):
        body = np.flatnonzero(row > -160)
        expected = range(body[0], body[-1] + 1) if body.size else ()
        np.testing.assert_array_equal(np.flatnonzero(found), expected)
    assert not labels[:, 0].any() and labels[:, 14].any(axis=1).all()


@pytest.mark.parametrize(("shape", "matrix"), [((32, 32), SQUARE), ((40, 26), OBLONG), ((90, 60), SQUARE)])
@pytest.mark.parametrize("context", [0, 1])
def test_what_is_bright_in_a_volume_is_what_is_bright_in_any_of_its_inputs(tiny_model, shape, matrix, context):
    volume = ct_of_a_body(shape=shape, matrix=matrix)
    source = slice_inputs(volume, bare(tiny_model, context_slices=context))
    for slices in (range(6), range(2, 4)):
        bright = source.bright(slices)
        np.testing.assert_array_equal(bright, (source.batch(slices) != source.dark).any(axis=(0, 1)))
        assert 0.1 < bright.mean() < 0.8
        inside = source.body(source.batch(slices))
        assert inside.shape == (len(slices), 1, 32, 32)
        assert not (inside & ~RowSpans.of(bright).mask()).any()


@pytest.mark.parametrize("scale", [Scale(-160.0, 240.0, 40.0, 90.0), Scale(-np.inf, np.inf, 0.0, 1.0)])
def test_air_is_known_by_what_the_scale_makes_of_it(tiny_model, scale):
    volume = ct_of_a_body(shape=(40, 30))
    plan = replace(plan_input(volume, tiny_model.manifest), scale=scale)
    source = SliceInputs(volume.array, plan, fit_in_plane((40, 30), (1, 1), (32, 32)), SliceContext(), None)
    bright = source.bright(range(6))
    # Without a window air is a value like any other, but what pads the image is not.
    expected = source.body(source.batch(range(6))).any(axis=(0, 1))
    np.testing.assert_array_equal(RowSpans.of(bright).mask(), expected)
    assert expected.mean() > 0.7 if np.isinf(scale.low) else expected.mean() < 0.7


def test_only_long_volumes_are_worth_a_network_of_their_own(tiny_model):
    class Quick(Fake):
        asked = ()

        def confined(self, region, dark):
            self.asked = (*self.asked, (region, dark))
            return self

    fake, volume = Quick(), ct_of_a_body(40)
    segment_volume(volume, tiny_model, fake, SegmentOptions(slice_range=(0, 31)))
    assert not fake.asked
    segment_volume(volume, tiny_model, fake, SegmentOptions(slice_range=(8, 40)))
    ((region, dark),) = fake.asked
    np.testing.assert_array_equal(region, (volume.array[8:] > -160).any(axis=0))
    assert dark.shape == (32, 32) and not dark.any()


def test_slices_are_told_in_order_whether_computed_or_not(tiny_model):
    told = []

    def listen(event):
        if isinstance(event, SliceReady):
            told.append(event.index)

    segment_volume(ct_with_air(), tiny_model, Fake(), SegmentOptions(batch_size=4), listen)
    assert told == list(range(10))


@pytest.mark.parametrize("way", [Fake, OnDevice])
def test_short_memory_and_blank_slices_together_lose_nothing(tiny_model, way):
    volume = ct_with_air(air=[1, 3, 4, 8])
    segmenter = Fake() if way is Fake else OnDevice(tiny_model)
    expected = every_slice(volume, tiny_model, segmenter)
    segmenter.holds = 1
    segmenter.batches.clear()
    found = segment_volume(volume, tiny_model, segmenter, SegmentOptions(batch_size=8))
    np.testing.assert_array_equal(found.array, expected)
    assert segmenter.batches == [5, 4, 2, 1, 1, 1, 1, 1, 1]


def test_a_volume_that_is_blank_where_it_is_looked_at_needs_no_network(tiny_model):
    fake = Fake()
    found = segment_volume(ct_with_air(), tiny_model, fake, SegmentOptions(slice_range=(0, 3), batch_size=2))
    assert fake.batches == []
    assert not found.array.any()


def test_neighbours_with_something_in_them_make_a_slice_worth_computing(tiny_model):
    class Middle(Fake):
        def predict(self, batch):
            super().predict(batch)
            return batch.max(axis=1, keepdims=True)

    fake, volume = Middle(), ct_with_air(7, air=[0, 1, 2, 4, 5, 6])
    bundle = bare(tiny_model, context_slices=1)
    found = segment_volume(volume, bundle, fake, SegmentOptions(batch_size=1))
    assert len(fake.batches) == 3
    np.testing.assert_array_equal(found.array, every_slice(volume, bundle, Middle()))


@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.float64])
@pytest.mark.parametrize("low", [-160.0, -160.3])
@pytest.mark.parametrize("spacing", [(0.8, 0.8), (0.8, 0.9)])
def test_all_slices_that_are_called_blank_have_the_same_input_to_the_bit(tiny_model, dtype, low, spacing):
    volume = ct((40, 32, 32), dtype=dtype, matrix=OBLONG)
    bundle = bare(tiny_model, window=Window(low, 240.0))
    plan = plan_input(volume, bundle.manifest)
    volume.array[10:] = np.random.default_rng(0).integers(-3000, -160, (30, 32, 32))
    volume.array[20:30] = low
    volume.array[39, 5, 5] = -159
    source = SliceInputs(volume.array, plan, fit_in_plane((32, 32), spacing, (32, 32)), SliceContext(), None)
    blank = [k for k in range(40) if source.is_blank(k)]
    # Integers cannot hold the fractional end of a window: -160.3 becomes -160, which lies above it.
    assert blank == [*range(10, 20), *(range(20, 30) if dtype is not np.int16 or low == -160 else ()), *range(30, 39)]
    inputs = source.batch(blank)
    assert all(one.tobytes() == inputs[0].tobytes() for one in inputs)


def test_voxels_that_are_no_numbers_are_not_called_blank(tiny_model):
    volume = ct_with_air(dtype=np.float32)
    volume.array[1, 0, 0] = np.nan
    plan = replace(plan_input(volume, tiny_model.manifest), notices=())
    source = SliceInputs(volume.array, plan, fit_in_plane((32, 32), (1, 1), (32, 32)), SliceContext(), None)
    assert [source.is_blank(k) for k in range(3)] == [True, False, True]
