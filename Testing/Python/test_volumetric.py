"""Volumetric inference: grids, the sliding window, several labels, dropout, bad input, and how it is reached."""

from __future__ import annotations

import dataclasses
import itertools
import json

import numpy as np
import pytest
import torch
from model_tools import AXIS_ORDERS_AND_FLIPS, bare, ct, reoriented, tiny_bundle, tiny_unet3d_bundle
from scipy.spatial.transform import Rotation

from LiverMarginLib.errors import BundleError, Cancelled, GeometryError, InputError, ResourceError
from LiverMarginLib.events import CancelToken, Notice, Progress, SliceReady
from LiverMarginLib.inference.check import check_bundle
from LiverMarginLib.inference.labelling import Labelling
from LiverMarginLib.inference.model import load_model
from LiverMarginLib.inference.options import SegmentOptions, Uncertainty
from LiverMarginLib.inference.segmenter import load_segmenter
from LiverMarginLib.inference.sliding import SlidingWindow, window_starts, window_weights
from LiverMarginLib.inference.volumetric import segment_blocks, spread
from LiverMarginLib.models.manifest import FillHoles, Postprocessing
from LiverMarginLib.models.volumetric_fields import Localiser, Normalisation, NormalisationKind, SpacingUnit
from LiverMarginLib.network_grid import fit_grid
from LiverMarginLib.terminology import LIVER, LIVER_MASS
from LiverMarginLib.volume import Geometry, IntensityKind, Modality, Volume

AT_4_MM = np.diag([-4.0, -4.0, 4.0, 1.0])
OBLONG = np.diag([-3.0, -2.5, 6.0, 1.0])


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return tiny_unet3d_bundle(tmp_path_factory.mktemp("models") / "tiny3d", onnx=True)


@pytest.fixture(scope="module")
def segmenter(bundle):
    return load_segmenter(bundle, device="cpu", threads=1)


class Blocks:
    """A volumetric segmenter whose two probabilities are made of the image itself."""

    runtime, device, classes = "fake 1.0", "cpu", 2

    def __init__(self, holds=10**6, input_size=(16, 16, 16)):
        self.holds, self.input_size, self.batches = holds, input_size, []

    def predict(self, batch):
        self.batches.append(len(batch))
        assert batch.dtype == np.float32 and batch.shape[1:] == (1, *self.input_size)
        if len(batch) > self.holds:
            raise MemoryError("CUDA out of memory")
        return np.concatenate((batch * 0.5, batch * 0.4), axis=1)


# ---- grids


def test_equal_spacing_leaves_the_image_as_it_is():
    image = np.random.default_rng(0).random((5, 6, 7), dtype=np.float32)
    grid = fit_grid(image.shape, (2.0, 1.0, 1.0), (2.0, 1.0000001, 1.0))
    assert grid.shape == image.shape
    np.testing.assert_array_equal(grid.to_network(image), image)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (7.0, 0.7, 0.7), (0.5, 3.0, 2.0)])
def test_a_linear_image_stays_linear_at_another_spacing_and_on_the_way_back(spacing):
    # Sampled triangles of a fractional width are off by a few hundredths of a voxel; the slopes are 1, 2 and 3 a mm.
    shape = (30, 40, 36)
    grid = fit_grid(shape, spacing, (2.0, 2.0, 2.0))
    extents = np.array(grid.shape) * 2.0 - np.array(shape) * spacing
    assert (extents > -1e-6).all() and (extents < 2.0).all()
    axes = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, spacing, strict=True)]
    image = (axes[0][:, None, None] + 2 * axes[1][:, None] - 3 * axes[2]).astype(np.float32)
    seen = grid.to_network(image)
    there = [(np.arange(n) - (n - 1) / 2) * 2.0 for n in grid.shape]
    inner = (slice(4, -4),) * 3 if min(grid.shape) > 9 else (slice(2, -2),) * 3
    np.testing.assert_allclose(
        seen[inner], (there[0][:, None, None] + 2 * there[1][:, None] - 3 * there[2])[inner], atol=0.5
    )
    back = np.stack([grid.plane_from_network(grid.combine(k, seen[slice(*grid.support(k))])) for k in range(shape[0])])
    inner = tuple(slice(int(6 / s) + 2, -int(6 / s) - 2) for s in spacing)
    np.testing.assert_allclose(back[inner], image[inner], atol=0.5)


def test_a_spacing_in_voxels_averages_blocks_as_skimage_does():
    from skimage.transform import downscale_local_mean

    image = np.random.default_rng(0).normal(size=(6, 8, 10)).astype(np.float32)
    grid = fit_grid(image.shape, (5.0, 0.7, 0.7), (2.0, 2.0, 2.0), in_voxels=True)
    np.testing.assert_allclose(grid.to_network(image), downscale_local_mean(image, (2, 2, 2)), atol=1e-6)


def test_labels_take_what_fills_most_of_a_voxel():
    labels = np.zeros((4, 4, 4), np.uint8)
    labels[:, :, 2:] = 1
    labels[2:, 2:, 2:] = 2
    grid = fit_grid(labels.shape, (1.0, 1.0, 1.0), (2.0, 2.0, 2.0))
    np.testing.assert_array_equal(grid.labels_to_network(labels)[..., 0], 0)
    assert grid.labels_to_network(labels)[0, 0, 1] == 1
    assert grid.labels_to_network(labels)[1, 1, 1] == 2


# ---- the window


@pytest.mark.parametrize(("length", "window", "overlap"), [(5, 16, 0.5), (16, 16, 0.5), (17, 16, 0.0), (100, 16, 0.75)])
def test_windows_cover_an_axis_and_overlap_enough(length, window, overlap):
    starts = window_starts(length, window, overlap)
    covered = np.zeros(max(length, window), bool)
    for start in starts:
        covered[start : start + window] = True
    assert covered.all() and starts[0] == 0 and starts[-1] == max(0, length - window)
    assert all(b - a <= max(1, window * (1 - overlap)) for a, b in itertools.pairwise(starts))


@pytest.mark.parametrize("shape", [(40, 33, 21), (5, 33, 9)])
@pytest.mark.parametrize("batch", [1, 3])
def test_the_window_gives_what_a_plain_weighted_mean_of_all_blocks_gives(shape, batch):
    block = (16, 12, 10)
    image = np.random.default_rng(0).random(shape, dtype=np.float32)

    def predict(blocks):  # depends on the place within the block, as the padding of a network does
        ramp = np.linspace(0, 1, block[0])[:, None, None] + np.linspace(0, 0.5, block[2])
        return np.concatenate((blocks * ramp, blocks**2), axis=1).astype(np.float32)

    window = SlidingWindow(shape, block, 0.5)
    done = []
    parts = list(window.rows(lambda k: image[k], predict, 2, batch=batch, padding=0.25, on_block=done.append))
    assert [start for start, _ in parts] == list(np.cumsum([0] + [part.shape[1] for _, part in parts[:-1]]))
    found = np.concatenate([part for _, part in parts], axis=1)

    before = [max(0, b - n) // 2 for n, b in zip(shape, block, strict=True)]
    after = [max(0, b - n) - max(0, b - n) // 2 for n, b in zip(shape, block, strict=True)]
    padded = np.pad(image, list(zip(before, after, strict=True)), constant_values=0.25)
    gauss = window_weights(16)[:, None, None] * window_weights(12)[:, None] * window_weights(10)
    total, weight = np.zeros((2, *padded.shape)), np.zeros(padded.shape)
    starts = [window_starts(n, b, 0.5) for n, b in zip(padded.shape, block, strict=True)]
    for k in starts[0]:
        for j in starts[1]:
            for i in starts[2]:
                place = (slice(k, k + 16), slice(j, j + 12), slice(i, i + 10))
                total[(slice(None), *place)] += gauss * predict(padded[place][None, None])[0]
                weight[place] += gauss
    inside = tuple(slice(b, b + n) for b, n in zip(before, shape, strict=True))
    np.testing.assert_allclose(found, (total / weight)[(slice(None), *inside)], rtol=2e-4, atol=1e-6)
    assert done[-1] == len(window)


def test_the_window_is_that_of_monai_but_for_the_smallest_weights_which_monai_lifts() -> None:
    inferers = pytest.importorskip("monai.inferers", reason="MONAI is not installed")
    image = np.random.default_rng(0).random((32, 48, 24), dtype=np.float32)

    def network(blocks):
        return torch.nn.functional.avg_pool3d(blocks, 3, 1, 1)

    whole = torch.from_numpy(image)[None, None]
    expected = inferers.sliding_window_inference(
        whole, (16, 16, 16), 1, network, overlap=0.5, mode="gaussian", sigma_scale=0.125
    )[0, 0].numpy()
    rows = SlidingWindow(image.shape, (16, 16, 16), 0.5).rows(
        lambda k: image[k], lambda blocks: network(torch.from_numpy(blocks)).numpy(), 1
    )
    found = np.concatenate([part for _, part in rows], axis=1)[0]
    # MONAI raises weights to 0.001 at least, which near the volume's border is most of them.
    inner = (slice(4, -4),) * 3
    difference = np.abs(found - expected)[inner]
    assert difference.max() < 0.05 and difference.mean() < 1e-3
    flat = inferers.sliding_window_inference(whole, (16, 16, 16), 1, network, overlap=0.5, mode="constant")
    assert np.abs(flat[0, 0].numpy() - expected)[inner].mean() > 10 * difference.mean()


# ---- labels


def test_the_likeliest_class_wins_and_background_is_one_of_them():
    probabilities = np.array([[0.2, 0.5, 0.34, 0.1, 0.45], [0.2, 0.1, 0.33, 0.8, 0.3]], np.float32)
    np.testing.assert_array_equal(Labelling([1, 2], True, None)(probabilities), [0, 1, 1, 2, 1])
    np.testing.assert_array_equal(Labelling([1, 2], True, 0.3)(probabilities), [1, 1, 1, 2, 1])
    np.testing.assert_array_equal(Labelling([1, 2], False, 0.3)(probabilities), [0, 1, 2, 2, 2])


def test_a_tie_stays_background():
    assert Labelling([7], True, None)(np.array([[0.5]], np.float32))[0] == 0


# ---- segmentation


@pytest.mark.parametrize(("order", "signs"), AXIS_ORDERS_AND_FLIPS[::7])
def test_the_labels_in_patient_space_are_the_same_for_all_axis_orders(bundle, segmenter, order, signs):
    volume = ct((9, 30, 22), matrix=OBLONG)
    expected = segment_blocks(volume, bundle, segmenter).labels.array
    assert {0, 1, 2} == set(np.unique(expected))
    turn = Rotation.from_euler("xyz", (5, -8, 11), degrees=True)
    other, (back, steps) = reoriented(volume, order, signs, turn)
    found = segment_blocks(other, bundle, segmenter).labels
    assert found.geometry is other.geometry
    np.testing.assert_array_equal(np.transpose(found.array[steps], back), expected)


@pytest.mark.parametrize("runtime", ["onnx", "torch"])
def test_one_block_is_normalised_predicted_and_labelled(bundle, runtime):
    volume = ct((16, 16, 16), matrix=AT_4_MM)
    found = segment_blocks(volume, bundle, load_segmenter(bundle, device="cpu", runtime=runtime)).labels.array
    unit = np.clip((volume.array + 160.0) / 400.0, 0, 1).astype(np.float32)
    with torch.no_grad():
        logits = bundle.torch_module()(torch.from_numpy(unit[None, None]))[0]
    ordered = logits.sort(dim=0).values
    clear = (ordered[-1] - ordered[-2] > 1e-3).numpy()
    np.testing.assert_array_equal(found[clear], logits.argmax(dim=0).numpy()[clear])
    assert len(set(found[clear])) == 3


def test_slices_are_told_in_order_when_they_are_there_and_blocks_are_counted(bundle, segmenter):
    volume = ct((40, 20, 20), matrix=OBLONG)
    out, events, there = np.zeros(volume.array.shape, np.uint8), [], []

    def listen(event):
        events.append(event)
        if isinstance(event, SliceReady):
            there.append(out[event.index].copy())

    result = segment_blocks(volume, bundle, segmenter, None, listen, out=out).labels
    assert result.array is out
    assert [e.index for e in events if isinstance(e, SliceReady)] == list(range(40))
    np.testing.assert_array_equal(np.stack(there), out)
    blocks = [e for e in events if isinstance(e, Progress) and e.stage == "segmenting"]
    assert [e.done for e in blocks] == list(range(blocks[0].total + 1))
    first_slice = next(n for n, e in enumerate(events) if isinstance(e, SliceReady))
    last_block = max(n for n, e in enumerate(events) if e is blocks[-1])
    assert first_slice < last_block


def test_the_result_says_what_its_labels_mean_and_how_it_came_to_be(bundle, segmenter):
    options = SegmentOptions(largest_component=True, fill_holes=FillHoles.VOLUME, overlap=0.25)
    result = segment_blocks(ct((9, 20, 20), matrix=OBLONG), bundle, segmenter, options).labels
    assert result.segments == (LIVER, LIVER_MASS)
    record = json.loads(json.dumps(result.provenance))
    assert record["model"]["sha256"] == dict(bundle.manifest.weights)
    assert record["options"]["overlap"] == 0.25 and record["options"]["largest_component"] is True
    assert record["options"]["threshold"] is None
    assert str(bundle.folder) not in json.dumps(record)


def test_memory_that_is_short_makes_the_batches_smaller(bundle):
    volume, events = ct((16, 60, 60), matrix=AT_4_MM), []
    whole = segment_blocks(volume, bundle, Blocks(), SegmentOptions(batch_size=4))
    fake = Blocks(holds=2)
    found = segment_blocks(volume, bundle, fake, SegmentOptions(batch_size=8), events.append)
    assert max(fake.batches[2:]) == 2
    np.testing.assert_array_equal(found.labels.array, whole.labels.array)
    assert [e.message for e in events if isinstance(e, Notice)][-1].endswith("2 blocks at a time.")


def test_cancelling_stops_between_blocks(bundle):
    token, fake = CancelToken(), Blocks()

    def listen(event):
        if isinstance(event, Progress) and event.done == 3:
            token.cancel()

    with pytest.raises(Cancelled):
        segment_blocks(ct((16, 60, 60), matrix=AT_4_MM), bundle, fake, None, listen, token)
    assert len(fake.batches) == 3


def test_values_that_are_not_numbers_are_refused(bundle):
    class Broken(Blocks):
        def predict(self, batch):
            return super().predict(batch) * np.nan

    with pytest.raises(BundleError, match="not numbers"):
        segment_blocks(ct((16, 16, 16), matrix=AT_4_MM), bundle, Broken())


def test_a_chosen_range_of_slices_is_all_that_is_labelled(bundle):
    volume = ct((20, 16, 16), matrix=AT_4_MM)
    found = segment_blocks(volume, bundle, Blocks(), SegmentOptions(slice_range=(5, 9))).labels.array
    assert found[5:9].any() and not found[:5].any() and not found[9:].any()
    with pytest.raises(InputError, match="slices 0 to 19"):
        segment_blocks(volume, bundle, Blocks(), SegmentOptions(slice_range=(5, 90)))


# ---- intensities


def test_a_z_score_is_that_of_the_training_or_of_the_image(bundle):
    seen = []

    class Looking(Blocks):
        def predict(self, batch):
            seen.append(batch)
            return np.zeros((len(batch), 2, *self.input_size), np.float32)

    volume = ct((16, 16, 16), matrix=AT_4_MM)
    clipped = np.clip(volume.array.astype(float), -160, 240)
    for normalisation, expected in (
        (Normalisation(NormalisationKind.Z_SCORE, 50.0, 20.0), (clipped - 50) / 20),
        (Normalisation(NormalisationKind.Z_SCORE), (clipped - clipped.mean()) / clipped.std()),
        (Normalisation(NormalisationKind.NONE), volume.array),
    ):
        segment_blocks(volume, bare(bundle, normalisation=normalisation), Looking())
        np.testing.assert_allclose(seen[-1][0, 0], expected, rtol=1e-4, atol=1e-3)


# ---- uncertainty


def test_dropout_alone_is_drawn_and_normalisation_keeps_its_statistics(bundle):
    segmenter = load_segmenter(bundle, device="cpu", runtime="torch")
    batch = np.random.default_rng(0).random((1, 1, 16, 16, 16), dtype=np.float32)
    plain = segmenter.predict(batch)
    before = {name: value.clone() for name, value in segmenter._module.state_dict().items()}
    with segmenter.dropout(3):
        drawn = [segmenter.predict(batch) for _ in range(2)]
        norms = [m for m in segmenter._module.modules() if isinstance(m, torch.nn.BatchNorm3d)]
        assert norms and not any(m.training for m in norms)
    assert np.abs(drawn[0] - drawn[1]).max() > 0.01
    with segmenter.dropout(3):
        np.testing.assert_array_equal(segmenter.predict(batch), drawn[0])
    np.testing.assert_array_equal(segmenter.predict(batch), plain)
    assert all(torch.equal(value, before[name]) for name, value in segmenter._module.state_dict().items())


def test_the_uncertainty_lies_on_the_images_grid_and_is_the_same_for_the_same_seed(bundle):
    segmenter = load_segmenter(bundle, device="cpu", runtime="torch")
    volume = ct((10, 20, 20), matrix=OBLONG)
    result = segment_blocks(volume, bundle, segmenter, SegmentOptions(samples=4))
    assert result.uncertainty.array.shape == volume.array.shape
    assert result.uncertainty.geometry is volume.geometry
    assert result.uncertainty.array.min() >= 0 and result.uncertainty.array.max() <= 1
    assert result.uncertainty.array.std() > 1e-4
    again = segment_blocks(volume, bundle, segmenter, SegmentOptions(samples=4))
    np.testing.assert_array_equal(again.uncertainty.array, result.uncertainty.array)


def test_entropy_and_deviation_are_those_of_the_samples():
    rng = np.random.default_rng(0)
    whole = rng.dirichlet((1, 1, 1), (5, 2, 2, 3, 2)).astype(np.float32)  # samples, n, k, j, i, classes
    whole = np.moveaxis(whole, -1, 2)
    samples, mean = whole[:, :, 1:], whole[:, :, 1:].mean(axis=0)
    average = whole.mean(axis=0)
    entropy = -(average * np.log(average)).sum(axis=1) / np.log(3)
    np.testing.assert_allclose(spread(samples, mean, Uncertainty.ENTROPY), entropy, atol=1e-5)
    chosen = average.argmax(axis=1)
    deviation = np.take_along_axis(whole.std(axis=0), chosen[:, None], 1)[:, 0]
    np.testing.assert_allclose(spread(samples, mean, Uncertainty.DEVIATION), deviation, atol=1e-5)


def test_uncertainty_by_onnx_runtime_is_refused(bundle):
    segmenter = load_segmenter(bundle, device="cpu", runtime="onnx")
    with pytest.raises(InputError, match="runtime torch"):
        segment_blocks(ct((16, 16, 16), matrix=AT_4_MM), bundle, segmenter, SegmentOptions(samples=2))


# ---- bad input


def test_a_volume_smaller_than_a_block_is_padded_and_cropped_back(bundle):
    volume = ct((2, 5, 7), matrix=AT_4_MM)
    fake = Blocks()
    found = segment_blocks(volume, bundle, fake).labels.array
    assert found.shape == (2, 5, 7) and fake.batches == [1]
    unit = np.clip((volume.array + 160.0) / 400.0, 0, 1)
    np.testing.assert_array_equal(found == 1, 0.5 * unit > 1 - 0.9 * unit)


def test_an_anisotropy_of_ten_to_one_is_segmented_on_its_own_grid(bundle, segmenter):
    volume = ct((8, 60, 60), matrix=np.diag([-0.7, -0.7, 7.0, 1.0]))
    found = segment_blocks(volume, bundle, segmenter).labels.array
    assert found.shape == volume.array.shape
    assert len(np.unique(found)) > 1


@pytest.mark.parametrize("spacing", [0.0, float("nan")])
def test_a_spacing_that_is_none_is_refused_when_the_image_is_made(spacing):
    with pytest.raises(GeometryError):
        Geometry((4, 4, 4), np.diag([1.0, 1.0, spacing, 1.0]))


@pytest.mark.parametrize("spacing", [(0.0, 1.0, 1.0), (-1.0, 1.0, 1.0), (1.0, 1.0, 1e9)])
def test_a_model_with_an_impossible_spacing_is_refused(bundle, spacing):
    with pytest.raises(BundleError, match="spacing"):
        dataclasses.replace(bundle.manifest, spacing=spacing)


def test_a_negative_spacing_in_an_image_is_a_flipped_axis(bundle, segmenter):
    volume = ct((12, 16, 16), matrix=AT_4_MM)
    flipped = Geometry(volume.array.shape, AT_4_MM @ np.diag([1.0, 1.0, -1.0, 1.0]))
    upside_down = dataclasses.replace(volume, array=volume.array[::-1].copy(), geometry=flipped)
    expected = segment_blocks(volume, bundle, segmenter).labels.array
    np.testing.assert_array_equal(segment_blocks(upside_down, bundle, segmenter).labels.array[::-1], expected)


def test_a_header_that_makes_voxels_of_kilometres_ends_in_a_sentence(bundle):
    volume = ct((4, 4, 4), matrix=np.diag([-1e7, -1e7, 1e7, 1.0]))
    with pytest.raises(ResourceError, match="too large"):
        segment_blocks(volume, bundle, Blocks())


def test_pictures_without_a_spacing_are_refused(bundle):
    with pytest.raises(InputError, match="spacing"):
        segment_blocks(ct((16, 16, 16), spacing_known=False), bundle, Blocks())


def test_an_mr_image_in_a_ct_model_is_refused_unless_it_is_wanted(bundle):
    volume = ct((16, 16, 16), matrix=AT_4_MM, modality=Modality.MR, intensity=IntensityKind.ARBITRARY)
    with pytest.raises(InputError, match="trained on CT"):
        segment_blocks(volume, bundle, Blocks())
    events = []
    segment_blocks(volume, bundle, Blocks(), SegmentOptions(allow_mismatch=True), events.append)
    assert any("may be wrong" in e.message for e in events if isinstance(e, Notice))


def test_an_image_of_unknown_modality_is_judged_by_its_values(bundle):
    volume = ct((16, 16, 16), matrix=AT_4_MM, modality=Modality.UNKNOWN, intensity=IntensityKind.ARBITRARY)
    events = []
    segment_blocks(volume, bundle, Blocks(), on_event=events.append)
    assert any("Hounsfield" in e.message for e in events if isinstance(e, Notice))


def test_a_lesion_that_touches_the_border_is_kept(bundle):
    array = np.full((16, 16, 16), -1000, np.int16)
    array[:, :, :8] = 240
    volume = Volume(array, Geometry(array.shape, AT_4_MM), Modality.CT, IntensityKind.HU)
    model = bare(bundle, postprocessing=Postprocessing(True, FillHoles.VOLUME))

    class Tumour(Blocks):
        def predict(self, batch):
            return np.concatenate((batch * 0.1, batch * 0.8), axis=1)

    np.testing.assert_array_equal(segment_blocks(volume, model, Tumour()).labels.array, 2 * (array > 0))


# ---- the localiser, and every door


def test_the_network_sees_the_organs_surroundings_alone(tmp_path):
    tiny_bundle(tmp_path / "finder", name="finder")
    bundle = tiny_unet3d_bundle(tmp_path / "m", localiser=Localiser("finder", 8.0))
    model = load_model(bundle, device="cpu", threads=1)

    class Finds:
        runtime, device, classes, input_size = "fake", "cpu", 1, (32, 32)

        def predict(self, batch):
            return (batch > 0.9).astype(np.float32)

    array = np.full((12, 40, 40), -1000, np.int16)
    array[4:7, 10:20, 22:30] = 400
    volume = Volume(array, Geometry(array.shape, AT_4_MM), Modality.CT, IntensityKind.HU)
    model = dataclasses.replace(
        model, segmenter=Blocks(), localiser=dataclasses.replace(model.localiser, segmenter=Finds())
    )
    events = []
    result = model.segment(volume, None, events.append).labels
    k, j, i = result.provenance["options"]["box"]
    assert k == [2, 9] and j[0] <= 8 and j[1] >= 22 and i[0] <= 20 and i[1] >= 32 and i[1] - i[0] < 20
    np.testing.assert_array_equal(result.array > 0, array > 0)
    assert result.provenance["localiser"]["name"] == "finder"
    assert {e.stage for e in events if isinstance(e, Progress)} >= {"localising", "segmenting"}
    assert sorted(e.index for e in events if isinstance(e, SliceReady)) == list(range(2, 9))


def test_where_no_organ_is_found_the_result_is_empty_and_said(tmp_path):
    tiny_bundle(tmp_path / "finder", name="finder")
    bundle = tiny_unet3d_bundle(tmp_path / "m", localiser=Localiser("finder"))
    model = load_model(bundle, device="cpu", threads=1)

    class FindsNothing:
        runtime, device, classes, input_size = "fake", "cpu", 1, (32, 32)

        def predict(self, batch):
            return np.zeros_like(batch)

    model = dataclasses.replace(model, localiser=dataclasses.replace(model.localiser, segmenter=FindsNothing()))
    events = []
    result = model.segment(ct((6, 20, 20)), None, events.append).labels
    assert not result.array.any() and result.segments == (LIVER, LIVER_MASS)
    assert any("found no liver" in e.message for e in events if isinstance(e, Notice))
    assert result.provenance["notices"]


def test_a_localiser_that_is_missing_is_said_when_the_model_is_loaded(tmp_path):
    bundle = tiny_unet3d_bundle(tmp_path / "m", localiser=Localiser("nowhere"))
    with pytest.raises(BundleError, match="'nowhere' to find the organ"):
        load_model(bundle)


def test_optional_entries_survive_and_are_left_out_where_they_say_nothing(bundle, tmp_path):
    text = json.loads(bundle.manifest.to_json())
    assert not {"localiser", "normalisation", "spacing_unit"} & set(text)
    other = dataclasses.replace(
        bundle.manifest,
        localiser=Localiser("unet-ct", 25.0),
        normalisation=Normalisation(NormalisationKind.Z_SCORE, 1.0, 2.0),
        spacing=(2.0, 2.0, 2.0),
        spacing_unit=SpacingUnit.VOXEL,
    )
    assert type(other).from_json(other.to_json()) == other


@pytest.mark.parametrize(
    "changes",
    [
        {"localiser": {"model": "../evil", "margin_mm": 5}},
        {"localiser": {"model": "tiny3d", "margin_mm": 5}},
        {"localiser": {"model": "unet-ct", "margin_mm": -5}},
        {"localiser": {"model": "unet-ct"}},
        {"normalisation": {"kind": "z-score", "mean": 1.0, "deviation": 0.0}},
        {"normalisation": {"kind": "unit", "mean": 1.0, "deviation": 1.0}},
        {"normalisation": {"kind": "magic", "mean": None, "deviation": None}},
        {"spacing_unit": "inch"},
        {"spacing_unit": "voxel", "spacing": [1.5, 2, 2]},
        {"localizer": {"model": "unet-ct", "margin_mm": 5}},
    ],
)
def test_optional_entries_that_make_no_sense_are_refused(bundle, changes):
    values = json.loads(bundle.manifest.to_json()) | changes
    with pytest.raises(BundleError):
        type(bundle.manifest).from_json(json.dumps(values))


def test_a_volumetric_bundle_and_a_denoiser_pass_the_check(bundle, tmp_path):
    report = check_bundle(bundle.folder)
    assert set(report.seconds) == {"onnx", "torch"} and report.largest_difference < 1e-4

    from LiverMarginLib.models.bundle import save_bundle
    from LiverMarginLib.models.dncnn_sr import DnCNNSR
    from LiverMarginLib.models.manifest import Task

    manifest = dataclasses.replace(
        bundle.manifest,
        name="denoiser",
        architecture="dncnn-sr",
        parameters={"scale": 1, "width": 4},
        task=Task.DENOISING,
        labels=(),
        input_size=(32, 32),
        spacing=None,
    )
    save_bundle(tmp_path / "d", manifest, module=DnCNNSR(scale=1, width=4))
    assert set(check_bundle(tmp_path / "d").seconds) == {"onnx", "torch"}
