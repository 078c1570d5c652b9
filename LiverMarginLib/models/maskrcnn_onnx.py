"""Mask R-CNN as one ONNX graph: a batch of images in, liver probabilities and instances out.

The dense parts are exported from PyTorch (`maskrcnn`); what Detectron2 does between them in Python for one image after
the other (choosing proposals, suppressing duplicates, pooling, pasting masks) is written here once in standard ONNX
operators for the whole batch. ONNX Runtime then needs neither PyTorch, nor torchvision, nor Detectron2.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from LiverMarginLib.models.maskrcnn import Conv, MaskRCNN, PointMaskHead, make_anchors
from LiverMarginLib.models.maskrcnn_points import refine_masks
from LiverMarginLib.models.maskrcnn_spec import (
    BOX_REGRESSION_WEIGHTS,
    CANONICAL_BOX_SIDE,
    CANONICAL_LEVEL,
    LEVEL_STRIDES,
    MAX_LOG_GROWTH,
    MaskRCNNSpec,
)
from LiverMarginLib.models.onnx_export import FloatArray, halve_initialisers
from LiverMarginLib.models.onnx_graph import GraphBuilder, trace

if TYPE_CHECKING:
    import onnx

SCORE_INPUT = "score_threshold"
INSTANCE_OUTPUTS = ("boxes", "scores", "image_index", "masks")
# Below every logit of a trained network, above the mark of a dropped box.
_NO_SCORE, _ANY_SCORE = -3.0e38, -1.0e38


class _Trunk(nn.Module):
    def __init__(self, network: MaskRCNN):
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        features, logits, deltas = self.network.trunk(image)
        return (*features, *logits, *deltas)


class _PointMasks(nn.Module):
    def __init__(self, network: MaskRCNN):
        super().__init__()
        self.head = network.mask_head
        self.size = network.spec.size

    def forward(self, features: Tensor, boxes: Tensor, image: Tensor) -> Tensor:
        assert isinstance(self.head, PointMaskHead)
        return refine_masks(self.head, features, boxes, image)


def build_graph(network: MaskRCNN, *, half: bool = False) -> onnx.ModelProto:
    """Make the ONNX model of a trained Mask R-CNN.

    Parameters
    ----------
    network : MaskRCNN
        It is not changed. Its `MaskRCNNSpec.score_threshold` is the default of the optional graph input
        ``score_threshold``, so that a caller may look at weaker instances too.
    half : bool
        Store as half precision every weight that loses nothing by it; the computation is the same, bit for bit.

    Returns
    -------
    onnx.ModelProto
        Input ``image`` (n, 1, size, size) float32 in [0, 1]. Outputs: ``output`` (n, 1, size, size), the largest mask
        probability of the instances at each pixel; and the k instances of the whole batch: ``boxes`` (k, 4) as x0, y0,
        x1, y1 in pixels, ``scores`` (k,), ``image_index`` (k,) and ``masks`` (k, side, side), probabilities within
        the box.
    """
    whole, network = network, copy.deepcopy(network).fold()
    spec = network.spec
    graph = GraphBuilder()
    image = graph.input("image", ["batch", 1, spec.size, spec.size])
    threshold = graph.optional_input(SCORE_INPUT, np.array(spec.score_threshold, np.float32))
    example = torch.zeros(2, 1, spec.size, spec.size)
    parts = graph.inline(trace(_Trunk(network), {"image": example}, free={"image": {0: "batch"}}), [image])
    levels = len(LEVEL_STRIDES)
    features, logits, deltas = parts[:levels], parts[levels : 2 * levels], parts[2 * levels :]
    batch = graph.op("Shape", image, start=0, end=1)

    proposals, of_image, slot = _proposals(graph, spec, batch, logits, deltas)
    boxes, scores, of_image = _detections(graph, network, batch, features, proposals, of_image, slot, threshold)
    if spec.point_rend:
        masks = _point_masks(graph, network, features[0], boxes, of_image)
    else:
        masks = _convolved_masks(graph, network, features, boxes, of_image)
    masks = graph.op("Sigmoid", masks)
    probability = _union(graph, spec, batch, boxes, masks, of_image)

    side = spec.mask_side
    graph.output("output", probability, np.float32, ["batch", 1, spec.size, spec.size])
    graph.output("boxes", boxes, np.float32, ["instances", 4])
    graph.output("scores", scores, np.float32, ["instances"])
    graph.output("image_index", of_image, np.int64, ["instances"])
    graph.output("masks", masks, np.float32, ["instances", side, side])
    model = graph.finish()
    if half:
        halve_initialisers(model, _folded_products(whole))
    return model


def _folded_products(network: MaskRCNN) -> Iterator[tuple[FloatArray, FloatArray]]:
    """Weights of the convolutions that `MaskRCNN.fold` multiplies, with their factors."""
    for module in network.modules():
        if isinstance(module, Conv) and (factors := module.factors()) is not None:
            yield module.weight.detach().numpy(), factors.detach().numpy()


def _proposals(
    graph: GraphBuilder, spec: MaskRCNNSpec, batch: str, logits: Sequence[str], deltas: Sequence[str]
) -> tuple[str, str, str]:
    """Choose proposals: (r, 4) boxes of all images, (r,) their image, (r,) their place among n * p slots."""
    all_boxes, all_scores, kept = [], [], []
    anchors = make_anchors(spec.size)
    counts = [min(spec.pre_nms, len(level)) for level in anchors]
    total = sum(counts)
    for level, (anchor, count) in enumerate(zip(anchors, counts, strict=True)):
        scores, chosen = graph.ops("TopK", 2, logits[level], graph.const(np.array([count])), axis=1)
        correction = graph.op("GatherND", deltas[level], graph.unsqueeze(chosen, -1), batch_dims=1)
        reference = graph.op("Gather", graph.const(anchor.numpy()), chosen, axis=0)
        boxes = _decode(graph, reference, correction, (1.0, 1.0, 1.0, 1.0), spec.size)
        # Boxes that clipping has emptied must not be chosen.
        scores = graph.op("Where", _has_area(graph, boxes), scores, graph.const(np.float32(_NO_SCORE)))
        selected = graph.op(
            "NonMaxSuppression",
            boxes,
            graph.unsqueeze(scores, 1),
            graph.const(np.array([count])),
            graph.const(np.array([spec.rpn_nms], np.float32)),
            graph.const(np.array([_ANY_SCORE], np.float32)),
        )
        place = graph.op("Add", graph.column(selected, 2), graph.const(np.int64(sum(counts[:level]))))
        kept.append(graph.op("Concat", graph.column(selected, 0), place, axis=1))
        all_boxes.append(boxes)
        all_scores.append(scores)

    boxes = graph.op("Concat", *all_boxes, axis=1)
    scores = graph.op("Concat", *all_scores, axis=1)
    selected = graph.op("Concat", *kept, axis=0)
    nothing = graph.op("ConstantOfShape", graph.op("Shape", scores), value=np.array([_NO_SCORE], np.float32))
    scores = graph.op("ScatterND", nothing, selected, graph.op("GatherND", scores, selected))
    slots = min(spec.post_nms, total)
    best, chosen = graph.ops("TopK", 2, scores, graph.const(np.array([slots])), axis=1)
    boxes = graph.op("GatherND", boxes, graph.unsqueeze(chosen, -1), batch_dims=1)

    real = graph.op("Reshape", graph.op("Greater", best, graph.const(np.float32(_ANY_SCORE))), graph.const([-1]))
    slot = graph.nonzero(real)
    boxes = graph.op("Gather", graph.op("Reshape", boxes, graph.const([-1, 4])), slot, axis=0)
    return boxes, graph.op("Div", slot, graph.const(np.int64(slots))), slot


def _detections(
    graph: GraphBuilder,
    network: MaskRCNN,
    batch: str,
    features: Sequence[str],
    proposals: str,
    of_image: str,
    slot: str,
    threshold: str,
) -> tuple[str, str, str]:
    """Classify and correct the proposals: (k, 4) boxes, (k,) scores and (k,) images of the instances that are kept."""
    spec = network.spec
    pooled, order = _pool(graph, features[:4], proposals, of_image, 7)
    # From here on the proposals stay in the order of their levels; suppression sorts them by score anyway.
    proposals, slot = graph.op("Gather", proposals, order, axis=0), graph.op("Gather", slot, order, axis=0)
    example = torch.zeros(2, spec.fpn_channels, 7, 7)
    head = trace(network.roi_heads, {"pooled": example}, free={"pooled": {0: "boxes"}})
    scores, correction = graph.inline(head, [pooled])
    boxes = _decode(graph, proposals, correction, BOX_REGRESSION_WEIGHTS, spec.size)

    # Suppression works on equally many boxes an image; the slots that stay empty have the score 0.
    slots = min(spec.post_nms, sum(min(spec.pre_nms, len(level)) for level in make_anchors(spec.size)))
    length = graph.op("Mul", batch, graph.const([slots]))
    place = graph.unsqueeze(slot, -1)
    empty = graph.op("ConstantOfShape", length, value=np.zeros(1, np.float32))
    table = graph.op("Concat", length, graph.const([4]), axis=0)
    empty_boxes = graph.op("ConstantOfShape", table, value=np.zeros(1, np.float32))
    boxes = graph.op("ScatterND", empty_boxes, place, boxes)
    scores = graph.op("ScatterND", empty, place, scores)
    selected = graph.op(
        "NonMaxSuppression",
        graph.op("Reshape", boxes, graph.const([-1, slots, 4])),
        graph.op("Reshape", scores, graph.const([-1, 1, slots])),
        graph.const(np.array([spec.detections])),
        graph.const(np.array([spec.box_nms], np.float32)),
        graph.const(np.array([spec.min_score], np.float32)),
    )
    found_in = graph.op("Squeeze", graph.column(selected, 0), graph.const([1]))
    place = graph.op("Squeeze", graph.column(selected, 2), graph.const([1]))
    place = graph.op("Add", graph.op("Mul", found_in, graph.const(np.int64(slots))), place)
    boxes, scores = graph.op("Gather", boxes, place, axis=0), graph.op("Gather", scores, place, axis=0)
    good = graph.op("And", graph.op("GreaterOrEqual", scores, threshold), _has_area(graph, boxes))
    good = graph.nonzero(good)
    return tuple(graph.op("Gather", values, good, axis=0) for values in (boxes, scores, found_in))  # type: ignore[return-value]


def _decode(graph: GraphBuilder, boxes: str, deltas: str, weights: Sequence[float], size: int) -> str:
    """Apply corrections (..., 4) to boxes (..., 4) and clip them to the image."""
    low, high = graph.split(boxes, 2)
    move, grow = graph.split(deltas, 2)
    extent = graph.op("Sub", high, low)
    half = graph.const(np.float32(0.5))
    centre = graph.op("Add", low, graph.op("Mul", half, extent))
    if any(weight != 1 for weight in weights):
        move = graph.op("Div", move, graph.const(np.array(weights[:2], np.float32)))
        grow = graph.op("Div", grow, graph.const(np.array(weights[2:], np.float32)))
    grow = graph.op("Min", grow, graph.const(np.float32(MAX_LOG_GROWTH)))
    centre = graph.op("Add", graph.op("Mul", move, extent), centre)
    radius = graph.op("Mul", half, graph.op("Mul", graph.op("Exp", grow), extent))
    corners = graph.op("Concat", graph.op("Sub", centre, radius), graph.op("Add", centre, radius), axis=-1)
    return graph.op("Clip", corners, graph.const(np.float32(0)), graph.const(np.float32(size)))


def _sides(graph: GraphBuilder, boxes: str) -> tuple[str, str]:
    """Return the widths and the heights (...) of boxes (..., 4).

    Split up rather than reduced: ONNX Runtime's reductions misjudge the shape of an empty matrix, and there may be no
    boxes at all.
    """
    low, high = graph.split(boxes, 2)
    width, height = graph.split(graph.op("Sub", high, low), 2)
    last = graph.const([-1])
    return graph.op("Squeeze", width, last), graph.op("Squeeze", height, last)


def _has_area(graph: GraphBuilder, boxes: str) -> str:
    width, height = _sides(graph, boxes)
    zero = graph.const(np.float32(0))
    return graph.op("And", graph.op("Greater", width, zero), graph.op("Greater", height, zero))


def _pool(graph: GraphBuilder, features: Sequence[str], boxes: str, of_image: str, side: int) -> tuple[str, str]:
    """RoIAlign each box on the level that its size asks for; returns the pooled boxes and their order, by level."""
    area = graph.op("Mul", *_sides(graph, boxes))
    scale = graph.op("Div", graph.op("Sqrt", area), graph.const(np.float32(CANONICAL_BOX_SIDE)))
    scale = graph.op("Add", scale, graph.const(np.float32(1e-8)))
    pooled, order = [], []
    for index, feature in enumerate(features):
        # level = floor(4 + log2(scale)), clamped: comparing with powers of two is the same without the logarithm.
        lower, upper = (2.0 ** (index + 2 - CANONICAL_LEVEL + step) for step in (0, 1))
        inside = graph.op("GreaterOrEqual", scale, graph.const(np.float32(lower if index > 0 else -1)))
        if index < len(features) - 1:
            inside = graph.op("And", inside, graph.op("Less", scale, graph.const(np.float32(upper))))
        chosen = graph.nonzero(inside)
        pooled.append(
            graph.op(
                "RoiAlign",
                feature,
                graph.op("Gather", boxes, chosen, axis=0),
                graph.op("Gather", of_image, chosen, axis=0),
                coordinate_transformation_mode="half_pixel",
                output_height=side,
                output_width=side,
                sampling_ratio=0,
                spatial_scale=1.0 / LEVEL_STRIDES[index],
            )
        )
        order.append(chosen)
    return graph.op("Concat", *pooled, axis=0), graph.op("Concat", *order, axis=0)


def _convolved_masks(graph: GraphBuilder, network: MaskRCNN, features: Sequence[str], boxes: str, of_image: str) -> str:
    spec = network.spec
    pooled, order = _pool(graph, features[: spec.mask_levels], boxes, of_image, spec.pooled_mask_side)
    example = torch.zeros(2, spec.fpn_channels, spec.pooled_mask_side, spec.pooled_mask_side)
    head = trace(network.mask_head, {"pooled": example}, free={"pooled": {0: "instances"}})
    # One more, which nobody looks at: a group normalisation of no instance at all has no shape in ONNX.
    spare = graph.const(np.zeros((1, *example.shape[1:]), np.float32))
    (masks,) = graph.inline(head, [graph.op("Concat", pooled, spare, axis=0)])
    # Back into the order of the boxes.
    _, inverse = graph.ops("TopK", 2, order, graph.op("Shape", order), axis=0, largest=0)
    return graph.op("Gather", masks, inverse, axis=0)


def _point_masks(graph: GraphBuilder, network: MaskRCNN, feature: str, boxes: str, of_image: str) -> str:
    spec = network.spec
    cells = spec.size // LEVEL_STRIDES[0]
    examples = {
        "features": torch.zeros(2, spec.fpn_channels, cells, cells),
        "boxes": torch.tensor([[0.0, 0.0, 8.0, 8.0]] * 3),
        "image": torch.tensor([0, 1, 1]),
    }
    free = {"features": {0: "batch"}, "boxes": {0: "instances"}, "image": {0: "instances"}}
    (masks,) = graph.inline(trace(_PointMasks(network), examples, free=free), [feature, boxes, of_image])
    return masks


def _union(graph: GraphBuilder, spec: MaskRCNNSpec, batch: str, boxes: str, masks: str, of_image: str) -> str:
    """Paste the masks into their images and keep the largest probability at each pixel.

    Bilinear interpolation is separable: pasting is one matrix for the rows and one for the columns, each entry the
    hat function of the distance between a pixel's and a mask sample's centre.
    """
    side, size = spec.mask_side, spec.size
    samples = graph.const(np.arange(side, dtype=np.float32).reshape(1, 1, -1))
    pixels = graph.const((np.arange(size, dtype=np.float32) + 0.5).reshape(1, -1))
    x0, y0, x1, y1 = graph.split(boxes, 4)

    def weights(low: str, high: str) -> str:
        position = graph.op("Div", graph.op("Sub", pixels, low), graph.op("Sub", high, low))
        position = graph.op("Mul", position, graph.const(np.float32(side)))
        position = graph.op("Sub", position, graph.const(np.float32(0.5)))
        distance = graph.op("Abs", graph.op("Sub", graph.unsqueeze(position, -1), samples))
        return graph.op("Relu", graph.op("Sub", graph.const(np.float32(1)), distance))

    rows, columns = weights(y0, y1), weights(x0, x1)
    pasted = graph.op("MatMul", graph.op("MatMul", rows, masks), graph.op("Transpose", columns, perm=[0, 2, 1]))
    shape = graph.op("Concat", batch, graph.const([size, size]), axis=0)
    empty = graph.op("ConstantOfShape", shape, value=np.zeros(1, np.float32))
    union = graph.op("ScatterND", empty, graph.unsqueeze(of_image, -1), pasted, reduction="max")
    return graph.unsqueeze(graph.op("Clip", union, graph.const(np.float32(0)), graph.const(np.float32(1))), 1)
