"""The configuration builder against the real library: Table 5 of the liver-margin paper, row by row."""

from __future__ import annotations

import dataclasses
import sys

import pytest
from detectron_examples import SIZE, SMALL

from LiverMarginLib.errors import DependencyError, InputError
from LiverMarginLib.models.detectron_config import DetectronOptions, build_config, build_model

detectron2_test = pytest.mark.detectron2


@pytest.fixture(scope="module")
def paper():
    pytest.importorskip("detectron2")
    return build_model(build_config(DetectronOptions()))


def parameters(module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def shapes(module) -> list[tuple[int, ...]]:
    return [tuple(parameter.shape) for parameter in module.parameters() if parameter.ndim > 1]


@detectron2_test
def test_the_version_of_detectron2_is_told(capsys):
    import importlib.metadata

    import detectron2
    import torch
    import torchvision

    installed = importlib.metadata.version("detectron2")
    with capsys.disabled():
        versions = f"torch {torch.__version__}, torchvision {torchvision.__version__}"
        sys.stdout.write(f"\nDetectron2 {detectron2.__version__} ({installed}), {versions}\n")
    assert detectron2.__version__ == "0.6"


@detectron2_test
def test_the_papers_network_has_62_96_million_parameters(paper):
    total = parameters(paper)
    assert total == 62_957_014
    assert round(total / 1e6, 2) == 62.96
    backbone = parameters(paper.backbone.bottom_up)
    assert round(backbone / 1e6, 2) == 42.49
    assert round((parameters(paper.backbone) - backbone) / 1e6, 2) == 3.34
    assert round(parameters(paper.proposal_generator) / 1e6, 2) == 0.59
    assert round((parameters(paper.roi_heads.box_head) + parameters(paper.roi_heads.box_predictor)) / 1e6, 2) == 13.90
    assert round(parameters(paper.roi_heads.mask_head) / 1e6, 2) == 2.62


@detectron2_test
def test_the_stem_sees_one_channel(paper):
    assert paper.backbone.bottom_up.stem.conv1.weight.shape == (64, 1, 7, 7)
    assert paper.backbone.bottom_up.stem.conv1.stride == (2, 2)
    assert paper.pixel_mean.shape == (1, 1, 1)


@detectron2_test
def test_the_backbone_is_a_resnet_101_with_a_pyramid_of_256_channels(paper):
    body = paper.backbone.bottom_up
    assert [len(stage) for stage in (body.res2, body.res3, body.res4, body.res5)] == [3, 4, 23, 3]
    assert [shape.channels for shape in body.output_shape().values()] == [256, 512, 1024, 2048]
    outputs = paper.backbone.output_shape()
    assert {name: (shape.channels, shape.stride) for name, shape in outputs.items()} == {
        "p2": (256, 4),
        "p3": (256, 8),
        "p4": (256, 16),
        "p5": (256, 32),
        "p6": (256, 64),
    }


@detectron2_test
def test_the_region_proposal_network_is_one_3x3_and_two_1x1_convolutions_on_three_anchors(paper):
    head = paper.proposal_generator.rpn_head
    assert shapes(head) == [(256, 256, 3, 3), (3, 256, 1, 1), (12, 256, 1, 1)]
    anchors = paper.proposal_generator.anchor_generator
    assert anchors.num_anchors == [3] * 5
    for cells, side in zip(anchors.cell_anchors, (32, 64, 128, 256, 512), strict=True):
        width, height = (cells[:, 2:] - cells[:, :2]).unbind(1)
        assert (width * height).sqrt().tolist() == pytest.approx([side] * 3, rel=1e-5)
        assert (height / width).tolist() == pytest.approx([0.5, 1, 2], rel=1e-5)
    assert paper.proposal_generator.pre_nms_topk == {True: 2000, False: 1000}
    assert paper.proposal_generator.post_nms_topk == {True: 1000, False: 1000}


@detectron2_test
def test_the_box_head_pools_7x7_and_has_two_layers_of_1024(paper):
    heads = paper.roi_heads
    assert heads.box_pooler.output_size == (7, 7)
    assert all(pooler.aligned for pooler in heads.box_pooler.level_poolers)
    assert shapes(heads.box_head) == [(1024, 256 * 49), (1024, 1024)]
    assert shapes(heads.box_predictor) == [(2, 1024), (4, 1024)]  # liver and background
    assert heads.box_predictor.test_topk_per_image == 10


@detectron2_test
def test_the_mask_head_is_four_convolutions_and_a_deconvolution_from_14_to_28(paper):
    import torch

    heads = paper.roi_heads
    assert heads.mask_pooler.output_size == (14, 14)
    assert shapes(heads.mask_head) == [(256, 256, 3, 3)] * 4 + [(256, 256, 2, 2), (1, 256, 1, 1)]
    assert heads.mask_head.layers(torch.zeros(1, 256, 14, 14)).shape == (1, 1, 28, 28)


@detectron2_test
def test_the_data_settings_keep_empty_slices_bit_masks_and_the_livers_side():
    config = build_config(DetectronOptions())
    assert config.INPUT.MASK_FORMAT == "bitmask"
    assert config.INPUT.FORMAT == "L"
    assert config.INPUT.RANDOM_FLIP == "none"
    assert not config.DATALOADER.FILTER_EMPTY_ANNOTATIONS
    assert config.INPUT.MIN_SIZE_TRAIN == (512,)
    sizes = {config.INPUT.MAX_SIZE_TRAIN, config.INPUT.MIN_SIZE_TEST, config.INPUT.MAX_SIZE_TEST}
    assert sizes == {512}


@detectron2_test
@pytest.mark.parametrize("norm", ["BN", "GN"])
def test_from_scratch_nothing_is_frozen(norm):
    model = build_model(build_config(DetectronOptions(**SMALL, norm=norm), SIZE))
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any("Frozen" in type(module).__name__ for module in model.modules())


@detectron2_test
@pytest.mark.parametrize("depth", [18, 34, 50, 101])
def test_every_depth_is_built_and_predicts(depth):
    import torch

    model = build_model(build_config(DetectronOptions(**{**SMALL, "depth": depth}), SIZE)).eval()
    with torch.no_grad():
        (output,) = model([{"image": torch.rand(1, SIZE, SIZE)}])
    assert output["instances"].pred_masks.shape[1:] == (SIZE, SIZE)


@detectron2_test
@pytest.mark.parametrize(("mask", "side"), [(28, 28), (56, 56), (112, 112), ("point-rend", 224)])
def test_the_mask_has_the_side_that_is_asked_for(mask, side):
    import torch
    from detectron2.structures import Boxes, Instances

    if mask == "point-rend":
        pytest.importorskip("detectron2.projects.point_rend", reason="this Detectron2 came without PointRend")
    model = build_model(build_config(DetectronOptions(**SMALL, mask=mask), SIZE)).eval()
    found = Instances((SIZE, SIZE), pred_boxes=Boxes(torch.tensor([[8.0, 8, 90, 100]])))
    found.pred_classes = torch.zeros(1, dtype=torch.int64)
    with torch.no_grad():
        features = model.backbone(torch.zeros(1, 1, SIZE, SIZE))
        (found,) = model.roi_heads.forward_with_given_boxes(features, [found])
    assert found.pred_masks.shape == (1, 1, side, side)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"depth": 152}, "choose a depth of 18, 34, 50 or 101"),
        ({"mask": 64}, "28, 56, 112 or point-rend"),
        ({"norm": "SyncBN"}, "FrozenBN, BN or GN"),
        ({"norm": "FrozenBN"}, "Frozen layers need trained weights"),
        ({"freeze_at": 2}, "Frozen layers need trained weights"),
        ({"norm": "GN", "fpn_channels": 48}, "multiples of 32"),
        ({"mask_size": 28}, "no option 'mask_size'"),
    ],
)
def test_options_that_make_no_sense_are_refused_with_one_sentence(options, words):
    with pytest.raises(InputError, match=words):
        DetectronOptions.from_mapping(options)


def test_a_size_that_the_pyramid_cannot_halve_is_refused():
    with pytest.raises(InputError, match="multiple of 32"):
        DetectronOptions().spec(500)


def test_without_detectron2_the_message_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "detectron2", None)
    with pytest.raises(DependencyError, match=r"scripts/install_detectron2.py"):
        build_config(DetectronOptions())


def test_options_survive_the_specification():
    options = DetectronOptions(**SMALL, mask=112, detections=3)
    spec = options.spec(256)
    assert dataclasses.replace(spec) == type(spec).from_dict(spec.to_dict())
    assert (spec.mask_side, spec.detections, spec.size) == (112, 3, 256)
