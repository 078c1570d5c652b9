"""mlf-core's 3-D U-Net: its facts to the number, and what a bundle may say about it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from model_tools import tiny_unet3d_bundle, tiny_unet3d_manifest
from torch import nn

from LiverMarginLib.errors import BundleError
from LiverMarginLib.inference.segmenter import load_segmenter
from LiverMarginLib.models.architectures import Activation, check_manifest, find_architecture
from LiverMarginLib.models.card import model_card
from LiverMarginLib.models.unet3d import UNet3D
from LiverMarginLib.models.volumetric_fields import Localiser


@pytest.fixture(scope="module")
def published() -> UNet3D:
    return UNet3D().eval()


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_it_has_the_published_number_of_parameters(published):
    assert count(published) == 2_339_491


def test_every_stage_has_its_published_parameters(published):
    # Two 3³ convolutions with bias and batch normalisation each; 2³ strided ones before them on the way down.
    def block(before: int, after: int) -> int:
        return 27 * before * after + after + 2 * after + 27 * after * after + after + 2 * after

    stages = [published.stem, *published.down, published.middle, *published.merge, published.head]
    expected = [block(1, 32), 8 * 32 * 32 + 32 + block(32, 64), 8 * 64 * 64 + 64 + block(64, 128), block(128, 128)]
    expected += [block(128 + 64, 64), block(64 + 32, 32), 32 * 3 + 3]
    assert [count(stage) for stage in stages] == expected
    assert sum(expected) == 2_339_491


def test_every_stage_has_its_published_shape(published):
    shapes = {}
    names = {
        "stem": published.stem,
        **{f"down {n}": m for n, m in enumerate(published.down)},
        "middle": published.middle,
        **{f"merge {n}": m for n, m in enumerate(published.merge)},
    }
    hooks = [
        module.register_forward_hook(lambda _, __, output, name=name: shapes.update({name: tuple(output.shape)}))
        for name, module in names.items()
    ]
    with torch.no_grad():
        output = published(torch.zeros(1, 1, 16, 24, 8))
    for hook in hooks:
        hook.remove()
    assert shapes == {
        "stem": (1, 32, 16, 24, 8),
        "down 0": (1, 64, 8, 12, 4),
        "down 1": (1, 128, 4, 6, 2),
        "middle": (1, 128, 4, 6, 2),
        "merge 0": (1, 64, 8, 12, 4),
        "merge 1": (1, 32, 16, 24, 8),
    }
    assert output.shape == (1, 3, 16, 24, 8)


def test_dropout_comes_before_each_convolution_and_next_to_none_at_the_changes_of_resolution(published):
    block = [type(layer) for layer in published.stem]
    assert block == 2 * [nn.Dropout3d, nn.Conv3d, nn.BatchNorm3d, nn.ReLU]
    rates = sorted(module.p for module in published.modules() if isinstance(module, nn.Dropout3d))
    assert rates == 4 * [0.001] + 12 * [0.25]
    assert not any(isinstance(module, nn.MaxPool3d | nn.ConvTranspose3d) for module in published.modules())


def test_dropping_the_only_channel_of_the_input_can_be_switched_off():
    torch.manual_seed(0)
    blank = UNet3D(widths=(4, 8), dropout=0.9)
    assert blank.stem[0].p == 0.9
    kept = UNet3D(widths=(4, 8), dropout=0.9, input_dropout=0.0)
    assert kept.stem[0].p == 0.0 and kept.stem[4].p == 0.9


def test_the_output_is_logits_and_the_softmax_is_applied_once(tmp_path):
    assert find_architecture("unet3d").activation is Activation.SOFTMAX
    bundle = tiny_unet3d_bundle(tmp_path / "m", onnx=True)
    image = np.random.default_rng(0).random((2, 1, 16, 16, 16), dtype=np.float32)
    with torch.no_grad():
        expected = torch.softmax(bundle.torch_module()(torch.from_numpy(image)), dim=1)[:, 1:].numpy()
    for runtime in ("torch", "onnx"):
        segmenter = load_segmenter(bundle, device="cpu", runtime=runtime, threads=1)
        assert (segmenter.input_size, segmenter.classes) == ((16, 16, 16), 2)
        np.testing.assert_allclose(segmenter.predict(image), expected, atol=1e-5)
        np.testing.assert_allclose(segmenter.predict(image[:1]), expected[:1], atol=1e-5)


OPTIONS = dict(tiny_unet3d_manifest().parameters)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input_size": (15, 16, 16)}, "divisible by 2"),
        ({"input_size": (16, 16), "spacing": None}, "must be a block"),
        ({"labels": ()}, "at least one label"),
        ({"parameters": OPTIONS | {"classes": 2}}, "classes"),
        ({"parameters": OPTIONS | {"in_channels": 2}}, "channel"),
        ({"parameters": OPTIONS | {"widths": []}}, "widths"),
        ({"parameters": OPTIONS | {"dropout": 1.0}}, "dropout"),
        ({"parameters": {key: value for key, value in OPTIONS.items() if key != "input_dropout"}}, "input_dropout"),
        ({"spacing": None}, "spacing"),
        ({"spacing": (0.0, 1.0, 1.0)}, "spacing"),
    ],
)
def test_descriptions_that_do_not_suit_are_refused(changes, message):
    with pytest.raises(BundleError, match=message):
        check_manifest(dataclasses.replace(tiny_unet3d_manifest(), **changes))


def test_the_card_tells_how_it_sees_images():
    card = model_card(tiny_unet3d_manifest(localiser=Localiser("unet-ct", 25.0)))
    assert "4 x 4 x 4 mm" in card and "unet-ct, 25 mm around the organ" in card and "the likeliest class" in card
