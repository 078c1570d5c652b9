"""Networks that ncnn computes band by band: what comes out is what whole maps give."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron_examples import enliven, images, small_spec
from torch.nn import functional as F

from LiverMarginLib.errors import BundleError
from LiverMarginLib.models import unet_ncnn
from LiverMarginLib.models.maskrcnn import MaskRCNN
from LiverMarginLib.models.ncnn_graph import Blob, NcnnBuilder, bands
from LiverMarginLib.models.row_spans import RowSpans
from LiverMarginLib.models.unet import UNet

pytest.importorskip("ncnn", reason="ncnn is not installed (livermargin[fast])")


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape) + sum(shape)).standard_normal(shape).astype(np.float32)


def run(net: NcnnBuilder, output: Blob, image: np.ndarray) -> np.ndarray:
    return net.finish([output], 1)(image)[0]


@pytest.mark.parametrize("rows", [2, 3, 5, 8, 100])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [(3, 1, 1), (3, 2, 1), (7, 2, 3), (1, 1, 0), (1, 2, 0), (5, 1, 2), (2, 2, 0)]
)
def test_bands_of_a_convolution_make_up_the_whole(rows, kernel, stride, padding):
    # ncnn wants maps to begin at multiples of 16 bytes.
    image, weight, bias = random(3, 21, 20), random(5, 3, kernel, kernel), random(5)
    expected = F.conv2d(torch.from_numpy(image), torch.from_numpy(weight), torch.from_numpy(bias), stride, padding)
    net = NcnnBuilder(3, 21, 20)
    parts = []
    for first, last in bands(len(expected[0]), rows):
        needed = net.rows(net.image, first * stride - padding, (last - 1) * stride - padding + kernel)
        part = net.convolution(needed, weight, bias, stride=stride, padding=padding)
        assert part.first in (0, first) and part.last in (last, part.height)
        parts.append(net.rows(part, first, last))
    whole = net.stack(parts)
    assert (whole.channels, whole.height, whole.width) == tuple(expected.shape)
    np.testing.assert_allclose(run(net, whole, image), expected, atol=1e-4)


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(2, 2, 0), (3, 2, 1), (1, 2, 0)])
def test_a_window_that_does_not_begin_with_the_band_begins_later(kernel, stride, padding):
    image = random(4, 20, 16)
    expected = F.max_pool2d(torch.from_numpy(image), kernel, stride, padding).numpy()
    net = NcnnBuilder(4, 20, 16)
    for first in range(12):
        part = net.max_pool(net.rows(net.image, first, first + 8), kernel, stride, padding)
        assert part.last - part.first >= 3
        np.testing.assert_array_equal(run(net, part, image), expected[:, part.first : part.last])


def test_layers_of_two_maps_take_the_rows_that_both_have():
    image = random(8, 16, 12)
    net = NcnnBuilder(8, 16, 12)
    upper, lower = net.rows(net.image, 0, 10), net.rows(net.image, 6, 16)
    both = net.add(upper, lower, relu=True)
    assert (both.first, both.last, both.height) == (6, 10, 16)
    np.testing.assert_array_equal(run(net, both, image), np.maximum(2 * image[:, 6:10], 0))
    beside = net.concat(lower, upper)
    assert beside.channels == 16
    np.testing.assert_array_equal(run(net, beside, image), np.concatenate([image, image])[:, 6:10])


def test_enlarged_bands_make_up_the_whole():
    image, weight = random(4, 12, 8), random(4, 6, 2, 2)
    net = NcnnBuilder(4, 12, 8)
    parts = [net.rows(net.image, *part) for part in bands(12, 5)]
    doubled = net.stack([net.double(part) for part in parts])
    assert (doubled.height, doubled.width, doubled.first, doubled.last) == (24, 16, 0, 24)
    np.testing.assert_array_equal(run(net, doubled, image), image.repeat(2, 1).repeat(2, 2))
    learnt = net.stack([net.transposed(part, weight, None, stride=2) for part in parts])
    expected = F.conv_transpose2d(torch.from_numpy(image), torch.from_numpy(weight), stride=2)
    np.testing.assert_allclose(run(net, learnt, image), expected, atol=1e-5)


def test_bands_that_leave_rows_out_are_not_stacked():
    net = NcnnBuilder(1, 9, 9)
    with pytest.raises(ValueError, match="follow"):
        net.stack([net.rows(net.image, 0, 3), net.rows(net.image, 4, 9)])


@pytest.mark.parametrize("count", [1, 3, 16, 33])
def test_a_dense_layer_is_a_product_of_matrices(count):
    boxes, weight, bias = random(count, 24), random(10, 24), random(10)
    net = NcnnBuilder(1, 0, 24)
    found = run(net, net.dense(net.image, weight, bias, relu=True), boxes)
    np.testing.assert_allclose(found, np.maximum(boxes @ weight.T + bias, 0), atol=1e-5)


@pytest.mark.parametrize("size", [(64, 48), (48, 64), (40, 32)])
def test_a_unet_in_bands_gives_what_torch_gives_on_the_whole(size, monkeypatch):
    monkeypatch.setattr(unet_ncnn, "_LARGE", 1)
    monkeypatch.setattr(unet_ncnn, "_BAND", 1)  # the smallest bands: 8 rows
    torch.manual_seed(0)
    network = UNet(widths=(8, 16, 16, 8)).eval()
    image = torch.rand(1, 1, *size)
    with torch.no_grad():
        expected = torch.sigmoid(network(image))[0].numpy()
    state = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    found = unet_ncnn.build_unet({"widths": [8, 16, 16, 8]}, state, size)(image[0].numpy())[0]
    np.testing.assert_allclose(found, expected, atol=2e-6)
    assert expected.std() > 0.01


def regions(height, width):
    """Regions as bodies and tables make them, and as nothing should."""
    y, x = np.mgrid[:height, :width]
    ellipse = ((y - 0.4 * height) / (0.3 * height)) ** 2 + ((x - 0.45 * width) / (0.35 * width)) ** 2 < 1
    table = (y == height - 3) & (x > width // 3) & (x < width // 2)
    dot, empty = np.zeros((2, height, width), bool)
    dot[height // 2, width // 2 + 1] = True
    corners = empty.copy()
    corners[0, 0] = corners[-1, -1] = True
    noise = np.random.default_rng(1).random((height, width)) < 0.02
    return {
        "a body": ellipse,
        "a body on a table": ellipse | table,
        "one pixel": dot,
        "two corners": corners,
        "a column": x == 5,
        "the last rows": y >= height - 5,
        "noise": noise,
        "everything": ~empty,
    }


@pytest.mark.parametrize("kind", list(regions(16, 16)))
@pytest.mark.parametrize("size", [(64, 96), (96, 64), (160, 160)])
@pytest.mark.parametrize("dark", [0.0, -0.7])
def test_a_unet_for_a_region_gives_what_torch_gives_of_whole_slices(kind, size, dark, monkeypatch):
    monkeypatch.setattr(unet_ncnn, "_LARGE_IN_REGION", 64 * 48 * 8)  # the deeper levels are computed at once
    monkeypatch.setattr(unet_ncnn, "_ROWS_IN_REGION", 8)
    torch.manual_seed(0)
    network = UNet(in_channels=2, classes=2, widths=(8, 16, 16, 8)).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 1:
                parameter.uniform_(-0.2, 0.2)  # air is not 0 in the maps then
    region = regions(*size)[kind]
    images = np.where(region, np.random.default_rng(0).random((3, 2, *size)), dark).astype(np.float32)
    with torch.no_grad():
        expected = torch.sigmoid(network(torch.from_numpy(images))).numpy()
    state = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    parameters = {"in_channels": 2, "classes": 2, "widths": [8, 16, 16, 8]}
    net = unet_ncnn.build_unet_within(region, np.full(size, dark, np.float32), parameters, state)
    inside = RowSpans.of(region).mask()
    for image, probabilities in zip(images, expected, strict=True):
        np.testing.assert_allclose(net(image)[0][:, inside], probabilities[:, inside], atol=2e-6)
    assert expected.std() > 0.01


@pytest.mark.parametrize(("portion", "rows"), [(3, 4), (64, 5), (64, 15)])
def test_mask_rcnn_in_bands_and_portions_gives_what_torch_gives_at_once(portion, rows, monkeypatch):
    pytest.importorskip("torchvision", reason="torchvision is not installed")
    from LiverMarginLib.models import maskrcnn_ncnn, maskrcnn_torch

    torch.manual_seed(0)
    spec, state = small_spec(), enliven(MaskRCNN(small_spec())).state_dict()

    def network() -> maskrcnn_torch.MaskRCNNSegmentation:
        network = maskrcnn_torch.MaskRCNNSegmentation(spec)
        network.load_state_dict(state)
        return network.eval()

    batch = torch.from_numpy(images())
    monkeypatch.setattr(maskrcnn_torch, "_PORTION", 10**6)
    with torch.inference_mode():
        expected = network()(batch).numpy()
    monkeypatch.setattr(maskrcnn_torch, "_PORTION", portion)
    monkeypatch.setattr(maskrcnn_ncnn, "_ROWS", rows)
    with torch.inference_mode():
        found = maskrcnn_ncnn.NcnnMaskRCNN(network())(batch).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert expected.max() > 0.2


def test_without_a_proposal_there_is_nothing_to_judge():
    pytest.importorskip("torchvision", reason="torchvision is not installed")
    from LiverMarginLib.models.maskrcnn_ncnn import NcnnMaskRCNN
    from LiverMarginLib.models.maskrcnn_torch import MaskRCNNSegmentation

    network = NcnnMaskRCNN(MaskRCNNSegmentation(small_spec()).eval())
    scores, deltas = network.judge(torch.zeros(0, network.spec.fpn_channels, 7, 7))
    assert scores.shape == (0,) and deltas.shape == (0, 4)


@pytest.mark.parametrize("layer", ["add", "concat", "dense", "transposed"])
def test_what_does_not_fit_never_reaches_ncnn(layer):
    net = NcnnBuilder(3, 8, 8)
    other = net.convolution(net.image, np.zeros((2, 3, 1, 1), np.float32), None, stride=2, padding=0)
    with pytest.raises(BundleError, match="do not fit"):
        if layer == "dense":
            net.dense(net.image, np.zeros((4, 9), np.float32), np.zeros(4, np.float32))
        elif layer == "transposed":
            net.transposed(net.image, np.zeros((3, 2, 3, 3), np.float32), None, stride=2)
        else:
            getattr(net, layer)(net.image, other)
