"""Mask R-CNN without Detectron2: its ONNX graph and its torch twin against Detectron2 itself, and on their own."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch
from conftest import REPOSITORY
from detectron_examples import SIZE, SMALL, enliven, images, small_spec

from LiverMarginLib.errors import BundleError
from LiverMarginLib.inference.backends import onnx_session
from LiverMarginLib.inference.segmenter import load_segmenter
from LiverMarginLib.models.architectures import check_manifest
from LiverMarginLib.models.bundle import Bundle
from LiverMarginLib.models.detectron_bundle import save_mask_rcnn
from LiverMarginLib.models.manifest import ONNX_FILE, Manifest, Window
from LiverMarginLib.models.maskrcnn import MaskRCNN
from LiverMarginLib.models.maskrcnn_onnx import SCORE_INPUT, build_graph
from LiverMarginLib.terminology import LIVER
from LiverMarginLib.volume import IntensityKind, Modality

MIN_SCORE = np.array(0.05, np.float32)  # Detectron2's own default: all that it reports


def manifest(**changes: Any) -> Manifest:
    values: dict[str, Any] = {
        "name": "ellipses",
        "version": "1.0.0",
        "architecture": "mask-rcnn",
        "modality": Modality.CT,
        "input_kind": IntensityKind.HU,
        "window": Window(-160, 240),
        "labels": (LIVER,),
        "thresholds": {"score": 0.1},
        "licence": "CC0-1.0",
    }
    return Manifest(**{**values, **changes})


@pytest.fixture(scope="module")
def network() -> MaskRCNN:
    torch.manual_seed(0)
    return enliven(MaskRCNN(small_spec()))


@pytest.fixture(scope="module")
def bundle(network, tmp_path_factory) -> Bundle:
    folder = tmp_path_factory.mktemp("bundles") / "ellipses"
    return save_mask_rcnn(folder, manifest(), network.spec, network.state_dict(), half=True)


def open_session(content: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def session(bundle) -> onnxruntime.InferenceSession:
    return onnx_session(bundle, threads=1)


@dataclass
class Peer:
    """A Detectron2 model, our graph of its weights, and what both say of the same images."""

    model: Any
    network: MaskRCNN
    batch: npt.NDArray[np.float32]
    reference: list[Any]
    found: dict[str, npt.NDArray[Any]]


OPTIONS = {
    "28": {},
    "56, group norm": {"mask": 56, "norm": "GN"},
    "112": {"mask": 112},
    "PointRend": {"mask": "point-rend"},
    "ResNet-50": {"depth": 50},
}


@pytest.fixture(scope="module", params=OPTIONS)
def peer(request) -> Peer:
    pytest.importorskip("detectron2")
    if request.param == "PointRend":
        pytest.importorskip("detectron2.projects.point_rend", reason="this Detectron2 came without PointRend")
    from LiverMarginLib.models.detectron_config import DetectronOptions, build_config, build_model, to_plain

    options = DetectronOptions(**{**SMALL, **OPTIONS[request.param]})
    torch.manual_seed(0)
    model = enliven(build_model(build_config(options, SIZE)))
    plain = to_plain(model, options.spec(SIZE))
    batch = images()
    with torch.no_grad():
        reference = [model.inference([{"image": torch.from_numpy(image)}], do_postprocess=False)[0] for image in batch]
    session = open_session(build_graph(plain).SerializeToString())
    names = [output.name for output in session.get_outputs()]
    outputs = session.run(names, {"image": batch, "score_threshold": MIN_SCORE})
    return Peer(model, plain, batch, reference, dict(zip(names, outputs, strict=True)))


def assert_same_instances(peer: Peer, found: dict[str, npt.NDArray[Any]]) -> None:
    assert sum(map(len, peer.reference)) >= 10  # otherwise there is little to compare
    for number, wanted in enumerate(peer.reference):
        own = found["image_index"] == number
        assert own.sum() == len(wanted)
        np.testing.assert_allclose(found["scores"][own], wanted.scores, atol=1e-5)
        np.testing.assert_allclose(found["boxes"][own], wanted.pred_boxes.tensor, atol=1e-3)
        # PointRend refines the points that are the least sure; rounding decides among nearly equals.
        difference = np.abs(found["masks"][own] - wanted.pred_masks[:, 0].numpy())
        assert np.quantile(difference, 0.999) < 1e-4
        assert difference.max() < (0.05 if peer.network.spec.point_rend else 1e-4)


@pytest.mark.detectron2
def test_the_graph_finds_the_boxes_scores_and_masks_that_detectron2_finds(peer):
    assert_same_instances(peer, peer.found)


@pytest.mark.detectron2
def test_torch_alone_finds_the_boxes_scores_and_masks_that_detectron2_finds(peer):
    from LiverMarginLib.models.maskrcnn_torch import MaskRCNNSegmentation

    twin = MaskRCNNSegmentation.from_weights(peer.network.spec, peer.network.state_dict())
    found = twin.detect(torch.from_numpy(peer.batch), float(MIN_SCORE))
    values = {"boxes": found.boxes, "scores": found.scores, "image_index": found.image, "masks": found.masks}
    assert_same_instances(peer, {name: value.numpy() for name, value in values.items()})


@pytest.mark.detectron2
def test_the_probability_is_the_best_mask_as_detectron2_pastes_it(peer):
    from detectron2.layers.mask_ops import _do_paste_mask

    for number, instances in enumerate(peer.reference):
        boxes = instances.pred_boxes.tensor
        pasted, _ = _do_paste_mask(instances.pred_masks, boxes, SIZE, SIZE, skip_empty=False)
        difference = np.abs(peer.found["output"][number, 0] - pasted.amax(dim=0).numpy())
        assert np.quantile(difference, 0.999) < 1e-4


@pytest.mark.detectron2
def test_thresholding_at_one_half_gives_the_union_of_detectron2s_masks(peer):
    with torch.no_grad():
        outputs = peer.model([{"image": torch.from_numpy(image)} for image in peer.batch])
    for number, output in enumerate(outputs):
        union = output["instances"].pred_masks.any(dim=0).numpy()
        assert union.any()
        assert (union != (peer.found["output"][number, 0] >= 0.5)).mean() < 1e-3


@pytest.mark.detectron2
def test_weights_pass_into_the_plain_network_and_back_without_a_change(peer):
    state = peer.model.state_dict()
    for name, tensor in peer.network.state_dict().items():
        if name in state:
            assert torch.equal(tensor, state[name])


def test_each_image_of_a_batch_gets_what_it_gets_alone(session):
    batch = images()
    together = session.run(["output"], {"image": batch})[0]
    for number in range(len(batch)):
        alone = session.run(["output"], {"image": batch[number : number + 1]})[0]
        np.testing.assert_allclose(together[number], alone[0], atol=1e-5)
    assert together.min() >= 0 and 0.2 < together.max() <= 1


def test_a_higher_score_threshold_keeps_the_best_instances_alone(session):
    def run(threshold: float) -> list[npt.NDArray[Any]]:
        given = {"image": images(), "score_threshold": np.array(threshold, np.float32)}
        return session.run(["output", "scores", "boxes"], given)

    everything, scores, boxes = run(0.05)
    middle = float(np.median(scores))
    some, kept, kept_boxes = run(middle)
    np.testing.assert_array_equal(kept, scores[scores >= middle])
    np.testing.assert_array_equal(kept_boxes, boxes[scores >= middle])
    assert 0 < len(kept) < len(scores)
    assert (some <= everything + 1e-6).all()


@pytest.mark.parametrize("count", [1, 3])
def test_images_without_an_instance_give_zeros(session, count):
    given = {"image": images()[:count], "score_threshold": np.array(0.9999, np.float32)}
    output, boxes, masks = session.run(["output", "boxes", "masks"], given)
    assert output.shape == (count, 1, SIZE, SIZE)
    assert not output.any()
    assert boxes.shape == (0, 4) and masks.shape == (0, 28, 28)


def test_group_normalisation_has_nothing_to_do_where_there_is_no_instance():
    torch.manual_seed(0)
    network = enliven(MaskRCNN(small_spec(norm="GN")))
    session = open_session(build_graph(network).SerializeToString())
    inputs = {"image": images(2), SCORE_INPUT: np.array(2.0, np.float32)}
    probability, boxes, *_ = session.run(None, inputs)
    assert not probability.any() and len(boxes) == 0
    inputs[SCORE_INPUT] = MIN_SCORE
    assert len(session.run(["boxes"], inputs)[0]) > 0


def test_boxes_stay_in_the_image_and_come_best_first_within_each_image(session):
    boxes, scores, image = session.run(["boxes", "scores", "image_index"], {"image": images()})
    assert boxes.min() >= 0 and boxes.max() <= SIZE
    assert (np.diff(image) >= 0).all()
    for number in range(3):
        assert (np.diff(scores[image == number]) <= 0).all()
        assert (image == number).sum() <= 10


def test_a_bundle_runs_where_neither_torch_nor_torchvision_nor_detectron2_is_installed(bundle, tmp_path):
    batch = images()
    np.save(tmp_path / "batch.npy", batch)
    code = f"""
        import sys
        for name in ("torch", "torchvision", "detectron2", "onnx", "onnxscript", "safetensors"):
            sys.modules[name] = None
        import numpy as np
        from LiverMarginLib.inference.segmenter import load_segmenter
        from LiverMarginLib.models.bundle import Bundle
        segmenter = load_segmenter(Bundle.load({str(bundle.folder)!r}), runtime="onnx", threads=1)
        np.save({str(tmp_path / "output.npy")!r}, segmenter.predict(np.load({str(tmp_path / "batch.npy")!r})))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    output = np.load(tmp_path / "output.npy")
    here = load_segmenter(bundle, device="cpu", runtime="onnx", threads=1).predict(batch)
    np.testing.assert_array_equal(output, here)
    assert output.shape == (3, 1, SIZE, SIZE) and output.max() > 0.2


def test_a_bundle_gives_the_same_by_torch_and_by_onnx_runtime(bundle):
    pytest.importorskip("torchvision", reason="torchvision is not installed")
    by_torch = load_segmenter(bundle, device="cpu", runtime="torch", threads=1).predict(images())
    by_onnx = load_segmenter(bundle, device="cpu", runtime="onnx", threads=1).predict(images())
    np.testing.assert_allclose(by_torch, by_onnx, atol=1e-4)


def test_half_precision_halves_the_graph_and_changes_no_bit_of_what_it_computes(network, bundle):
    state = {
        name: tensor.half().float() if tensor.is_floating_point() else tensor
        for name, tensor in network.state_dict().items()
    }
    rounded = MaskRCNN.from_weights(network.spec, state)
    whole = build_graph(rounded).SerializeToString()
    halved = build_graph(rounded, half=True).SerializeToString()
    assert len(halved) < 0.52 * len(whole)
    expected = open_session(whole).run(None, {"image": images(), SCORE_INPUT: MIN_SCORE})
    found = onnx_session(bundle, threads=1).run(None, {"image": images(), SCORE_INPUT: MIN_SCORE})
    assert len(expected[1]) > 0
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_bundle_keeps_the_score_threshold_in_one_place(bundle):
    kept = Bundle.load(bundle.folder).manifest
    assert kept.thresholds["score"] == kept.parameters["score_threshold"] == 0.1
    other = manifest(parameters=kept.parameters, input_size=(SIZE, SIZE), thresholds={"score": 0.7})
    with pytest.raises(BundleError, match="contradicts"):
        check_manifest(other)


def test_weights_of_another_network_are_refused(network, tmp_path):
    with pytest.raises(BundleError, match="options of its training"):
        save_mask_rcnn(tmp_path / "b", manifest(), small_spec(depth=34), network.state_dict())
    broken = {**network.state_dict(), "roi_heads.box_head.fc1.bias": torch.full((64,), torch.nan)}
    with pytest.raises(BundleError, match="not finite"):
        save_mask_rcnn(tmp_path / "b", manifest(), network.spec, broken)
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    "change",
    [{"depth": 20}, {"size": 8192}, {"mask_side": 30}, {"norm": "LN"}, {"box_width": 10**6}, {"box_nms": 1.5}],
)
def test_a_manifest_with_absurd_parameters_is_refused_before_anything_is_built(bundle, change):
    values = {**bundle.manifest.parameters, **change}
    with pytest.raises(BundleError):
        check_manifest(manifest(parameters=values, input_size=(SIZE, SIZE)))


def test_the_graph_says_nothing_about_the_machine_it_was_made_on(bundle):
    model = onnx.load_model_from_string(bundle.read(ONNX_FILE))
    del model.graph.initializer[:]  # random weights may spell anything
    content = model.SerializeToString()
    assert str(REPOSITORY).encode() not in content
    assert b".py" not in content
