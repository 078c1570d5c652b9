"""The 3-D U-Net of mlf-core's liver-ct-segmentation (Heumos et al. 2023, doi 10.1038/s41592-023-01934-1).

Strided convolutions go down and nearest-neighbour up-sampling goes up, because pooling and trilinear interpolation
have no deterministic gradient on a GPU: the network was built to be trained to the same bits.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

PUBLISHED_WIDTHS = (32, 64, 128)
# Fixed in the published network, whatever the dropout of the convolutions.
_RESAMPLING_DROPOUT = 0.001


class ConvBlock(nn.Sequential):
    """Twice: dropout of channels, 3 x 3 x 3 convolution, normalisation, ReLU; (n, c, ...) to (n, width, ...)."""

    def __init__(
        self, in_channels: int, width: int, dropout: float, norm: str, first_dropout: float | None = None
    ) -> None:
        super().__init__(
            nn.Dropout3d(dropout if first_dropout is None else first_dropout),
            nn.Conv3d(in_channels, width, 3, padding=1),
            _norm(norm, width),
            nn.ReLU(inplace=True),
            nn.Dropout3d(dropout),
            nn.Conv3d(width, width, 3, padding=1),
            _norm(norm, width),
            nn.ReLU(inplace=True),
        )


def _norm(kind: str, width: int) -> nn.Module:
    # Instance normalisation does not depend on the other patches of a batch, which are few here.
    return nn.InstanceNorm3d(width, affine=True) if kind == "instance" else nn.BatchNorm3d(width)


class UNet3D(nn.Module):
    """3-D U-Net with strided convolutions down and nearest-neighbour up-sampling.

    With the default widths, one channel and three classes it has mlf-core's 2,339,491 parameters.

    Parameters
    ----------
    in_channels : int
    classes : int
        Number of logit channels; the first one is background.
    widths : sequence of int
        Channels at each depth, from the input's resolution downwards; each depth halves the resolution.
    dropout : float
        Rate at which whole channels are dropped before each convolution; 0.25 in the published trainings.
    input_dropout : float, optional
        Rate before the very first convolution, where dropping a channel of a one-channel image blanks the image; None
        takes `dropout`, as published.
    norm : str
        ``batch``, as published, or ``instance``.
    """

    def __init__(
        self,
        in_channels: int = 1,
        classes: int = 3,
        widths: Sequence[int] = PUBLISHED_WIDTHS,
        dropout: float = 0.25,
        input_dropout: float | None = None,
        norm: str = "batch",
    ) -> None:
        super().__init__()
        self.stem = ConvBlock(in_channels, widths[0], dropout, norm, input_dropout)
        pairs = list(itertools.pairwise(widths))
        self.down = nn.ModuleList(
            nn.Sequential(
                nn.Dropout3d(_RESAMPLING_DROPOUT),
                nn.Conv3d(finer, finer, 2, stride=2),
                ConvBlock(finer, coarser, dropout, norm),
            )
            for finer, coarser in pairs
        )
        self.middle = ConvBlock(widths[-1], widths[-1], dropout, norm)
        self.up = nn.ModuleList(
            nn.Sequential(nn.Dropout3d(_RESAMPLING_DROPOUT), nn.Upsample(scale_factor=2.0, mode="nearest"))
            for _ in pairs
        )
        self.merge = nn.ModuleList(
            ConvBlock(coarser + finer, finer, dropout, norm) for finer, coarser in reversed(pairs)
        )
        self.head = nn.Conv3d(widths[0], classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Compute logits.

        Parameters
        ----------
        x : Tensor of float, shape (n, in_channels, k, j, i)
            Sides divisible by ``2 ** (len(widths) - 1)``.

        Returns
        -------
        Tensor, shape (n, classes, k, j, i)
            Logits: the softmax belongs to the loss, the back end or the exported graph, exactly once.
        """
        skips = [self.stem(x)]
        for down in self.down:
            skips.append(down(skips[-1]))
        x = self.middle(skips.pop())
        for up, merge in zip(self.up, self.merge, strict=True):
            x = merge(torch.cat((up(x), skips.pop()), dim=1))
        return self.head(x)
