"""Losses on logits for segmentation, and the balanced MSE + SSIM of DnCNN-SR.

All segmentation losses take logits, a target in [0, 1] of the same shape (n, 1, ...), any number of spatial axes, and
an optional weight that broadcasts to it (0 for pixels or samples that nobody annotated, less than 1 for
pseudo-labels). They compute in float32 whatever the precision of the network, and return a scalar.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from LiverMarginLib.training.config import LossConfig, LossKind


def binary_cross_entropy(logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean binary cross-entropy over the weighted pixels."""
    return _weighted_mean(functional.binary_cross_entropy_with_logits(logits, target, reduction="none"), weight)


def soft_dice(
    logits: Tensor, target: Tensor, weight: Tensor | None = None, smooth: float = 1.0, pooled: bool = True
) -> Tensor:
    """One minus the soft Dice coefficient, (2 |p t| + s) / (|p| + |t| + s) (Milletari et al. 2016, without squares).

    Parameters
    ----------
    smooth : float
        Keeps the gradient finite where prediction and target are both empty.
    pooled : bool
        Sums over the whole batch before dividing, so that slices without liver neither give a gradient of their own
        nor outvote the others; False averages the coefficients of the samples.
    """
    probability = torch.sigmoid(logits)
    overlap, total = probability * target, probability + target
    if weight is not None:
        overlap, total = overlap * weight, total * weight
    axes = tuple(range(0 if pooled else 1, logits.ndim))
    overlap, total = overlap.sum(axes), total.sum(axes)
    return (1 - (2 * overlap + smooth) / (total + smooth)).mean()


def focal(
    logits: Tensor, target: Tensor, weight: Tensor | None = None, gamma: float = 2.0, alpha: float = 0.5
) -> Tensor:
    """Focal loss (Lin et al. 2017): cross-entropy times (1 - p_t)^gamma, times alpha (liver) or 1 - alpha (rest)."""
    entropy = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    probability = torch.sigmoid(logits)
    missed = probability * (1 - target) + (1 - probability) * target
    balance = alpha * target + (1 - alpha) * (1 - target)
    return _weighted_mean(balance * missed**gamma * entropy, weight)


@dataclass(frozen=True)
class SegmentationLoss:
    """The loss that `config` describes, computed in float32. An object, so that loader processes can have a copy."""

    config: LossConfig

    def __call__(self, logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return the loss of a batch."""
        config = self.config
        logits, target = logits.float(), target.float()
        match config.kind:
            case LossKind.BCE:
                return binary_cross_entropy(logits, target, weight)
            case LossKind.DICE:
                return soft_dice(logits, target, weight)
            case LossKind.BCE_DICE:
                entropy = binary_cross_entropy(logits, target, weight)
                return entropy + config.dice_weight * soft_dice(logits, target, weight)
            case LossKind.FOCAL:
                return focal(logits, target, weight, config.focal_gamma, config.focal_alpha)
            case LossKind.MSE_SSIM | LossKind.CE | LossKind.CE_DICE:
                raise ValueError(f"{config.kind} does not compare probabilities with one mask")


def ssim(image: Tensor, reference: Tensor, data_range: float = 1.0) -> Tensor:
    """Structural similarity (Wang et al. 2004), mean over each image's valid region.

    Gaussian window 11 x 11 with sigma 1.5, K1 = .01, K2 = .03, population covariance: scikit-image's
    ``structural_similarity(gaussian_weights=True, sigma=1.5, use_sample_covariance=False)``, differentiable.

    Parameters
    ----------
    image, reference : Tensor of float32, shape (n, 1, h, w), h and w at least 11

    Returns
    -------
    Tensor, shape (n,)
    """
    offsets = torch.arange(-5, 6, device=image.device, dtype=image.dtype)
    window = torch.exp(-(offsets**2) / (2 * 1.5**2))
    window = window / window.sum()

    def smooth(x: Tensor) -> Tensor:
        rows = functional.conv2d(x, window.view(1, 1, 11, 1))
        return functional.conv2d(rows, window.view(1, 1, 1, 11))

    mean_x, mean_y = smooth(image), smooth(reference)
    var_x = smooth(image * image) - mean_x**2
    var_y = smooth(reference * reference) - mean_y**2
    covariance = smooth(image * reference) - mean_x * mean_y
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    numerator = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    denominator = (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
    return (numerator / denominator).mean(dim=(1, 2, 3))


def restoration_loss(image: Tensor, reference: Tensor, mse_weight: float = 100.0, ssim_weight: float = 1.0) -> Tensor:
    """``mse_weight * MSE + ssim_weight * (1 - SSIM)`` on images in [0, 1], shape (n, 1, h, w).

    Near 35 dB the squared error is about 3e-4 and 1 - SSIM about 5e-2; the weight of 100 lets both be heard.
    """
    image, reference = image.float(), reference.float()
    mse = functional.mse_loss(image, reference)
    return mse_weight * mse + ssim_weight * (1 - ssim(image, reference).mean())


def _weighted_mean(values: Tensor, weight: Tensor | None) -> Tensor:
    if weight is None:
        return values.mean()
    weight = weight.expand_as(values)
    return (values * weight).sum() / weight.sum().clamp(min=torch.finfo(values.dtype).eps)
