"""Two stages for CT and MR: switches, partial labels, drawn livers, the mixed pool, leakage, and the whole study."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from model_tools import bare, tiny_unet3d_bundle
from volume_toys import config, volume

from LiverMarginLib.cli import main
from LiverMarginLib.errors import InputError
from LiverMarginLib.events import CancelToken, Notice, ignore
from LiverMarginLib.io.readers import read_labels, read_volume
from LiverMarginLib.io.volume_writers import write_volume
from LiverMarginLib.io.writers import write_labelmap
from LiverMarginLib.jobs.cohort import PhantomCohort
from LiverMarginLib.jobs.train import TrainJob
from LiverMarginLib.jobs.two_stage import AblationJob, TwoStageJob
from LiverMarginLib.models.bundle import Bundle
from LiverMarginLib.models.intensity_fields import Window, WindowUnit
from LiverMarginLib.models.volumetric_fields import NormalisationKind
from LiverMarginLib.phantom import PhantomOptions, liver_target, make_phantom
from LiverMarginLib.report.ablation import ablation_figure
from LiverMarginLib.terminology import LIVER, LIVER_MASS
from LiverMarginLib.training.config import LossConfig, LossKind
from LiverMarginLib.training.leakage import refuse_seen_cases
from LiverMarginLib.training.pool import MixedLabelPool, PoolPart, balanced
from LiverMarginLib.training.profiles import PROFILES, profile
from LiverMarginLib.training.pseudo_labels import QualityGate, pseudo_label, read_pseudo_label, write_pseudo_label
from LiverMarginLib.training.task import build_task
from LiverMarginLib.training.trainer import train
from LiverMarginLib.training.two_stage import Cohort, TwoStageStudy, Variant
from LiverMarginLib.training.two_stage_scores import score_case, summary
from LiverMarginLib.training.variants import Target, for_modalities, for_target
from LiverMarginLib.training.volume_data import InMemoryVolumes, PreparedVolumes, VolumeSample, case_hash
from LiverMarginLib.training.volume_losses import VolumeLoss, as_annotated
from LiverMarginLib.volume import IntensityKind, LabelMap, Modality, axial_view

CT, MR = Modality.CT, Modality.MR

# ---- the switches


def test_a_profile_learns_what_is_asked_for_and_its_class_weights_go_along() -> None:
    base = profile("unet3d", "mlf_compat")
    liver, cancer = for_target(base, Target.LIVER), for_target(base, Target.CANCER)
    assert liver.volume.labels == (1,) and liver.volume.whole_organ and liver.loss.class_weights == (0.2, 1.0)
    assert cancer.volume.labels == (2,) and not cancer.volume.whole_organ and cancer.loss.class_weights == (0.2, 2.5)
    assert not cancer.volume.largest_component and liver.volume.largest_component
    assert liver.volume.localiser is None and cancer.volume.localiser == "unet-ct"
    assert for_target(base, Target.BOTH) == base
    with pytest.raises(InputError, match="choose another"):
        for_target(liver, Target.BOTH)


def test_the_whole_liver_has_the_masses_in_it(tmp_path: Path) -> None:
    settings = for_target(config(tmp_path), Target.LIVER)
    toy = volume(1)
    target = build_task(settings).read_validation(InMemoryVolumes([toy], ["a"]), 0, 0)["target"][0]
    np.testing.assert_array_equal(target, toy.labels > 0)


def test_mr_is_clipped_to_percentiles_and_z_scored_and_ct_beside_it_has_the_same_range() -> None:
    base = profile("unet3d", "spacing_aware")
    assert for_modalities(base, [CT]) == base
    mr = for_modalities(base, [MR])
    assert (mr.window, mr.volume.window_unit, mr.intensity) == ((2, 98), WindowUnit.PERCENTILE, IntensityKind.ARBITRARY)
    assert mr.volume.normalisation is NormalisationKind.Z_SCORE and mr.volume.mean is None
    assert mr.volume.localiser is None and base.volume.localiser == "unet-ct"
    both = for_modalities(base, [CT, MR])
    assert (both.volume.mean, both.volume.deviation) == (40.0, 100.0)
    assert [item.modality for item in both.volume.other_modalities] == [MR]
    assert type(both).from_dict(both.to_dict()) == both
    for wrong in ([], [CT, CT], [Modality.UNKNOWN]):
        with pytest.raises(InputError, match="name each once"):
            for_modalities(base, wrong)


def test_each_modality_is_normalised_in_its_own_way_in_one_training(tmp_path: Path) -> None:
    both = for_modalities(config(tmp_path), [CT, MR])
    task = build_task(both)
    ct, mr = volume(1), in_mr(volume(2))
    volumes = InMemoryVolumes([ct, mr], ["a", "b"])
    seen = [task.read_validation(volumes, n, 0)["image"][0] for n in range(2)]
    np.testing.assert_allclose(seen[0], (np.clip(ct.image, -160, 240) - 40) / 100, atol=1e-5)
    clipped = np.clip(mr.image, *np.percentile(mr.image, (2, 98)))
    np.testing.assert_allclose(seen[1], (clipped - clipped.mean()) / clipped.std(), atol=1e-4)


def test_training_on_phantoms_takes_the_modality_and_the_target(tmp_path: Path, capsys) -> None:
    job = TrainJob(model="unet3d", profile="tiny", modality="MR", target="liver")
    assert job.config().window == (2, 98) and job.config().volume.labels == (1,)
    cohort = PhantomCohort(1, scans=1, shape=(6, 24, 24), spacing=(30.0, 16.0, 16.0), modality="MR")
    scans = cohort.scanned(tmp_path, ignore, CancelToken())[0]
    same = replace(cohort, modality="CT").scanned(tmp_path, ignore, CancelToken())[0]
    assert scans.read(0).modality is MR and same.read(0).modality is CT
    assert scans.read(0).case == same.read(0).case  # one patient, whatever the scanner
    np.testing.assert_array_equal(scans.read(0).labels, same.read(0).labels)
    assert not np.array_equal(scans.read(0).image, same.read(0).image)
    for words in (["unet", "--modality", "MR"], ["unet", "--target", "liver"]):
        assert main(["train", *words, "--out", str(tmp_path / "m")]) == 2
        assert capsys.readouterr().err.count("livermargin: ") == 1


# ---- MedFormer


def test_medformers_profiles_build_and_the_recipe_for_lits_is_the_published_one() -> None:
    recipe = profile("medformer", "lits")
    assert recipe.volume.spacing == (1.0, 0.767578125, 0.767578125) and recipe.volume.patch == (128, 128, 128)
    assert recipe.window == (-17, 201) and (recipe.volume.mean, recipe.volume.deviation) == (99.40, 39.39)
    assert recipe.optimiser.learning_rate == 4e-4 and recipe.optimiser.weight_decay == 0.05
    assert recipe.epochs * recipe.steps_per_epoch == 100_000 and recipe.loss.class_weights == (0.5, 1.0, 3.0)
    sizes = {
        name: sum(p.numel() for p in build_task(settings).build_model().parameters())
        for name, settings in PROFILES["medformer"].items()
    }
    assert round(sizes["lits"] / 1e6, 2) == 38.59 and sizes["small"] < 1e6
    with pytest.raises(InputError, match="multiples of 16 from 32"):
        build_task(replace(recipe, volume=replace(recipe.volume, patch=(128, 128, 24)))).build_model()


def test_medformer_learns_the_toy(tmp_path: Path) -> None:
    small = PROFILES["medformer"]["small"].model_options
    settings = config(
        tmp_path,
        model="medformer",
        model_options={**small, "widths": [8, 8, 16, 16, 16], "map_size": [2, 2, 2]},
        volume=replace(config(tmp_path).volume, patch=(32, 32, 32)),
        epochs=1,
        steps_per_epoch=14,
    )
    result = train(settings, toys(1, 2), toys(3))
    assert result.scores["dice_liver"] > 0.5


# ---- labels that are not all there


def test_what_was_not_looked_for_is_part_of_the_organ_and_teaches_nothing_of_itself() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, 4, 4, generator=generator, requires_grad=True)
    target = torch.randint(0, 2, (2, 1, 4, 4, 4), generator=generator)
    known = torch.tensor([[True, True, False], [True, True, False]])
    loss = VolumeLoss(LossConfig(LossKind.CE), 3)(as_annotated(logits, known), target)
    p = torch.softmax(logits.detach(), dim=1)
    expected = -torch.where(target[:, 0] == 1, p[:, 1] + p[:, 2], p[:, 0]).log().mean()
    torch.testing.assert_close(loss.detach(), expected)
    loss.backward()
    # Liver and cancer are pushed together: their share of each other stays what the network thinks.
    share = logits.grad[:, 1:] / p[:, 1:]
    torch.testing.assert_close(share[:, 0], share[:, 1], rtol=1e-3, atol=1e-6)
    everything = torch.ones(2, 3, dtype=torch.bool)
    assert as_annotated(logits, everything) is logits


def test_the_dice_of_cancer_is_that_of_the_samples_in_which_it_was_looked_for() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 3, 4, 4, 4, generator=generator)
    target = torch.randint(0, 3, (2, 1, 4, 4, 4), generator=generator)
    target[1] = (target[1] > 0).long()
    known = torch.tensor([[True, True, True], [True, True, False]])
    both = as_annotated(logits, known)
    torch.testing.assert_close(both[:1], logits[:1])
    loss = VolumeLoss(LossConfig(LossKind.DICE), 3)
    p, cancer = torch.softmax(logits[:1], dim=1)[:, 2], target[:1, 0] == 2
    dice = (2 * (p * cancer).sum() + 1) / (p.sum() + cancer.sum() + 1)
    q = torch.softmax(logits, dim=1)
    liver_p = torch.stack((q[0, 1], q[1, 1] + q[1, 2]))
    liver = target[:, 0] == 1
    liver_dice = (2 * (liver_p * liver).sum() + 1) / (liver_p.sum() + liver.sum() + 1)
    torch.testing.assert_close(loss(both, target), 1 - (dice + liver_dice) / 2, rtol=1e-4, atol=1e-5)


def test_voxels_of_a_drawn_liver_weigh_half_and_those_of_true_cancer_all(tmp_path: Path) -> None:
    task = build_task(config(tmp_path))
    drawn = replace(volume(1), pseudo=(1,))
    item = task.read_training(InMemoryVolumes([drawn], ["a"]), 0, 0)
    np.testing.assert_array_equal(item["weight"], [1.0, 0.5, 1.0])
    np.testing.assert_array_equal(item["known"], [True, True, True])
    with pytest.raises(InputError, match="let a model draw it"):
        task.read_training(InMemoryVolumes([replace(volume(1), known=(2,))], ["a"]), 0, 0)


def test_validation_scores_cancer_only_where_it_was_looked_for(tmp_path: Path) -> None:
    settings = config(tmp_path, epochs=1, steps_per_epoch=1)
    unmarked = replace(volume(3), labels=(volume(3).labels > 0).astype(np.uint8), known=(1,))
    result = train(settings, toys(1, 2), InMemoryVolumes([unmarked], ["c"]))
    assert np.isnan(result.scores["dice_tumour"]) and np.isfinite(result.scores["dice_liver"])


# ---- drawn livers


def blocks(*boxes: tuple[slice, slice, slice]) -> np.ndarray:
    array = np.zeros((20, 20, 20), np.uint8)
    for box in boxes:
        array[box] = 1
    return array


LARGE, SMALL = np.s_[2:12, 2:12, 2:12], np.s_[15:18, 15:18, 15:18]
MM3 = 1e6 / 1000  # a thousand voxels are a litre


def test_a_drawn_liver_is_the_largest_piece_without_holes_together_with_the_marked_cancer() -> None:
    found = blocks(LARGE, SMALL)
    found[5:7, 5:7, 5:7] = 0
    cancer = blocks(np.s_[10:14, 4:8, 4:8]) > 0
    label = pseudo_label(found, cancer, MM3, QualityGate(min_cancer_inside=0.5))
    expected = blocks(LARGE)
    expected[cancer] = 2
    np.testing.assert_array_equal(label.labels, expected)
    assert label.cancer_inside == 0.5 and label.litres == pytest.approx(1.032) and not label.reason


@pytest.mark.parametrize(
    ("voxel_mm3", "cancer", "reason"),
    [
        (MM3, None, ""),
        (0.5 * MM3, None, ""),
        (0.499 * MM3, None, "less than 0.5 l"),
        (4 * MM3, None, ""),
        (4.1 * MM3, None, "more than 4 l"),
        (MM3, np.s_[2:12, 2:4, 2:4], ""),
        (MM3, np.s_[3:13, 2:4, 2:4], ""),  # nine of ten layers
        (MM3, np.s_[4:14, 2:4, 2:4], "80 % of the cancer"),
    ],
)
def test_the_gate_lets_through_what_is_a_liver(voxel_mm3, cancer, reason) -> None:
    marked = None if cancer is None else blocks(cancer)
    found = pseudo_label(blocks(LARGE), marked, voxel_mm3, QualityGate()).reason
    assert reason in found and bool(found) == bool(reason)


def test_a_kept_label_is_judged_anew_and_a_damaged_one_is_said(tmp_path: Path) -> None:
    path = tmp_path / "liver.npz"
    write_pseudo_label(pseudo_label(blocks(LARGE), blocks(np.s_[4:14, 2:4, 2:4]), MM3, QualityGate()), path)
    assert "80 %" in read_pseudo_label(path, QualityGate()).reason
    assert not read_pseudo_label(path, QualityGate(min_cancer_inside=0.8)).reason
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match="damaged"):
        read_pseudo_label(path, QualityGate())


def test_where_nothing_was_found_or_marked_the_gate_says_so() -> None:
    assert "0.00 l" in pseudo_label(blocks(), None, MM3, QualityGate()).reason
    assert not pseudo_label(blocks(LARGE), blocks(), MM3, QualityGate()).reason  # looked for, and none there
    for wrong in ({"min_litres": 5.0}, {"min_cancer_inside": 1.5}):
        with pytest.raises(InputError):
            QualityGate(**wrong)


# ---- the pool


def in_mr(sample: VolumeSample) -> VolumeSample:
    """The same patient with other intensities, of no unit."""
    return replace(sample, image=(sample.image.astype(np.int16) * -2 + 900).clip(0), modality=MR)


def toys(*seeds: int, mr: bool = False) -> InMemoryVolumes:
    samples = [replace(volume(seed), case=case_hash(f"toy {seed}")) for seed in seeds]
    return InMemoryVolumes([in_mr(s) for s in samples] if mr else samples, [f"patient {seed}" for seed in seeds])


def test_the_pool_mixes_true_and_drawn_livers_with_true_cancer(tmp_path: Path) -> None:
    drawn = np.zeros(volume(3).labels.shape, np.uint8)
    drawn[4:14, 4:20, 4:20] = 1
    np.savez_compressed(tmp_path / "drawn.npz", labels=drawn)
    parts = [
        PoolPart(toys(1), CT, (1, 2)),
        PoolPart(toys(2), CT, (1,)),
        PoolPart(toys(3, 4, mr=True), MR, (2,), {0: tmp_path / "drawn.npz"}),
    ]
    pool = MixedLabelPool(parts, (1, 2), cropped=True)
    assert len(pool) == 3 and pool.left_out == 1
    both, liver, mixed = (pool.read(n) for n in range(3))
    np.testing.assert_array_equal(both.labels, volume(1).labels)
    np.testing.assert_array_equal(liver.labels, volume(2).labels > 0)  # the masses are not believed, but are liver
    assert (both.known, liver.known, mixed.known) == ((1, 2), (1,), (1, 2))
    assert (both.pseudo, mixed.pseudo) == ((), (1,))
    expected = np.where(volume(3).labels == 2, 2, drawn)  # cancer overrides
    np.testing.assert_array_equal(mixed.labels, expected)
    assert pool.counts() == {"CT": {"liver+cancer": 1, "liver": 1}, "MR": {"liver*+cancer": 1}}
    np.savez_compressed(tmp_path / "drawn.npz", labels=drawn[::-1])
    assert MixedLabelPool(parts, (1, 2), cropped=True).key(2) != pool.key(0)


def test_a_network_for_cancer_alone_leaves_out_what_nobody_searched_for_cancer() -> None:
    parts = [PoolPart(toys(1), CT, (1, 2)), PoolPart(toys(2), CT, (1,)), PoolPart(toys(3), CT, (2,))]
    assert [MixedLabelPool(parts, (2,), cropped=False).patient(n) for n in range(2)] == ["patient 1", "patient 3"]
    assert len(MixedLabelPool(parts, (2,), cropped=True)) == 1  # without a liver there is nothing to crop to
    with pytest.raises(InputError, match="No volume of the pool"):
        MixedLabelPool(parts[1:2], (2,), cropped=True)


def test_both_modalities_are_drawn_as_often_and_the_cache_knows_the_labels(tmp_path: Path) -> None:
    parts = [PoolPart(toys(1, 2, 3), CT, (1,)), PoolPart(toys(4, mr=True), MR, (1, 2))]
    prepared = PreparedVolumes(MixedLabelPool(parts, (1, 2), cropped=False), config(tmp_path).volume, tmp_path)
    source = balanced(prepared)
    assert [source.read(n).modality for n in range(len(source))] == [CT, MR] * 3
    assert sorted({source.patient(n) for n in range(6)}) == [f"patient {n}" for n in (1, 2, 3, 4)]
    assert source.read(0).known == (1,) and source.read(1).known == (1, 2)
    assert source.cases() == sorted(case_hash(f"toy {seed}") for seed in (1, 2, 3, 4))
    one = PreparedVolumes(MixedLabelPool(parts[:1], (1,), cropped=False), config(tmp_path).volume, tmp_path)
    assert balanced(one) is one


def test_an_anisotropy_of_ten_to_one_and_a_crop_smaller_than_the_patch_are_learnt_from(tmp_path: Path) -> None:
    toy = volume(1)
    flat = replace(toy, image=toy.image[::5], labels=toy.labels[::5], spacing=(20.0, 2.0, 2.0))
    settings = config(tmp_path)
    wanted = replace(settings.volume, localiser="liver-ct", margin_mm=0.0)
    pool = MixedLabelPool([PoolPart(InMemoryVolumes([flat], ["a"]), CT, (1, 2))], (1, 2), cropped=True)
    prepared = PreparedVolumes(pool, wanted, tmp_path)
    assert prepared.read(0).spacing == (4.0, 4.0, 4.0) and min(prepared.read(0).image.shape) < 16
    item = build_task(replace(settings, volume=wanted)).read_training(prepared, 0, 0)
    assert item["image"].shape == (1, 16, 16, 16) and set(np.unique(item["target"])) == {0, 1, 2}


# ---- leakage


def test_a_case_is_known_by_its_voxels_whatever_its_name_and_type() -> None:
    image = volume(1).image
    assert case_hash(image) == case_hash(image.astype(np.float32)) == case_hash(np.asfortranarray(image))
    assert case_hash(image) != case_hash(image[::-1]) and len(case_hash(image)) == 16


def bundle_that_saw(tmp_path: Path, **record: list[str]) -> Bundle:
    return bare(tiny_unet3d_bundle(tmp_path / "m"), name="liver-ct", training=record)


def test_a_case_of_the_training_is_refused_as_a_test_case(tmp_path: Path) -> None:
    tests = {"a": {"11", "12"}, "b": {"21"}, "c": {"31"}}
    unseen = bundle_that_saw(tmp_path, train_cases=["99"], validation_cases=["98"])
    refuse_seen_cases([unseen], tests)
    for record in ({"train_cases": ["12", "21"]}, {"train_cases": [], "validation_cases": ["11", "21"]}):
        bundle = dataclasses.replace(unseen, manifest=dataclasses.replace(unseen.manifest, training=record))
        with pytest.raises(InputError, match=r"2 of the 3 test patients .* 'liver-ct'.* take them out"):
            refuse_seen_cases([bundle], tests)


def test_an_evaluation_says_which_model_has_seen_a_case(tmp_path: Path, capsys) -> None:
    folder = data_set(tmp_path / "data", "CT", range(2), (1, 2))
    seen = read_volume(folder / "images" / "p1.nii.gz")
    case = case_hash(axial_view(seen.geometry).to_view(seen.array))
    coarse = {"spacing": (25.0, 16.0, 16.0), "training": {"train_cases": [case]}}
    bundle = tiny_unet3d_bundle(tmp_path / "m", **coarse)
    words = ["evaluate", str(bundle.folder), "--data", str(folder), "--modality", "CT", "-o", str(tmp_path / "e")]
    assert main([*words, "--device", "cpu"]) == 0
    told = " ".join(capsys.readouterr().err.split())
    assert "was trained on p1" in told and "was trained on p0" not in told


def test_a_model_that_does_not_say_what_it_has_seen_is_told_of(tmp_path: Path) -> None:
    notices: list[object] = []
    refuse_seen_cases([bundle_that_saw(tmp_path)], {"a": {"1"}}, notices.append)
    assert isinstance(notices[0], Notice) and "does not record" in notices[0].message


# ---- scores


def test_the_scores_are_those_counted_by_hand() -> None:
    reference, found = np.zeros((2, 1, 1, 10), np.uint8)
    reference[0, 0, :8] = 1
    reference[0, 0, [1, 2, 5, 6]] = 2
    found[0, 0, :6] = 1
    found[0, 0, [1, 2, 4]] = 2
    ill = score_case("CT 1", CT, reference, found, (1, 2))
    healthy = score_case("CT 2", CT, (reference > 0).astype(np.uint8), (reference > 0).astype(np.uint8), (1, 2))
    unmarked = score_case("CT 3", CT, reference, found, (1,))
    (row,) = summary([ill, healthy, unmarked])
    assert row["n"] == 3 and row["lesions"] == 2 and row["lesions_found"] == 2
    assert row["liver_dice"] == pytest.approx((12 / 14 + 1 + 12 / 14) / 3)
    assert row["cancer_dice"] == row["cancer_dice_global"] == pytest.approx(4 / 7)
    assert row["recall_iou0.5"] == row["precision_iou0.5"] == 0.5


def test_a_lesion_at_the_border_of_image_and_liver_counts_like_any_other() -> None:
    reference = np.zeros((3, 4, 5), np.uint8)
    reference[:, :, :3] = 1
    reference[0, 0, 0] = reference[2, 3, 2] = 2
    perfect = score_case("CT 1", CT, reference, reference, (1, 2))
    assert perfect.lesions[0.5].recall == perfect.lesions[0.5].precision == 1.0
    assert perfect.lesions[0.5].reference == 2


def test_without_any_lesion_there_is_no_number_and_a_false_one_counts() -> None:
    liver = np.ones((2, 3, 4), np.uint8)
    false = liver.copy()
    false[0, 0, 0] = 2
    (row,) = summary([score_case("MR 1", MR, liver, liver, (1, 2))])
    assert np.isnan([row["cancer_dice"], row["recall_iou0.5"], row["precision_iou0.5"]]).all()
    (row,) = summary([score_case("MR 1", MR, liver, false, (1, 2))])
    assert row["cancer_dice"] == 0 == row["precision_iou0.1"] and np.isnan(row["recall_iou0.1"])


# ---- the whole study


def study(tmp_path: Path, **changes) -> TwoStageStudy:
    settings = config(tmp_path, epochs=1, steps_per_epoch=8)
    fields = {
        "gate": QualityGate(0.0, 10.0, 0.0),
        "liver_models": {},
        "notes": {"data": "toys"},
        "onnx": False,
        "on_event": ignore,
        "cancel": CancelToken(),
    } | changes
    cohorts = {
        m: Cohort(
            (
                PoolPart(toys(1 + n, 2 + n, mr=n > 0), m, (1, 2)),
                PoolPart(toys(3 + n, mr=n > 0), m, (2,)),
            ),
            (PoolPart(toys(4 + n, mr=n > 0), m, (1, 2)),),
            (PoolPart(toys(5 + n, mr=n > 0), m, (1, 2)),),
        )
        for n, m in ((0, CT), (10, MR))
    }
    return TwoStageStudy(cohorts, settings, settings, tmp_path / "models", tmp_path / "work", **fields)


@pytest.fixture(scope="module")
def studied(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    made = study(folder)
    variants = [Variant(Target.BOTH, (CT, MR)), Variant(Target.CANCER, (MR,)), Variant(Target.BOTH, (CT,), False)]
    bundles = {variant.name: made.cancer_model(variant) for variant in variants}
    return folder, made, variants, bundles


def test_the_study_trains_both_stages_and_says_in_the_bundles_what_they_are(studied) -> None:
    _, made, _, bundles = studied
    assert list(bundles) == ["liver-cancer-ct-mr", "cancer-mr", "liver-cancer-ct-single"]
    both = bundles["liver-cancer-ct-mr"].manifest
    assert both.modalities == (CT, MR)
    assert [item.localiser.model for item in both.inputs] == ["liver-ct", "liver-mr"]
    assert both.training["pool"] == {m: {"liver+cancer": 2, "liver*+cancer": 1} for m in ("CT", "MR")}
    assert len(both.training["train_cases"]) == 6 and len(both.training["run_manifest_sha256"]) == 64
    cancer = bundles["cancer-mr"].manifest
    assert cancer.localiser.keep_organ and cancer.modality is MR and [s.label for s in cancer.labels] == [2]
    assert bundles["liver-cancer-ct-single"].manifest.localiser is None
    assert "train_cases: 6, listed in model.json" in (bundles["liver-cancer-ct-mr"].folder / "README.md").read_text()
    assert [record.liver for record in made.records[CT]] == ["true", "true", "pseudo"]


def test_the_provenance_of_drawn_livers_names_model_and_training(studied) -> None:
    folder, made, _, _ = studied
    record = json.loads((folder / "work" / "pseudo-ct" / "pseudo-labels.json").read_text())
    liver = made.liver_model(CT).manifest
    assert record["model"]["sha256"] == dict(liver.weights)
    assert record["model"]["run_manifest_sha256"] == liver.training["run_manifest_sha256"]
    assert [case["liver"] for case in record["cases"].values()] == ["true", "true", "pseudo"]
    assert "patient" not in json.dumps(record)


def test_every_variant_is_tested_on_what_it_has_learnt(studied) -> None:
    _, made, variants, bundles = studied
    rows = [row for variant in variants for row in summary(made.test(bundles[variant.name], variant))]
    assert [row["test"] for row in rows] == ["CT", "MR", "MR", "CT"]
    assert all(row["n"] == 1 and 0 <= row["liver_dice"] <= 1 for row in rows)


def test_a_study_that_is_done_is_not_trained_again(studied, monkeypatch) -> None:
    folder, _, variants, bundles = studied
    again = study(folder)
    monkeypatch.setattr("LiverMarginLib.training.engine.Engine.step", lambda *_: pytest.fail("trained again"))
    monkeypatch.setattr(TwoStageStudy, "_draw_one", lambda *_: pytest.fail("drawn again"))
    for variant in variants:
        assert again.cancer_model(variant).manifest.weights == bundles[variant.name].manifest.weights


def test_a_liver_model_that_has_seen_a_test_case_is_refused_before_any_training(studied, tmp_path: Path) -> None:
    _, made, _, _ = studied
    bundle = made.liver_model(CT)
    seen = {"train_cases": [case_hash("toy 5")]}
    leaking = dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, training=seen))
    with pytest.raises(InputError, match="1 of the 2 test patients"):
        study(tmp_path, liver_models={CT: leaking})
    given = study(tmp_path, liver_models={CT: bundle})
    assert given.liver_model(CT).folder == tmp_path / "models" / "liver-ct"


def test_a_drawn_liver_that_does_not_pass_is_left_out_and_said(tmp_path: Path) -> None:
    notices: list[str] = []
    strict = study(
        tmp_path,
        gate=QualityGate(50.0, 60.0),
        on_event=lambda event: notices.append(event.message) if isinstance(event, Notice) else None,
    )
    assert not strict.drawn(CT)[1].drawn
    assert any("dropped" in text and "less than 50 l" in text for text in notices)


def test_the_ablation_is_two_by_three_and_a_single_stage() -> None:
    names = [variant.name for variant in AblationJob().variants()]
    assert names == [
        *("cancer-ct", "cancer-mr", "cancer-ct-mr"),
        *("liver-cancer-ct", "liver-cancer-mr", "liver-cancer-ct-mr"),
        "liver-cancer-ct-mr-single",
    ]
    for wrong in ({"target": "liver"}, {"modalities": ("PET",)}, {"target": "cancer", "single_stage": True}):
        with pytest.raises(InputError):
            TwoStageJob(**wrong).variants()


def test_no_two_variants_look_alike_in_the_picture() -> None:
    rows = [
        {"learns": v.target.value, "from": "+".join(v.modalities), "stages": 1 + v.two_stage, "test": test}
        | {"n": 2, "lesions": 3, "liver_dice": 0.9, "cancer_dice": 0.4, "cancer_dice_global": math.nan}
        | {f"{what}_iou{iou}": 0.2 for what in ("recall", "precision") for iou in (0.1, 0.5)}
        for v in AblationJob().variants()
        for test in v.modalities
    ]
    legend = ablation_figure(rows).legends[0]
    looks = {(h.get_color(), h.get_marker(), h.get_markerfacecolor()) for h in legend.legend_handles}
    assert len(looks) == len(legend.get_texts()) == len(AblationJob().variants())


@pytest.mark.parametrize("text", ["CT", "CT:data", "PET:liver:data", "CT:spleen:data"])
def test_a_source_that_cannot_be_read_is_said(text: str, tmp_path: Path, capsys) -> None:
    assert main(["two-stage", "--source", text, "-o", str(tmp_path / "out")]) == 2
    assert "write MODALITY:ANNOTATED:PATH" in capsys.readouterr().err


# ---- on files, by the commands


def data_set(folder: Path, modality: str, seeds: range, labels: tuple[int, ...]) -> Path:
    """Phantoms as pairs of image and label map, of whom only some labels are kept."""
    for seed in seeds:
        options = PhantomOptions(shape=(8, 24, 24), spacing=(25.0, 16.0, 16.0), modality=modality, lesions=4)
        phantom = make_phantom(seed, replace(options, lesion_mm=(20.0, 30.0)))
        marked = liver_target(phantom.labels, tumour=True)
        array = np.where(np.isin(marked.array, labels), marked.array, 0).astype(np.uint8)
        segments = tuple(segment for segment in (LIVER, LIVER_MASS) if segment.label in labels)
        write_volume(phantom.volume, folder / "images" / f"p{seed}.nii.gz")
        write_labelmap(LabelMap(array, marked.geometry, segments), folder / "labels" / f"p{seed}.nii.gz")
    return folder


def test_two_stages_are_trained_on_data_sets_and_run_by_every_door(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(TwoStageJob, "onnx", False)  # an export takes longer than this training
    both = data_set(tmp_path / "ct", "CT", range(4), (1, 2))
    cancer = data_set(tmp_path / "mr", "MR", range(10, 14), (1, 2))
    tiny = ["--set", "volume.patch=[8,8,8]", "--set", "volume.spacing=[25,25,25]", "--set", "validate_every=1"]
    words = ["two-stage", "--source", f"CT:liver+cancer:{both}", "--source", f"MR:liver+cancer:{cancer}", "--small"]
    words += ["--liver-steps", "3", "--steps", "3", "--threads", "1", "--device", "cpu", *tiny]
    words += ["--fractions", "0.5", "0.25", "0.25", "-o", str(tmp_path / "out")]
    assert main([*words, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [row["test"] for row in result["rows"]] == ["CT", "MR"]
    assert {Path(path).name for path in result["outputs"]} == {
        *("two_stage.json", "two_stage.csv", "two_stage.png", "cases.csv"),
    }
    bundle = str(tmp_path / "out" / "models" / "liver-cancer-ct-mr")
    image = str(both / "images" / "p0.nii.gz")
    assert main(["segment", image, "-m", bundle, "-o", str(tmp_path / "ct.seg.nrrd"), "--modality", "CT"]) == 0
    words = ["batch", str(cancer / "images" / "p10.nii.gz"), "-m", bundle, "-o", str(tmp_path / "batch")]
    assert main([*words, "--workers", "1"]) == 0  # of which nobody says that it is MR
    for path, modality in ((tmp_path / "ct.seg.nrrd", "ct"), (next((tmp_path / "batch").rglob("*.seg.nrrd")), "mr")):
        labels = read_labels(path)
        assert [(s.name, s.terminology.type.value) for s in labels.segments] == [
            ("Liver", "10200004"),
            ("Mass in Liver", "4147007"),
        ]
        assert labels.provenance["localiser"]["name"] == f"liver-{modality}"


def test_livers_are_drawn_for_a_data_set_by_the_command(tmp_path: Path, capsys) -> None:
    folder = data_set(tmp_path / "data", "MR", range(20, 22), (2,))
    drawing = tiny_unet3d_bundle(
        tmp_path / "liver-mr",
        name="liver-mr",
        modality=MR,
        input_kind=IntensityKind.ARBITRARY,
        window=Window(2, 98, WindowUnit.PERCENTILE),
        labels=(LIVER,),
        parameters={"in_channels": 1, "classes": 2, "widths": [4, 6], "dropout": 0.0, "input_dropout": 0.0},
        spacing=(25.0, 16.0, 16.0),
    )
    words = [
        "pseudo-label",
        "-m",
        str(drawing.folder),
        "--data",
        str(folder),
        "-o",
        str(tmp_path / "drawn"),
        "--modality",
        "MR",
    ]
    assert main([*words, "--litres", "0", "900", "--cancer-inside", "0", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["kept"] == 2 and not result["failed"]
    labels = read_labels(tmp_path / "drawn" / "p20.nii.gz")
    truth = read_labels(folder / "labels" / "p20.nii.gz")
    np.testing.assert_array_equal(labels.array == 2, truth.array > 0)
    assert (labels.array == 1).any()
    record = json.loads((tmp_path / "drawn" / "pseudo-labels.json").read_text())
    assert record["cases"]["p20"]["liver"] == "pseudo" and record["model"]["name"] == "liver-mr"
    assert main([*words[:6], str(tmp_path / "none"), "--modality", "MR", "--litres", "800", "900"]) == 0
    assert not list((tmp_path / "none").glob("*.nii.gz"))
    assert "less than 800 l" in " ".join(capsys.readouterr().err.split())
    assert main(["pseudo-label", "-m", "nothing", "--data", str(folder), "-o", str(tmp_path / "x")]) == 2
