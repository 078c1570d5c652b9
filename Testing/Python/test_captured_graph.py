"""Networks recorded as graphs: which batch is recorded, what goes into the buffers, and what happens if it fails."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from model_tools import ct, tiny_unet3d_bundle
from test_device_slices import OnDevice

from LiverMarginLib.inference.captured_graph import CapturedNetwork
from LiverMarginLib.inference.options import SegmentOptions
from LiverMarginLib.inference.segmenter import load_segmenter
from LiverMarginLib.inference.slicewise import segment_volume


class Replayer:
    """Stand-in for a GPU's graphs: a replay computes from the recorded buffer into the recorded output."""

    def __init__(self, error=None):
        self.error = error
        self.recorded, self.replays, self.finished = [], 0, 0

    def record(self, compute, images):
        if self.error is not None:
            raise self.error
        self.recorded.append(len(images))
        output = torch.full_like(compute(images), 99)  # recording computes nothing yet

        def replay():
            self.replays += 1
            output.copy_(compute(images))

        return replay, output

    def finish(self):
        self.finished += 1


class Network:
    """Negates; counts what it is called with."""

    def __init__(self):
        self.calls = []

    def __call__(self, images):
        self.calls.append(len(images))
        return -images


def images(count, seed=0, side=4):
    return torch.from_numpy(np.random.default_rng(seed).random((count, 1, side, side), dtype=np.float32))


def test_a_batch_size_that_comes_twice_is_recorded_and_then_replayed():
    network, recorder = Network(), Replayer()
    captured = CapturedNetwork(network, recorder)
    for seed in range(4):
        assert torch.equal(captured(images(4, seed)), -images(4, seed))
        assert recorder.recorded == ([] if seed == 0 else [4])
    assert recorder.replays == 3


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_an_odd_last_batch_is_replayed_if_it_fills_more_than_half_of_the_buffer(count):
    network, recorder = Network(), Replayer()
    captured = CapturedNetwork(network, recorder)
    for seed in range(2):
        captured(images(4, seed))
    network.calls.clear()
    assert torch.equal(captured(images(count, 9)), -images(count, 9))
    assert network.calls == [4 if count > 2 else count]
    assert recorder.recorded == [4]


def test_another_batch_size_that_comes_twice_takes_the_place_of_the_first():
    network, recorder = Network(), Replayer()
    captured = CapturedNetwork(network, recorder)
    for count in (4, 4, 8, 8, 8, 6, 2, 2):
        assert torch.equal(captured(images(count, count)), -images(count, count))
    assert recorder.recorded == [4, 8, 2]
    assert recorder.finished == 2  # nothing is thrown away while it is replayed


def test_images_of_another_size_are_not_put_into_the_buffer():
    captured = CapturedNetwork(Network(), Replayer())
    for _ in range(2):
        captured(images(4))
    assert torch.equal(captured(images(4, side=6)), -images(4, side=6))


def test_a_network_that_cannot_be_recorded_is_called_every_time_and_asked_once():
    recorder = Replayer(RuntimeError("CUDA error: operation not permitted when stream is capturing"))
    network = Network()
    captured = CapturedNetwork(network, recorder)
    for seed in range(4):
        assert torch.equal(captured(images(4, seed)), -images(4, seed))
        recorder.error = recorder.error if seed < 1 else AssertionError("asked again")
    assert network.calls == [4, 4, 4, 4]
    assert recorder.recorded == []


def test_a_recording_that_is_forgotten_is_made_again_when_its_size_comes_twice():
    recorder = Replayer()
    captured = CapturedNetwork(Network(), recorder)
    for _ in range(3):
        captured(images(4))
    captured.forget()
    assert recorder.finished == 1
    captured(images(4))
    assert recorder.recorded == [4]
    captured(images(4))
    assert recorder.recorded == [4, 4]


def test_what_comes_back_is_used_before_the_next_replay(tiny_model):
    volume = ct((11, 32, 32))
    options = SegmentOptions(batch_size=3)
    expected = segment_volume(volume, tiny_model, load_segmenter(tiny_model, device="cpu", runtime="torch"), options)
    segmenter, recorder = OnDevice(tiny_model), Replayer()
    segmenter._captured = CapturedNetwork(segmenter._compute, recorder)
    found = segment_volume(volume, tiny_model, segmenter, options)
    np.testing.assert_array_equal(found.array, expected.array)
    assert recorder.recorded == [3]
    assert recorder.replays == 3


def test_dropout_is_drawn_anew_and_not_replayed(tmp_path):
    bundle = tiny_unet3d_bundle(tmp_path / "m")
    segmenter, recorder = load_segmenter(bundle, device="cpu", runtime="torch"), Replayer()
    segmenter._captured = CapturedNetwork(segmenter._compute, recorder)
    blocks = np.random.default_rng(0).random((1, 1, 16, 16, 16), dtype=np.float32)
    plain = [segmenter.predict(blocks) for _ in range(2)]
    np.testing.assert_array_equal(*plain)
    assert recorder.recorded == [1]
    with segmenter.dropout(0):
        drawn = [segmenter.predict(blocks) for _ in range(2)]
    assert recorder.replays == 1
    assert not np.array_equal(*drawn)
    np.testing.assert_array_equal(segmenter.predict(blocks), plain[0])


def test_short_memory_gives_the_recordings_memory_back(tiny_model):
    segmenter, recorder = OnDevice(tiny_model), Replayer()
    segmenter._captured = CapturedNetwork(segmenter._compute, recorder)
    batch = np.random.default_rng(0).random((4, 1, 32, 32), dtype=np.float32)
    for _ in range(2):
        segmenter.predict(batch)
    segmenter.holds = 2
    with pytest.raises(MemoryError):
        segmenter.predict(batch)
    assert recorder.finished == 1
    assert segmenter._captured._recording is None


@pytest.mark.gpu
def test_a_gpu_records_the_network_and_replays_what_it_computes_unrecorded(tiny_model):
    segmenter = load_segmenter(tiny_model, device="cuda", runtime="torch")
    rng = np.random.default_rng(0)
    batches = [rng.random((count, 1, 32, 32), dtype=np.float32) for count in (4, 4, 4, 3, 1)]
    found = [segmenter.predict(batch) for batch in batches]
    assert segmenter._captured._recording is not None
    segmenter._captured = None
    for batch, one in zip(batches, found, strict=True):
        np.testing.assert_allclose(one, segmenter.predict(batch), atol=1e-6)
