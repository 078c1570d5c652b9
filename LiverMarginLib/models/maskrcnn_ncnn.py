"""Mask R-CNN on a CPU: its convolutions by ncnn, whose Winograd tiles save half of the work, the rest by torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from LiverMarginLib.models.maskrcnn import Conv, MaskHead, MaskRCNN
from LiverMarginLib.models.maskrcnn_torch import MaskRCNNSegmentation
from LiverMarginLib.models.ncnn_graph import FloatArray, NcnnBuilder, NcnnNet


class NcnnMaskRCNN(MaskRCNNSegmentation):
    """A Mask R-CNN whose trunk and whose convolutional mask head are run by ncnn; several threads may use it.

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
        self._mask_net = _mask_head(self.mask_head, threads) if isinstance(self.mask_head, MaskHead) else None
        self._first = _for_channels_last(self.roi_heads.box_head.fc1, self.spec.fpn_channels)
        del self.backbone, self.proposal_generator  # ncnn has copies
        del self.roi_heads.box_head.fc1  # its columns are sorted for `judge` alone

    def trunk(self, images: Tensor) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """See `MaskRCNN.trunk`; without p6, which only the proposals need."""
        scaled = ((images - self.spec.pixel_mean) / self.spec.pixel_std).contiguous().numpy()
        found = [self._trunk_net(image) for image in scaled]
        maps = [torch.from_numpy(np.stack(parts)) for parts in zip(*found, strict=True)]
        features, heads = maps[:4], [values.permute(0, 2, 3, 1).flatten(1) for values in maps[4:]]
        return features, heads[0::2], [deltas.unflatten(1, (-1, 4)) for deltas in heads[1::2]]

    def judge(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """See `MaskRCNNSegmentation.judge`; takes the boxes as they lie in memory, with their channels last."""
        return self.roi_heads.predict(self._first(pooled.permute(0, 2, 3, 1).flatten(1)))

    def mask_logits(self, pooled: Tensor) -> Tensor:
        """See `MaskRCNNSegmentation.mask_logits`."""
        if self._mask_net is None:
            return super().mask_logits(pooled)
        return torch.from_numpy(np.concatenate([self._mask_net(one)[0] for one in pooled.contiguous().numpy()]))


def _for_channels_last(layer: nn.Linear, channels: int) -> nn.Linear:
    """Sort the columns of a layer on flattened (c, h, w) for flattened (h, w, c): saves a copy of all boxes."""
    weight = layer.weight.unflatten(1, (channels, -1)).transpose(1, 2).flatten(1)
    layer.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
    return layer


def _trunk(network: MaskRCNN, threads: int) -> NcnnNet:
    """Outputs: p2 to p5, then the objectness and the deltas of each level."""
    net = NcnnBuilder(1)
    x = net.max_pool(_conv(net, "image", network.backbone.bottom_up.stem.conv1, relu=True), 3, 2, 1)
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
    merged: list[str] = []
    for blob, lateral in zip(reversed(stages), reversed(network.backbone.lateral), strict=True):
        y = _conv(net, blob, lateral)
        merged.insert(0, net.add(y, net.double(merged[0])) if merged else y)
    levels = [_conv(net, y, layer) for y, layer in zip(merged, network.backbone.output, strict=True)]
    rpn: Any = network.proposal_generator.rpn_head
    heads = []
    for level in [*levels, net.max_pool(levels[-1], 1, 2)]:
        hidden = _conv(net, level, rpn.conv, relu=True)
        heads += [_conv(net, hidden, rpn.objectness_logits), _conv(net, hidden, rpn.anchor_deltas)]
    return net.finish([*levels, *heads], threads)


def _mask_head(head: MaskHead, threads: int) -> NcnnNet:
    net, x = NcnnBuilder(head.convolutions[0].in_channels), "image"
    for convolution in head.convolutions:
        x = _conv(net, x, convolution, relu=True)
    for doubling in head.doublings:
        x = net.transposed(x, _array(doubling.weight), _bias(doubling), stride=2, relu=True)
    return net.finish([_conv(net, x, head.predictor)], threads)


def _conv(net: NcnnBuilder, x: str, layer: Conv, *, relu: bool = False) -> str:
    assert layer.norm is None, "group normalisation is not expected here"
    return net.convolution(
        x, _array(layer.weight), _bias(layer), stride=layer.stride[0], padding=int(layer.padding[0]), relu=relu
    )


def _bias(layer: nn.Module) -> FloatArray | None:
    return None if layer.bias is None else _array(layer.bias)  # type: ignore[arg-type]


def _array(tensor: Tensor) -> FloatArray:
    array: FloatArray = tensor.detach().numpy()
    return array
