"""ImageNet weights for Detectron2's residual networks: what they compute on one channel, and what is refused."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from detectron_examples import SMALL

from LiverMarginLib.errors import InputError
from LiverMarginLib.models.detectron_config import DetectronOptions, build_config, build_model

pytestmark = pytest.mark.detectron2
SIZE = 128


@pytest.fixture(scope="module")
def torchvision_net():
    """torchvision's own network, with statistics that are not those of a new one."""
    torch = pytest.importorskip("torch")
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    network = models.resnet18().eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    return network


def build(**changes):
    from LiverMarginLib.models.detectron_weights import load_imagenet

    options = DetectronOptions(**{**SMALL, "norm": "FrozenBN", "freeze_at": 2, "stride_in_1x1": False, **changes})
    model = build_model(build_config(options, SIZE)).eval()
    load_imagenet(model, options)
    return model, options


@pytest.mark.parametrize("kind", ["pth", "safetensors", "pkl"])
def test_the_stem_computes_on_a_grey_picture_what_torchvisions_computes_on_three_equal_channels(
    torchvision_net, tmp_path, kind
):
    import safetensors.torch
    import torch

    path = tmp_path / f"resnet18.{kind}"
    state = torchvision_net.state_dict()
    if kind == "pth":
        torch.save(state, path)
    elif kind == "safetensors":
        safetensors.torch.save_file(state, path)
    else:
        path.write_bytes(pickle.dumps({"model": {name: tensor.numpy() for name, tensor in state.items()}}))
    model, options = build(imagenet=str(path))
    x = torch.rand(1, 1, SIZE, SIZE)
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        ours = model.backbone.bottom_up.stem.conv1((x - options.pixel_mean) / options.pixel_std)
        three = (x.expand(-1, 3, -1, -1) - mean[:, None, None]) / deviation[:, None, None]
        theirs = torchvision_net.bn1(torchvision_net.conv1(three))
    inner = np.s_[:, :, 2:-2, 2:-2]  # padding with zeros means another grey in either normalisation
    assert (ours - theirs)[inner].abs().max() < 1e-5
    assert torch.equal(model.backbone.bottom_up.res5[0].shortcut.weight, torchvision_net.layer4[0].downsample[0].weight)


def test_a_frozen_stem_is_never_random(torchvision_net, tmp_path):
    import torch

    torch.save(torchvision_net.state_dict(), tmp_path / "r.pth")
    model, _ = build(imagenet=str(tmp_path / "r.pth"))
    stem = model.backbone.bottom_up.stem.conv1
    assert not stem.weight.requires_grad
    assert stem.weight.shape == (64, 1, 7, 7)
    expected = torchvision_net.conv1.weight / torch.tensor([0.229, 0.224, 0.225])[:, None, None] * 0.25
    torch.testing.assert_close(stem.weight, expected.sum(dim=1, keepdim=True))


class _Attack:
    def __reduce__(self):
        return (print, ("executed",))


@pytest.mark.parametrize("name", ["weights.pkl", "weights.pth"])
def test_a_file_that_would_run_code_is_refused_and_nothing_runs(tmp_path, name, capsys):
    (tmp_path / name).write_bytes(pickle.dumps({"model": {"conv1.weight": _Attack()}}))
    with pytest.raises(InputError, match="holds no plain weights"):
        build(imagenet=str(tmp_path / name))
    assert "executed" not in capsys.readouterr().out


def test_weights_of_another_depth_or_kind_are_refused(torchvision_net, tmp_path):
    import torch

    torch.save(torchvision_net.state_dict(), tmp_path / "r18.pth")
    with pytest.raises(InputError, match="does not hold a ResNet-34"):
        build(imagenet=str(tmp_path / "r18.pth"), depth=34)
    with pytest.raises(InputError, match="stride_in_1x1 False"):
        build(imagenet=str(tmp_path / "r18.pth"), depth=50, stride_in_1x1=True)
    with pytest.raises(InputError, match="cannot be read"):
        build(imagenet=str(tmp_path / "missing.pth"))
    with pytest.raises(InputError, match="choose the norm FrozenBN or BN"):
        build(imagenet=str(tmp_path / "r18.pth"), norm="GN", freeze_at=0)
