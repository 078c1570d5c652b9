"""Networks that see the slices beside the one that they segment: the same neighbours in training and in use."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from dataset_builders import ct_like, put_case, put_volume
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from model_tools import AXIS_ORDERS_AND_FLIPS, bare, ct, one_sentence, reoriented, tiny_bundle  # noqa: E402
from scipy.spatial.transform import Rotation  # noqa: E402
from training_toys import config, source  # noqa: E402

from LiverMarginLib.cli import main  # noqa: E402
from LiverMarginLib.datasets.layouts import open_dataset  # noqa: E402
from LiverMarginLib.datasets.slice_store import SliceStore  # noqa: E402
from LiverMarginLib.errors import BundleError, InputError  # noqa: E402
from LiverMarginLib.inference.options import SegmentOptions  # noqa: E402
from LiverMarginLib.inference.segmenter import load_segmenter  # noqa: E402
from LiverMarginLib.inference.slicewise import segment_volume  # noqa: E402
from LiverMarginLib.io.readers import read_labels  # noqa: E402
from LiverMarginLib.io.volume_writers import write_volume  # noqa: E402
from LiverMarginLib.metrics.overlap import dice  # noqa: E402
from LiverMarginLib.models.card import model_card  # noqa: E402
from LiverMarginLib.models.ensemble_architecture import check_member  # noqa: E402
from LiverMarginLib.models.manifest import Manifest, Postprocessing  # noqa: E402
from LiverMarginLib.models.row_spans import RowSpans  # noqa: E402
from LiverMarginLib.phantom import PhantomOptions, liver_target, make_phantom  # noqa: E402
from LiverMarginLib.preprocessing import SliceContext  # noqa: E402
from LiverMarginLib.training import checkpoint  # noqa: E402
from LiverMarginLib.training.augmentation import Augmentation, spatial  # noqa: E402
from LiverMarginLib.training.bundling import bundle_from_training  # noqa: E402
from LiverMarginLib.training.config import AugmentationConfig, OptimiserConfig, OptimiserKind, TrainConfig  # noqa: E402
from LiverMarginLib.training.data import JoinedSource, SliceSample, read_slice  # noqa: E402
from LiverMarginLib.training.determinism import Purpose, keyed_rng  # noqa: E402
from LiverMarginLib.training.phantom_source import PhantomSource  # noqa: E402
from LiverMarginLib.training.profiles import profile  # noqa: E402
from LiverMarginLib.training.task import build_task  # noqa: E402
from LiverMarginLib.training.trainer import train  # noqa: E402
from LiverMarginLib.volume import Geometry, IntensityKind, Modality, Volume  # noqa: E402

SEEN = SliceContext(1, 5.0)
THREE_CHANNELS = {
    "context_slices": 1,
    "context_mm": 5.0,
    "parameters": {"in_channels": 3, "classes": 1, "widths": [4, 8, 12], "dropout": 0.0},
}

# ---- which slices


@pytest.mark.parametrize(
    ("slices", "mm", "spacing", "steps"),
    [
        (1, 5.0, 5.0, [1]),
        (1, 5.0, 1.0, [5]),
        (1, 5.0, 2.5, [2]),
        (1, 5.0, 3.0, [2]),
        (1, 5.0, 10.0, [1]),  # thick slices: the next one, never the slice itself
        (2, 5.0, 2.4999999, [2, 4]),
        (2, 5.0, 10.0, [1, 2]),
        (2, None, 2.5, [1, 2]),
        (2, 5.0, None, [1, 2]),
        (0, None, 2.5, []),
    ],
)
def test_neighbours_lie_at_their_distance_whatever_the_slices_thickness(slices, mm, spacing, steps) -> None:
    context = SliceContext(slices, mm)
    rows = context.rows(50, 101, spacing)
    assert rows == [50 - step for step in reversed(steps)] + [50] + [50 + step for step in steps]
    assert len(rows) == context.channels


@given(st.integers(1, 4), st.floats(0.5, 20.0), st.floats(0.3, 12.0))
def test_no_other_slice_is_nearer_to_where_a_neighbour_should_be(slices: int, mm: float, spacing: float) -> None:
    spacing = float(f"{spacing:.6g}")
    rows = SliceContext(slices, mm).rows(1000, 2001, spacing)
    for n in range(1, slices + 1):
        distances = np.abs(np.arange(n, 1000) * spacing - n * mm)
        step = rows[slices + n] - 1000
        assert step >= n and distances[step - n] <= distances.min() + 1e-9
        assert rows[slices - n] == 1000 - step


def test_end_slices_are_repeated_beyond_the_ends() -> None:
    assert [SEEN.rows(k, 4, 2.5) for k in range(4)] == [[0, 0, 2], [0, 1, 3], [0, 2, 3], [1, 3, 3]]
    assert SEEN.rows(0, 1, 1.0) == [0, 0, 0]


# ---- what a training reads


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> PhantomSource:
    options = PhantomOptions(shape=(6, 32, 32), spacing=(2.5, 13.0, 13.0))
    made = PhantomSource([3], options, tmp_path_factory.mktemp("phantoms"), scans=2)
    made.store.prepare(workers=1)
    return made


def test_phantoms_are_read_with_the_neighbours_of_the_same_scan(phantoms: PhantomSource) -> None:
    image = make_phantom(3, phantoms.store.options).volume.array
    for k, rows in ((0, [0, 0, 2]), (3, [1, 3, 5]), (5, [3, 5, 5])):
        sample = read_slice(phantoms, k, SEEN)
        np.testing.assert_array_equal(sample.image, image[rows].astype(np.float32))
        np.testing.assert_array_equal(sample.mask, phantoms.read(k).mask)
    second = read_slice(JoinedSource([source(1), phantoms]), 4 + 6, SEEN)  # the other scan's lowest slice
    np.testing.assert_array_equal(second.image[1], phantoms.read(6).image)
    np.testing.assert_array_equal(second.image[0], second.image[1])
    assert not np.array_equal(second.image[1], image[0])


def test_data_sets_are_read_with_neighbours_by_mm_where_the_file_says_how_far_apart_slices_are(tmp_path: Path) -> None:
    array = ct_like((9, 20, 24))
    put_volume(tmp_path / "data" / "p" / "ct.nii.gz", array, spacing=(0.8, 0.8, 1.7))
    put_volume(tmp_path / "data" / "p" / "liver.nii.gz", (array > 50).astype(np.uint8), spacing=(0.8, 0.8, 1.7))
    store = SliceStore(open_dataset(tmp_path / "data"), folder=tmp_path / "cache")
    for k, rows in ((0, [0, 0, 3]), (4, [1, 4, 7]), (8, [5, 8, 8])):
        sample = store.read_with_context(k, SEEN)
        np.testing.assert_array_equal(sample.image, np.stack([store.read(row).image for row in rows]))
        np.testing.assert_array_equal(sample.mask, store.read(k).mask)
        assert sample.spacing == store.read(k).spacing

    # A cache that an earlier version has left does not say it; it is completed, not thrown away.
    (note,) = (tmp_path / "cache").glob("*.json")
    older = {key: value for key, value in json.loads(note.read_text()).items() if key != "apart"}
    note.write_text(json.dumps(older))
    again = SliceStore(open_dataset(tmp_path / "data"), folder=tmp_path / "cache")
    assert again.fingerprint() == store.fingerprint()
    np.testing.assert_array_equal(again.read_with_context(4, SEEN).image, store.read_with_context(4, SEEN).image)


def test_pictures_of_unknown_distance_are_read_with_the_very_next_ones_annotated_or_not(tmp_path: Path) -> None:
    put_case(tmp_path / "data" / "Case 1", slices=8, annotated=(3, 4))
    store = SliceStore(open_dataset(tmp_path / "data"), folder=tmp_path / "cache")
    index = next(n for n in range(8) if store.annotated(n))
    assert not store.annotated(index - 1)
    sample = store.read_with_context(index, SEEN)
    np.testing.assert_array_equal(sample.image, np.stack([store.read(index + n).image for n in (-1, 0, 1)]))
    assert sample.annotated


def test_slices_of_no_known_volume_are_refused_with_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="set context to 0") as caught:
        train(config(tmp_path / "t", context=1), source(1, 2))
    assert one_sentence(caught.value.message)


@pytest.mark.parametrize("model", ["unet3d", "dncnn-sr"])
def test_networks_that_see_no_neighbours_refuse_them(model: str) -> None:
    with pytest.raises(InputError, match="does not see neighbouring slices") as caught:
        build_task(replace(profile(model, "small"), context=1))
    assert one_sentence(caught.value.message)


@pytest.mark.parametrize("values", [{"context": -1}, {"context": 9}, {"context_mm": 0.0}, {"context_mm": -5.0}])
def test_impossible_neighbours_are_refused_with_one_sentence(values: dict) -> None:
    with pytest.raises(InputError, match=next(iter(values))) as caught:
        TrainConfig.from_dict(values)
    assert one_sentence(caught.value.message)


# ---- augmentation


def stack(seed: int = 0, side: int = 48) -> tuple[torch.Tensor, torch.Tensor]:
    """Two samples of three unlike slices of a few grey levels."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.integers(0, 6, (2, 3, 8, 8)) / 5).float()
    image = torch.nn.functional.interpolate(coarse, (side, side), mode="nearest")
    return image, (image[:, 1:2] > 0.5).float()


def test_slices_are_moved_as_one() -> None:
    image, mask = stack()
    moves = AugmentationConfig(rotation_p=1, scale_p=1, elastic_p=1, crop_p=1, mirror_p=1)

    def moved(channels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return spatial(channels, mask, moves, [keyed_rng(0, Purpose.AUGMENTATION, n) for n in range(2)])

    together, mask_together = moved(image)
    assert not torch.equal(together, image)
    for n in range(3):
        alone, mask_alone = moved(image[:, n : n + 1])
        torch.testing.assert_close(together[:, n : n + 1], alone, atol=1e-6, rtol=0)
        assert torch.equal(mask_together, mask_alone)


@pytest.mark.parametrize("name", ["brightness_p", "contrast_p", "gamma_p", "inverted_gamma_p"])
def test_slices_keep_their_contrast_to_each_other(name: str) -> None:
    image, mask = stack()
    varied, _ = Augmentation(AugmentationConfig(**{name: 1.0}), 1)(image, mask, [0, 1])
    assert not torch.equal(varied, image)
    for before, after in zip(image, varied, strict=True):
        means = [after[before == level].mean() for level in before.unique()]
        assert all(after[before == level].std() < 1e-5 for level in before.unique()), "equal greys became unequal"
        assert means == sorted(means)


def test_slices_are_blurred_each_by_itself_and_noise_is_every_slices_own() -> None:
    image, mask = stack()
    blurred, _ = Augmentation(AugmentationConfig(blur_p=1.0), 3)(image, mask, [0, 1])
    for n in range(3):
        alone, _ = Augmentation(AugmentationConfig(blur_p=1.0), 3)(image[:, n : n + 1], mask, [0, 1])
        torch.testing.assert_close(blurred[:, n : n + 1], alone, atol=1e-6, rtol=0)
    grey = torch.full_like(image, 0.5)
    noisy, _ = Augmentation(AugmentationConfig(noise_p=1.0, noise=(0.05, 0.05)), 3)(grey, mask, [0, 1])
    noise = noisy - grey
    torch.testing.assert_close(noise.std(dim=(2, 3)), torch.full((2, 3), 0.05), atol=0.004, rtol=0)
    assert all(abs(np.corrcoef(noise[0, 0].ravel(), noise[0, n].ravel())[0, 1]) < 0.1 for n in (1, 2))


# ---- the bundle


def test_a_bundle_records_its_neighbours_and_the_card_says_so(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "m", onnx=False, **THREE_CHANNELS)
    assert Manifest.from_json(bundle.manifest.to_json()).context == SEEN
    assert "32 x 32, with 1 further slice on either side, 5 mm apart" in model_card(bundle.manifest)
    without = replace(bundle.manifest, context_mm=None)
    assert "context_mm" not in json.loads(without.to_json())
    assert "1 further slice on either side\n" in model_card(without)
    with pytest.raises(BundleError, match="context mm"):
        check_member(bundle.manifest, without)


@pytest.mark.parametrize("changes", [{"context_mm": 0.0}, {"context_mm": float("nan")}, {"context_slices": 0}])
def test_a_manifest_with_impossible_neighbours_is_refused(tmp_path: Path, changes: dict) -> None:
    manifest = tiny_bundle(tmp_path / "m", onnx=False, **THREE_CHANNELS).manifest
    with pytest.raises(BundleError, match="context_mm"):
        replace(manifest, **changes)


# ---- use


@pytest.fixture(scope="module")
def three_channels(tmp_path_factory: pytest.TempPathFactory):
    return tiny_bundle(tmp_path_factory.mktemp("models") / "context", half=True, **THREE_CHANNELS)


@pytest.mark.parametrize("runtime", ["onnx", "torch", "ncnn"])
def test_every_runtime_sees_the_neighbours(three_channels, runtime: str) -> None:
    if runtime == "ncnn":
        pytest.importorskip("ncnn")
    volume = ct((6, 32, 32), matrix=np.diag([-0.8, -0.8, 2.5, 1.0]))
    segmenter = load_segmenter(three_channels, device="cpu", runtime=runtime, threads=1)
    found = segment_volume(volume, three_channels, segmenter).array
    network = three_channels.torch_module().eval()
    unit = torch.from_numpy(np.clip((volume.array.astype(np.float32) + 160) / 400, 0, 1))
    rows = [[0, 0, 2], [0, 1, 3], [0, 2, 4], [1, 3, 5], [2, 4, 5], [3, 5, 5]]
    with torch.no_grad():
        logits = network(torch.stack([unit[row] for row in rows]))[:, 0].numpy()
    body = np.stack([RowSpans.of((unit[row] > 0).any(dim=0).numpy()).mask() for row in rows])
    assert (found != ((logits >= 0) & body))[np.abs(logits) > 1e-3].sum() == 0
    assert 0.1 < found.mean() < 0.9


def test_the_mask_in_patient_space_is_the_same_for_all_48_axis_orders(three_channels) -> None:
    volume = ct((7, 30, 22), matrix=np.diag([-0.8, -0.9, 1.7, 1.0]))
    segmenter = load_segmenter(three_channels, device="cpu", threads=1)
    expected = segment_volume(volume, three_channels, segmenter).array
    neighbours = bare(three_channels, context_mm=None)
    assert not np.array_equal(segment_volume(volume, neighbours, segmenter).array, expected)
    for order, signs in AXIS_ORDERS_AND_FLIPS:
        other, (back, steps) = reoriented(volume, order, signs, Rotation.identity())
        mask = segment_volume(other, three_channels, segmenter).array
        np.testing.assert_array_equal(np.transpose(mask[steps], back), expected)


def test_a_range_of_slices_sees_its_neighbours_outside_of_the_range(three_channels) -> None:
    volume = ct((7, 32, 32), matrix=np.diag([-0.8, -0.8, 2.5, 1.0]))
    segmenter = load_segmenter(three_channels, device="cpu", threads=1)
    whole = segment_volume(volume, three_channels, segmenter).array
    part = segment_volume(volume, three_channels, segmenter, SegmentOptions(slice_range=(2, 4))).array
    np.testing.assert_array_equal(part[2:4], whole[2:4])


# ---- training and use together


class Shifted:
    """Volumes in which the liver of a slice is where the *next higher* slice shows a disk: only neighbours tell."""

    def __init__(self, *seeds: int, depth: int = 6) -> None:
        self._seeds, self._depth = seeds, depth

    def volume(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        y, x = np.mgrid[:32, :32]
        centres = rng.uniform(8, 24, (self._depth, 2))
        disks = np.stack([(y - row) ** 2 + (x - column) ** 2 < 25 for row, column in centres])
        image = np.where(disks, 110.0, -80.0) + rng.normal(0, 10, disks.shape)
        return image.astype(np.float32), disks[[*range(1, self._depth), self._depth - 1]].astype(np.uint8)

    def __len__(self) -> int:
        return len(self._seeds) * self._depth

    def patient(self, index: int) -> str:
        return f"patient {self._seeds[index // self._depth]}"

    def read(self, index: int) -> SliceSample:
        return self.read_with_context(index, SliceContext())

    def read_with_context(self, index: int, context: SliceContext) -> SliceSample:
        image, mask = self.volume(self._seeds[index // self._depth])
        k = index % self._depth
        shown = context.rows(k, self._depth, 5.0)
        return SliceSample(image[shown if context.slices else k], mask[k], (1.0, 1.0))


@pytest.fixture(scope="module")
def shifted(tmp_path_factory: pytest.TempPathFactory):
    """A U-Net that has learnt to look upwards, and its bundle."""
    folder = tmp_path_factory.mktemp("shifted")
    settings = config(
        folder / "training",
        context=1,
        epochs=3,
        steps_per_epoch=30,
        model_options={"widths": [8, 16], "dropout": 0.0},
        optimiser=OptimiserConfig(OptimiserKind.ADAM, 1e-2),
        augmentation=AugmentationConfig(noise_p=0.2, rotation_p=0.2),
        checkpoint_steps=None,
    )
    result = train(settings, Shifted(*range(8)), Shifted(20, 21))
    bundle = bundle_from_training(result, settings, folder / "shifted", name="shifted")
    return settings, result, bare(bundle, postprocessing=Postprocessing())


def volume_of(image: np.ndarray, spacing: float) -> Volume:
    geometry = Geometry(image.shape, np.diag([-1.0, -1.0, spacing, 1.0]))
    return Volume(image, geometry, Modality.CT, IntensityKind.HU)


@pytest.mark.parametrize("copies", [1, 2, 5])
def test_what_is_learnt_from_neighbours_holds_in_volumes_of_other_slice_thickness(shifted, copies: int) -> None:
    _, result, bundle = shifted
    assert result.scores["mask_iou"] > 0.8
    assert bundle.manifest.context == SEEN and bundle.manifest.parameters["in_channels"] == 3
    image, mask = Shifted(30).volume(30)
    volume = volume_of(np.repeat(image, copies, axis=0), 5.0 / copies)
    segmenter = load_segmenter(bundle, device="cpu", threads=1)
    found = segment_volume(volume, bundle, segmenter).array
    assert dice(np.repeat(mask, copies, axis=0) > 0, found > 0) > 0.9
    down, _ = reoriented(volume, (0, 1, 2), (-1, 1, 1), Rotation.identity())  # stored from above to below
    np.testing.assert_array_equal(segment_volume(down, bundle, segmenter).array[::-1], found)


def test_a_single_slice_is_segmented_as_its_own_neighbour(shifted) -> None:
    _, _, bundle = shifted
    image, _ = Shifted(30).volume(30)
    segmenter = load_segmenter(bundle, device="cpu", threads=1)
    found = segment_volume(volume_of(image[:1], 5.0), bundle, segmenter).array[0]
    assert dice(image[0] > 15, found > 0) > 0.9


def test_a_training_from_before_there_were_neighbours_goes_on(tmp_path: Path) -> None:
    settings = config(tmp_path / "t", epochs=1)
    train(settings, source(1, 2))
    state = checkpoint.load_checkpoint(tmp_path / "t")
    assert state is not None
    for name in ("context", "context_mm"):
        del state["config"][name]
    del state["schema"]
    checkpoint.save_checkpoint(tmp_path / "t", state)
    assert train(replace(settings, resume=True, epochs=2), source(1, 2)).epochs == 2
    with pytest.raises(InputError, match="another 'context'"):
        train(replace(settings, resume=True, context=1), source(1, 2))


def test_a_trained_bundle_needs_no_further_switch_behind_the_commands(tmp_path: Path, capsys) -> None:
    data, split, model = tmp_path / "data", tmp_path / "split.json", tmp_path / "m"
    for folder in ("images", "labels"):
        (data / folder).mkdir(parents=True)
    for seed in range(4):
        phantom = make_phantom(seed, PhantomOptions(shape=(6, 64, 64), spacing=(25.0, 6.0, 6.0)))
        write_volume(phantom.volume, data / "images" / f"p{seed}.nii.gz")
        labels = replace(phantom.volume, array=liver_target(phantom.labels).array, intensity=IntensityKind.ARBITRARY)
        write_volume(labels, data / "labels" / f"p{seed}.nii.gz")
    assert main(["dataset", "split", str(data), "--fractions", "0.5", "0.25", "0.25", "-o", str(split)]) == 0
    words = ["train", "unet", "--data", str(data), "--split", str(split), "--epochs", "1", "--device", "cpu"]
    words += ["--set", "context=2", "--set", "context_mm=25", "--set", "size=32", "--set", "batch=4"]
    words += ["--set", "steps_per_epoch=2", "--set", "workers=0", "--set", "model_options.widths=[4, 8]"]
    assert main([*words, "--out", str(model)]) == 0
    manifest = json.loads((model / "model.json").read_text())
    assert (manifest["context_slices"], manifest["context_mm"], manifest["parameters"]["in_channels"]) == (2, 25.0, 5)
    assert main(["models", "check", str(model)]) == 0
    ct_file, labels_file = data / "images" / "p0.nii.gz", tmp_path / "labels.nii.gz"
    assert main(["segment", str(ct_file), "-m", str(model), "-o", str(labels_file)]) == 0
    assert read_labels(labels_file).array.shape == (6, 64, 64)
    capsys.readouterr()
    words = ["evaluate", str(model), "--data", str(data), "--split", str(split), "-o", str(tmp_path / "e"), "--json"]
    assert main(words) == 0
    assert 0 <= json.loads(capsys.readouterr().out)["models"]["m"]["dice"] <= 1
