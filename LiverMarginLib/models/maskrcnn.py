"""Mask R-CNN with a ResNet-FPN backbone in plain PyTorch, with Detectron2's parameter names.

A model trained by Detectron2 is loaded here by name, whole and strictly, and then runs without Detectron2: batched,
and in pieces that an ONNX graph can be made of. What lies between the pieces (choosing proposals, suppressing
duplicates, pasting masks) is in `maskrcnn_torch` and `maskrcnn_onnx`, once for each runtime.

The networks are those of He et al., "Mask R-CNN", ICCV 2017, and Lin et al., "Feature Pyramid Networks", CVPR 2017;
the point head that of Kirillov et al., "PointRend", CVPR 2020.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from LiverMarginLib.models.maskrcnn_spec import ANCHOR_SIDES, ASPECT_RATIOS, BLOCKS, LEVEL_STRIDES, MaskRCNNSpec


class Conv(nn.Conv2d):
    """A convolution with an optional normalisation inside, under Detectron2's parameter names."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, norm: str = "", bias: bool = False):
        super().__init__(inputs, outputs, kernel, stride, (kernel - 1) // 2 if kernel > 2 else 0, bias=bias)
        self.norm: nn.Module | None = None
        if norm == "GN":
            self.norm = nn.GroupNorm(32, outputs)
        elif norm:
            self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        return x if self.norm is None else self.norm(x)

    def factors(self) -> Tensor | None:
        """What `fold` multiplies the weights by, shape (outputs, 1, 1, 1); None without a batch normalisation."""
        if not isinstance(self.norm, nn.BatchNorm2d):
            return None
        scale = self.norm.weight.double() / torch.sqrt(self.norm.running_var.double() + self.norm.eps)  # type: ignore[union-attr]
        return scale.float()[:, None, None, None]

    def fold(self) -> None:
        """Absorb a batch normalisation, whose statistics no longer change, into the weights."""
        factors = self.factors()
        if factors is None:
            return
        norm: Any = self.norm
        scale = factors.flatten().double()
        shift = norm.bias.double() - norm.running_mean.double() * scale
        if self.bias is not None:
            shift += self.bias.double() * scale
        # One product in single precision, which a graph can repeat to the bit.
        self.weight = nn.Parameter(self.weight * factors)
        self.bias = nn.Parameter(shift.float())
        self.norm = None


class Block(nn.Module):
    """A residual block: two 3 x 3 convolutions (ResNet-18, 34) or a bottleneck of three (ResNet-50, 101)."""

    def __init__(self, inputs: int, outputs: int, stride: int, spec: MaskRCNNSpec):
        super().__init__()
        norm = spec.norm
        self.shortcut = Conv(inputs, outputs, 1, stride, norm) if inputs != outputs else None
        if spec.depth < 50:
            self.conv1 = Conv(inputs, outputs, 3, stride, norm)
            self.conv2 = Conv(outputs, outputs, 3, 1, norm)
            self.conv3 = None
        else:
            middle = outputs // 4
            first, second = (stride, 1) if spec.stride_in_1x1 else (1, stride)
            self.conv1 = Conv(inputs, middle, 1, first, norm)
            self.conv2 = Conv(middle, middle, 3, second, norm)
            self.conv3 = Conv(middle, outputs, 1, 1, norm)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(F.relu(self.conv1(x)))
        if self.conv3 is not None:
            y = self.conv3(F.relu(y))
        return F.relu(y + (x if self.shortcut is None else self.shortcut(x)))


class ResNet(nn.Module):
    """The residual network; gives the outputs of its four stages (strides 4, 8, 16, 32)."""

    def __init__(self, spec: MaskRCNNSpec):
        super().__init__()
        self.stem: Any = nn.Module()
        self.stem.conv1 = Conv(1, 64, 7, 2, spec.norm)
        inputs, outputs = 64, 64 if spec.depth < 50 else 256
        self.stages: list[nn.Sequential] = []
        self._channels: list[int] = []
        for stage, count in enumerate(BLOCKS[spec.depth]):
            blocks = []
            for index in range(count):
                stride = 2 if index == 0 and stage > 0 else 1
                blocks.append(Block(inputs, outputs, stride, spec))
                inputs = outputs
            self._channels.append(outputs)
            outputs *= 2
            self.stages.append(nn.Sequential(*blocks))
            self.add_module(f"res{stage + 2}", self.stages[-1])

    @property
    def channels(self) -> list[int]:
        """Channels of the four outputs."""
        return list(self._channels)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = F.max_pool2d(F.relu(self.stem.conv1(x)), 3, 2, 1)
        outputs = []
        for stage in self.stages:
            x = stage(x)
            outputs.append(x)
        return outputs


class FPN(nn.Module):
    """The feature pyramid: p2 to p5 from the four stages, p6 by taking every other cell of p5."""

    def __init__(self, spec: MaskRCNNSpec):
        super().__init__()
        self.bottom_up = ResNet(spec)
        norm = "GN" if spec.norm == "GN" else ""
        self.lateral: list[Conv] = []
        self.output: list[Conv] = []
        for level, channels in enumerate(self.bottom_up.channels, start=2):
            self.lateral.append(Conv(channels, spec.fpn_channels, 1, norm=norm, bias=not norm))
            self.output.append(Conv(spec.fpn_channels, spec.fpn_channels, 3, norm=norm, bias=not norm))
            self.add_module(f"fpn_lateral{level}", self.lateral[-1])
            self.add_module(f"fpn_output{level}", self.output[-1])

    def forward(self, x: Tensor) -> list[Tensor]:
        stages = self.bottom_up(x)
        merged: list[Tensor] = []
        for stage, lateral in zip(reversed(stages), reversed(self.lateral), strict=True):
            y = lateral(stage)
            if merged:
                y = y + F.interpolate(merged[0], scale_factor=2.0, mode="nearest")
            merged.insert(0, y)
        levels = [output(y) for output, y in zip(self.output, merged, strict=True)]
        return [*levels, levels[-1][:, :, ::2, ::2]]


class RPNHead(nn.Module):
    """Scores and box corrections for three anchors at each cell of each level."""

    def __init__(self, spec: MaskRCNNSpec):
        super().__init__()
        channels, anchors = spec.fpn_channels, len(ASPECT_RATIOS)
        self.conv = Conv(channels, channels, 3, bias=True)
        self.objectness_logits = Conv(channels, anchors, 1, bias=True)
        self.anchor_deltas = Conv(channels, 4 * anchors, 1, bias=True)

    def forward(self, levels: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return per level the logits (n, h * w * 3) and the deltas (n, h * w * 3, 4)."""
        logits, deltas = [], []
        for level in levels:
            hidden = F.relu(self.conv(level))
            logits.append(self.objectness_logits(hidden).permute(0, 2, 3, 1).flatten(1))
            # (n, 3 * 4, h, w) -> (n, h, w, 3 * 4) -> (n, h * w * 3, 4)
            deltas.append(self.anchor_deltas(hidden).permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, 4)))
        return logits, deltas


class BoxHead(nn.Module):
    """Two fully connected layers on the pooled 7 x 7 features, then the class scores and the box corrections."""

    def __init__(self, spec: MaskRCNNSpec):
        super().__init__()
        self.box_head: Any = nn.Module()
        self.box_head.fc1 = nn.Linear(spec.fpn_channels * 49, spec.box_width)
        self.box_head.fc2 = nn.Linear(spec.box_width, spec.box_width)
        self.box_predictor: Any = nn.Module()
        self.box_predictor.cls_score = nn.Linear(spec.box_width, 2)
        self.box_predictor.bbox_pred = nn.Linear(spec.box_width, 4)

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """Map (k, c, 7, 7) to the liver's probability (k,) and the deltas (k, 4)."""
        return self.predict(self.box_head.fc1(pooled.flatten(1)))

    def predict(self, first: Tensor) -> tuple[Tensor, Tensor]:
        """Go on from what the first layer gives, (k, width)."""
        hidden = F.relu(first)
        hidden = F.relu(self.box_head.fc2(hidden))
        return self.box_predictor.cls_score(hidden).softmax(1)[:, 0], self.box_predictor.bbox_pred(hidden)


class MaskHead(nn.Module):
    """Four 3 x 3 convolutions, one or two doublings and a 1 x 1 convolution."""

    def __init__(self, spec: MaskRCNNSpec):
        super().__init__()
        channels, norm = spec.mask_channels, "GN" if spec.norm == "GN" else ""
        self.convolutions: list[Conv] = []
        for index in range(4):
            inputs = channels if index else spec.fpn_channels
            self.convolutions.append(Conv(inputs, channels, 3, norm=norm, bias=not norm))
            self.add_module(f"mask_fcn{index + 1}", self.convolutions[-1])
        self.doublings: list[nn.ConvTranspose2d] = []
        for index in range(spec.deconvolutions):
            self.doublings.append(nn.ConvTranspose2d(channels, channels, 2, 2))
            self.add_module("deconv" if index == 0 else f"deconv{index + 1}", self.doublings[-1])
        self.predictor = Conv(channels, 1, 1, bias=True)

    def forward(self, pooled: Tensor) -> Tensor:
        """Map (k, c, s, s) to mask logits (k, side, side)."""
        for convolution in [*self.convolutions, *self.doublings]:
            pooled = F.relu(convolution(pooled))
        return self.predictor(pooled)[:, 0]


class PointMaskHead(nn.Module):
    """PointRend: a coarse 7 x 7 mask, refined at the most doubtful points only, to 224 x 224."""

    COARSE_SIDE = 7
    POOLED_SIDE = 14
    FIRST_SIDE = 28
    POINTS = 28 * 28

    def __init__(self, spec: MaskRCNNSpec):
        super().__init__()
        channels, side = spec.mask_channels, self.POOLED_SIDE // 2
        head: Any = nn.Module()
        self.coarse_head: Any = head
        if spec.fpn_channels > channels:
            head.reduce_channel_dim_conv = Conv(spec.fpn_channels, channels, 1, bias=True)
        head.reduce_spatial_dim_conv = Conv(channels, channels, 2, 2, bias=True)
        head.fc1 = nn.Linear(channels * side * side, spec.box_width)
        head.fc2 = nn.Linear(spec.box_width, spec.box_width)
        head.prediction = nn.Linear(spec.box_width, self.COARSE_SIDE**2)
        point: Any = nn.Module()
        self.point_head: Any = point
        point.fc1 = nn.Conv1d(spec.fpn_channels + 1, 256, 1)
        point.fc2 = nn.Conv1d(257, 256, 1)
        point.fc3 = nn.Conv1d(257, 256, 1)
        point.predictor = nn.Conv1d(257, 1, 1)
        self.stride = LEVEL_STRIDES[0]

    def coarse(self, pooled: Tensor) -> Tensor:
        """Map features (k, c, 14, 14), one sample a cell, to coarse logits (k, 1, 7, 7)."""
        head = self.coarse_head
        if hasattr(head, "reduce_channel_dim_conv"):
            pooled = F.relu(head.reduce_channel_dim_conv(pooled))
        hidden = F.relu(head.reduce_spatial_dim_conv(pooled)).flatten(1)
        hidden = F.relu(head.fc2(F.relu(head.fc1(hidden))))
        return head.prediction(hidden).view(-1, 1, self.COARSE_SIDE, self.COARSE_SIDE)

    def points(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """Map features (k, c, p) and coarse logits (k, 1, p) of p points to logits (k, 1, p)."""
        head, hidden = self.point_head, torch.cat([fine, coarse], 1)
        for layer in (head.fc1, head.fc2, head.fc3):
            hidden = torch.cat([F.relu(layer(hidden)), coarse], 1)
        return head.predictor(hidden)


class MaskRCNN(nn.Module):
    """The dense parts of Mask R-CNN, with the parameter names of a Detectron2 model.

    Parameters
    ----------
    spec : MaskRCNNSpec
    """

    def __init__(self, spec: MaskRCNNSpec):
        super().__init__()
        self.spec = spec
        self.backbone = FPN(spec)
        self.proposal_generator = nn.Module()
        self.proposal_generator.rpn_head = RPNHead(spec)
        heads = self.roi_heads = BoxHead(spec)
        heads.mask_head = PointMaskHead(spec) if spec.point_rend else MaskHead(spec)

    @property
    def mask_head(self) -> nn.Module:
        return self.roi_heads.mask_head  # type: ignore[return-value]

    def trunk(self, images: Tensor) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Run everything up to the proposals.

        Parameters
        ----------
        images : Tensor
            Shape (n, 1, size, size), float32 in [0, 1].

        Returns
        -------
        features, logits, deltas : list of Tensor
            Per level: p2 to p6 (n, c, h, w), (n, h * w * 3) and (n, h * w * 3, 4).
        """
        features = self.backbone((images - self.spec.pixel_mean) / self.spec.pixel_std)
        logits, deltas = self.proposal_generator.rpn_head(features)  # type: ignore[operator]
        return features, logits, deltas

    def fold(self) -> MaskRCNN:
        """Fold all batch normalisations into their convolutions, in evaluation mode; returns itself."""
        self.eval().requires_grad_(False)
        for module in self.modules():
            if isinstance(module, Conv):
                module.fold()
        return self

    @classmethod
    def from_weights(cls, spec: MaskRCNNSpec, weights: Mapping[str, Tensor]) -> MaskRCNN:
        """Build the network and load a Detectron2 state dictionary, whole and strictly.

        Raises
        ------
        RuntimeError
            If a name is missing, left over, or of another shape.
        """
        network = cls(spec)
        # A frozen normalisation knows no count of batches; the anchors are recomputed.
        wanted = {
            name: tensor
            for name, tensor in weights.items()
            if not name.endswith("num_batches_tracked") and ".anchor_generator." not in name
            if name not in ("pixel_mean", "pixel_std")
        }
        counters = {n: t for n, t in network.state_dict().items() if n.endswith("num_batches_tracked")}
        network.load_state_dict(wanted | counters, strict=True)
        return network.eval()


def make_anchors(size: int) -> list[Tensor]:
    """Return per level the anchors (h * w * 3, 4) of a `size` x `size` image as x0, y0, x1, y1.

    One anchor side a level, three aspect ratios (height over width), centred on the cells' top left corners, which is
    Detectron2's convention (offset 0).
    """
    anchors = []
    for stride, side in zip(LEVEL_STRIDES, ANCHOR_SIDES, strict=True):
        cells = []
        for ratio in ASPECT_RATIOS:
            width = math.sqrt(side**2 / ratio)
            height = ratio * width
            cells.append([-width / 2, -height / 2, width / 2, height / 2])
        steps = torch.arange(0, math.ceil(size / stride) * stride, stride, dtype=torch.float32)
        y, x = torch.meshgrid(steps, steps, indexing="ij")
        shifts = torch.stack([x, y, x, y], dim=-1).view(-1, 1, 4)
        anchors.append((shifts + torch.tensor(cells).view(1, -1, 4)).view(-1, 4))
    return anchors
