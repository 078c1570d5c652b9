"""The slice-wise U-Net of the liver-margin paper (Sattari et al. 2025, doi 10.1038/s41598-025-92423-9, Table 4)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

TABLE_4_WIDTHS = (16, 32, 64, 128, 256)


class ConvBlock(nn.Module):
    """Two same-padded 3 x 3 convolutions with ReLU, dropout between them."""

    def __init__(self, in_channels: int, width: int, dropout: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, in_channels, h, w) to (n, width, h, w)."""
        x = self.dropout(torch.relu(self.conv1(x)))
        return torch.relu(self.conv2(x))


class UNet(nn.Module):
    """2-D U-Net without normalisation: 2 x 2 max-pooling down, 2 x 2 transposed convolution and concatenation up.

    With the default widths, one channel and one class it has the 1,940,817 parameters of Table 4. The paper states
    no dropout rates; those of the public Keras network with the same parameter count are taken: 0.1, 0.1, 0.2, 0.2,
    0.3 on the way down and 0.2, 0.2, 0.1, 0.1 up, that is ``dropout * (1 + depth // 2)``.

    Parameters
    ----------
    in_channels : int
    classes : int
        Number of logit channels, one for each label; background is where none of them is likely.
    widths : sequence of int
        Channels at each depth, from the input's resolution downwards.
    dropout : float
        Rate at the two outermost depths; each two depths further down add as much again.
    """

    def __init__(
        self,
        in_channels: int = 1,
        classes: int = 1,
        widths: Sequence[int] = TABLE_4_WIDTHS,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        rates = [dropout * (1 + depth // 2) for depth in range(len(widths))]
        inputs = (in_channels, *widths[:-1])
        self.encoder = nn.ModuleList(ConvBlock(*args) for args in zip(inputs, widths, rates, strict=True))
        self.pool = nn.MaxPool2d(2)
        depths = range(len(widths) - 2, -1, -1)
        self.upsample = nn.ModuleList(nn.ConvTranspose2d(widths[d + 1], widths[d], 2, stride=2) for d in depths)
        self.decoder = nn.ModuleList(ConvBlock(2 * widths[d], widths[d], rates[d]) for d in depths)
        self.head = nn.Conv2d(widths[0], classes, 1)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise by He et al. 2015 (``he_normal``); the linear head by Glorot; biases zero."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                if module is self.head:
                    nn.init.xavier_uniform_(module.weight)
                else:
                    nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Compute logits.

        Parameters
        ----------
        x : Tensor of float, shape (n, in_channels, h, w)
            Intensities windowed to [0, 1]; h and w divisible by ``2 ** (len(widths) - 1)``.

        Returns
        -------
        Tensor, shape (n, classes, h, w)
            Logits: the sigmoid belongs to the loss, the back end or the exported graph, exactly once.
        """
        skips: list[Tensor] = []
        for depth, block in enumerate(self.encoder):
            x = block(x if depth == 0 else self.pool(x))
            skips.append(x)
        skips.pop()
        for up, block in zip(self.upsample, self.decoder, strict=True):
            x = block(torch.cat((up(x), skips.pop()), dim=1))
        return self.head(x)
