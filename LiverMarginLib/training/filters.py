"""Image filters on batches in which every sample has its own parameter; shared by augmentation and degradation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def gaussian_blur(image: Tensor, sigmas: Sequence[float]) -> Tensor:
    """Blur each image of a batch with a Gaussian of its own.

    Parameters
    ----------
    image : Tensor, shape (n, 1, h, w)
    sigmas : sequence of float
        Standard deviation in pixels for each image; 0 leaves it as it is.

    Returns
    -------
    Tensor, shape (n, 1, h, w). The border is replicated.
    """
    n, _, height, width = image.shape
    radius = max(1, math.ceil(3 * max(sigmas)))
    offsets = torch.arange(-radius, radius + 1, device=image.device, dtype=image.dtype)
    sigma = torch.tensor(sigmas, device=image.device, dtype=image.dtype).clamp(min=1e-3).view(n, 1)
    # Each kernel ends at its own three sigma, so that an image's result does not depend on the others' widths.
    kernel = torch.exp(-(offsets**2) / (2 * sigma**2)) * (offsets.abs() <= torch.ceil(3 * sigma))
    kernel = kernel / kernel.sum(dim=1, keepdim=True)
    padded = functional.pad(image.view(1, n, height, width), (radius,) * 4, mode="replicate")
    rows = functional.conv2d(padded, kernel.view(n, 1, 2 * radius + 1, 1), groups=n)
    return functional.conv2d(rows, kernel.view(n, 1, 1, 2 * radius + 1), groups=n).view(n, 1, height, width)


def column(values: Sequence[float], like: Tensor) -> Tensor:
    """Return one value for each sample, shaped to broadcast over an image batch, shape (n, 1, 1, 1)."""
    return torch.tensor(values, device=like.device, dtype=like.dtype).view(-1, 1, 1, 1)
