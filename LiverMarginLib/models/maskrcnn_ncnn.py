"""Mask R-CNN on a CPU: its layers by ncnn, whose Winograd tiles save half of the work, the rest by torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from LiverMarginLib.models.maskrcnn import Conv, MaskHead, MaskRCNN
from LiverMarginLib.models.maskrcnn_spec import ASPECT_RATIOS
from LiverMarginLib.models.maskrcnn_torch import MaskRCNNSegmentation
from LiverMarginLib.models.ncnn_graph import Blob, FloatArray, NcnnBuilder, NcnnNet, bands

# Of the proposals' head: 32 rows of the finest level, 128 pixels wide, are 4 MiB, and the tiles made of them 9.
_ROWS = 32


class NcnnMaskRCNN(MaskRCNNSegmentation):
    """A Mask R-CNN whose trunk, box head and convolutional mask head are run by ncnn; several threads may use it.

    Parameters
    ----------
    network : MaskRCNNSegmentation
        With its weights, in single precision on the CPU, and without group normalisation; it is used up.
    threads : int
        Of each image.
    """

    def __init__(self, network: MaskRCNNSegmentation, threads: int = 1):
        with torch.device("meta"):  # the weights are there already
            super().__init__(network.spec)
        self.load_state_dict(network.state_dict(), assign=True)
        self.fold()
        self._trunk_net = _trunk(self, threads)
        self._box_net = _box_head(self.roi_heads, self.spec.fpn_channels, threads)
        head = self.mask_head
        self._mask_net = _mask_head(head, self.spec.pooled_mask_side, threads) if isinstance(head, MaskHead) else None
        # ncnn has copies
        del self.backbone, self.proposal_generator, self.roi_heads.box_head, self.roi_heads.box_predictor

    def trunk(self, images: Tensor) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """See `MaskRCNN.trunk`; without p6, which only the proposals need."""
        scaled = ((images - self.spec.pixel_mean) / self.spec.pixel_std).contiguous().numpy()
        found = [self._trunk_net(image) for image in scaled]
        maps = [_stacked(parts) for parts in zip(*found, strict=True)]
        judged = [values.permute(0, 2, 3, 1) for values in maps[4:]]
        anchors = len(ASPECT_RATIOS)
        logits = [values[..., :anchors].flatten(1) for values in judged]
        deltas = [values[..., anchors : 5 * anchors].flatten(1).unflatten(1, (-1, 4)) for values in judged]
        return maps[:4], logits, deltas

    def judge(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """See `MaskRCNNSegmentation.judge`; takes the boxes as they lie in memory, with their channels last."""
        if len(pooled) == 0:  # ncnn has no empty matrices
            return pooled.new_zeros(0), pooled.new_zeros(0, 4)
        (found,) = self._box_net(pooled.permute(0, 2, 3, 1).flatten(1).numpy())
        logits, deltas = torch.from_numpy(found).split([2, 4], dim=1)
        return logits.softmax(1)[:, 0], deltas

    def mask_logits(self, pooled: Tensor) -> Tensor:
        """See `MaskRCNNSegmentation.mask_logits`."""
        if self._mask_net is None:
            return super().mask_logits(pooled)
        return torch.from_numpy(np.concatenate([self._mask_net(one)[0] for one in pooled.contiguous().numpy()]))


def _stacked(maps: Sequence[FloatArray]) -> Tensor:
    """Make a batch of maps; of a single one without a copy."""
    return torch.from_numpy(maps[0][None] if len(maps) == 1 else np.stack(maps))


def _trunk(network: MaskRCNN, threads: int) -> NcnnNet:
    """Outputs: p2 to p5, then what is proposed on each level."""
    net = NcnnBuilder(1, network.spec.size, network.spec.size)
    x = net.max_pool(_conv(net, net.image, network.backbone.bottom_up.stem.conv1, relu=True), 3, 2, 1)
    stages = []
    block: Any
    for stage in network.backbone.bottom_up.stages:
        for block in stage:
            y = _conv(net, x, block.conv1, relu=True)
            y = _conv(net, y, block.conv2, relu=block.conv3 is not None)
            if block.conv3 is not None:
                y = _conv(net, y, block.conv3)
            x = net.add(y, x if block.shortcut is None else _conv(net, x, block.shortcut), relu=True)
        stages.append(x)
    merged: list[Blob] = []
    for blob, lateral in zip(reversed(stages), reversed(network.backbone.lateral), strict=True):
        y = _conv(net, blob, lateral)
        merged.insert(0, net.add(y, net.double(merged[0])) if merged else y)
    rpn: Any = network.proposal_generator.rpn_head
    levels: list[Blob] = []
    judged: list[Blob] = []
    for y, layer in zip(merged, network.backbone.output, strict=True):
        parts = bands(y.height, _ROWS)
        # A row more on both sides for the convolution that follows.
        wider = [_conv(net, net.rows(y, first - 2, last + 2), layer) for first, last in parts]
        for found, maps in ((judged, [_proposals(net, band, rpn) for band in wider]), (levels, wider)):
            found.append(net.stack([net.rows(band, *part) for band, part in zip(maps, parts, strict=True)]))
    judged.append(_proposals(net, net.max_pool(levels[-1], 1, 2), rpn))
    return net.finish([*levels, *judged], threads)


def _proposals(net: NcnnBuilder, level: Blob, head: Any) -> Blob:
    """Append the logits and then the deltas of all anchors, and channels of nothing up to a full vector of 16."""
    layers = head.objectness_logits, head.anchor_deltas
    weight, bias = (np.concatenate([_array(getattr(layer, kind)) for layer in layers]) for kind in ("weight", "bias"))
    nothing = (0, -len(bias) % 16)
    weight, bias = np.pad(weight, [nothing, (0, 0), (0, 0), (0, 0)]), np.pad(bias, nothing)
    return net.convolution(_conv(net, level, head.conv, relu=True), weight, bias, padding=0)


def _box_head(heads: Any, channels: int, threads: int) -> NcnnNet:
    """Takes boxes (n, cells and channels), the channels last; gives two logits and four deltas."""
    hidden, last = heads.box_head, (heads.box_predictor.cls_score, heads.box_predictor.bbox_pred)
    first = _array(hidden.fc1.weight.unflatten(1, (channels, -1)).transpose(1, 2).flatten(1))
    net = NcnnBuilder(1, 0, first.shape[1])  # of as many boxes as there are
    x = net.dense(net.image, first, _array(hidden.fc1.bias), relu=True)
    x = net.dense(x, _array(hidden.fc2.weight), _array(hidden.fc2.bias), relu=True)
    weight, bias = (np.concatenate([_array(getattr(layer, kind)) for layer in last]) for kind in ("weight", "bias"))
    return net.finish([net.dense(x, weight, bias)], threads)


def _mask_head(head: MaskHead, side: int, threads: int) -> NcnnNet:
    net = NcnnBuilder(head.convolutions[0].in_channels, side, side)
    x = net.image
    for convolution in head.convolutions:
        x = _conv(net, x, convolution, relu=True)
    for doubling in head.doublings:
        x = net.transposed(x, _array(doubling.weight), _bias(doubling), stride=2, relu=True)
    return net.finish([_conv(net, x, head.predictor)], threads)


def _conv(net: NcnnBuilder, x: Blob, layer: Conv, *, relu: bool = False) -> Blob:
    assert layer.norm is None, "group normalisation is not expected here"
    return net.convolution(
        x, _array(layer.weight), _bias(layer), stride=layer.stride[0], padding=int(layer.padding[0]), relu=relu
    )


def _bias(layer: nn.Module) -> FloatArray | None:
    return None if layer.bias is None else _array(layer.bias)  # type: ignore[arg-type]


def _array(tensor: Tensor) -> FloatArray:
    array: FloatArray = tensor.detach().numpy()
    return array
