"""DnCNN-SR: its numbers, what it does untrained, and what it learns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from training_toys import source

torch = pytest.importorskip("torch")

from LiverMarginLib.models.dncnn_sr import DnCNNSR  # noqa: E402
from LiverMarginLib.training.bundling import bundle_from_training  # noqa: E402
from LiverMarginLib.training.image_quality import body_mask, image_quality  # noqa: E402
from LiverMarginLib.training.profiles import PROFILES  # noqa: E402
from LiverMarginLib.training.restoration import constant_image_error  # noqa: E402
from LiverMarginLib.training.trainer import train  # noqa: E402


@pytest.mark.parametrize(("scale", "count"), [(1, 1_576_897), (2, 1_593_313)])
def test_the_parameters_are_counted_to_the_number(scale: int, count: int) -> None:
    assert sum(parameter.numel() for parameter in DnCNNSR(scale).parameters()) == count


def test_the_bottleneck_is_dilated_without_biases() -> None:
    convolutions = [module[0] for module in DnCNNSR().bottleneck]
    assert [conv.dilation for conv in convolutions] == [(d, d) for d in (1, 2, 4, 8, 4, 2, 1)]
    assert all(conv.bias is None for conv in convolutions)


@pytest.mark.parametrize("size", [(16, 16), (17, 30), (5, 7)])
def test_an_untrained_network_changes_nothing_at_any_size(size: tuple[int, int]) -> None:
    image = torch.rand(2, 1, *size)
    assert torch.equal(DnCNNSR(1, width=4).eval()(image), image)


@pytest.mark.parametrize("size", [(16, 16), (17, 30)])
def test_an_untrained_network_of_scale_2_enlarges_bicubically(size: tuple[int, int]) -> None:
    image = torch.rand(2, 1, *size)
    expected = torch.nn.functional.interpolate(image, scale_factor=2, mode="bicubic", align_corners=False)
    torch.testing.assert_close(DnCNNSR(2, width=4).eval()(image), expected)


def test_another_scale_is_refused() -> None:
    with pytest.raises(ValueError, match="1 or 2"):
        DnCNNSR(3)


def test_mixed_precision_does_not_round_the_image() -> None:
    image = torch.rand(1, 1, 16, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(DnCNNSR(1, width=4).eval()(image), image)


def test_image_quality_is_that_of_scikit_image() -> None:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:48, :48]
    reference = np.where((y - 24) ** 2 + (x - 24) ** 2 < 300, 0.5, 0).astype(np.float32)
    image = np.clip(reference + rng.normal(0, 0.05, reference.shape), 0, 1).astype(np.float32)
    found = image_quality(image, reference)
    assert found.psnr == pytest.approx(peak_signal_noise_ratio(reference, image, data_range=1.0), abs=1e-4)
    mean, local = structural_similarity(
        image, reference, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True
    )
    body = reference > 0
    mse = ((image - reference)[body].astype(np.float64) ** 2).mean()
    assert found.ssim == pytest.approx(mean)
    assert found.ssim_body == pytest.approx(local[body].mean())
    assert found.psnr_body == pytest.approx(-10 * np.log10(mse), abs=1e-4)


def test_the_body_is_the_largest_piece_with_its_holes_filled() -> None:
    image = np.zeros((30, 30), dtype=np.float32)
    image[5:20, 5:20] = 0.5
    image[10:12, 10:12] = 0
    image[25:28, 2:28] = 0.9  # the table
    expected = np.zeros((30, 30), dtype=bool)
    expected[5:20, 5:20] = True
    np.testing.assert_array_equal(body_mask(image), expected)
    assert not body_mask(np.zeros((30, 30), dtype=np.float32)).any()


def _training(out: Path, profile: str, **changes: object):
    base = PROFILES["dncnn-sr"][profile]
    options = {**base.model_options, "width": 8}
    tiny = replace(base, model_options=options, out=str(out), size=16, batch=4, epochs=1, steps_per_epoch=2, threads=1)
    return replace(tiny, device="cpu", **changes)


@pytest.mark.parametrize("profile", sorted(PROFILES["dncnn-sr"]))
def test_every_profile_trains_and_reports_gains_over_the_input(tmp_path: Path, profile: str) -> None:
    result = train(_training(tmp_path, profile), source(1), source(2))
    assert result.scores["psnr_body"] > 10
    for name in ("psnr", "ssim", "psnr_body", "ssim_body"):
        assert np.isfinite(result.scores[f"{name}_gain"])
    assert "train_psnr" in result.history[0] and "validation_psnr_body" in result.history[0]


@pytest.mark.slow
@pytest.mark.parametrize("profile", ["robust", "robust-x2"])
def test_a_trained_network_beats_its_input(tmp_path: Path, profile: str) -> None:
    settings = _training(tmp_path, profile, epochs=4, steps_per_epoch=150, size=32)
    settings = replace(settings, schedule=replace(settings.schedule, warmup_steps=20))
    result = train(settings, source(*range(1, 21)), source(30, 31, 32))
    assert result.scores["psnr_body_gain"] > 1.0
    assert result.scores["ssim_body_gain"] > 0.05


@pytest.mark.parametrize("scale", [1, 2])
def test_the_change_of_a_constant_image_is_measured(scale: int) -> None:
    network = DnCNNSR(scale, width=4)
    # Bicubic weights add up to 1 but for the last bits.
    assert constant_image_error(network, side=16) < 1e-5
    torch.nn.init.constant_(network.tail.bias, -0.01)
    assert constant_image_error(network, side=16) == pytest.approx(0.01, abs=1e-5)


def test_the_model_card_says_how_much_a_constant_image_changes(tmp_path: Path) -> None:
    settings = _training(tmp_path / "work", "robust")
    result = train(settings, source(1), source(2))
    made = bundle_from_training(result, settings, tmp_path / "bundle", name="toy", onnx=False)
    assert made.manifest.input_size == (512, 512)
    assert 0 <= made.manifest.training["largest_change_of_a_constant_image"] < 0.5
    assert "largest_change_of_a_constant_image" in (tmp_path / "bundle" / "README.md").read_text()
