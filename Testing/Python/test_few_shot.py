"""FewShot3D: what is measured on the training subjects, folds, the learning curve, and the model that comes out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from volume_toys import volume

from LiverMarginLib.cli import main
from LiverMarginLib.errors import InputError
from LiverMarginLib.inference.model import load_model
from LiverMarginLib.io.volume_writers import write_volume
from LiverMarginLib.io.writers import write_labelmap
from LiverMarginLib.jobs import job_from_dict
from LiverMarginLib.models.bundle import Bundle
from LiverMarginLib.models.intensity_fields import WindowUnit
from LiverMarginLib.models.unet3d import UNet3D
from LiverMarginLib.models.volumetric_fields import NormalisationKind
from LiverMarginLib.report.learning_curve import learning_curve_figure
from LiverMarginLib.terminology import LIVER, Segment
from LiverMarginLib.training.config import TrainConfig
from LiverMarginLib.training.few_shot import Subject, measured, median_spacing
from LiverMarginLib.training.few_shot_study import FewShotStudy, Score, cross_validate, learning_curve, summary
from LiverMarginLib.training.profiles import profile
from LiverMarginLib.volume import Geometry, IntensityKind, LabelMap, Modality, Volume

SPLEEN = Segment(6, "Spleen", (157, 108, 162))


@dataclass(frozen=True)
class Toy:
    """A toy patient's image and labels."""

    seed: int
    label: int = 1

    def read(self) -> tuple[Volume, LabelMap]:
        sample = volume(self.seed)
        geometry = Geometry(sample.image.shape, np.diag((-4.0, -4.0, 4.0, 1.0)))
        image = Volume(sample.image, geometry, Modality.CT, IntensityKind.HU)
        return image, LabelMap(np.where(sample.labels, self.label, 0).astype(np.uint8), geometry)

    def key(self) -> str:
        return repr(self)


def toys(*seeds: int, label: int = 1) -> list[Subject]:
    return [Subject(f"patient {seed}", (Toy(seed, label),)) for seed in seeds]


def tiny(steps: int = 2, labels: tuple[int, ...] = (1,)) -> TrainConfig:
    base = profile("unet3d", "few_shot_small")
    return replace(
        base,
        model_options={**base.model_options, "widths": [6, 12]},
        volume=replace(base.volume, patch=(16, 16, 16), labels=labels),
        steps_per_epoch=steps,
        device="cpu",
        threads=1,
        workers=0,
    )


def study(folder: Path, config: TrainConfig | None = None, segments: Sequence[Segment] = (LIVER,)) -> FewShotStudy:
    from LiverMarginLib.events import CancelToken, ignore

    return FewShotStudy(
        config or tiny(),
        segments,
        folder,
        use_median_spacing=False,
        notes={},
        on_event=ignore,
        cancel=CancelToken(),
    )


def test_ct_is_scaled_by_the_percentiles_and_moments_of_the_training_subjects_foreground() -> None:
    samples = [volume(1), volume(2)]
    found = measured(tiny(), samples)
    inside = np.concatenate([sample.image[sample.labels == 1] for sample in samples]).astype(float)
    low, high = np.percentile(inside, (0.5, 99.5))
    assert found.window == pytest.approx((low, high)) and found.intensity is IntensityKind.HU
    clipped = inside.clip(low, high)
    assert (found.volume.mean, found.volume.deviation) == pytest.approx((clipped.mean(), clipped.std()))
    assert found.volume.normalisation is NormalisationKind.Z_SCORE


def test_mr_is_scaled_by_each_image_itself() -> None:
    found = measured(tiny(), [replace(volume(1), modality=Modality.MR)])
    assert found.window == (0.5, 99.5) and found.volume.window_unit is WindowUnit.PERCENTILE
    assert found.volume.mean is None and found.intensity is IntensityKind.ARBITRARY


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(InputError, match="one kind"):
        measured(tiny(), [volume(1), replace(volume(2), modality=Modality.MR)])
    with pytest.raises(InputError, match="one kind"):
        measured(tiny(), [replace(volume(1), modality=Modality.UNKNOWN)])
    with pytest.raises(InputError, match="No voxel"):
        measured(tiny(labels=(7,)), [volume(1)])


def test_the_median_spacing_is_taken_along_each_axis() -> None:
    spacings = [(5.0, 1.0, 1.0), (3.0, 0.7, 0.8), (2.0, 0.9, 0.9)]
    assert median_spacing([replace(volume(1), spacing=spacing) for spacing in spacings]) == (3.0, 0.9, 0.9)


def test_the_curve_trains_nested_sets_for_equal_steps_and_tests_on_the_same_subjects(tmp_path: Path) -> None:
    runs: list[list[Score]] = []
    trained: list[tuple[str, ...]] = []

    class Watched(FewShotStudy):
        def learn(self, subjects, name):
            trained.append(tuple(subject.name for subject in subjects))
            return super().learn(subjects, name)

    watched = study(tmp_path)
    watched.__class__ = Watched
    bundle = learning_curve(watched, toys(1, 2, 3), toys(8, 9), (1, 3), 1, 5, runs.append)
    assert [len(names) for names in trained] == [1, 3] and set(trained[0]) < set(trained[1])
    assert [[score.subject for score in scores] for scores in runs] == [["1", "2"], ["1", "2"]]
    steps = {json.loads((tmp_path / f"subjects-{n}-1" / "model.json").read_text())["training"]["steps"] for n in (1, 3)}
    assert steps == {2}
    assert bundle.manifest.training["subjects"] == 3 and bundle.manifest.labels == (LIVER,)
    with pytest.raises(InputError, match="both trained and tested"):
        learning_curve(watched, toys(1, 2), toys(2), (1,), 1, 0, runs.append)


def test_every_subject_is_tested_once_by_a_network_that_never_saw_it(tmp_path: Path) -> None:
    seen: list[tuple[set[str], list[str]]] = []

    class Recorded(FewShotStudy):
        def learn(self, subjects, name):
            seen.append(({subject.name for subject in subjects}, []))
            return None

        def test(self, bundle, tests, part, run, count):
            seen[-1][1].extend(subject.name for _, subject in tests)
            return []

    recorded = study(tmp_path)
    recorded.__class__ = Recorded
    cross_validate(recorded, toys(*range(5)), 3, 1, lambda scores: None)
    assert len(seen) == 3 and not any(set(tests) & learnt for learnt, tests in seen)
    assert sorted(name for _, tests in seen for name in tests) == [f"patient {n}" for n in range(5)]
    assert all(len(learnt) + len(tests) == 5 for learnt, tests in seen)
    with pytest.raises(InputError, match="cannot be divided into 6 folds"):
        cross_validate(recorded, toys(*range(5)), 6, 1, lambda scores: None)


def test_any_label_is_learnt_and_the_model_gives_it_its_own_value_and_name(tmp_path: Path) -> None:
    config = tiny(steps=60, labels=(6,))
    work = study(tmp_path, config, (SPLEEN,))
    bundle = work.learn(toys(1, 2, label=6), "spleen")
    (score,) = work.test(bundle, [("1", toys(9, label=6)[0])], "curve", 1, 2)
    assert score.label == "Spleen" and score.dice > 0.8
    image, reference = Toy(9, 6).read()
    found = load_model(Bundle.load(tmp_path / "spleen")).segment(image).labels
    assert set(np.unique(found.array)) == {0, 6} and found.segments == (SPLEEN,)
    both = (found.array == 6) & (reference.array == 6)
    dice = 2 * both.sum() / ((found.array == 6).sum() + (reference.array == 6).sum())
    assert dice == pytest.approx(score.dice)


def test_the_summary_is_numpys_mean_and_deviation_and_leaves_out_what_is_nowhere() -> None:
    scores = [Score("curve", 1, n, str(k), "Liver", d) for n, k, d in ((1, 1, 0.2), (1, 2, 0.6), (2, 1, 0.9))]
    scores += [Score("curve", 1, 2, "2", "Liver", float("nan")), Score("fold", 1, 3, "1", "Liver", 0.5)]
    one, two = summary(scores, "curve")
    assert (one["subjects"], one["mean"], one["n"]) == (1, pytest.approx(0.4), 2)
    assert one["sd"] == pytest.approx(np.std([0.2, 0.6], ddof=1))
    assert (two["mean"], two["n"], two["empty"]) == (0.9, 1, 1) and np.isnan(two["sd"])
    (fold,) = summary(scores, "fold")
    assert fold["mean"] == 0.5 and "subjects" not in fold


def test_the_figure_shows_every_number_of_subjects_and_every_test() -> None:
    rows = [{"label": "Liver", "subjects": n, "mean": m, "sd": 0.1} for n, m in ((1, 0.3), (2, 0.5), (4, 0.8))]
    figure = learning_curve_figure(rows, [("Liver", n, 0.4) for n in (1, 1, 2, 4)])
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_xticklabels()] == ["1", "2", "4"]
    assert len(axes.lines[0].get_xdata()) == 4


def dataset(folder: Path, patients: Sequence[int]) -> Path:
    for patient in patients:
        image, labels = Toy(patient, 6).read()
        write_volume(image, folder / f"case{patient}" / "ct.nii.gz")
        write_labelmap(replace(labels, segments=(SPLEEN,)), folder / f"case{patient}" / "labels.nii.gz")
    return folder


SMALL = ["--small", "--steps", "2", "--device", "cpu", "--threads", "1", "--set", "volume.patch=[16,16,16]"]
SMALL += ["--set", "model_options.widths=[4,8]"]


def test_the_command_learns_a_label_of_a_data_set_and_leaves_scores_figure_and_model(tmp_path, capsys):
    data = dataset(tmp_path / "data", (1, 2, 3))
    words = ["fewshot", "--data", str(data), "--labels", "6", "-o", str(tmp_path / "out"), *SMALL]
    assert main([*words, "--subjects", "1", "2", "8", "--folds", "2", "--modality", "CT", "--json"]) == 0
    output = capsys.readouterr()
    result = json.loads(output.out)
    assert "ends at 2 subjects" in output.err
    assert [row["subjects"] for row in result["curve"]] == [1, 2] and result["folds"][0]["n"] == 3
    assert result["labels"][0]["value"] == 6 and Bundle.load(tmp_path / "out" / "model").manifest.labels[0].label == 6
    rows = (tmp_path / "out" / "scores.csv").read_text().splitlines()
    assert rows[0] == "part,run,training_subjects,test_subject,label,dice" and len(rows) == 1 + 2 * 1 + 3
    assert (tmp_path / "out" / "learning_curve.png").stat().st_size > 5000
    assert not any("case" in row for row in rows)  # no name of a patient


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--subjects"], "Nothing is to be done"),
        (["--subjects", "0"], "at least one subject"),
        (["--labels", "9"], "no label 9; it has: 6"),
        (["--labels", "6", "7", "--largest-component"], "single label"),
        (["--tests", "3"], "cannot be left for testing"),
    ],
)
def test_what_cannot_be_learnt_is_refused_before_anything_is_trained(tmp_path, capsys, options, message):
    data = dataset(tmp_path / "data", (1, 2, 3))
    words = ["fewshot", "--data", str(data), "--labels", "6", "-o", str(tmp_path / "out"), *SMALL, *options]
    assert main(words) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.training").exists()


def test_the_job_makes_the_round_trip_through_json() -> None:
    job = job_from_dict({"job": "fewshot", "out": "x", "labels": [6, 1], "subjects": [1, 2]})
    assert job_from_dict(json.loads(json.dumps(job.to_dict()))) == job


def kept_bytes(widths: Sequence[int], side: int) -> int:
    """Bytes that torch keeps of one training patch between the forward and the backward pass."""
    network = UNet3D(classes=2, widths=widths, dropout=0.0, input_dropout=0.0, norm="instance")
    weights = {parameter.data_ptr() for parameter in network.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() not in weights:
            kept[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = network(torch.zeros(1, 1, side, side, side))
    assert out.requires_grad
    return sum(kept.values())


def test_the_preset_trains_in_eight_gigabytes() -> None:
    config = profile("unet3d", "few_shot")
    assert config.volume.patch == (96, 96, 96) and config.batch == 2
    # Activations grow with the voxels of the patch and the patches of the batch: measured on 32 voxels a side.
    activations = kept_bytes(config.model_options["widths"], 32) * 27 * config.batch
    network = UNet3D(classes=2, widths=config.model_options["widths"], norm="instance")
    weights = 5 * 4 * sum(parameter.numel() for parameter in network.parameters())  # gradient, two moments, average
    assert 1e9 < activations + weights < 5e9  # the rest is for convolutions' workspace and the largest gradients


def test_trained_without_the_study_the_preset_learns_the_masses_too_and_leaves_no_holes_for_them() -> None:
    assert {profile("unet3d", name).volume.labels for name in ("few_shot", "few_shot_small")} == {(1, 2)}


def test_instance_normalisation_is_a_choice_and_batch_normalisation_stays_the_published_one() -> None:
    published = sum(p.numel() for p in UNet3D().parameters())
    assert published == 2_339_491 == sum(p.numel() for p in UNet3D(norm="instance").parameters())
    names = {type(module).__name__ for module in UNet3D(norm="instance").modules()}
    assert "InstanceNorm3d" in names and "BatchNorm3d" not in names


@pytest.mark.slow
@pytest.mark.timeout(3000)  # two trainings of 250 steps
def test_the_learning_curve_on_phantoms_rises_with_the_number_of_subjects(tmp_path, capsys):
    words = ["fewshot", "-o", str(tmp_path / "out"), "--small", "--subjects", "1", "8", "--steps", "250", "--json"]
    assert main([*words, "--device", "cpu", "--threads", "2"]) == 0
    one, eight = json.loads(capsys.readouterr().out)["curve"]
    assert eight["mean"] > one["mean"] and eight["mean"] > 0.7
