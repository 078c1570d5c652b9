"""DnCNN-SR: the denoising and super-resolution network of the liver-margin paper.

Sattari et al. 2025 (doi 10.1038/s41598-025-92423-9) describe it in words: a contracting path of strided convolutions,
a bottleneck of dilated convolutions, an expanding path of transposed convolutions with skips, after U-Net and ResNet.
Widths, dilations and scale are not given and no code is public; those here are LiverMargin's own choice within that
description. The residual learning is DnCNN's (Zhang et al. 2017).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

DILATIONS = (1, 2, 4, 8, 4, 2, 1)
_MULTIPLE = 4  # two strided convolutions
_MARGIN = 16


class DnCNNSR(nn.Module):
    """Denoises slices, and doubles their side if `scale` is 2.

    1,576,897 parameters for scale 1, and 1,593,313 for scale 2. The output is the (bicubically enlarged) input plus
    what the network learnt; its last convolution starts at zero, so that an untrained network changes nothing.

    Parameters
    ----------
    scale : int
        1 or 2.
    width : int
        Channels at the input's resolution; twice and four times as many below it.

    Raises
    ------
    ValueError
        If the scale is another number.
    """

    def __init__(self, scale: int = 1, width: int = 32) -> None:
        super().__init__()
        if scale not in (1, 2):
            raise ValueError(f"the scale must be 1 or 2, not {scale}")
        self.scale = scale
        w1, w2, w4 = width, 2 * width, 4 * width
        self.head = nn.Sequential(_conv(1, w1), _conv(w1, w1))
        self.down1 = nn.Sequential(_conv(w1, w2, stride=2), _conv(w2, w2))
        self.down2 = nn.Sequential(_conv(w2, w4, stride=2), _conv(w4, w4))
        self.bottleneck = nn.Sequential(*(_dilated(w4, dilation) for dilation in DILATIONS))
        self.up2 = _up(w4, w2)
        self.merge2 = _conv(2 * w2, w2)
        self.up1 = _up(w2, w1)
        self.merge1 = _conv(2 * w1, w1)
        self.enlarge = _up(w1, w1) if scale == 2 else nn.Identity()
        self.tail = nn.Conv2d(w1, 1, 3, padding=1)
        nn.init.zeros_(self.tail.weight)
        nn.init.zeros_(self.tail.bias)  # type: ignore[arg-type]  # it has one

    def forward(self, x: Tensor) -> Tensor:
        """Denoise.

        Parameters
        ----------
        x : Tensor of float, shape (n, 1, h, w)
            Intensities windowed to [0, 1], of any size.

        Returns
        -------
        Tensor of float32, shape (n, 1, scale * h, scale * w)
            Not clipped.
        """
        return enlarge(x.float(), self.scale) + self.residual(x)

    def residual(self, x: Tensor) -> Tensor:
        """Compute what is added to the input: minus the noise, plus the detail; shapes as in `forward`."""
        height, width = x.shape[-2:]
        # The convolutions' zeros around an image disturb its border most, so it is continued first; in training too,
        # because a network that learnt with the zeros nearby does not do well without them.
        right, bottom = (_MARGIN + -n % _MULTIPLE for n in (width, height))
        x = functional.pad(x, (_MARGIN, right, _MARGIN, bottom), mode="replicate")
        full = self.head(x)
        half = self.down1(full)
        quarter = self.down2(half)
        quarter = quarter + self.bottleneck(quarter)
        half = self.merge2(torch.cat((self.up2(quarter), half), dim=1))
        full = self.merge1(torch.cat((self.up1(half), full), dim=1))
        # Added in float32, so that mixed precision rounds the small correction and not the image.
        residual = self.tail(self.enlarge(full)).float()
        start = _MARGIN * self.scale
        return residual[..., start : start + height * self.scale, start : start + width * self.scale]


def enlarge(x: Tensor, scale: int) -> Tensor:
    """Enlarge bicubically by `scale` with half-pixel centres; the input itself for scale 1."""
    if scale == 1:
        return x
    return functional.interpolate(x, scale_factor=scale, mode="bicubic", align_corners=False)


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, padding=1), nn.ReLU(inplace=True))


def _dilated(width: int, dilation: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
    )


def _up(inputs: int, outputs: int) -> nn.Module:
    # A kernel that the stride divides spreads every input pixel evenly: no checkerboard (Odena et al. 2016).
    return nn.Sequential(nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1), nn.ReLU(inplace=True))
