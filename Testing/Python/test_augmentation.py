"""Augmentation: what it does to pixels, and that it depends on nothing but seed and sample number."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

torch = pytest.importorskip("torch")

from LiverMarginLib.training.augmentation import Augmentation, spatial  # noqa: E402
from LiverMarginLib.training.config import AugmentationConfig, DegradationConfig  # noqa: E402
from LiverMarginLib.training.degradation import Degradation  # noqa: E402
from LiverMarginLib.training.determinism import Purpose, keyed_rng  # noqa: E402
from LiverMarginLib.training.filters import gaussian_blur  # noqa: E402
from LiverMarginLib.training.profiles import PROFILES  # noqa: E402

EVERYTHING = AugmentationConfig(**{name: 1.0 for name in AugmentationConfig.__annotations__ if name.endswith("_p")})


def smooth_images(n: int, side: int = 48, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    image = ndimage.gaussian_filter(rng.random((n, side, side)), (0, 4, 4))
    image = (image - image.min()) / (image.max() - image.min())
    image = torch.from_numpy(image[:, None].astype(np.float32))
    return image, (image > 0.6).float()


def test_without_any_transform_pixels_are_kept_to_the_bit() -> None:
    image, mask = smooth_images(3)
    varied, moved = Augmentation(AugmentationConfig(), 0)(image, mask, [0, 1, 2])
    assert torch.equal(varied, image) and torch.equal(moved, mask)


def test_a_sample_is_varied_in_the_same_way_in_any_batch() -> None:
    image, mask = smooth_images(4)
    augmentation = Augmentation(EVERYTHING, 5)
    together = augmentation(image, mask, [10, 11, 12, 13])
    apart = [augmentation(image[n : n + 1], mask[n : n + 1], [10 + n]) for n in range(4)]
    torch.testing.assert_close(together[0], torch.cat([pair[0] for pair in apart]), atol=1e-5, rtol=0)
    assert torch.equal(together[1], torch.cat([pair[1] for pair in apart]))


def test_samples_and_seeds_are_varied_differently() -> None:
    image, mask = smooth_images(1)
    outcomes = [
        Augmentation(EVERYTHING, seed)(image, mask, [sample])[0] for seed, sample in ((0, 0), (0, 1), (1, 0), (1, 1))
    ]
    for n, one in enumerate(outcomes):
        assert not any(torch.equal(one, other) for other in outcomes[:n])


@pytest.mark.parametrize("name", [name for name in AugmentationConfig.__annotations__ if name.endswith("_p")])
def test_each_transform_changes_images_and_keeps_their_range(name: str) -> None:
    image, mask = smooth_images(4)
    before = image.clone()
    varied, moved = Augmentation(AugmentationConfig(**{name: 1.0}), 0)(image, mask, [0, 1, 2, 3])
    assert not torch.equal(varied, image)
    assert torch.equal(image, before), "the input was changed"
    assert torch.isfinite(varied).all() and varied.min() >= 0 and varied.max() <= 1
    assert set(moved.unique().tolist()) <= {0.0, 1.0}
    is_spatial = name in {"rotation_p", "scale_p", "elastic_p", "crop_p", "mirror_p"}
    assert torch.equal(moved, mask) is not is_spatial


def test_the_mask_moves_with_the_image() -> None:
    _, mask = smooth_images(6)
    config = AugmentationConfig(rotation_p=1, scale_p=1, elastic_p=1, crop_p=1, mirror_p=1)
    moved_as_image, moved = Augmentation(config, 2)(mask, mask, range(6))
    assert torch.equal((moved_as_image >= 0.5).float(), moved)


def test_a_rotation_is_that_of_scipy() -> None:
    image, mask = smooth_images(1, side=65)
    config = AugmentationConfig(rotation_p=1.0, rotation=30.0)
    rotated, _ = spatial(image, mask, config, [keyed_rng(0, Purpose.AUGMENTATION, 3)])
    rng = keyed_rng(0, Purpose.AUGMENTATION, 3)
    rng.random()
    angle = rng.uniform(-30, 30)
    expected = ndimage.rotate(image[0, 0].numpy(), angle, reshape=False, order=1)
    inside = np.hypot(*(np.mgrid[:65, :65] - 32)) < 30
    np.testing.assert_allclose(rotated[0, 0].numpy()[inside], expected[inside], atol=1e-4)


def test_an_off_centre_crop_shows_only_what_was_scanned() -> None:
    # Everything is bright; a crop that reached beyond the image would bring in dark pixels.
    image = torch.ones(8, 1, 32, 32)
    varied, _ = Augmentation(AugmentationConfig(crop_p=1.0, crop=(0.5, 0.9)), 0)(image, image, range(8))
    assert varied.min() > 0.5  # half a pixel beyond the outermost centres fades out


def test_the_shipped_profiles_do_not_mirror() -> None:
    assert all(config.augmentation.mirror_p == 0 for profiles in PROFILES.values() for config in profiles.values())


def test_the_blur_is_that_of_scipy() -> None:
    image, _ = smooth_images(3)
    image = image + torch.rand(image.shape, generator=torch.Generator().manual_seed(0))
    found = gaussian_blur(image, [0.0, 0.7, 1.5])
    assert torch.equal(found[0], image[0])
    for n, sigma, radius in ((1, 0.7, 3), (2, 1.5, 5)):
        expected = ndimage.gaussian_filter(image[n, 0].numpy(), sigma, mode="nearest", radius=radius)
        np.testing.assert_allclose(found[n, 0].numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("scale", [1, 2])
def test_degradation_adds_noise_of_the_asked_strength(scale: int) -> None:
    clean = torch.full((6, 1, 64, 64), 0.5)
    config = DegradationConfig(noise=(20, 20), streaks_p=0.0, identity_p=0.0, flat_p=0.0)
    wanted, noisy = Degradation(config, scale, 400.0, seed=0)(clean, range(6))
    assert torch.equal(wanted, clean)
    assert noisy.shape == (6, 1, 64 // scale, 64 // scale)
    np.testing.assert_allclose(noisy.std(dim=(1, 2, 3)).numpy(), 20 / 400, rtol=0.02)
    assert torch.equal(noisy, Degradation(config, scale, 400.0, seed=0)(clean, range(6))[1])
    assert not torch.equal(noisy, Degradation(config, scale, 400.0, seed=1)(clean, range(6))[1])


def test_identity_pairs_are_not_degraded() -> None:
    clean, _ = smooth_images(3)
    config = DegradationConfig(identity_p=1.0, streaks_p=1.0, flat_p=0.0)
    assert torch.equal(Degradation(config, 1, 400.0, seed=0)(clean, range(3))[1], clean)
    halved = Degradation(config, 2, 400.0, seed=0)(clean, range(3))[1]
    torch.testing.assert_close(halved, torch.nn.functional.avg_pool2d(clean, 2))


def test_flat_pairs_have_one_grey_value_and_are_clean_half_of_the_time() -> None:
    images, _ = smooth_images(1)
    before = images.expand(200, 1, 48, 48)
    clean, noisy = Degradation(DegradationConfig(flat_p=1.0), 1, 400.0, seed=0)(before, range(200))
    levels = clean.amax(dim=(1, 2, 3))
    assert torch.equal(levels, clean.amin(dim=(1, 2, 3)))
    assert (levels == 0).any() and (levels == 1).any() and ((levels > 0) & (levels < 1)).any()
    same = (clean == noisy).all(dim=(1, 2, 3)).float().mean().item()
    assert 0.35 < same < 0.65


def test_streaks_are_stronger_than_the_noise_alone() -> None:
    clean = torch.full((4, 1, 64, 64), 0.5)
    quiet = DegradationConfig(noise=(1, 1), streaks_p=0.0, identity_p=0.0, flat_p=0.0)
    streaked = DegradationConfig(noise=(1, 1), streaks_p=1.0, streaks=(20, 20), identity_p=0.0, flat_p=0.0)
    width = 400.0
    assert Degradation(quiet, 1, width, 0)(clean, range(4))[1].std() < 2 / width
    assert Degradation(streaked, 1, width, 0)(clean, range(4))[1].std() > 15 / width
