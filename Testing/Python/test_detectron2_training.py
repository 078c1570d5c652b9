"""Training with the real Detectron2: what it learns from, that it learns, resumes, and spreads over processes."""

from __future__ import annotations

import dataclasses
import threading

import numpy as np
import pytest
from detectron_examples import SMALL, ellipses

from LiverMarginLib.errors import InputError
from LiverMarginLib.events import CancelToken, Metric
from LiverMarginLib.training.config import AugmentationConfig, Decay, ScheduleConfig, TrainConfig
from LiverMarginLib.training.data import InMemorySource, SliceSample
from LiverMarginLib.training.profiles import profile

pytestmark = pytest.mark.detectron2
SIZE = 64


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    # Detectron2's scripted box arithmetic would otherwise be compiled for seconds, again for each shape.
    torch.jit.set_fusion_strategy([("STATIC", 0), ("DYNAMIC", 0)])
    yield
    torch.set_num_threads(before)


def tiny(out, **changes) -> TrainConfig:
    config = dataclasses.replace(
        profile("detectron2", "small"),
        model_options={**SMALL, "norm": "BN", "rpn_batch": 32, "roi_batch": 16},
        augmentation=AugmentationConfig(rotation_p=0.5),
        out=str(out),
        size=SIZE,
        batch=2,
        epochs=2,
        steps_per_epoch=4,
        validate_every=1,
        threads=1,
    )
    return dataclasses.replace(config, **changes)


def sources(train: int = 8, validation: int = 4) -> tuple[InMemorySource, InMemorySource]:
    return ellipses(train, 0, SIZE), ellipses(validation, 1, SIZE)


def test_instances_are_the_8_connected_pieces_with_their_holes():
    from LiverMarginLib.training.detectron_data import liver_instances

    mask = np.zeros((64, 64), dtype=bool)
    mask[4:20, 6:30] = True
    mask[8:12, 10:20] = False  # a vessel
    mask[30:35, 40:45] = mask[35:40, 45:50] = True  # joined at a corner: one piece
    mask[60:63, 60:63] = True  # 9 pixels: no instance
    found = liver_instances(mask)
    assert found.gt_boxes.tensor.tolist() == [[6, 4, 30, 20], [40, 30, 50, 40]]
    assert found.gt_classes.tolist() == [0, 0]
    union = found.gt_masks.tensor.any(dim=0).numpy()
    mask[60:63, 60:63] = False
    np.testing.assert_array_equal(union, mask)


def test_a_slice_without_liver_is_kept_and_gives_a_finite_loss():
    import torch
    from detectron2.utils.events import EventStorage

    from LiverMarginLib.models.detectron_config import DetectronOptions, build_config, build_model
    from LiverMarginLib.training.detectron_data import model_input

    model = build_model(build_config(DetectronOptions(**SMALL, norm="GN"), SIZE)).train()
    empty = torch.zeros(1, SIZE, SIZE)
    with EventStorage():
        losses = model([model_input(empty, empty, 20)] * 2)
    assert losses.keys() == {"loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg", "loss_mask"}
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert losses["loss_cls"] > 0


def test_slices_are_registered_in_detectron2s_catalogue_and_read_when_they_are_needed():
    from detectron2.data import DatasetCatalog, MetadataCatalog, build_detection_train_loader
    from detectron2.data.samplers import InferenceSampler

    from LiverMarginLib.training.detectron_data import SliceMapper, register_slices

    source = ellipses(8, 3, SIZE)
    reads: list[int] = []

    class Watched(InMemorySource):
        def read(self, index: int) -> SliceSample:
            reads.append(index)
            return super().read(index)

    watched = Watched([source.read(n) for n in range(8)], [source.patient(n) for n in range(8)])
    register_slices("livermargin_test", watched, size=SIZE)
    register_slices("livermargin_test", watched, size=SIZE)  # again: replaced
    records = DatasetCatalog.get("livermargin_test")
    assert not reads
    assert len(records) == 8  # slices without liver as well
    assert MetadataCatalog.get("livermargin_test").thing_classes == ["liver"]
    assert {record["patient"] for record in records} == {0}
    mapper = SliceMapper(watched, (-160, 240), SIZE)
    loader = build_detection_train_loader(
        records, mapper=mapper, sampler=InferenceSampler(8), total_batch_size=4, aspect_ratio_grouping=False
    )
    first = next(iter(loader))
    assert [len(item["instances"]) for item in first][:3] == [0, 1, 1]
    assert first[0]["image"].shape == (1, SIZE, SIZE)
    assert first[0]["image"].min() >= 0 and first[0]["image"].max() <= 1


def test_the_score_map_is_the_best_score_of_the_masks_that_cover_a_pixel():
    import torch
    from detectron2.structures import Instances

    from LiverMarginLib.training.detectron_task import score_maps

    masks = torch.zeros(2, 4, 4, dtype=torch.bool)
    masks[0, :2], masks[1, 1:3] = True, True
    output = Instances((4, 4), pred_masks=masks, scores=torch.tensor([0.9, 0.4]))
    (found,) = score_maps(lambda inputs: [{"instances": output}], torch.zeros(1, 1, 4, 4))
    np.testing.assert_allclose(found[:, 0], [0.9, 0.9, 0.4, 0])


def test_the_tuned_score_is_the_one_with_the_highest_patient_iou():
    from LiverMarginLib.training.detectron_task import DetectronTask

    task = DetectronTask(tiny("unused"))
    counts = np.zeros((1, 2, 101))
    counts[0, 1, 80] = 90  # liver found with a score of .80
    counts[0, 1, 30] = 10  # liver found with .30
    counts[0, 0, 60] = 50  # a false one with .60
    slices = np.zeros((3, 101))
    sums = {"counts": counts, "slices": slices, "loss": np.array(1.0), "n": np.array(1.0)}
    tuned = task.thresholds(sums)["score"]
    assert 0.60 < tuned <= 0.80
    assert task.validation_scores(sums)["mask_iou"] == pytest.approx(0.9)


def test_a_training_stopped_in_the_middle_of_an_epoch_goes_on_to_the_same_weights(tmp_path):
    from LiverMarginLib.training.trainer import Ending, train

    whole = train(tiny(tmp_path / "whole", deterministic=True), *sources())
    token = CancelToken()
    seen: list[Metric] = []

    def stop_after_the_first_epoch(event):
        if isinstance(event, Metric):
            seen.append(event)
            threading.Timer(0.0, token.cancel).start()

    stopped = train(tiny(tmp_path / "part", deterministic=True), *sources(), stop_after_the_first_epoch, token)
    assert stopped.ending is Ending.STOPPED and stopped.steps < 8
    resumed = train(tiny(tmp_path / "part", deterministic=True, resume=True), *sources())
    assert resumed.weights_sha256 == whole.weights_sha256
    assert {event.metric for event in seen} >= {"loss", "mask_iou", "loss_mask", "score_threshold"}
    assert (tmp_path / "part" / "curves.png").stat().st_size > 1000


def test_a_training_becomes_a_bundle_that_predicts_what_detectron2_predicts(tmp_path):
    import torch

    from LiverMarginLib.inference.segmenter import load_segmenter
    from LiverMarginLib.training.bundling import bundle_from_training
    from LiverMarginLib.training.checkpoint import load_weights
    from LiverMarginLib.training.detectron_task import DetectronTask, score_maps
    from LiverMarginLib.training.trainer import train

    config = tiny(tmp_path / "training", epochs=1)
    result = train(config, *sources())
    result = dataclasses.replace(result, thresholds={"score": 0.06})  # so little training finds nothing better
    bundle = bundle_from_training(result, config, tmp_path / "bundle", name="ellipses")
    assert bundle.manifest.architecture == "mask-rcnn"
    assert bundle.manifest.thresholds["score"] == bundle.manifest.parameters["score_threshold"] == 0.06
    weights = load_weights(result.weights)
    model = DetectronTask(config).build_model()
    model.load_state_dict(weights)
    batch = np.stack([ellipses(4, 5, SIZE).read(n).image for n in range(4)])[:, None] / 400 + 0.4
    batch = batch.clip(0, 1).astype(np.float32)
    wanted = score_maps(model.eval(), torch.from_numpy(batch)) >= 0.06
    found = load_segmenter(bundle, threads=1).predict(batch)[:, 0] >= 0.5
    assert (wanted != found).mean() < 1e-3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schedule": ScheduleConfig(Decay.PLATEAU)}, "cosine"),
        ({"model_options": {"widths": [1]}}, "no option 'widths'"),
        ({"size": 100}, "multiple of 32"),
    ],
)
def test_settings_that_detectron2_cannot_follow_are_refused(tmp_path, change, words):
    from LiverMarginLib.training.trainer import train

    with pytest.raises(InputError, match=words):
        train(tiny(tmp_path, **change), *sources())


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_ellipses_are_learnt(tmp_path):
    from LiverMarginLib.training.trainer import train

    config = tiny(tmp_path, size=128, batch=4, epochs=4, steps_per_epoch=40)
    result = train(config, ellipses(64, 0), ellipses(16, 1))
    assert result.scores["mask_iou"] > 0.75
    assert result.scores["false_liver_slices"] == 0
    assert result.history[-1]["train_loss"] < 0.8 * result.history[0]["train_loss"]


def _train_in_process(folder: str) -> None:
    from LiverMarginLib.training.trainer import train

    train(tiny(folder), *sources())


@pytest.mark.slow
def test_detectron2s_launcher_trains_in_two_processes(tmp_path):
    from LiverMarginLib.training.detectron_engine import launch_training

    launch_training(2, _train_in_process, str(tmp_path))
    assert (tmp_path / "best.safetensors").is_file()
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 3
