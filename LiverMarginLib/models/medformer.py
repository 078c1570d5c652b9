"""MedFormer in two and three dimensions (Gao et al. 2022, arXiv 2203.00131), written from its description.

A convolutional stem, then stages in which every voxel exchanges information with a handful of *semantic codes* (a map
of 4 x 4 x 4 tokens that summarises the image) instead of with every other voxel, so that the cost of attention grows
with the number of voxels and not with its square.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from LiverMarginLib.models.medformer_blocks import (
    AttentionBlock,
    PatchMerging,
    ResidualBlock,
    SemanticMap,
    SemanticMapFusion,
    convolution,
    enlarge,
)

# The published configuration for liver tumours in CT.
WIDTHS = (32, 64, 128, 256, 320)
BLOCKS = (2, 4, 6, 4, 2)
HEADS = (1, 1, 1, 1, 1)


class AttentionDown(nn.Module):
    """A stage of the encoder: patch merging, a semantic map of its own, attention blocks."""

    def __init__(
        self, dims: int, inputs: int, outputs: int, blocks: int, heads: int, expansion: int, map_size: Sequence[int]
    ) -> None:
        super().__init__()
        self.merge = PatchMerging(dims, inputs, outputs)
        self.pool = SemanticMap(dims, outputs, map_size)
        self.blocks = nn.ModuleList(
            AttentionBlock(dims, outputs, outputs, outputs, heads, expansion) for _ in range(blocks)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (n, outputs, half the sides) and their semantic map (n, outputs, *map size)."""
        x = self.merge(x)
        codes = self.pool(x)
        for block in self.blocks:
            x, codes = block(x, codes)
        return x, codes


class AttentionUp(nn.Module):
    """A stage of the decoder: features and semantic maps of both scales joined, then attention blocks."""

    def __init__(
        self, dims: int, inputs: int, outputs: int, blocks: int, heads: int, expansion: int, last: bool
    ) -> None:
        super().__init__()
        self.reduce = convolution(dims, inputs + outputs, outputs)
        widths = (inputs + outputs, *[outputs] * (blocks - 1))
        self.blocks = nn.ModuleList(
            AttentionBlock(dims, width, outputs, outputs, heads, expansion, not last or n < blocks - 1)
            for n, width in enumerate(widths)
        )

    def forward(self, x: Tensor, codes: Tensor, skip: Tensor, skipped_codes: Tensor) -> tuple[Tensor, Tensor]:
        """Return features with the sides of `skip`, and a semantic map, both with `outputs` channels."""
        x = torch.cat((enlarge(x, skip.shape[2:]), skip), dim=1)
        codes = self.reduce(torch.cat((codes, skipped_codes), dim=1))
        for block in self.blocks:
            x, codes = block(x, codes)
        return x, codes


class ConvolutionUp(nn.Module):
    """A stage of the decoder at a fine scale: features of both scales joined, then residual blocks."""

    def __init__(self, dims: int, inputs: int, outputs: int, blocks: int) -> None:
        super().__init__()
        widths = (inputs + outputs, *[outputs] * (blocks - 1))
        self.blocks = nn.Sequential(*(ResidualBlock(dims, width, outputs) for width in widths))

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Return features (n, outputs, sides of `skip`)."""
        return self.blocks(torch.cat((enlarge(x, skip.shape[2:]), skip), dim=1))


class MedFormer(nn.Module):
    """MedFormer.

    A convolutional stem and one convolutional stage, three attention stages down, fusion of their semantic maps, two
    attention stages and two convolutional ones up. With the defaults, one input channel and three classes it is the
    published network for liver and tumour in CT (38.59 million parameters).

    Parameters
    ----------
    in_channels, classes : int
        Channels of the input, and of the logits.
    map_size : sequence of int
        Grid of the semantic codes; two numbers make the network two-dimensional, three three-dimensional.
    widths : sequence of int, length 5
        Channels from the full resolution down to a sixteenth.
    blocks : sequence of int, length 5
        Attention blocks of the three stages down and the two up.
    heads : sequence of int, length 5
        Heads of these stages; each divides its stage's channels.
    convolutions : int
        Residual blocks of each convolutional stage.
    expansion : int
        Of the inverted bottlenecks.
    fusion_width, fusion_depth, fusion_heads : int
        Of the transformer that fuses the semantic maps.
    """

    def __init__(
        self,
        in_channels: int = 1,
        classes: int = 3,
        map_size: Sequence[int] = (4, 4, 4),
        widths: Sequence[int] = WIDTHS,
        blocks: Sequence[int] = BLOCKS,
        heads: Sequence[int] = HEADS,
        convolutions: int = 2,
        expansion: int = 4,
        fusion_width: int = 320,
        fusion_depth: int = 2,
        fusion_heads: int = 10,
    ) -> None:
        super().__init__()
        dims = len(map_size)
        finest, fine, *coarse = widths
        self.stem = nn.Sequential(convolution(dims, in_channels, finest, 3), ResidualBlock(dims, finest, finest))
        self.first = nn.Sequential(
            PatchMerging(dims, finest, fine), *(ResidualBlock(dims, fine, fine) for _ in range(convolutions))
        )
        self.down = nn.ModuleList(
            AttentionDown(dims, inputs, outputs, blocks[n], heads[n], expansion, map_size)
            for n, (inputs, outputs) in enumerate(pairwise(widths[1:]))
        )
        self.fusion = SemanticMapFusion(dims, coarse, fusion_width, fusion_depth, fusion_heads)
        self.up = nn.ModuleList(
            AttentionUp(dims, inputs, outputs, blocks[3 + n], heads[3 + n], expansion, n == 1)
            for n, (inputs, outputs) in enumerate(pairwise(coarse[::-1]))
        )
        self.last = nn.ModuleList(
            ConvolutionUp(dims, inputs, outputs, convolutions)
            for inputs, outputs in pairwise((coarse[0], fine, finest))
        )
        self.head = convolution(dims, finest, classes, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """Compute logits.

        Parameters
        ----------
        x : Tensor of float, shape (n, in_channels, h, w) or (n, in_channels, k, j, i)
            Normalised intensities; every side a multiple of 16, and at least 32 (a single voxel has no variance to
            normalise by).

        Returns
        -------
        Tensor, shape (n, classes, h, w) or (n, classes, k, j, i)
        """
        fine_skips = [self.stem(x)]
        fine_skips.append(self.first(fine_skips[-1]))
        x, skips, maps = fine_skips[-1], [], []
        for down in self.down:
            x, codes = down(x)
            skips.append(x)
            maps.append(codes)
        maps = self.fusion(maps)
        skips.pop()
        codes = maps.pop()
        for up in self.up:
            x, codes = up(x, codes, skips.pop(), maps.pop())
        for last in self.last:
            x = last(x, fine_skips.pop())
        return self.head(x)
