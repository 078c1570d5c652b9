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
    image : Tensor, shape (n, c, h, w) or (n, 1, k, j, i)
    sigmas : sequence of float
        Standard deviation in pixels for each image; 0 leaves it as it is.

    Returns
    -------
    Tensor, of the same shape. The border is replicated.
    """
    n = len(image)
    radius = max(1, math.ceil(3 * max(sigmas)))
    offsets = torch.arange(-radius, radius + 1, device=image.device, dtype=image.dtype)
    sigma = torch.tensor(sigmas, device=image.device, dtype=image.dtype).clamp(min=1e-3).view(n, 1)
    # Each kernel ends at its own three sigma, so that an image's result does not depend on the others' widths.
    kernel = torch.exp(-(offsets**2) / (2 * sigma**2)) * (offsets.abs() <= torch.ceil(3 * sigma))
    kernel = kernel / kernel.sum(dim=1, keepdim=True)
    if image.ndim == 5:
        for axis in (2, 3, 4):
            image = _along(image, axis, kernel, radius)
        return image
    shape, lines = image.shape, n * image.shape[1]
    kernel = kernel[:, None].expand(-1, shape[1], -1)
    padded = functional.pad(image.reshape(1, lines, *shape[2:]), (radius,) * 4, mode="replicate")
    rows = functional.conv2d(padded, kernel.reshape(lines, 1, 2 * radius + 1, 1), groups=lines)
    return functional.conv2d(rows, kernel.reshape(lines, 1, 1, 2 * radius + 1), groups=lines).view(shape)


def _along(image: Tensor, axis: int, kernel: Tensor, radius: int) -> Tensor:
    """Filter each image of a batch along one axis with a line of its own, shape (n, length)."""
    turned = image.movedim(axis, -1)
    lines = turned.reshape(len(image), -1, turned.shape[-1]).transpose(0, 1)
    padded = functional.pad(lines, (radius, radius), mode="replicate")
    filtered = functional.conv1d(padded, kernel.unsqueeze(1), groups=len(image))
    return filtered.transpose(0, 1).reshape(turned.shape).movedim(-1, axis)


def column(values: Sequence[float], like: Tensor) -> Tensor:
    """Return one value for each sample, shaped to broadcast over the image batch `like`, shape (n, 1, 1, 1, ...)."""
    return torch.tensor(values, device=like.device, dtype=like.dtype).view(-1, *[1] * (like.ndim - 1))
