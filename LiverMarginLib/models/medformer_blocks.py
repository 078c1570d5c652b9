"""The blocks of MedFormer: convolutions, attention through semantic codes, and the fusion of these.

Each works in two and three dimensions (`dims`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


def convolution(
    dims: int, inputs: int, outputs: int, kernel: int = 1, groups: int = 1, bias: bool = False
) -> nn.Module:
    """A convolution that keeps the sides."""
    kind = nn.Conv2d if dims == 2 else nn.Conv3d
    return kind(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=bias)


def _normalisation(dims: int, channels: int) -> nn.Module:
    return nn.InstanceNorm2d(channels) if dims == 2 else nn.InstanceNorm3d(channels)


def _activated(
    dims: int, inputs: int, outputs: int, kernel: int = 1, groups: int = 1, act: bool = True
) -> nn.Sequential:
    """Pre-activation: normalise, rectify, convolve."""
    layers = [_normalisation(dims, inputs), *([nn.ReLU()] if act else [])]
    return nn.Sequential(*layers, convolution(dims, inputs, outputs, kernel, groups))


def _separable(dims: int, inputs: int, outputs: int) -> nn.Sequential:
    """Depth-wise separable convolution: each channel on its own, then a mixture of all at each voxel."""
    return nn.Sequential(
        convolution(dims, inputs, inputs, 3, groups=inputs),
        convolution(dims, inputs, outputs),
    )


class ResidualBlock(nn.Module):
    """Two pre-activated convolutions beside a shortcut (He et al. 2016)."""

    def __init__(self, dims: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(_activated(dims, inputs, outputs, 3), _activated(dims, outputs, outputs, 3))
        self.shortcut = nn.Identity() if inputs == outputs else _activated(dims, inputs, outputs, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, inputs, ...) to (n, outputs, ...)."""
        return self.body(x) + self.shortcut(x)


class SqueezeExcitation(nn.Module):
    """Weights each channel by what all channels are on average (Hu et al. 2018)."""

    def __init__(self, channels: int, ratio: int = 4) -> None:
        super().__init__()
        self.squeeze = nn.Linear(channels, max(1, channels // ratio))
        self.excite = nn.Linear(max(1, channels // ratio), channels)

    def forward(self, x: Tensor) -> Tensor:
        """Scale (n, channels, ...) channel by channel."""
        weight = torch.sigmoid(self.excite(torch.relu(self.squeeze(x.flatten(2).mean(dim=2)))))
        return x * weight.reshape(*weight.shape, *[1] * (x.ndim - 2))


class MBConv(nn.Module):
    """Inverted bottleneck: widen, depth-wise convolution, squeeze and excitation, narrow (Tan and Le 2019)."""

    def __init__(self, dims: int, channels: int, expansion: int) -> None:
        super().__init__()
        wide = channels * expansion
        self.body = nn.Sequential(
            _activated(dims, channels, wide),
            _activated(dims, wide, wide, 3, groups=wide),
            SqueezeExcitation(wide),
            _activated(dims, wide, channels, act=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Add what the bottleneck finds to (n, channels, ...)."""
        return x + self.body(x)


class PatchMerging(nn.Module):
    """Halve every side: neighbouring voxels become channels, are normalised and projected."""

    def __init__(self, dims: int, inputs: int, outputs: int) -> None:
        super().__init__()
        merged = inputs * 2**dims
        self.project = nn.Sequential(_normalisation(dims, merged), _separable(dims, merged, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, inputs, ...) with even sides to (n, outputs, half the sides)."""
        for axis in range(2, x.ndim):
            even, odd = x.unflatten(axis, (-1, 2)).unbind(axis + 1)
            x = torch.cat((even, odd), dim=1)
        return self.project(x)


def enlarge(x: Tensor, sides: Sequence[int]) -> Tensor:
    """Enlarge (n, c, ...) to `sides` linearly along every axis, corners on corners.

    The same as `torch.nn.functional.interpolate` with ``align_corners=True``, by matrix products: those have a
    deterministic gradient on CUDA, interpolation has none.
    """
    for axis, side in enumerate(sides, start=2):
        length = x.shape[axis]
        at = torch.linspace(0, length - 1, side, device=x.device)
        source = torch.arange(length, device=x.device)
        weights = (1 - (at[:, None] - source).abs()).clamp(min=0).to(x.dtype)
        x = (x.movedim(axis, -1) @ weights.T).movedim(-1, axis)
    return x


def bidirectional_attention(
    voxel_query: Tensor, voxel_value: Tensor, code_query: Tensor, code_value: Tensor
) -> tuple[Tensor, Tensor]:
    """Let n voxels and m codes read each other through one shared attention matrix.

    With A = voxel_query code_query^T / sqrt(d), the voxels read softmax(A over codes) code_value, and the codes read
    softmax(A over voxels)^T voxel_value.

    Parameters
    ----------
    voxel_query, voxel_value : Tensor, shape (..., n, d)
    code_query, code_value : Tensor, shape (..., m, d)

    Returns
    -------
    Tensor, shape (..., n, d)
        What the voxels read.
    Tensor, shape (..., m, d)
        What the codes read.
    """
    affinity = voxel_query @ code_query.transpose(-1, -2) / math.sqrt(voxel_query.shape[-1])
    return affinity.softmax(dim=-1) @ code_value, affinity.softmax(dim=-2).transpose(-1, -2) @ voxel_value


class BidirectionalAttention(nn.Module):
    """B-MHA between a feature map and its semantic codes.

    Queries and values of voxels come from depth-wise separable convolutions, those of codes from 1 x 1 ones; there are
    no keys, for the affinity of two queries serves both directions.

    Parameters
    ----------
    dims : int
    inputs, codes, outputs : int
        Channels of the feature map, of the semantic map, and of the feature map that comes out.
    heads : int
        Must divide `outputs`.
    writes_codes : bool
        False where nothing reads the semantic map afterwards: a weight without a gradient stops a distributed training.
    """

    def __init__(self, dims: int, inputs: int, codes: int, outputs: int, heads: int, writes_codes: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.from_voxels = _separable(dims, inputs, 2 * outputs)
        self.to_voxels = _separable(dims, outputs, outputs)
        self.from_codes = convolution(dims, codes, 2 * outputs)
        self.to_codes = convolution(dims, outputs, codes) if writes_codes else None

    def forward(self, features: Tensor, semantic_map: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return what features of shape (n, outputs, ...) and codes of shape (n, codes, *map size) read."""
        voxels, codes = self.from_voxels(features), self.from_codes(semantic_map)
        read_by_voxels, read_by_codes = bidirectional_attention(*self._tokens(voxels), *self._tokens(codes))
        to_codes = self.to_codes
        return (
            self.to_voxels(self._grid(read_by_voxels, voxels)),
            None if to_codes is None else to_codes(self._grid(read_by_codes, codes)),
        )

    def _tokens(self, grid: Tensor) -> tuple[Tensor, ...]:
        """Queries and values, each of shape (n, heads, tokens, channels of a head)."""
        return tuple(part.flatten(2).unflatten(1, (self.heads, -1)).mT for part in grid.chunk(2, dim=1))

    @staticmethod
    def _grid(tokens: Tensor, like: Tensor) -> Tensor:
        return tokens.mT.flatten(1, 2).unflatten(2, like.shape[2:])


class AttentionBlock(nn.Module):
    """B-MHA on normalised inputs with shortcuts, then MBConv on the features; parameters as there."""

    def __init__(
        self, dims: int, inputs: int, codes: int, outputs: int, heads: int, expansion: int, writes_codes: bool = True
    ) -> None:
        super().__init__()
        self.normalise_features = _normalisation(dims, inputs)
        self.normalise_codes = _normalisation(dims, codes)
        self.attention = BidirectionalAttention(dims, inputs, codes, outputs, heads, writes_codes)
        self.shortcut = nn.Identity() if inputs == outputs else _activated(dims, inputs, outputs)
        self.tail = MBConv(dims, outputs, expansion)

    def forward(self, features: Tensor, semantic_map: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features with `outputs` channels, and the semantic map."""
        read, codes = self.attention(self.normalise_features(features), self.normalise_codes(semantic_map))
        return self.tail(self.shortcut(features) + read), semantic_map if codes is None else semantic_map + codes


class SemanticMap(nn.Module):
    """Pool a feature map to semantic codes: each is a mean over all voxels, by weights of its own.

    Parameters
    ----------
    dims, channels : int
    map_size : sequence of int
        The codes' own grid; it only names them, for every code sees the whole image.
    """

    def __init__(self, dims: int, channels: int, map_size: Sequence[int]) -> None:
        super().__init__()
        self.map_size = tuple(map_size)
        self.value = convolution(dims, channels, channels, 3)
        self.weight = convolution(dims, channels, math.prod(map_size), 3)

    def forward(self, features: Tensor) -> Tensor:
        """Map (n, channels, ...) to (n, channels, *map_size)."""
        weight = self.weight(features).flatten(2).softmax(dim=2)
        return (self.value(features).flatten(2) @ weight.mT).unflatten(2, self.map_size)


class TransformerBlock(nn.Module):
    """Self-attention and a two-layer perceptron, each behind a layer normalisation and beside a shortcut."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.normalise = nn.LayerNorm(channels, eps=1e-4)
        self.to_tokens = nn.Linear(channels, 3 * channels, bias=False)
        self.from_tokens = nn.Linear(channels, channels)
        self.perceptron = nn.Sequential(
            nn.LayerNorm(channels, eps=1e-4), nn.Linear(channels, channels), nn.GELU(), nn.Linear(channels, channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (n, tokens, channels) to the same shape."""
        parts = self.to_tokens(self.normalise(x)).chunk(3, dim=-1)
        query, key, value = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in parts)
        read = nn.functional.scaled_dot_product_attention(query, key, value)
        x = x + self.from_tokens(read.transpose(1, 2).flatten(2))
        return x + self.perceptron(x)


class SemanticMapFusion(nn.Module):
    """Let the semantic codes of all scales read each other, as one sequence of tokens.

    Parameters
    ----------
    dims : int
    channels : sequence of int
        Of each semantic map.
    width, depth, heads : int
        Of the transformer.
    """

    def __init__(self, dims: int, channels: Sequence[int], width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.enter = nn.ModuleList(convolution(dims, count, width) for count in channels)
        self.blocks = nn.Sequential(*(TransformerBlock(width, heads) for _ in range(depth)))
        self.leave = nn.ModuleList(convolution(dims, width, count) for count in channels)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Return maps of the same shapes."""
        tokens = [enter(one).flatten(2).mT for enter, one in zip(self.enter, maps, strict=True)]
        mixed = self.blocks(torch.cat(tokens, dim=1)).mT.chunk(len(maps), dim=2)
        return [
            leave(one.unflatten(2, like.shape[2:])) for leave, one, like in zip(self.leave, mixed, maps, strict=True)
        ]
