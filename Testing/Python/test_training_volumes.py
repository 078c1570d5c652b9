"""Training on whole volumes: sources, preparation, patches, losses, augmentation, the run and its bundle."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from volume_toys import SHAPE, config, source, volume

from LiverMarginLib.errors import InputError
from LiverMarginLib.events import CancelToken, ignore
from LiverMarginLib.inference.model import load_model
from LiverMarginLib.jobs.cohort import PhantomCohort
from LiverMarginLib.models.volumetric_fields import NormalisationKind, SpacingUnit
from LiverMarginLib.phantom import PhantomOptions, liver_target, make_phantom
from LiverMarginLib.training.bundling import bundle_from_training
from LiverMarginLib.training.compat_preparation import liver_cube
from LiverMarginLib.training.config import AugmentationConfig, LossConfig, LossKind, TrainConfig
from LiverMarginLib.training.loader import Batch
from LiverMarginLib.training.phantom_source import PhantomStore
from LiverMarginLib.training.profiles import PROFILES, profile
from LiverMarginLib.training.task import build_task
from LiverMarginLib.training.trainer import train
from LiverMarginLib.training.volume_augmentation import VolumeAugmentation
from LiverMarginLib.training.volume_config import Preparation, VolumeConfig
from LiverMarginLib.training.volume_data import InMemoryVolumes, PreparedVolumes, VolumeSample, prepare_volume
from LiverMarginLib.training.volume_losses import VolumeLoss, cross_entropy, focal, one_hot, soft_dice
from LiverMarginLib.training.volume_sources import PhantomVolumes
from LiverMarginLib.volume import Geometry, IntensityKind, Modality, Volume

# ---- sources and preparation


def test_phantoms_are_volumes_with_liver_and_tumour(tmp_path: Path) -> None:
    options = PhantomOptions(shape=(6, 32, 32), spacing=(30.0, 13.0, 13.0), lesions=8)
    store = PhantomStore([3], options, tmp_path, scans=2)
    store.prepare(workers=1)
    volumes = PhantomVolumes(store)
    phantom = make_phantom(3, options)
    assert len(volumes) == 2 and volumes.patient(0) == volumes.patient(1) and volumes.key(0) != volumes.key(1)
    np.testing.assert_array_equal(volumes.read(0).image, phantom.volume.array)
    np.testing.assert_array_equal(volumes.read(1).labels, liver_target(phantom.labels, tumour=True).array)
    assert volumes.read(0).spacing == options.spacing


def test_phantoms_have_the_lesions_that_are_asked_for(tmp_path: Path) -> None:
    cohort = PhantomCohort(1, first_seed=4, scans=1, shape=(10, 40, 40), spacing=(20.0, 10.0, 10.0))
    wanted = replace(cohort, lesions=4, lesion_mm=(20.0, 30.0))
    counts = [
        (c.volumes(tmp_path, VolumeConfig(spacing=c.spacing), ignore, CancelToken()).read(0).labels == 2).sum()
        for c in (replace(cohort, lesions=0), wanted)
    ]
    assert counts[0] == 0 < counts[1]


def test_volumes_are_prepared_once_and_read_from_the_disk(tmp_path: Path) -> None:
    wanted = VolumeConfig(spacing=(8.0, 4.0, 6.0))
    first = PreparedVolumes(source(1, 2), wanted, tmp_path)
    first.prepare()
    files = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert len(files) == 6
    again = pickle.loads(pickle.dumps(PreparedVolumes(source(1, 2), wanted, tmp_path)))
    again.prepare()
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == files
    sample = again.read(1)
    assert sample.image.shape == (10, 24, 16) and sample.spacing == (8.0, 4.0, 6.0)
    assert sample.image.dtype == np.int16 and sample.modality is Modality.CT
    assert set(np.unique(sample.labels)) == {0, 1, 2}
    other = PreparedVolumes(source(1, 2), replace(wanted, spacing=(8.0, 4.0, 4.0)), tmp_path)
    assert other.fingerprint() != first.fingerprint() == again.fingerprint()


def test_a_damaged_cache_is_said(tmp_path: Path) -> None:
    volumes = PreparedVolumes(source(1), VolumeConfig(spacing=(8.0, 8.0, 8.0)), tmp_path)
    volumes.prepare()
    next(tmp_path.glob("*.volume.npy")).write_bytes(b"no")
    with pytest.raises(InputError, match="delete the cache"):
        volumes.read(0)


def test_behind_a_localiser_the_network_learns_the_organs_surroundings() -> None:
    labels = np.zeros((20, 30, 30), np.uint8)
    labels[8:12, 10:14, 16:20] = 1
    sample = VolumeSample(np.zeros(labels.shape, np.int16), labels, (4.0, 4.0, 4.0))
    prepared = prepare_volume(sample, VolumeConfig(spacing=(4.0, 4.0, 4.0), localiser="unet-ct", margin_mm=8.0))
    assert prepared.labels.shape == (8, 8, 8) and (prepared.labels > 0).sum() == 64


def test_mlf_cores_cube_is_that_of_its_notebook() -> None:
    """Against the notebook's steps written with the libraries that it uses, on an image that they handle rightly."""
    from skimage.transform import downscale_local_mean

    rng = np.random.default_rng(0)
    image = rng.normal(0, 300, (9, 80, 84)).astype(np.float32)
    labels = np.zeros(image.shape, np.uint8)
    labels[2:7, 30:50, 36:61] = 1
    labels[3:5, 40:45, 40:47] = 2
    before, after = (512 - 9) // 2, (512 - 9) // 2 + 1
    padded = np.pad(image, ((before, after), (0, 0), (0, 0)), constant_values=image.min())
    marked = np.pad(labels.astype(np.float32), ((before, after), (0, 0), (0, 0)))
    small = downscale_local_mean(padded, (2, 2, 2))
    found = np.clip(np.round(downscale_local_mean(marked, (2, 2, 2))), 0, 2)
    middle = []
    for axis in range(3):
        used = np.flatnonzero(found.any(axis=tuple(n for n in range(3) if n != axis)))
        middle.append(int(np.floor(used[0] + (used[-1] - used[0]) / 2)))
    place = tuple(slice(m - 16, m + 16) for m in middle)
    cube, target = liver_cube(image, labels, (32, 32, 32))
    expected = np.zeros((32, 32, 32))
    part = small[place]
    expected[tuple(slice(n) for n in part.shape)] = part
    np.testing.assert_allclose(cube, expected, atol=1e-3)
    part = found[place]
    np.testing.assert_array_equal(target[tuple(slice(n) for n in part.shape)], part)
    assert 2 in target and cube.dtype == np.float32


def test_where_tumour_meets_background_mlf_core_sees_liver_and_water_beyond_the_image() -> None:
    labels = np.zeros((512, 8, 8), np.uint8)
    labels[256:, :, 4:] = 2
    labels[:, :, 3] = 2
    cube, target = liver_cube(np.full(labels.shape, -1000, np.int16), labels, (16, 16, 16))
    assert (target == 1).any()
    assert (cube[:, 12:] == 0).all()


# ---- patches


def test_patches_are_cut_about_labels_as_often_as_asked_and_normalised(tmp_path: Path) -> None:
    volumes = source(1, 2)
    always = build_task(config(tmp_path, volume=VolumeConfig((8, 8, 8), (4.0, 4.0, 4.0), foreground=1.0)))
    for sample in range(20):
        item = always.read_training(volumes, sample % 2, sample)
        assert item["image"].shape == item["target"].shape == (1, 8, 8, 8)
        assert item["target"].any() and item["image"].min() >= 0 and item["image"].max() <= 1
    tumours = sum(bool((always.read_training(volumes, 0, n)["target"] == 2).any()) for n in range(40))
    assert tumours > 15
    never = build_task(config(tmp_path, volume=VolumeConfig((4, 4, 4), (4.0, 4.0, 4.0), foreground=0.0)))
    assert sum(bool(never.read_training(volumes, 0, n)["target"].any()) for n in range(60)) < 50


def test_a_patch_is_a_pure_function_of_seed_and_number(tmp_path: Path) -> None:
    volumes = source(1)
    items = [build_task(config(tmp_path)).read_training(volumes, 0, n) for n in (5, 5, 6)]
    np.testing.assert_array_equal(items[0]["image"], items[1]["image"])
    assert not np.array_equal(items[0]["image"], items[2]["image"])


def test_a_volume_smaller_than_the_patch_lies_in_its_middle(tmp_path: Path) -> None:
    small = volume(1, (6, 16, 40))
    task = build_task(config(tmp_path))
    item = task.read_training(InMemoryVolumes([small], ["a"]), 0, 0)
    assert item["image"].shape == (1, 16, 16, 16)
    np.testing.assert_array_equal(item["target"][0, :5], 0)
    np.testing.assert_array_equal(item["image"][0, 11:], 0)
    assert item["image"][0, 5:11].any()


def test_patients_without_lesions_or_without_any_label_are_learnt_from(tmp_path: Path) -> None:
    healthy, empty = volume(1, tumour=False), replace(volume(2), labels=np.zeros(SHAPE, np.uint8))
    task = build_task(config(tmp_path, volume=VolumeConfig((16, 16, 16), (4.0, 4.0, 4.0), foreground=1.0)))
    volumes = InMemoryVolumes([healthy, empty], ["a", "b"])
    assert set(np.unique(task.read_training(volumes, 0, 0)["target"])) == {0, 1}
    assert not task.read_training(volumes, 1, 1)["target"].any()
    result = train(config(tmp_path / "out", epochs=1), volumes, InMemoryVolumes([volume(3, tumour=False)], ["c"]))
    assert np.isfinite(result.scores["dice"]) and np.isfinite(result.scores["dice_liver"])


def test_labels_that_are_not_learnt_are_background(tmp_path: Path) -> None:
    task = build_task(config(tmp_path, volume=VolumeConfig((16, 16, 16), (4.0, 4.0, 4.0), labels=(2,))))
    assert set(np.unique(task.read_validation(source(1), 0, 0)["target"])) == {0, 1}


def test_training_sees_the_intensities_that_inference_sees(tmp_path: Path) -> None:
    from LiverMarginLib.inference.compatibility import plan_input

    sample = volume(3)
    wanted = VolumeConfig((16, 16, 16), (4.0, 4.0, 4.0), normalisation=NormalisationKind.Z_SCORE)
    settings = config(tmp_path, volume=wanted)
    seen = build_task(settings).read_validation(InMemoryVolumes([sample], ["a"]), 0, 0)["image"][0]
    result = train(replace(settings, epochs=1), source(1), source(2))
    bundle = bundle_from_training(result, settings, tmp_path / "m", name="m", onnx=False)
    image = Volume(
        sample.image, Geometry(sample.image.shape, np.diag([-4.0, -4.0, 4.0, 1])), Modality.CT, IntensityKind.HU
    )
    np.testing.assert_array_equal(plan_input(image, bundle.manifest).apply(sample.image), seen)


# ---- losses


def toy(shape: tuple[int, ...] = (2, 3, 4, 5, 6)) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(shape, generator=generator)
    return logits, torch.randint(0, shape[1], (shape[0], 1, *shape[2:]), generator=generator)


def test_the_cross_entropy_is_torchs() -> None:
    logits, target = toy()
    weights = torch.tensor([0.5, 1.0, 3.0])
    expected = torch.nn.functional.cross_entropy(logits, target[:, 0], weights)
    torch.testing.assert_close(cross_entropy(logits, one_hot(target, 3), None, weights), expected)


def test_the_focal_loss_is_mlf_cores() -> None:
    logits, target = toy()
    p, smooth = torch.softmax(logits, dim=1).double().numpy(), 1e-5
    alpha = np.array([0.2, 1.0, 2.5]) / 3.7
    total = 0.0
    for n in np.ndindex(target.shape):
        t = int(target[n])
        probabilities = p[(n[0], slice(None), *n[2:])]
        share = np.where(np.arange(3) == t, 1 - smooth, smooth / 2)
        pt = (share * probabilities).sum() + smooth
        total -= alpha[t] * (1 - pt) ** 2 * np.log(pt)
    found = VolumeLoss(LossConfig(LossKind.FOCAL, class_weights=(0.2, 1.0, 2.5)), 3)(logits, target)
    assert float(found) == pytest.approx(total / target.numel(), rel=1e-5)


def test_the_soft_dice_is_its_formula_over_the_classes_but_the_background() -> None:
    logits, target = toy()
    p = torch.softmax(logits, dim=1)
    dice = [
        (2 * (p[:, n] * (target[:, 0] == n)).sum() + 1) / (p[:, n].sum() + (target[:, 0] == n).sum() + 1)
        for n in (1, 2)
    ]
    torch.testing.assert_close(soft_dice(logits, one_hot(target, 3)), 1 - sum(dice) / 2)


@pytest.mark.parametrize("kind", [LossKind.CE, LossKind.CE_DICE, LossKind.DICE, LossKind.FOCAL])
def test_voxels_of_no_weight_teach_nothing(kind: LossKind) -> None:
    logits, target = toy()
    weight = torch.ones(2, 1, 4, 5, 6)
    weight[:, :, 2:] = 0
    loss, other = VolumeLoss(LossConfig(kind), 3), target.clone()
    other[:, :, 2:] = 0
    torch.testing.assert_close(loss(logits, target, weight), loss(logits, other, weight))


def test_losses_that_do_not_suit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="ce-dice"):
        VolumeLoss(LossConfig(LossKind.BCE), 3)
    with pytest.raises(InputError, match="3 class weights"):
        VolumeLoss(LossConfig(LossKind.FOCAL, class_weights=(1.0, 2.0)), 3)
    with pytest.raises(InputError, match="does not suit"):
        build_task(TrainConfig(model="unet", loss=LossConfig(LossKind.CE)))


def test_the_focal_loss_of_a_perfect_prediction_has_a_finite_gradient() -> None:
    logits = torch.tensor([[80.0], [-80.0], [-80.0]]).view(1, 3, 1, 1, 1).requires_grad_()
    focal(logits, one_hot(torch.zeros(1, 1, 1, 1, 1), 3)).backward()
    assert torch.isfinite(logits.grad).all()


# ---- augmentation


def test_what_is_not_chosen_keeps_its_bits() -> None:
    image, target = torch.rand(2, 1, 6, 7, 8), torch.randint(0, 3, (2, 1, 6, 7, 8), dtype=torch.uint8)
    outside = torch.zeros(2, 1, 1, 1, 1)
    found, marked = VolumeAugmentation(AugmentationConfig(), 0)(image, target, [0, 1], outside)
    assert torch.equal(found, image) and torch.equal(marked, target)


def test_image_and_labels_move_together_and_the_outside_is_the_padding() -> None:
    settings = AugmentationConfig(rotation_p=1.0, rotation=30.0, scale_p=1.0, scale=(0.6, 0.7))
    target = torch.zeros(3, 1, 24, 20, 16, dtype=torch.uint8)
    target[:, :, 8:16, 6:14, 4:12] = 2
    image = torch.where(target > 0, 1.0, 0.2)
    found, marked = VolumeAugmentation(settings, 1)(image, target, [3, 4, 5], torch.full((3, 1, 1, 1, 1), -5.0), None)
    assert not torch.equal(marked, target)
    agree = ((found > 0.6) == (marked == 2)).float().mean()
    assert agree > 0.99
    assert float(found[0, 0, 0, 0, 0]) == pytest.approx(-5.0)
    assert set(marked.unique().tolist()) <= {0, 2}


def test_a_crop_leaves_a_block_of_the_patch_in_clean_padding() -> None:
    settings = AugmentationConfig(crop_p=1.0, crop=(0.3, 0.6), noise_p=1.0)
    image, target = torch.full((4, 1, 20, 20, 20), 0.5), torch.ones(4, 1, 20, 20, 20, dtype=torch.uint8)
    found, marked = VolumeAugmentation(settings, 0)(image, target, range(4), torch.full((4, 1, 1, 1, 1), -5.0), None)
    assert torch.equal(target, torch.ones_like(target)) and torch.equal(image, torch.full_like(image, 0.5))
    for patch, labels in zip(found[:, 0], marked[:, 0], strict=True):
        kept = labels.nonzero()
        extent = kept.amax(0) - kept.amin(0) + 1
        assert len(kept) == extent.prod() and all(6 <= side <= 12 for side in extent.tolist())
        assert torch.equal(patch == -5.0, labels == 0)


def test_a_rotation_is_one_in_voxels_whatever_the_patchs_sides() -> None:
    from LiverMarginLib.training.volume_augmentation import _draw_affine

    settings = AugmentationConfig(rotation_p=1.0, rotation=30.0)
    shape = (10, 20, 40)
    matrix = _draw_affine(settings, np.random.default_rng(0), shape)
    sides = np.array(shape[::-1])
    turn = matrix[:, :3] * sides[:, None] / sides
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)


def test_intensities_of_blocks_are_varied() -> None:
    settings = AugmentationConfig(
        noise_p=1.0, blur_p=1.0, brightness_p=1.0, contrast_p=1.0, low_resolution_p=1.0, gamma_p=1.0
    )
    image, target = torch.rand(2, 1, 12, 12, 12), torch.zeros(2, 1, 12, 12, 12, dtype=torch.uint8)
    found, _ = VolumeAugmentation(settings, 0)(image, target, [0, 1], torch.zeros(2, 1, 1, 1, 1))
    assert not torch.equal(found, image) and found.min() >= 0 and found.max() <= 1


def test_a_blur_in_three_dimensions_is_scipys() -> None:
    from scipy import ndimage

    from LiverMarginLib.training.filters import gaussian_blur

    image = torch.rand(2, 1, 9, 10, 11)
    found = gaussian_blur(image, [1.0, 0.6])
    for n, sigma in enumerate((1.0, 0.6)):
        expected = ndimage.gaussian_filter(image[n, 0].numpy(), sigma, mode="nearest", radius=int(np.ceil(3 * sigma)))
        np.testing.assert_allclose(found[n, 0].numpy(), expected, atol=1e-5)


# ---- the run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory):
    settings = config(tmp_path_factory.mktemp("training") / "out", epochs=6, steps_per_epoch=12, validate_every=3)
    return settings, train(settings, source(1, 2, 3), source(4, 5))


def test_a_training_learns_liver_and_tumour_and_scores_each(trained) -> None:
    _, result = trained
    assert set(result.scores) == {"loss", "dice", "dice_liver", "iou_liver", "dice_tumour", "iou_tumour"}
    assert result.scores["dice_liver"] > 0.8 and result.scores["dice_tumour"] > 0.5
    assert result.history[-1]["train_loss"] < result.history[0]["train_loss"]


def test_the_bundle_of_a_training_finds_both_on_another_grid(trained, tmp_path: Path) -> None:
    settings, result = trained
    bundle = bundle_from_training(result, settings, tmp_path / "m", name="m", onnx=False, half=True)
    assert bundle.manifest.parameters["classes"] == 3 and bundle.manifest.input_size == (16, 16, 16)
    sample = volume(9)
    array = np.repeat(np.repeat(sample.image, 2, axis=1), 2, axis=2)
    image = Volume(array, Geometry(array.shape, np.diag([-2.0, -2.0, 4.0, 1])), Modality.CT, IntensityKind.HU)
    found = load_model(bundle, device="cpu", threads=1).segment(image).labels.array
    wanted = np.repeat(np.repeat(sample.labels, 2, axis=1), 2, axis=2)
    for label, least in ((1, 0.8), (2, 0.4)):
        dice = 2 * ((found == label) & (wanted == label)).sum() / ((found == label).sum() + (wanted == label).sum())
        assert dice > least, label


def test_validation_pools_the_scans_of_a_patient_and_leaves_out_who_has_no_tumour(tmp_path: Path) -> None:
    task = build_task(config(tmp_path))
    counts = np.array([[[80, 100, 100], [0, 0, 0]], [[50, 100, 100], [10, 20, 20]], [[0, 0, 100], [0, 5, 0]]], float)
    scores = task.validation_scores({"loss": np.array(1.0), "n": np.array(1.0), "counts": counts})
    assert scores["dice_liver"] == pytest.approx((0.8 + 0.5 + 0.0) / 3)
    assert scores["dice_tumour"] == pytest.approx((0.5 + 0.0) / 2)
    assert scores["iou_liver"] == pytest.approx((80 / 120 + 50 / 150 + 0) / 3)
    assert scores["dice"] == pytest.approx((scores["dice_liver"] + scores["dice_tumour"]) / 2)


def test_a_network_validates_what_inference_gives(trained) -> None:
    settings, result = trained
    task = build_task(settings)
    model = task.build_model()
    from LiverMarginLib.training.checkpoint import load_weights

    model.load_state_dict(load_weights(result.weights))
    item = task.read_validation(source(4), 0, 0)
    batch = Batch([0], {name: torch.from_numpy(np.asarray(value))[None] for name, value in item.items()})
    with torch.no_grad():
        sums = task.validate(model.eval(), batch, 1)
    assert sums["counts"].shape == (1, 2, 3)
    assert sums["counts"][0, 0, 2] == (source(4).read(0).labels == 1).sum()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"volume": VolumeConfig((15, 16, 16), (4.0, 4.0, 4.0))}, "multiples of 2"),
        ({"model_options": {"depth": 3}}, "no option 'depth'"),
        ({"loss": LossConfig(LossKind.BCE)}, "does not suit"),
    ],
)
def test_settings_that_do_not_suit_are_refused(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        train(config(tmp_path, **changes), source(1), source(2))


def test_shipped_profiles_are_what_they_say(tmp_path: Path) -> None:
    compat = profile("unet3d", "mlf_compat")
    assert TrainConfig.from_dict(compat.to_dict()) == compat
    task = build_task(compat)
    assert sum(p.numel() for p in task.build_model().parameters()) == 2_339_491
    assert compat.volume.preparation is Preparation.MLF_CORE
    assert compat.loss.class_weights == (0.2, 1.0, 2.5) and compat.optimiser.learning_rate == 1e-4
    assert compat.augmentation == AugmentationConfig()
    for settings in PROFILES["unet3d"].values():
        build_task(settings).build_model()


def test_a_plateau_can_watch_the_training_loss(tmp_path: Path) -> None:
    from LiverMarginLib.training.config import Decay, ScheduleConfig

    settings = config(
        tmp_path / "out",
        epochs=5,
        steps_per_epoch=1,
        validate_every=5,
        schedule=ScheduleConfig(Decay.PLATEAU, patience=0, plateau_factor=0.5, plateau_on_loss=True),
        optimiser=replace(config(tmp_path).optimiser, learning_rate=1.0),
    )
    rates = [row["learning_rate"] for row in train(settings, source(1), source(2)).history]
    assert rates[0] == 1.0 and min(rates) < 1.0


def test_a_bundle_of_mlf_cores_preparation_names_its_localiser_and_counts_voxels(trained, tmp_path: Path) -> None:
    settings, result = trained
    volume_settings = replace(
        profile("unet3d", "mlf_compat").volume, patch=(16, 16, 16), preparation=Preparation.MLF_CORE
    )
    bundle = bundle_from_training(
        result, replace(settings, volume=volume_settings), tmp_path / "m", name="m", onnx=False
    )
    assert bundle.manifest.spacing_unit is SpacingUnit.VOXEL and bundle.manifest.localiser.model == "unet-ct"
    assert bundle.manifest.normalisation.kind is NormalisationKind.NONE
    assert SHAPE == (20, 24, 24)
