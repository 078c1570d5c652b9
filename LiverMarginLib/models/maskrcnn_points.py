"""PointRend's inference: refine a coarse mask where it is doubtful, twice the side at each step."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from LiverMarginLib.models.maskrcnn import PointMaskHead


def refine_masks(head: PointMaskHead, features: Tensor, boxes: Tensor, image: Tensor) -> Tensor:
    """Predict the masks of `boxes`.

    Parameters
    ----------
    head : PointMaskHead
    features : Tensor
        p2, shape (n, c, h, w).
    boxes : Tensor
        Shape (k, 4): x0, y0, x1, y1 in pixels of the network's input.
    image : Tensor
        Shape (k,), int64: which image each box is in.

    Returns
    -------
    Tensor
        Logits, shape (k, 224, 224).
    """
    own = features[image]
    height, width = features.shape[2] * head.stride, features.shape[3] * head.stride
    size = boxes.new_tensor([width, height])

    def sample_features(points: Tensor) -> Tensor:
        """Map points (k, p, 2) in the boxes' own [0, 1] to features (k, c, p)."""
        low, high = boxes[:, None, :2], boxes[:, None, 2:]
        return _sample(own, (points * (high - low) + low) / size)

    def regular(side: int) -> Tensor:
        steps = (torch.arange(side, device=boxes.device, dtype=boxes.dtype) + 0.5) / side
        y, x = torch.meshgrid(steps, steps, indexing="ij")
        return torch.stack([x, y], dim=-1).view(1, side * side, 2).expand(boxes.shape[0], -1, -1)

    pooled = sample_features(regular(head.POOLED_SIDE)).unflatten(2, (head.POOLED_SIDE, head.POOLED_SIDE))
    coarse = head.coarse(pooled)
    side, points = head.FIRST_SIDE, regular(head.FIRST_SIDE)
    masks = head.points(sample_features(points), _sample(coarse, points)).unflatten(2, (side, side))
    while side < 224:
        side *= 2
        masks = F.interpolate(masks, scale_factor=2.0, mode="bilinear", align_corners=False)
        flat = masks.flatten(2)
        chosen = flat[:, 0].abs().neg().topk(head.POINTS, dim=1).indices
        points = torch.stack([chosen % side, chosen // side], dim=-1).to(boxes.dtype) / side + 0.5 / side
        logits = head.points(sample_features(points), _sample(coarse, points))
        masks = flat.scatter(2, chosen[:, None], logits).unflatten(2, (side, side))
    return masks[:, 0]


def _sample(maps: Tensor, points: Tensor) -> Tensor:
    """Interpolate maps (k, c, h, w) at points (k, p, 2) in [0, 1], x first; returns (k, c, p)."""
    return F.grid_sample(maps, 2.0 * points[:, :, None] - 1.0, align_corners=False)[..., 0]
