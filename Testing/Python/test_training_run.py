"""A training seen from outside: what it learns, says, writes and refuses."""

from __future__ import annotations

import csv
import hashlib
import json
import pickle
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from training_toys import SIDE, config, slices, source

torch = pytest.importorskip("torch")

from safetensors.torch import load_file  # noqa: E402

from LiverMarginLib.errors import DependencyError, InputError, ResourceError  # noqa: E402
from LiverMarginLib.events import Event, Metric, Progress  # noqa: E402
from LiverMarginLib.models.bundle import Bundle  # noqa: E402
from LiverMarginLib.models.unet import UNet  # noqa: E402
from LiverMarginLib.training.bundling import bundle_from_training  # noqa: E402
from LiverMarginLib.training.config import (  # noqa: E402
    AugmentationConfig,
    LossConfig,
    LossKind,
    OptimiserConfig,
    OptimiserKind,
    Precision,
    ScheduleConfig,
)
from LiverMarginLib.training.curves import draw_curves  # noqa: E402
from LiverMarginLib.training.data import InMemorySource, SliceSample, usable_slices  # noqa: E402
from LiverMarginLib.training.initial import load_initial  # noqa: E402
from LiverMarginLib.training.loader import Batch  # noqa: E402
from LiverMarginLib.training.profiles import PROFILES  # noqa: E402
from LiverMarginLib.training.segmentation import SegmentationTask, patient_iou  # noqa: E402
from LiverMarginLib.training.task import build_task  # noqa: E402
from LiverMarginLib.training.trainer import Ending, train  # noqa: E402


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory):
    """A U-Net that has learnt the toy patients, and all that it said."""
    settings = config(
        tmp_path_factory.mktemp("learnt"),
        epochs=6,
        steps_per_epoch=25,
        optimiser=OptimiserConfig(OptimiserKind.ADAM, 5e-3),
        schedule=ScheduleConfig(),
        augmentation=AugmentationConfig(rotation_p=0.3, noise_p=0.2),
        checkpoint_steps=None,
    )
    events: list[Event] = []
    return settings, train(settings, source(*range(1, 9)), source(20, 21, 22), events.append), events


def test_the_unet_learns_unseen_patients(learnt) -> None:
    _, result, _ = learnt
    assert result.ending is Ending.FINISHED
    assert result.scores["mask_iou"] > 0.85
    assert result.scores["slice_mask_iou"] > 0.8
    assert result.scores["false_liver_slices"] == 0
    assert 0.05 <= result.thresholds["mask"] <= 0.95


def test_curves_reach_the_listener_as_metrics(learnt) -> None:
    _, result, events = learnt
    told = {(e.metric, e.series): [] for e in events if isinstance(e, Metric)}
    for event in events:
        if isinstance(event, Metric):
            told[event.metric, event.series].append((event.step, event.value))
    for name, series in (("loss", "train"), ("loss", "validation"), ("mask_iou", "train"), ("mask_iou", "validation")):
        assert told[name, series] == [(row["epoch"], row[f"{series}_{name}"]) for row in result.history]
    progress = [event for event in events if isinstance(event, Progress) and event.stage == "train"]
    assert progress[-1].done == progress[-1].total == 150


def test_the_log_holds_a_row_for_each_epoch(learnt) -> None:
    _, result, _ = learnt
    rows = list(csv.DictReader((result.folder / "log.csv").open()))
    assert [float(row["epoch"]) for row in rows] == [1, 2, 3, 4, 5, 6]
    assert float(rows[-1]["validation_mask_iou"]) == pytest.approx(result.history[-1]["validation_mask_iou"], rel=1e-6)


def test_the_best_weights_are_those_of_the_best_epoch(learnt) -> None:
    settings, result, _ = learnt
    scores = [row["validation_mask_iou"] for row in result.history]
    assert result.best_epoch == 1 + int(np.argmax(scores))
    network = UNet(**settings.model_options).eval()
    network.load_state_dict(load_file(result.weights))
    ious = []
    for seed in (20, 21, 22):
        found, wanted = [], []
        for sample in slices(seed):
            image = torch.from_numpy(np.clip((sample.image + 160) / 400, 0, 1))[None, None]
            with torch.no_grad():
                found.append(network(image)[0, 0].numpy() >= 0)
            wanted.append(sample.mask > 0)
        found, wanted = np.stack(found), np.stack(wanted)
        ious.append((found & wanted).sum() / (found | wanted).sum())
    assert np.mean(ious) == pytest.approx(result.scores["mask_iou"], abs=1e-3)


def test_the_manifest_says_how_to_repeat_the_training_and_names_nobody(learnt) -> None:
    _, result, _ = learnt
    text = (result.folder / "manifest.json").read_text()
    manifest = json.loads(text)
    assert manifest["seed"] == 0 and manifest["deterministic"] is True
    assert manifest["versions"]["torch"] == torch.__version__
    assert manifest["data"]["train"] == {"items": 32, "patients": 8, "sha256": None}
    assert manifest["results"]["weights_sha256"] == result.weights_sha256
    assert manifest["results"]["thresholds"] == dict(result.thresholds)
    assert manifest["config"]["loss"]["kind"] == "bce-dice"
    assert "patient 1" not in text and str(result.folder) not in text


def test_a_trained_network_becomes_a_bundle(learnt, tmp_path: Path) -> None:
    settings, result, _ = learnt
    bundle_from_training(result, settings, tmp_path / "toy", name="toy", onnx=False)
    bundle = Bundle.load(tmp_path / "toy")
    assert bundle.manifest.mask_threshold == result.thresholds["mask"]
    assert bundle.manifest.parameters["widths"] == [4, 8, 16]
    assert bundle.manifest.window.low == -160
    image = torch.rand(1, 1, SIDE, SIDE)
    network = UNet(**settings.model_options).eval()
    network.load_state_dict(load_file(result.weights))
    assert torch.equal(bundle.torch_module()(image), network(image))


def test_the_curves_are_a_picture_with_both_series(learnt, tmp_path: Path) -> None:
    from matplotlib.image import imread

    _, result, _ = learnt
    draw_curves(tmp_path / "curves.png", result.history, "mask_iou", best_epoch=result.best_epoch)
    picture = imread(tmp_path / "curves.png")[..., :3]
    assert picture.shape[1] == 2 * picture.shape[0] * 1200 // 960
    for colour in ((0x1F, 0x77, 0xB4), (0xD9, 0x5F, 0x02)):
        near = np.abs(picture - np.array(colour) / 255).max(axis=-1) < 0.02
        left, right = np.array_split(near, 2, axis=1)
        assert left.any() and right.any()


@pytest.mark.parametrize("kind", [LossKind.BCE, LossKind.DICE, LossKind.FOCAL])
def test_every_loss_trains(tmp_path: Path, kind: LossKind) -> None:
    result = train(config(tmp_path, loss=LossConfig(kind), epochs=2, checkpoint_steps=None), source(1, 2), source(4))
    assert result.history[-1]["train_loss"] < result.history[0]["train_loss"]


def test_mixed_precision_trains(tmp_path: Path) -> None:
    result = train(
        config(tmp_path, precision=Precision.BFLOAT16, epochs=1, deterministic=False, checkpoint_steps=None),
        source(1, 2),
        source(4),
    )
    assert np.isfinite(result.scores["loss"])
    assert all(tensor.dtype == torch.float32 for tensor in load_file(result.weights).values())


def test_a_training_can_start_from_the_weights_of_another(learnt, tmp_path: Path) -> None:
    settings, before, _ = learnt
    still = {"optimiser": OptimiserConfig(OptimiserKind.SGD, 1e-12), "schedule": ScheduleConfig(), "epochs": 1}
    started = replace(settings, out=str(tmp_path / "a"), initial=str(before.weights), **still)
    result = train(started, source(1), source(20, 21, 22))
    assert result.scores["mask_iou"] == pytest.approx(before.scores["mask_iou"], abs=1e-3)
    manifest = json.loads((result.folder / "manifest.json").read_text())
    assert manifest["initial_sha256"] == hashlib.sha256(before.weights.read_bytes()).hexdigest()
    assert "initial" not in manifest["config"]


def test_layers_of_another_shape_keep_their_own_weights(learnt) -> None:
    settings, before, _ = learnt
    network = UNet(**settings.model_options, classes=2)
    head = network.head.weight.clone()
    assert load_initial(network, str(before.weights)) == len(network.state_dict()) - 2
    torch.testing.assert_close(network.head.weight, head)
    with pytest.raises(InputError, match="same architecture"):
        load_initial(torch.nn.Linear(3, 3), str(before.weights))


def test_early_stopping_waits_for_its_patience(tmp_path: Path) -> None:
    # A learning rate of next to nothing: the first validation stays the best.
    settings = config(
        tmp_path,
        optimiser=OptimiserConfig(OptimiserKind.SGD, 1e-12),
        schedule=ScheduleConfig(),
        epochs=9,
        early_stopping=2,
        steps_per_epoch=1,
    )
    result = train(settings, source(1), source(4))
    assert result.ending is Ending.EARLY
    assert (result.best_epoch, result.epochs) == (1, 3)


def test_time_limits_end_a_training_with_a_validation(tmp_path: Path) -> None:
    result = train(config(tmp_path, max_minutes=1e-6, validate_every=5), source(1), source(4))
    assert result.ending is Ending.TIME and result.epochs == 1
    assert "validation_mask_iou" in result.history[0]


def test_without_validation_the_last_weights_are_delivered(tmp_path: Path) -> None:
    result = train(config(tmp_path, epochs=2), source(1))
    assert result.best_epoch == 2 and result.weights is not None and not result.scores


def test_slices_that_nobody_annotated_are_left_out_unless_they_count_as_empty(tmp_path: Path) -> None:
    samples = slices(1)
    samples = [replace(sample, annotated=n % 2 == 0) for n, sample in enumerate(samples)]
    partly = InMemorySource(samples, ["a"] * 4)

    class Silent:
        """A source that does not know without reading."""

        def __len__(self) -> int:
            return 4

        def patient(self, index: int) -> str:
            return "a"

        def read(self, index: int) -> SliceSample:
            return samples[index]

    for one in (partly, Silent()):
        assert usable_slices(one, False) == [0, 2]
        assert usable_slices(one, True) == [0, 1, 2, 3]
    nobody = InMemorySource([replace(sample, annotated=False) for sample in samples], ["a"] * 4)
    with pytest.raises(InputError, match="annotated"):
        train(config(tmp_path), nobody, source(4))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model": "vnet"}, "cannot be trained here"),
        ({"model_options": {"depth": 3}}, "no option 'depth'"),
        ({"size": 30}, "multiple of 4"),
        ({"loss": LossConfig(LossKind.MSE_SSIM)}, "does not suit a network of slices"),
        ({"device": "cuda:7"}, "not available|not there"),
        ({"model": "dncnn-sr", "model_options": {}}, "learns with the loss"),
        ({"model": "dncnn-sr", "loss": LossConfig(LossKind.MSE_SSIM), "model_options": {"scale": 3}}, "choose 1 or 2"),
        ({"model": "dncnn-sr", "loss": LossConfig(LossKind.MSE_SSIM), "model_options": {}, "size": 8}, "from 16 up"),
    ],
)
def test_settings_that_do_not_fit_are_refused_with_one_sentence(tmp_path: Path, changes: dict, sentence: str) -> None:
    with pytest.raises((InputError, ResourceError), match=sentence):
        train(config(tmp_path / "out", **changes), source(1), source(4))
    assert not (tmp_path / "out").exists()


def test_too_little_memory_is_said_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crowded(self, model, batch):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")

    monkeypatch.setattr(SegmentationTask, "learn", crowded)
    with pytest.raises(ResourceError, match="choose a smaller batch"):
        train(config(tmp_path), source(1), source(4))


def test_a_missing_tensorboard_is_said_before_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(DependencyError, match="TensorBoard is not installed"):
        train(config(tmp_path, tensorboard=True), source(1), source(4))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("model", "name"), [("unet", "robust"), ("dncnn-sr", "robust")])
def test_tasks_can_be_copied_to_loader_processes(model: str, name: str) -> None:
    task = build_task(PROFILES[model][name])
    assert pickle.loads(pickle.dumps(task)).config == task.config


def test_a_patient_in_both_sources_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="split the data by patient") as caught:
        train(config(tmp_path), source(1, 2), source(2, 3))
    assert "patient 2" not in str(caught.value)


def test_a_mask_of_another_size_is_refused() -> None:
    with pytest.raises(InputError, match="both need the same two axes"):
        SliceSample(np.zeros((4, 4), np.float32), np.zeros((4, 5), np.uint8), (1.0, 1.0))
    with pytest.raises(InputError, match="both need the same two axes"):
        SliceSample(np.zeros((4, 4, 3), np.float32), np.zeros((4, 4, 3), np.uint8), (1.0, 1.0))


class Fixed(torch.nn.Module):
    """A network that gives the logits it was made with."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.logits


def test_validation_scores_are_their_definitions(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    task = SegmentationTask(config(tmp_path))
    masks = rng.random((6, 1, 16, 16)) < 0.3
    masks[[2, 5]] = False
    probability = np.clip(0.3 * masks + 0.69 * rng.random(masks.shape), 0.001, 0.999)
    probability[5] = 0.1
    groups = [0, 0, 0, 1, 1, 2]  # the last patient has no liver at all
    logits = torch.from_numpy(np.log(probability / (1 - probability))).float()
    batch = Batch(
        list(range(6)),
        {
            "image": torch.zeros(6, 1, 16, 16),
            "mask": torch.from_numpy(masks.astype(np.uint8)),
            "weight": torch.ones(6, 1, 1, 1),
            "group": torch.tensor(groups),
        },
    )
    sums = task.validate(Fixed(logits), batch, 3)
    scores = task.validation_scores(sums)

    def iou(threshold: float, chosen: list[int]) -> float:
        found, wanted = probability[chosen] >= threshold, masks[chosen]
        return (found & wanted).sum() / (found | wanted).sum()

    assert scores["mask_iou"] == pytest.approx(np.mean([iou(0.5, [0, 1, 2]), iou(0.5, [3, 4])]))
    assert scores["slice_mask_iou"] == pytest.approx(np.mean([iou(0.5, [n]) for n in (0, 1, 3, 4)]))
    assert scores["false_liver_slices"] == pytest.approx(float((probability[2] >= 0.5).any()) / 2)
    curve = [np.mean([iou(k / 100, [0, 1, 2]), iou(k / 100, [3, 4])]) for k in range(101)]
    np.testing.assert_allclose(patient_iou(sums["counts"])[1:], curve[1:], rtol=0.02)
    tuned = task.thresholds(sums)["mask"]
    assert tuned != 0.5
    assert curve[round(100 * tuned)] == pytest.approx(max(curve), abs=0.01)


def test_training_and_inference_prepare_a_slice_in_the_same_way(tmp_path: Path) -> None:
    from LiverMarginLib.preprocessing import fit_in_plane, window_to_unit

    rng = np.random.default_rng(0)
    image = rng.normal(0, 200, (40, 56)).astype(np.float32)
    sample = SliceSample(image, (image > 0).astype(np.uint8), (1.0, 0.7))
    item = build_task(config(tmp_path)).read_training(InMemorySource([sample], ["a"]), 0, 0)
    fit = fit_in_plane((40, 56), (1.0, 0.7), (SIDE, SIDE))
    np.testing.assert_array_equal(item["image"][0], fit.to_network(window_to_unit(image, -160.0, 240.0)))
    assert item["mask"].dtype == np.uint8 and item["mask"].shape == (1, SIDE, SIDE)
