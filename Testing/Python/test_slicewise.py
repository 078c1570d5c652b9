"""Slice-wise inference: every orientation, every kind of input, short memory, cancelling, events, provenance."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_tools import AXIS_ORDERS_AND_FLIPS, OBLONG, SQUARE, Fake, bare, ct, reoriented
from onnxruntime.capi.onnxruntime_pybind11_state import RuntimeException
from scipy import ndimage
from scipy.spatial.transform import Rotation

from LiverMarginLib.errors import BundleError, Cancelled, ResourceError
from LiverMarginLib.events import CancelToken, Notice, Progress, SliceReady
from LiverMarginLib.inference.options import SegmentOptions
from LiverMarginLib.inference.segmenter import load_segmenter
from LiverMarginLib.inference.slicewise import segment_volume
from LiverMarginLib.inference.stages import POSTPROCESSING, SEGMENTING
from LiverMarginLib.models.manifest import FillHoles, Postprocessing, Window
from LiverMarginLib.models.row_spans import RowSpans
from LiverMarginLib.terminology import LIVER, LIVER_MASS
from LiverMarginLib.volume import Geometry, IntensityKind, Modality, Volume


@pytest.fixture(scope="module")
def bundle(tiny_model):
    return tiny_model


@pytest.fixture(scope="module")
def segmenter(tiny_model):
    return load_segmenter(tiny_model, device="cpu", runtime="onnx", threads=1)


# ---- orientation


@pytest.mark.parametrize(
    ("shape", "matrix"), [((5, 32, 32), SQUARE), ((5, 30, 22), OBLONG)], ids=["native", "resampled"]
)
@pytest.mark.parametrize(("order", "signs"), AXIS_ORDERS_AND_FLIPS)
def test_the_mask_in_patient_space_is_the_same_for_all_48_axis_orders(bundle, segmenter, shape, matrix, order, signs):
    volume = ct(shape, matrix=matrix)
    expected = segment_volume(volume, bundle, segmenter).array
    assert 0.1 < expected.mean() < 0.9
    other, (back, steps) = reoriented(volume, order, signs, Rotation.identity())
    mask = segment_volume(other, bundle, segmenter)
    assert mask.array.shape == other.array.shape
    assert mask.geometry is other.geometry
    np.testing.assert_array_equal(np.transpose(mask.array[steps], back), expected)


@given(
    order_and_signs=st.sampled_from(AXIS_ORDERS_AND_FLIPS),
    angles=st.tuples(*[st.floats(-20, 20)] * 3),
    shape=st.sampled_from([(3, 32, 32), (4, 30, 22), (2, 17, 41)]),
    seed=st.integers(0, 100),
)
@settings(max_examples=60, deadline=None)
def test_the_mask_in_patient_space_is_the_same_for_oblique_images(
    bundle, segmenter, order_and_signs, angles, shape, seed
):
    volume = ct(shape, seed, OBLONG)
    options = SegmentOptions(largest_component=True, fill_holes=FillHoles.VOLUME)
    expected = segment_volume(volume, bundle, segmenter, options).array
    rotation = Rotation.from_euler("xyz", angles, degrees=True)
    other, (back, steps) = reoriented(volume, *order_and_signs, rotation)
    mask = segment_volume(other, bundle, segmenter, options).array
    np.testing.assert_array_equal(np.transpose(mask[steps], back), expected)


# ---- what comes out


@pytest.mark.parametrize("runtime", ["onnx", "torch"])
def test_each_slice_is_windowed_predicted_and_thresholded(bundle, runtime):
    volume = ct()
    mask = segment_volume(volume, bundle, load_segmenter(bundle, device="cpu", runtime=runtime))
    unit = np.clip((volume.array + 160.0) / 400.0, 0, 1).astype(np.float32)
    with torch.no_grad():
        logits = bundle.torch_module()(torch.from_numpy(unit[:, None]))[:, 0].numpy()
    clear = np.abs(logits) > 1e-4
    body = np.stack([RowSpans.of(plane > 0).mask() for plane in unit])
    np.testing.assert_array_equal((mask.array == 1)[clear], ((logits >= 0) & body)[clear])
    assert mask.array.dtype == np.uint8


def test_the_result_says_what_its_labels_mean_and_how_it_came_to_be(bundle, segmenter):
    result = segment_volume(ct(), bundle, segmenter, SegmentOptions(threshold=0.4, fill_holes=FillHoles.SLICE))
    assert result.segments == (LIVER,)
    record = json.loads(json.dumps(result.provenance))
    assert record["model"]["name"] == "tiny"
    assert record["model"]["sha256"] == dict(bundle.manifest.weights)
    assert record["options"]["threshold"] == 0.4
    assert record["options"]["fill_holes"] == "slice"
    assert record["options"]["window"] == [-160, 240]
    assert record["runtime"].startswith("onnxruntime")
    assert record["device"] == "cpu"
    assert {"LiverMargin", "numpy", "scipy"} <= set(record["software"])
    assert str(bundle.folder) not in json.dumps(record)


def test_the_batch_size_does_not_change_the_result(bundle, segmenter):
    results = [segment_volume(ct(), bundle, segmenter, SegmentOptions(batch_size=n)).array for n in (1, 4, 99)]
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


def test_the_input_is_not_changed(bundle, segmenter):
    volume = ct()
    before = volume.array.copy()
    volume.array.setflags(write=False)
    segment_volume(volume, bundle, segmenter)
    np.testing.assert_array_equal(volume.array, before)


def test_a_later_label_wins_where_both_are_likely(bundle):
    class Nested(Fake):
        classes = 2

        def predict(self, batch):
            return np.concatenate((batch, (batch > 0.9).astype(np.float32)), axis=1)

    volume = ct()
    result = segment_volume(volume, bare(bundle, labels=(LIVER, LIVER_MASS)), Nested())
    unit = (volume.array + 160.0) / 400
    np.testing.assert_array_equal(result.array, np.where(unit > 0.9, 2, np.where(unit >= 0.5, 1, 0)))
    assert result.segments == (LIVER, LIVER_MASS)


def test_neighbouring_slices_are_given_as_channels_and_repeated_at_the_ends(bundle):
    seen = []

    class Recorder(Fake):
        def predict(self, batch):
            seen.append(batch)
            return batch[:, 1:2]

    volume = Volume(
        np.arange(4, dtype=np.int16)[:, None, None] * 100 + np.zeros((4, 32, 32), np.int16),
        Geometry((4, 32, 32), np.diag([-1.0, -1, 1, 1])),
        Modality.CT,
        IntensityKind.HU,
    )
    segment_volume(volume, bare(bundle, context_slices=1, window=Window(0.0, 400.0)), Recorder())
    channels = np.concatenate(seen)[:, :, 0, 0] * 4
    np.testing.assert_allclose(channels, [[0, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 3]], atol=1e-6)


def test_only_the_slices_asked_for_are_segmented_counted_from_the_inferior_end(bundle, segmenter):
    volume = ct()
    whole = segment_volume(volume, bundle, segmenter).array
    upside_down, _ = reoriented(volume, (0, 1, 2), (-1, 1, 1), Rotation.identity())
    part = segment_volume(upside_down, bundle, segmenter, SegmentOptions(slice_range=(1, 3))).array[::-1]
    np.testing.assert_array_equal(part[1:3], whole[1:3])
    assert not part[0].any()
    assert not part[3:].any()


def test_the_models_postprocessing_is_the_default_and_the_users_choice_wins(bundle):
    volume = ct(seed=3)
    model = bare(bundle, postprocessing=Postprocessing(largest_component=True))
    pieces = {}
    for choice in (None, True, False):
        mask = segment_volume(volume, model, Fake(), SegmentOptions(largest_component=choice)).array
        pieces[choice] = ndimage.label(mask)[1]
    assert pieces[None] == pieces[True] == 1 < pieces[False]


def test_probabilities_are_resampled_before_they_are_thresholded(bundle):
    class Edge(Fake):
        def predict(self, batch):
            ramp = np.linspace(0, 1, 32, dtype=np.float32)
            return np.broadcast_to(ramp, (len(batch), 1, 32, 32)).copy()

    volume = ct((2, 128, 128), matrix=np.diag([-1.0, -1, 1, 1]))
    columns = segment_volume(volume, bundle, Edge(), SegmentOptions(threshold=0.37)).array.any(axis=(0, 1))
    # The ramp's 0.37 lies at network pixel 0.37 * 31, four of ours each, half-pixel centres.
    assert np.argmax(columns) == np.ceil((0.37 * 31 + 0.5) * 4 - 0.5)


# ---- events and cancelling


def test_every_slice_is_told_when_its_labels_are_there(bundle):
    volume = ct()
    expected = segment_volume(volume, bundle, Fake()).array
    out = np.zeros(volume.array.shape, np.uint8)
    events = []

    def listen(event):
        events.append(event)
        if isinstance(event, SliceReady):
            np.testing.assert_array_equal(out[event.index], expected[event.index])

    result = segment_volume(volume, bundle, Fake(), SegmentOptions(batch_size=4), listen, out=out)
    assert result.array is out
    assert [e.index for e in events if isinstance(e, SliceReady)] == list(range(6))
    assert [e.done for e in events if isinstance(e, Progress) and e.stage == SEGMENTING] == list(range(1, 7))
    assert {e.total for e in events if isinstance(e, Progress) and e.stage == SEGMENTING} == {6}
    assert [e.done for e in events if isinstance(e, Progress) and e.stage == POSTPROCESSING] == [0, 1]


@pytest.mark.parametrize("stop_after", [0, 1, 3])
def test_cancelling_ends_the_run_before_the_next_batch(bundle, stop_after):
    cancel, fake = CancelToken(), Fake()
    if stop_after == 0:
        cancel.cancel()

    def listen(event):
        if isinstance(event, SliceReady) and event.index + 1 == stop_after:
            cancel.cancel()

    with pytest.raises(Cancelled):
        segment_volume(ct(), bundle, fake, SegmentOptions(batch_size=1), listen, cancel)
    assert len(fake.batches) == stop_after


# ---- short memory

OUT_OF_MEMORY = {
    "python": MemoryError,
    "torch": torch.OutOfMemoryError,
    "torch cpu": lambda _: RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
    "cudnn": lambda _: RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    "mps": lambda _: RuntimeError("MPS backend out of memory (MPS allocated: 8.90 GB)"),
    "onnxruntime": lambda _: RuntimeException("Failed to allocate memory for requested buffer of size 67108864"),
    "c++": lambda _: RuntimeError("std::bad_alloc"),
}


@pytest.mark.parametrize("error", OUT_OF_MEMORY.values(), ids=OUT_OF_MEMORY)
def test_the_batch_is_halved_until_it_fits_and_the_user_is_told(bundle, error):
    volume, events = ct((9, 32, 32)), []
    fake = Fake(holds=2, error=error)
    result = segment_volume(volume, bundle, fake, SegmentOptions(batch_size=8), events.append)
    np.testing.assert_array_equal(result.array, segment_volume(volume, bundle, Fake()).array)
    assert fake.batches == [8, 4, 2, 2, 2, 2, 1]
    notices = [event.message for event in events if isinstance(event, Notice)]
    assert [n for n in notices if "Memory is short" in n] == notices
    assert len(notices) == 2
    assert result.provenance["notices"] == notices


def test_a_device_that_cannot_hold_one_slice_is_given_up_for_the_cpu_and_the_user_is_told(bundle):
    volume, events, calls = ct(), [], []

    def fallback():
        calls.append("cpu")
        return Fake()

    gpu = Fake(holds=0, device="cuda")
    options = SegmentOptions(batch_size=2)
    result = segment_volume(volume, bundle, gpu, options, events.append, fallback=fallback)
    np.testing.assert_array_equal(result.array, segment_volume(volume, bundle, Fake()).array)
    assert calls == ["cpu"]
    assert "CPU" in [event.message for event in events if isinstance(event, Notice)][-1]
    assert result.provenance["device"] == "cpu"


def test_the_bundles_own_network_takes_over_on_the_cpu(bundle, segmenter):
    volume = ct()
    result = segment_volume(volume, bundle, Fake(holds=0, device="cuda"))
    np.testing.assert_array_equal(result.array, segment_volume(volume, bundle, segmenter).array)


def test_a_cpu_that_cannot_hold_one_slice_is_said_in_one_sentence(bundle):
    with pytest.raises(ResourceError) as caught:
        segment_volume(ct(), bundle, Fake(holds=0))
    assert caught.value.message.count(".") == 1
    assert caught.value.exit_code == 4


def test_other_failures_of_a_runtime_are_not_taken_for_short_memory(bundle):
    class Broken(Fake):
        def predict(self, batch):
            self.batches.append(len(batch))
            raise BundleError("The model failed.")

    broken = Broken()
    with pytest.raises(BundleError, match="The model failed"):
        segment_volume(ct(), bundle, broken)
    assert len(broken.batches) == 1
