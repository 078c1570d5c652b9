"""Mask R-CNN by torch and torchvision: the whole batch at once, without Detectron2.

The same steps as in `maskrcnn_onnx`, where each is explained by what Detectron2 does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from LiverMarginLib.errors import DependencyError
from LiverMarginLib.models.maskrcnn import MaskRCNN, PointMaskHead, make_anchors
from LiverMarginLib.models.maskrcnn_points import refine_masks
from LiverMarginLib.models.maskrcnn_spec import (
    BOX_REGRESSION_WEIGHTS,
    CANONICAL_BOX_SIDE,
    CANONICAL_LEVEL,
    LEVEL_STRIDES,
    MAX_LOG_GROWTH,
    MaskRCNNSpec,
)
from LiverMarginLib.models.roi_align import channels_last, roi_align_rows

try:
    from torchvision.ops import nms, roi_align
except ImportError as error:
    raise DependencyError(
        "torchvision must be installed to run Mask R-CNN by torch; install it or choose the runtime onnx.", str(error)
    ) from error


# Boxes that are pooled and judged at a time on a CPU: their features, 50 kB each, stay in its caches.
_PORTION = 256


@dataclass(frozen=True, eq=False)
class Instances:
    """The k instances of a batch.

    Attributes
    ----------
    boxes : Tensor
        Shape (k, 4): x0, y0, x1, y1 in pixels.
    scores : Tensor
        Shape (k,).
    image : Tensor
        Shape (k,), int64: the image of the batch that each is in.
    masks : Tensor
        Shape (k, side, side): probabilities within the box.
    """

    boxes: Tensor
    scores: Tensor
    image: Tensor
    masks: Tensor


class MaskRCNNSegmentation(MaskRCNN):
    """A Mask R-CNN that gives the probability of liver at each pixel.

    Parameters
    ----------
    spec : MaskRCNNSpec, optional
    **parameters
        Its fields, instead of `spec`.
    """

    def __init__(self, spec: MaskRCNNSpec | None = None, /, **parameters: Any):
        super().__init__(spec or MaskRCNNSpec.from_dict(parameters))
        # No buffers: a bundle builds its network without memory and fills in what the weights file holds.
        self._anchors: dict[torch.device, list[Tensor]] = {}

    def forward(self, images: Tensor) -> Tensor:
        """Map images (n, 1, size, size) in [0, 1] to the best probability of an instance, of the same shape."""
        found = self.detect(images, self.spec.score_threshold)
        return paste(found, len(images), self.spec.size)

    @torch.no_grad()
    def detect(self, images: Tensor, score_threshold: float) -> Instances:
        """Find the instances of at least a score in images (n, 1, size, size), image by image, best first."""
        spec = self.spec
        features, logits, deltas = self.trunk(images)
        if images.device.type == "cpu":  # boxes are pooled portion by portion there, the maps are transposed once
            features = [channels_last(one) for one in features]
        boxes, image = self._propose(logits, deltas)
        scores, correction = self._judge_boxes(features[:4], boxes, image)
        boxes = _decode(boxes, correction, BOX_REGRESSION_WEIGHTS, spec.size)

        usable = (scores > spec.min_score) & _has_area(boxes)
        boxes, scores, image = boxes[usable], scores[usable], image[usable]
        kept = _suppress(boxes, scores, image, image, spec.box_nms, spec.detections)
        kept = kept[scores[kept] >= score_threshold]
        boxes, scores, image = boxes[kept], scores[kept], image[kept]
        return Instances(boxes, scores, image, self._masks(features, boxes, image))

    def _propose(self, logits: Sequence[Tensor], deltas: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        spec, count, device = self.spec, len(logits[0]), logits[0].device
        if device not in self._anchors:
            self._anchors[device] = [anchors.to(device) for anchors in make_anchors(spec.size)]
        all_boxes, all_scores, all_levels = [], [], []
        for level, (score, delta) in enumerate(zip(logits, deltas, strict=True)):
            anchors = self._anchors[device][level]
            best, chosen = score.topk(min(spec.pre_nms, len(anchors)), dim=1)
            delta = delta.gather(1, chosen[..., None].expand(-1, -1, 4))
            all_boxes.append(_decode(anchors[chosen], delta, (1.0, 1.0, 1.0, 1.0), spec.size))
            all_scores.append(best)
            all_levels.append(torch.full_like(chosen, level))
        boxes, scores = torch.cat(all_boxes, 1).flatten(0, 1), torch.cat(all_scores, 1).flatten()
        levels = torch.cat(all_levels, 1)
        image = torch.arange(count, device=levels.device)[:, None].expand_as(levels).flatten()
        usable = _has_area(boxes)
        boxes, scores, levels, image = boxes[usable], scores[usable], levels.flatten()[usable], image[usable]
        group = image * len(LEVEL_STRIDES) + levels
        kept = _suppress(boxes, scores, group, image, spec.rpn_nms, spec.post_nms)
        return boxes[kept], image[kept]

    def _judge_boxes(self, features: Sequence[Tensor], boxes: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        portion = _PORTION if boxes.device.type == "cpu" else max(len(boxes), 1)
        scores, corrections = [], []
        for some, of_image in zip(boxes.split(portion), image.split(portion), strict=True):
            pooled, order = _pool(features, some, of_image, 7)
            score, correction = self.judge(pooled)
            back = order.argsort()
            scores.append(score[back])
            corrections.append(correction[back])
        return torch.cat(scores), torch.cat(corrections)

    def _masks(self, features: Sequence[Tensor], boxes: Tensor, image: Tensor) -> Tensor:
        spec, head = self.spec, self.mask_head
        if len(boxes) == 0:
            return boxes.new_zeros(0, spec.mask_side, spec.mask_side)
        if isinstance(head, PointMaskHead):
            return refine_masks(head, features[0], boxes, image).sigmoid()
        pooled, order = _pool(features[: spec.mask_levels], boxes, image, spec.pooled_mask_side)
        return self.mask_logits(pooled).sigmoid()[order.argsort()]

    def judge(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """Run the box head on features (k, c, 7, 7); returns the liver's probability (k,) and the deltas (k, 4)."""
        scores, deltas = self.roi_heads(pooled)
        return scores, deltas

    def mask_logits(self, pooled: Tensor) -> Tensor:
        """Run the convolutional mask head on features (k, c, s, s); returns logits (k, side, side)."""
        logits: Tensor = self.mask_head(pooled)
        return logits


def paste(found: Instances, count: int, size: int) -> Tensor:
    """Paste the masks into their images and keep the largest probability, shape (count, 1, size, size)."""
    side = found.masks.shape[-1]
    samples = torch.arange(side, device=found.boxes.device, dtype=found.boxes.dtype)
    pixels = torch.arange(size, device=found.boxes.device, dtype=found.boxes.dtype) + 0.5

    def weights(low: Tensor, high: Tensor) -> Tensor:
        position = (pixels - low[:, None]) / (high - low)[:, None] * side - 0.5
        return (1 - (position[..., None] - samples).abs()).clamp(min=0)

    x0, y0, x1, y1 = found.boxes.unbind(1)
    pasted = weights(y0, y1) @ found.masks.to(found.boxes.dtype) @ weights(x0, x1).transpose(1, 2)
    union = pasted.new_zeros(count, size, size)
    union.scatter_reduce_(0, found.image[:, None, None].expand_as(pasted), pasted, "amax")
    return union.clamp(0, 1)[:, None]


def _decode(boxes: Tensor, deltas: Tensor, weights: Sequence[float], size: int) -> Tensor:
    deltas = deltas.float()
    extent = boxes[..., 2:] - boxes[..., :2]
    centre = boxes[..., :2] + 0.5 * extent
    scale = deltas.new_tensor(weights)
    centre = deltas[..., :2] / scale[:2] * extent + centre
    extent = (deltas[..., 2:] / scale[2:]).clamp(max=MAX_LOG_GROWTH).exp() * extent
    return torch.cat([centre - 0.5 * extent, centre + 0.5 * extent], dim=-1).clamp(0, size)


def _has_area(boxes: Tensor) -> Tensor:
    return (boxes[:, 2:] > boxes[:, :2]).all(dim=1)


def _suppress(boxes: Tensor, scores: Tensor, group: Tensor, image: Tensor, overlap: float, most: int) -> Tensor:
    """Suppress within each group; return the best `most` of each image, image by image, best first."""
    # Groups are moved apart so that one call serves all of them; in double precision, which moves them exactly.
    apart = boxes.double() + (group * (boxes.max().ceil() + 1 if len(boxes) else 0)).double()[:, None]
    kept = nms(apart, scores.double(), overlap)
    kept = kept[image[kept].argsort(stable=True)]
    of_image = image[kept]
    first = torch.searchsorted(of_image, of_image)
    return kept[torch.arange(len(kept), device=kept.device) - first < most]


def _pool(features: Sequence[Tensor], boxes: Tensor, image: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """RoIAlign each box on its level; returns the pooled boxes and their order, by level."""
    extent = boxes[:, 2:] - boxes[:, :2]
    size = torch.sqrt(extent[:, 0] * extent[:, 1]) / CANONICAL_BOX_SIDE + 1e-8
    bounds = size.new_tensor([2.0 ** (index + 3 - CANONICAL_LEVEL) for index in range(len(features) - 1)])
    level = torch.bucketize(size, bounds, right=True)
    by_level = [(level == index).nonzero()[:, 0] for index in range(len(features))]
    order = torch.cat(by_level)
    if features[0].device.type == "cpu" and features[0].dtype == torch.float32:
        rows = features[0].new_empty(len(boxes), side, side, features[0].shape[1])
        parts = rows.split([len(chosen) for chosen in by_level])
        for index, (feature, chosen, part) in enumerate(zip(features, by_level, parts, strict=True)):
            roi_align_rows(feature, boxes[chosen], image[chosen], side, 1.0 / LEVEL_STRIDES[index], part)
        return rows.permute(0, 3, 1, 2), order
    pooled = []
    for index, (feature, chosen) in enumerate(zip(features, by_level, strict=True)):
        rois = torch.cat([image[chosen, None].to(boxes.dtype), boxes[chosen]], dim=1).to(feature.dtype)
        pooled.append(roi_align(feature, rois, side, 1.0 / LEVEL_STRIDES[index], sampling_ratio=0, aligned=True))
    return torch.cat(pooled), order
