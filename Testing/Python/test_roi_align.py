"""RoIAlign as sums of rows against torchvision's."""

from __future__ import annotations

import pytest
import torch

from LiverMarginLib.models.roi_align import roi_align_rows


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("side", [7, 14])
def test_boxes_are_pooled_as_torchvision_pools_them(memory_format, side):
    ops = pytest.importorskip("torchvision.ops", reason="torchvision is not installed")
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 8, 24, 32, generator=generator).contiguous(memory_format=memory_format)
    corner, extent = torch.rand(300, 2, generator=generator), torch.rand(300, 2, generator=generator) ** 3
    size = torch.tensor([128.0, 96.0])
    boxes = torch.cat([corner * size, (corner + extent).clamp(max=1) * size], dim=1)
    special = torch.tensor([[0, 0, 128, 96], [0, 0, 1e-3, 96], [127.9, 95.9, 128, 96], [0, 40, 128, 40.5]])
    boxes = torch.cat([boxes, special, special[:, [0, 1, 0, 1]]])  # the last have no area
    image = torch.randint(0, 2, (len(boxes),), generator=generator)
    rois = torch.cat([image[:, None].float(), boxes], dim=1)
    expected = ops.roi_align(features, rois, side, 0.25, sampling_ratio=0, aligned=True)
    found = roi_align_rows(features, boxes, image, side, 0.25)
    usable = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
    assert usable.sum() > 300
    torch.testing.assert_close(found[usable], expected[usable], atol=2e-5, rtol=1e-5)


def test_no_box_gives_nothing():
    found = roi_align_rows(torch.zeros(1, 3, 4, 4), torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), 7, 0.25)
    assert found.shape == (0, 3, 7, 7)


def test_a_constant_map_stays_constant_whatever_the_box():
    boxes = torch.tensor([[3.0, 5.0, 90.0, 6.5], [0.0, 0.0, 128.0, 96.0], [60.0, 1.0, 61.0, 95.0]])
    found = roi_align_rows(torch.full((1, 2, 24, 32), 3.0), boxes, torch.zeros(3, dtype=torch.int64), 7, 0.25)
    torch.testing.assert_close(found, torch.full((3, 2, 7, 7), 3.0))
