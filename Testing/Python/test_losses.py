"""Losses against MONAI's, SSIM against scikit-image's."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.metrics import structural_similarity

torch = pytest.importorskip("torch")

from LiverMarginLib.training.config import LossConfig, LossKind  # noqa: E402
from LiverMarginLib.training.losses import (  # noqa: E402
    SegmentationLoss,
    binary_cross_entropy,
    focal,
    restoration_loss,
    soft_dice,
    ssim,
)


@pytest.fixture
def prediction() -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and masks of three images, the last of them without liver."""
    rng = np.random.default_rng(7)
    logits = torch.tensor(rng.normal(0, 2, (3, 1, 8, 8)).astype(np.float32))
    target = torch.tensor((rng.random((3, 1, 8, 8)) < 0.3).astype(np.float32))
    target[2] = 0
    return logits, target


# MONAI 1.6.1: DiceLoss(sigmoid=True, smooth_nr=1, smooth_dr=1, batch=...) and FocalLoss(gamma, alpha) on `prediction`.
@pytest.mark.parametrize(("pooled", "expected"), [(True, 0.742443859577179), (False, 0.759205162525177)])
def test_soft_dice_is_that_of_monai(prediction, pooled: bool, expected: float) -> None:
    assert soft_dice(*prediction, pooled=pooled).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("alpha", "gamma", "expected"),
    [(0.25, 2.0, 0.33323344588279724), (0.5, 2.0, 0.2785678207874298), (0.75, 1.5, 0.2436085194349289)],
)
def test_focal_loss_is_that_of_monai(prediction, alpha: float, gamma: float, expected: float) -> None:
    assert focal(*prediction, gamma=gamma, alpha=alpha).item() == pytest.approx(expected, rel=1e-6)


def test_cross_entropy_is_its_definition(prediction) -> None:
    logits, target = (x.double().numpy() for x in prediction)
    p = 1 / (1 + np.exp(-logits))
    expected = -(target * np.log(p) + (1 - target) * np.log(1 - p)).mean()
    assert binary_cross_entropy(*prediction).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("kind", [LossKind.BCE, LossKind.DICE, LossKind.BCE_DICE, LossKind.FOCAL])
def test_a_sample_of_weight_zero_is_as_if_it_were_not_there(prediction, kind: LossKind) -> None:
    logits, target = prediction
    weight = torch.tensor([1.0, 0.0, 1.0]).view(3, 1, 1, 1)
    loss = SegmentationLoss(LossConfig(kind))
    without = loss(logits[[0, 2]], target[[0, 2]], None)
    assert loss(logits, target, weight).item() == pytest.approx(without.item(), rel=1e-6)


@pytest.mark.parametrize("kind", [LossKind.BCE, LossKind.DICE, LossKind.BCE_DICE, LossKind.FOCAL])
def test_a_batch_of_weight_zero_teaches_nothing(prediction, kind: LossKind) -> None:
    logits, target = prediction
    logits.requires_grad_(True)
    SegmentationLoss(LossConfig(kind))(logits, target, torch.zeros(3, 1, 1, 1)).backward()
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_the_combined_loss_adds_dice_with_its_weight(prediction) -> None:
    combined = SegmentationLoss(LossConfig(LossKind.BCE_DICE, dice_weight=0.3))(*prediction, None)
    assert combined.item() == pytest.approx((binary_cross_entropy(*prediction) + 0.3 * soft_dice(*prediction)).item())


def test_half_precision_logits_are_compared_in_single_precision(prediction) -> None:
    logits, target = prediction
    loss = SegmentationLoss(LossConfig(LossKind.BCE))(logits.bfloat16(), target, None)
    assert loss.dtype == torch.float32


def test_ssim_is_that_of_scikit_image() -> None:
    rng = np.random.default_rng(3)
    reference = rng.random((2, 40, 33)).astype(np.float32)
    image = np.clip(reference + rng.normal(0, 0.1, reference.shape), 0, 1).astype(np.float32)
    expected = [
        structural_similarity(a, b, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False)
        for a, b in zip(image, reference, strict=True)
    ]
    found = ssim(torch.from_numpy(image)[:, None], torch.from_numpy(reference)[:, None])
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-6)


def test_the_restoration_loss_balances_squared_error_and_ssim() -> None:
    rng = np.random.default_rng(3)
    reference = torch.from_numpy(rng.random((1, 1, 32, 32)).astype(np.float32))
    image = (reference + 0.1).requires_grad_(True)
    loss = restoration_loss(image, reference, mse_weight=100.0, ssim_weight=2.0)
    assert loss.item() == pytest.approx(100 * 0.01 + 2 * (1 - ssim(image, reference).item()), rel=1e-4)
    loss.backward()
    assert torch.isfinite(image.grad).all()
    assert restoration_loss(reference, reference).item() == pytest.approx(0, abs=1e-6)
