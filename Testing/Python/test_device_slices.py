"""Slices labelled on a device: the same torch code run on the CPU gives what the machine's own way gives."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from model_tools import EVERYTHING, OBLONG, SQUARE, Fake, ct, one_sentence, tiny_bundle

from LiverMarginLib.errors import BundleError, Cancelled
from LiverMarginLib.events import CancelToken, Notice, SliceReady
from LiverMarginLib.inference.device_labels import DeviceLabels, Packing, scaled
from LiverMarginLib.inference.device_memory import images_that_fit
from LiverMarginLib.inference.device_slices import DeviceSlices
from LiverMarginLib.inference.labelling import Labelling
from LiverMarginLib.inference.options import SegmentOptions
from LiverMarginLib.inference.segmenter import load_segmenter
from LiverMarginLib.inference.slicewise import default_batch, segment_volume
from LiverMarginLib.inference.torch_backend import TorchSegmenter
from LiverMarginLib.preprocessing import Scale, fit_in_plane
from LiverMarginLib.volume import IntensityKind, Modality


class LateTransfers:
    """Stand-in for a GPU's copies: an upload spoils its source afterwards, a download takes place when waited for."""

    def __init__(self):
        self.uploads, self.finished, self.failing = [], 0, False

    def host_buffer(self, *shape, dtype):
        return torch.full(shape, 99, dtype=dtype)

    device_buffer = host_buffer

    def upload(self, source, target):
        self.uploads.append((len(source), source.dtype))
        target.copy_(source)
        source.fill_(77)

    def download(self, source, target):
        def wait():
            if self.failing:
                raise RuntimeError("CUDA error: an illegal memory access was encountered")
            target.copy_(source)

        return wait

    def finish(self):
        self.finished += 1


class OnDevice(TorchSegmenter):
    """torch on the CPU that goes a CUDA device's way, and can run out of memory."""

    holds = 10**6
    called_cuda = False

    def __init__(self, bundle, **options):
        super().__init__(bundle, "cpu", **options)
        self.transfers, self.batches = LateTransfers(), []
        if self.called_cuda:
            self.device = "cuda"

    def slices_on_device(self, source, labelling, batch_size):
        labels = DeviceLabels(self.probabilities, source.plan.scale, source.fit, labelling, source.dark, "cpu")
        return DeviceSlices(source, labels, self.transfers, batch_size, self.guard)

    def probabilities(self, images):
        self.batches.append(len(images))
        if len(images) > self.holds:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return super().probabilities(images)


def both_ways(bundle, volume, batch_size=2, threshold=None):
    """The device's way and the machine's, by the same network."""
    options = SegmentOptions(batch_size=batch_size, threshold=threshold, allow_mismatch=True)
    device = segment_volume(volume, bundle, OnDevice(bundle), options)
    host = segment_volume(volume, bundle, load_segmenter(bundle, device="cpu", runtime="torch"), options)
    return device, host


# ---- the same result


@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.int32, np.float32, np.float64])
@pytest.mark.parametrize("batch_size", [1, 2, 4, 7])
def test_labels_and_confidence_are_those_of_the_machines_own_way(tiny_model, dtype, batch_size):
    volume = ct((7, 32, 32), dtype=np.float64)
    volume = replace(volume, array=(volume.array + (1024 if dtype == np.uint16 else 0)).astype(dtype))
    device, host = both_ways(tiny_model, volume, batch_size)
    assert 0.1 < host.array.mean() < 0.9
    np.testing.assert_array_equal(device.array, host.array)
    assert device.provenance["confidence"] == pytest.approx(host.provenance["confidence"], abs=1e-4)
    assert device.provenance["slice_confidence"] == pytest.approx(host.provenance["slice_confidence"], abs=1e-4)


@pytest.mark.parametrize(("shape", "matrix"), [((5, 30, 22), OBLONG), ((3, 17, 41), OBLONG), ((3, 90, 90), SQUARE)])
def test_slices_are_resampled_on_the_device_as_on_the_machine(tiny_model, shape, matrix):
    device, host = both_ways(tiny_model, ct(shape, matrix=matrix))
    differing = np.count_nonzero(device.array != host.array)
    assert 0.1 < host.array.mean() < 0.9
    # Only where sums in another order cross the threshold.
    assert differing <= 1e-4 * host.array.size


def test_several_labels_and_neighbouring_slices_are_the_same_too(tmp_path):
    bundle = tiny_bundle(tmp_path / "m", onnx=False, **EVERYTHING)
    volume = ct((7, 32, 32), modality=Modality.MR, intensity=IntensityKind.ARBITRARY)
    for threshold in (0.5, 0.51):
        device, host = both_ways(bundle, volume, 3, threshold)
        assert len(np.unique(host.array)) == 4
        np.testing.assert_array_equal(device.array, host.array)


def test_voxels_that_are_no_numbers_are_background_there_too(tiny_model):
    volume = ct(dtype=np.float32)
    volume.array[2, 10:20, 10:20] = np.nan
    volume.array[3, 0, 0] = np.inf
    device, host = both_ways(tiny_model, volume)
    np.testing.assert_array_equal(device.array, host.array)


@pytest.mark.parametrize(
    "scale", [Scale.unit(-160.0, 240.1), Scale(-100.0, 250.0, 43.7, 61.3), Scale(-np.inf, np.inf, 0, 1)]
)
@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_intensities_are_scaled_to_the_same_bits(scale, dtype):
    voxels = np.random.default_rng(0).normal(0, 300, (2, 40, 40)).astype(dtype)
    if dtype is np.float32:
        voxels[0, 0, :3] = np.nan, np.inf, -np.inf
        if np.isinf(scale.low):
            voxels[0, 0, 1:3] = 0
    np.testing.assert_array_equal(scaled(torch.from_numpy(voxels), scale).numpy(), scale.apply(voxels))


@pytest.mark.parametrize(
    ("values", "exclusive", "threshold"),
    [((1,), False, 0.5), ((7,), False, 0.37), ((1, 2), False, 0.4), ((1, 2), True, None), ((1, 2), True, 0.3)],
)
def test_labels_are_chosen_by_the_same_rule(values, exclusive, threshold):
    # Multiples of 1/64 are summed exactly in any order, and many of them lie on the threshold.
    raw = np.random.default_rng(0).integers(0, 33, (3, len(values), 9, 11)).astype(np.float32) / 64
    raw[0, :, :3] = np.float32(threshold or 0.25)
    labelling = Labelling(values, exclusive, threshold)
    fit, dark = fit_in_plane((9, 11), (1, 1), (9, 11)), np.zeros((9, 11), np.float32)
    on_device = DeviceLabels(lambda images: torch.from_numpy(raw), Scale.unit(0, 1), fit, labelling, dark, "cpu")
    rows = on_device(torch.ones(3, 9, 11), None).numpy()
    assert rows.shape == (3, on_device.packing.size)
    for row, probabilities in zip(rows, raw, strict=True):
        found, expected = on_device.packing.read(row), labelling.of_slice(probabilities, fit)
        np.testing.assert_array_equal(found.labels, expected.labels)
        assert found.labels.dtype == np.uint8
        assert (found.voxels, found.finite) == (expected.voxels, True)
        assert found.total == pytest.approx(expected.total, rel=1e-12)


def test_a_single_label_comes_back_in_one_bit_a_voxel_and_several_in_a_byte():
    assert Packing((512, 512), (1,)).size == 512 * 512 // 8 + 24
    assert Packing((512, 512), (1, 2)).size == 512 * 512 + 24
    assert Packing((3, 3), (1,)).size == 2 + 24


def test_slices_go_up_as_they_are_stored_and_each_only_once(tiny_model, tmp_path):
    segmenter = OnDevice(tiny_model)
    segment_volume(ct((5, 32, 32)), tiny_model, segmenter, SegmentOptions(batch_size=2))
    assert segmenter.transfers.uploads == [(2, torch.int16), (2, torch.int16), (1, torch.int16)]
    bundle = tiny_bundle(tmp_path / "m", onnx=False, **EVERYTHING)
    segmenter = OnDevice(bundle)
    volume = ct((6, 32, 32), modality=Modality.MR, intensity=IntensityKind.ARBITRARY, dtype=np.uint16, seed=1)
    segment_volume(volume, bundle, segmenter, SegmentOptions(batch_size=4))
    voxels = [count for count, kind in segmenter.transfers.uploads if kind is torch.float32]
    assert voxels == [5, 3]


# ---- two batches at a time


def test_two_batches_are_under_way_and_every_slice_is_told_in_order_when_its_labels_are_there(tiny_model):
    segmenter, events = OnDevice(tiny_model), []
    volume = ct((6, 32, 32))
    expected = segment_volume(volume, tiny_model, load_segmenter(tiny_model, device="cpu", runtime="torch")).array
    out = np.zeros(volume.array.shape, np.uint8)

    def listen(event):
        if isinstance(event, SliceReady):
            np.testing.assert_array_equal(out[event.index], expected[event.index])
            events.append((event.index, len(segmenter.batches)))

    segment_volume(volume, tiny_model, segmenter, SegmentOptions(batch_size=2), listen, out=out)
    assert events == [(0, 2), (1, 2), (2, 3), (3, 3), (4, 3), (5, 3)]


def test_cancelling_begins_no_further_batch(tiny_model):
    segmenter, cancel = OnDevice(tiny_model), CancelToken()

    def listen(event):
        if isinstance(event, SliceReady):
            cancel.cancel()

    with pytest.raises(Cancelled):
        segment_volume(ct((9, 32, 32)), tiny_model, segmenter, SegmentOptions(batch_size=1), listen, cancel)
    assert len(segmenter.batches) == DeviceSlices.at_a_time


def test_short_memory_halves_the_batch_and_the_result_is_the_same(tiny_model):
    volume, events = ct((9, 32, 32)), []
    segmenter = OnDevice(tiny_model)
    segmenter.holds = 2
    found = segment_volume(volume, tiny_model, segmenter, SegmentOptions(batch_size=8), events.append)
    np.testing.assert_array_equal(found.array, both_ways(tiny_model, volume)[1].array)
    assert segmenter.batches == [8, 4, 2, 2, 2, 2, 1]
    assert segmenter.transfers.finished == 2
    assert len([e for e in events if isinstance(e, Notice) and "Memory is short" in e.message]) == 2


def test_memory_that_becomes_short_on_the_way_loses_no_slice(tiny_model):
    class Shrinking(OnDevice):
        def probabilities(self, images):
            self.holds = 4 if len(self.batches) < 2 else 1
            return super().probabilities(images)

    volume = ct((13, 32, 32))
    segmenter = Shrinking(tiny_model)
    found = segment_volume(volume, tiny_model, segmenter, SegmentOptions(batch_size=4))
    np.testing.assert_array_equal(found.array, both_ways(tiny_model, volume)[1].array)
    assert segmenter.batches == [4, 4, 4, 2, 1, 1, 1, 1, 1]


def test_a_device_that_holds_no_slice_gives_way_to_the_machine_for_the_rest(tiny_model):
    class Full(OnDevice):
        called_cuda = True

        def probabilities(self, images):
            self.holds = 2 if len(self.batches) < 2 else 0
            return super().probabilities(images)

    volume = ct((9, 32, 32))
    found = segment_volume(volume, tiny_model, Full(tiny_model), SegmentOptions(batch_size=2))
    np.testing.assert_array_equal(found.array, both_ways(tiny_model, volume)[1].array)
    assert found.provenance["device"] == "cpu"


@pytest.mark.parametrize("where", ["launch", "wait", "numbers"])
def test_failures_travel_from_wherever_they_happen_in_one_sentence(tiny_model, where):
    class Broken(OnDevice):
        def probabilities(self, images):
            found = super().probabilities(images)
            if len(self.batches) == 2:
                if where == "launch":
                    raise RuntimeError("CUDA error: invalid configuration argument")
                self.transfers.failing = where == "wait"
                found = found * torch.nan
            return found

    with pytest.raises(BundleError) as caught:
        segment_volume(ct((9, 32, 32)), tiny_model, Broken(tiny_model), SegmentOptions(batch_size=2))
    assert one_sentence(caught.value.message)


# ---- batches from free memory


@pytest.mark.parametrize(
    ("free", "each", "expected"), [(10**12, 10**6, 16), (10**7, 10**6, 5), (10**6, 10**7, 1), (0, 1, 1), (100, 0, 16)]
)
def test_a_batch_takes_half_of_the_free_memory_at_most(free, each, expected):
    class Memory:
        def free(self):
            return free

    assert images_that_fit(each, Memory(), 16) == expected


def test_one_slice_is_computed_once_to_see_how_many_fit(tiny_model):
    class Memory:
        available, asked = 1000, 0

        def free(self):
            return self.available

        def peak(self, work):
            self.asked += 1
            work()
            return 100

    segmenter = OnDevice(tiny_model)
    assert segmenter.images_that_fit(16) == 16  # a machine's memory is not asked
    segmenter._memory = memory = Memory()
    assert segmenter.images_that_fit(16) == 5
    memory.available = 500  # another program has come
    assert segmenter.images_that_fit(16) == 2
    assert (memory.asked, segmenter.batches) == (1, [1])
    full = OnDevice(tiny_model)
    full._memory, full.holds = Memory(), 0
    assert full.images_that_fit(16) == 1


def test_the_segmenter_says_how_many_slices_fit_and_the_user_has_the_last_word(tiny_model):
    class Roomy(Fake):
        device = "cuda"

        def images_that_fit(self, most):
            return min(5, most)

    def first_batch(segmenter, **options):
        segment_volume(ct((9, 32, 32)), tiny_model, segmenter, SegmentOptions(**options))
        return segmenter.batches[0]

    assert first_batch(Roomy(device="cuda")) == 5
    assert first_batch(Roomy(device="cuda"), batch_size=3) == 3
    assert default_batch(Fake(device="cuda")) == 16
    assert default_batch(load_segmenter(tiny_model, device="cpu", runtime="torch")) == 2


# ---- what only a GPU can show


@pytest.mark.gpu
@pytest.mark.parametrize(("shape", "matrix"), [((37, 32, 32), SQUARE), ((9, 30, 22), OBLONG)])
@pytest.mark.parametrize("batch_size", [None, 1, 3])
def test_a_gpu_labels_as_the_cpu_does(tiny_model, shape, matrix, batch_size):
    volume, options = ct(shape, matrix=matrix), SegmentOptions(batch_size=batch_size)
    segmenter = load_segmenter(tiny_model, device="cuda", runtime="torch")
    for _ in range(3):
        found = segment_volume(volume, tiny_model, segmenter, options).array
        expected = segment_volume(volume, tiny_model, load_segmenter(tiny_model, device="cpu", runtime="torch")).array
        assert np.count_nonzero(found != expected) <= 1e-3 * expected.size


@pytest.mark.gpu
def test_a_gpu_says_how_many_slices_fit(tiny_model):
    segmenter = load_segmenter(tiny_model, device="cuda", runtime="torch")
    assert segmenter.images_that_fit(16) == 16
    assert segmenter._bytes_each > 32 * 32 * 4
