"""Slice-wise inference: every orientation, every kind of input, short memory, cancelling, events, provenance."""

from __future__ import annotations

import dataclasses
import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_tools import tiny_bundle, tiny_manifest, tiny_unet
from onnxruntime.capi.onnxruntime_pybind11_state import RuntimeException
from scipy import ndimage
from scipy.spatial.transform import Rotation

from LiverMarginLib.errors import BundleError, Cancelled, InputError, ResourceError
from LiverMarginLib.events import CancelToken, Notice, Progress, SliceReady
from LiverMarginLib.inference.segmenter import load_segmenter
from LiverMarginLib.inference.slicewise import POSTPROCESSING, SEGMENTING, SlicewiseOptions, segment_volume
from LiverMarginLib.models.bundle import Bundle, save_bundle
from LiverMarginLib.models.manifest import FillHoles, Postprocessing, Window, WindowUnit
from LiverMarginLib.terminology import LIVER, LIVER_MASS
from LiverMarginLib.volume import Geometry, IntensityKind, Modality, Volume

REPOSITORY = Path(__file__).resolve().parents[2]
AXIS_ORDERS_AND_FLIPS = list(itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)))
# (k, j, i) array with superior, posterior, left axes: what the network sees without any reordering.
SQUARE = np.diag([-0.8, -0.8, 2.5, 1.0])
OBLONG = np.diag([-0.8, -0.9, 2.5, 1.0])


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def segmenter(bundle):
    return load_segmenter(bundle, device="cpu", threads=1)


def ct(shape=(6, 32, 32), seed=0, matrix=SQUARE, dtype=np.int16, **changes) -> Volume:
    """Smooth noise in HU between air and bone."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), (0.5, 2, 2))
    array = (40 + 900 * noise / np.abs(noise).max()).astype(dtype)
    return Volume(
        array, Geometry(shape, matrix), **({"modality": Modality.CT, "intensity": IntensityKind.HU} | changes)
    )


def bare(bundle: Bundle, **changes) -> Bundle:
    """The same bundle with another manifest, for segmenters that need no weights."""
    return dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, **changes))


class Fake:
    """A segmenter whose probability is the image itself, and which can run out of memory."""

    runtime, classes = "fake 1.0", 1

    def __init__(self, holds=10**6, error=MemoryError, device="cpu", input_size=(32, 32)):
        self.holds, self.error, self.device, self.input_size = holds, error, device, input_size
        self.batches = []

    def predict(self, batch):
        self.batches.append(len(batch))
        assert batch.dtype == np.float32
        assert batch.flags.c_contiguous
        if len(batch) > self.holds:
            raise self.error("CUDA out of memory. Tried to allocate 20.00 MiB")
        return batch[:, :1]


# ---- orientation


def reoriented(volume: Volume, order, signs, rotation: Rotation) -> tuple[Volume, tuple]:
    """Store the same patient with other array axes (the new axis n is the old order[n]) and turn the patient."""
    steps = tuple(slice(None, None, sign) for sign in signs)
    array = np.ascontiguousarray(np.transpose(volume.array, order)[steps])
    to_old = np.zeros((4, 4))  # new (i, j, k, 1) to old (i, j, k, 1)
    to_old[3, 3] = 1
    for new, (old, sign) in enumerate(zip(order, signs, strict=True)):
        to_old[2 - old, 2 - new] = sign
        to_old[2 - old, 3] = 0 if sign > 0 else volume.array.shape[old] - 1
    turn = np.eye(4)
    turn[:3, :3] = rotation.as_matrix()
    geometry = Geometry(array.shape, turn @ volume.geometry.ijk_to_ras @ to_old)
    return dataclasses.replace(volume, array=array, geometry=geometry), (np.argsort(order), steps)


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
    options = SlicewiseOptions(largest_component=True, fill_holes=FillHoles.VOLUME)
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
    np.testing.assert_array_equal((mask.array == 1)[clear], (logits >= 0)[clear])
    assert mask.array.dtype == np.uint8


def test_the_result_says_what_its_labels_mean_and_how_it_came_to_be(bundle, segmenter):
    result = segment_volume(ct(), bundle, segmenter, SlicewiseOptions(threshold=0.4, fill_holes=FillHoles.SLICE))
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
    results = [segment_volume(ct(), bundle, segmenter, SlicewiseOptions(batch_size=n)).array for n in (1, 4, 99)]
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
    part = segment_volume(upside_down, bundle, segmenter, SlicewiseOptions(slice_range=(1, 3))).array[::-1]
    np.testing.assert_array_equal(part[1:3], whole[1:3])
    assert not part[0].any()
    assert not part[3:].any()


def test_the_models_postprocessing_is_the_default_and_the_users_choice_wins(bundle):
    volume = ct(seed=3)
    model = bare(bundle, postprocessing=Postprocessing(largest_component=True))
    pieces = {}
    for choice in (None, True, False):
        mask = segment_volume(volume, model, Fake(), SlicewiseOptions(largest_component=choice)).array
        pieces[choice] = ndimage.label(mask)[1]
    assert pieces[None] == pieces[True] == 1 < pieces[False]


def test_probabilities_are_resampled_before_they_are_thresholded(bundle):
    class Edge(Fake):
        def predict(self, batch):
            ramp = np.linspace(0, 1, 32, dtype=np.float32)
            return np.broadcast_to(ramp, (len(batch), 1, 32, 32)).copy()

    volume = ct((2, 128, 128), matrix=np.diag([-1.0, -1, 1, 1]))
    columns = segment_volume(volume, bundle, Edge(), SlicewiseOptions(threshold=0.37)).array.any(axis=(0, 1))
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

    result = segment_volume(volume, bundle, Fake(), SlicewiseOptions(batch_size=4), listen, out=out)
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
        segment_volume(ct(), bundle, fake, SlicewiseOptions(batch_size=1), listen, cancel)
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
    result = segment_volume(volume, bundle, fake, SlicewiseOptions(batch_size=8), events.append)
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
    options = SlicewiseOptions(batch_size=2)
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


# ---- what goes in


def refused(volume, bundle, options=None) -> str:
    with pytest.raises(InputError) as caught:
        segment_volume(volume, bundle, Fake(), options)
    message = caught.value.message
    assert message.endswith(".")
    assert "\n" not in message
    assert caught.value.exit_code == 2
    return message


def constant(value, dtype=np.int16, **kind) -> Volume:
    return Volume(np.full((3, 8, 8), value, dtype), Geometry((3, 8, 8), SQUARE), **kind)


HU = {"modality": Modality.CT, "intensity": IntensityKind.HU}


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_an_image_of_air_or_of_one_value_is_refused(bundle, dtype):
    assert "same value" in refused(constant(-1000, dtype, **HU), bundle)
    air = constant(-1000, dtype, **HU)
    air.array[1] += np.arange(64, dtype=dtype).reshape(8, 8)
    assert "air" in refused(air, bundle)
    assert "same value" in refused(constant(np.nan, np.float32, **HU), bundle)


def test_an_eight_bit_or_mr_image_is_refused_by_a_ct_model_unless_allowed(bundle):
    eight = Volume(
        np.random.default_rng(0).integers(0, 255, (3, 32, 32), np.uint8),
        Geometry((3, 32, 32), np.diag([-1.0, -1, 1, 1])),
        Modality.CT,
        IntensityKind.EIGHT_BIT,
    )
    mr = dataclasses.replace(eight, array=eight.array * 1000.0, modality=Modality.MR, intensity=IntensityKind.ARBITRARY)
    for volume, low, high in ((eight, 0, 255), (mr, *np.percentile(mr.array, (2, 98)))):
        assert "allow the mismatch" in refused(volume, bundle)
        events = []
        result = segment_volume(volume, bundle, Fake(), SlicewiseOptions(allow_mismatch=True), events.append)
        assert any(isinstance(event, Notice) and "may be wrong" in event.message for event in events)
        assert result.provenance["options"]["window"] == pytest.approx([low, high])
        np.testing.assert_array_equal(result.array > 0, volume.array >= (low + high) / 2)


def test_hounsfield_units_are_refused_by_an_eight_bit_and_by_an_mr_model(bundle):
    for kind, window in (
        (IntensityKind.EIGHT_BIT, Window(0, 255)),
        (IntensityKind.ARBITRARY, Window(2, 98, WindowUnit.PERCENTILE)),
    ):
        model = bare(bundle, modality=Modality.UNKNOWN, input_kind=kind, window=window)
        assert "Hounsfield" in refused(ct(), model)
        assert "Hounsfield" in refused(ct(modality=Modality.UNKNOWN, intensity=IntensityKind.ARBITRARY), model)


def test_an_unmarked_image_with_the_range_of_a_ct_is_taken_for_one_and_the_user_is_told(bundle):
    unmarked = ct(modality=Modality.UNKNOWN, intensity=IntensityKind.ARBITRARY)
    events = []
    result = segment_volume(unmarked, bundle, Fake(), on_event=events.append)
    assert any(isinstance(event, Notice) and "Hounsfield" in event.message for event in events)
    np.testing.assert_array_equal(result.array, segment_volume(ct(), bundle, Fake()).array)
    positive = dataclasses.replace(unmarked, array=unmarked.array + np.int16(2000))
    assert "arbitrary units" in refused(positive, bundle)


def test_a_window_in_percentiles_is_that_of_the_whole_image_in_every_axis_order(bundle):
    model = bare(
        bundle,
        modality=Modality.MR,
        input_kind=IntensityKind.ARBITRARY,
        window=Window(10, 60, WindowUnit.PERCENTILE),
    )
    mr = ct((4, 32, 32), modality=Modality.MR, intensity=IntensityKind.ARBITRARY, dtype=np.float32)
    mr.array[0, 0, 0] = np.nan
    for order, signs in AXIS_ORDERS_AND_FLIPS[::7]:
        other, _ = reoriented(mr, order, signs, Rotation.identity())
        window = segment_volume(other, model, Fake()).provenance["options"]["window"]
        assert window == pytest.approx(list(np.nanpercentile(mr.array, (10, 60))))


def test_voxels_that_are_not_numbers_are_background_and_the_user_is_told(bundle):
    volume = ct(dtype=np.float32)
    expected = segment_volume(volume, bundle, Fake()).array.copy()
    volume.array[2, 3:6, 4:9] = np.nan
    volume.array[3, 1, 1] = np.inf
    expected[2, 3:6, 4:9] = 0
    expected[3, 1, 1] = 1
    events = []
    result = segment_volume(volume, bundle, Fake(), on_event=events.append)
    assert any(isinstance(event, Notice) and event.message.startswith("16 voxels") for event in events)
    np.testing.assert_array_equal(result.array, expected)


def test_a_network_that_gives_no_numbers_is_reported_and_not_taken_for_an_empty_liver(bundle):
    class Broken(Fake):
        def predict(self, batch):
            return np.full_like(batch, np.nan)

    with pytest.raises(BundleError, match="not numbers"):
        segment_volume(ct(), bundle, Broken())


def test_no_liver_is_an_empty_result_with_a_notice(bundle):
    class Nothing(Fake):
        def predict(self, batch):
            return np.zeros_like(batch)

    events = []
    result = segment_volume(ct(), bundle, Nothing(), on_event=events.append)
    assert not result.array.any()
    assert result.segments == (LIVER,)
    assert "No liver was found in this image." in [e.message for e in events if isinstance(e, Notice)]


def test_pixels_of_unknown_size_are_taken_for_square_and_no_millilitres_are_counted(bundle):
    volume = ct((3, 32, 32), matrix=np.diag([-1.0, -2.0, 1, 1]), spacing_known=False)
    square = ct((3, 32, 32), matrix=np.diag([-1.0, -1.0, 1, 1]))
    events = []
    result = segment_volume(volume, bundle, Fake(), SlicewiseOptions(min_volume_ml=1e6), events.append)
    np.testing.assert_array_equal(result.array, segment_volume(square, bundle, Fake()).array)
    assert any(isinstance(event, Notice) and "spacing is not known" in event.message for event in events)


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 0},
        {"threshold": 0},
        {"threshold": 1},
        {"threshold": float("nan")},
        {"min_volume_ml": -1},
        {"slice_range": (3, 3)},
        {"slice_range": (-1, 3)},
        {"slice_range": (0, 7)},
    ],
    ids=str,
)
def test_options_out_of_their_range_are_refused(bundle, options):
    with pytest.raises(InputError):
        segment_volume(ct(), bundle, Fake(), SlicewiseOptions(**options))


# ---- memory

MEASURE = """
import resource, sys, time
import numpy as np
from LiverMarginLib.inference.segmenter import load_segmenter
from LiverMarginLib.inference.slicewise import SlicewiseOptions, segment_volume
from LiverMarginLib.models.bundle import Bundle
from LiverMarginLib.models.manifest import FillHoles
from LiverMarginLib.volume import Geometry, IntensityKind, Modality, Volume

folder, runtime, slices = sys.argv[1], sys.argv[2], int(sys.argv[3])
rng = np.random.default_rng(0)
plane = rng.normal(0, 300, (512, 512)).astype(np.float32)
array = np.empty((slices, 512, 512), np.float32)
for k in range(slices):
    array[k] = np.roll(plane, k)
volume = Volume(array, Geometry(array.shape, np.diag([-0.7, -0.7, 1.0, 1.0])), Modality.CT, IntensityKind.HU)
bundle = Bundle.load(folder)
segmenter = load_segmenter(bundle, device="cpu", runtime=runtime)
start = time.perf_counter()
options = SlicewiseOptions(largest_component=True, fill_holes=FillHoles.VOLUME)
result = segment_volume(volume, bundle, segmenter, options)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, array.nbytes, time.perf_counter() - start)
"""


def peak_memory(folder: Path, runtime: str, slices: int) -> tuple[int, int]:
    """Peak resident bytes of a process that segments, and the bytes of its volume as float32."""
    command = [sys.executable, "-c", MEASURE, str(folder), runtime, str(slices)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert done.returncode == 0, done.stderr
    peak, volume, _ = done.stdout.split()
    return int(peak), int(volume)


@pytest.fixture(scope="module")
def table_4_bundle(tmp_path_factory) -> Bundle:
    widths = [16, 32, 64, 128, 256]
    parameters = {"in_channels": 1, "classes": 1, "widths": widths, "dropout": 0.1}
    manifest = tiny_manifest(parameters=parameters, input_size=(512, 512))
    return save_bundle(tmp_path_factory.mktemp("models") / "m", manifest, module=tiny_unet(widths=widths), half=True)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes on Linux alone")
@pytest.mark.parametrize("runtime", ["onnx", "torch"])
def test_segmenting_600_slices_needs_the_volume_and_one_and_a_half_gigabytes(table_4_bundle, runtime):
    peak, volume = peak_memory(table_4_bundle.folder, runtime, 600)
    assert peak < volume + 1.5e9
