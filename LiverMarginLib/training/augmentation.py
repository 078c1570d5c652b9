"""Variation of training slices, on the device and on whole batches.

torchio and MONAI were considered: both transform one sample at a time on the CPU, so that a 512 x 512 slice costs a
multiple of what a GPU needs to learn from it, and neither draws its random numbers in a way that is independent of the
number of loader processes. Here the parameters of sample s come from a stream that is a pure function of (seed, s),
and the pixels are computed for the batch by torch: one `grid_sample` for all spatial changes together, so that a slice
is interpolated once at most. A sample to which nothing happens keeps its pixels to the bit.

Ranges and probabilities follow nnU-Net v2 (Isensee et al. 2021) where it has the transform.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from LiverMarginLib.training.config import AugmentationConfig
from LiverMarginLib.training.determinism import Purpose, keyed_rng
from LiverMarginLib.training.filters import column, gaussian_blur


class Augmentation:
    """Applies an `AugmentationConfig` to batches of windowed slices.

    Parameters
    ----------
    config : AugmentationConfig
    seed : int
    """

    def __init__(self, config: AugmentationConfig, seed: int) -> None:
        self._config = config
        self._seed = seed

    @torch.no_grad()
    def __call__(self, image: Tensor, mask: Tensor, samples: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Vary a batch.

        Parameters
        ----------
        image : Tensor of float32, shape (n, c, h, w)
            Windowed to [0, 1]. Slices of a sample are moved as one and keep their contrast to each other; noise is
            every slice's own.
        mask : Tensor of float32, shape (n, 1, h, w)
            0 or 1.
        samples : sequence of int
            Number of each sample in the training's stream.

        Returns
        -------
        tuple of Tensor
            Image in [0, 1] and mask of 0 and 1; the inputs are not changed.
        """
        rngs = [keyed_rng(self._seed, Purpose.AUGMENTATION, sample) for sample in samples]
        image, mask = spatial(image, mask, self._config, rngs)
        return intensity(image, self._config, rngs), mask


def spatial(
    image: Tensor, mask: Tensor, config: AugmentationConfig, rngs: Sequence[np.random.Generator]
) -> tuple[Tensor, Tensor]:
    """Rotate, scale, crop off-centre, mirror and deform, each sample by its own draw.

    What comes in from outside of the image is 0: air, in a windowed CT. The mask is interpolated linearly and cut at
    one half, which keeps its boundary smoother than the nearest pixel would.
    """
    height, width = image.shape[-2:]
    chosen: list[int] = []
    matrices: list[np.ndarray] = []
    fields: list[np.ndarray] = []
    for place, rng in enumerate(rngs):
        matrix = _draw_affine(config, rng, height, width)
        field = np.zeros((2, config.elastic_grid, config.elastic_grid))
        deformed = rng.random() < config.elastic_p
        if deformed:
            field = rng.normal(0.0, config.elastic * max(height, width), field.shape)
        if deformed or matrix is not None:
            chosen.append(place)
            matrices.append(np.eye(2, 3) if matrix is None else matrix)
            fields.append(field)
    if not chosen:
        return image, mask

    device = image.device
    affine = torch.tensor(np.stack(matrices), device=device, dtype=torch.float32)
    y = torch.arange(height, device=device, dtype=torch.float32) + 0.5 - height / 2
    x = torch.arange(width, device=device, dtype=torch.float32) + 0.5 - width / 2
    rows, columns = torch.meshgrid(y, x, indexing="ij")
    points = torch.stack((columns, rows, torch.ones_like(rows)), dim=-1)  # (h, w, 3): pixels from the centre
    grid = torch.einsum("hwc,nrc->nhwr", points, affine)
    control = torch.tensor(np.stack(fields), device=device, dtype=torch.float32)
    grid = grid + functional.interpolate(control, (height, width), mode="bicubic", align_corners=True).movedim(1, -1)
    grid = grid / torch.tensor((width / 2, height / 2), device=device)

    both = torch.cat((image[chosen], mask[chosen]), dim=1)
    moved = functional.grid_sample(both, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    image, mask = image.clone(), mask.clone()
    image[chosen] = moved[:, :-1]
    mask[chosen] = (moved[:, -1:] >= 0.5).to(mask.dtype)
    return image, mask


def _draw_affine(config: AugmentationConfig, rng: np.random.Generator, height: int, width: int) -> np.ndarray | None:
    """Return the matrix from output to input pixels, both counted from the centre as (x, y), or None for no change."""
    matrix = np.eye(3)
    changed = False
    if rng.random() < config.rotation_p:
        angle = math.radians(rng.uniform(-config.rotation, config.rotation))
        cosine, sine = math.cos(angle), math.sin(angle)
        matrix = np.array(((cosine, -sine, 0), (sine, cosine, 0), (0, 0, 1))) @ matrix
        changed = True
    if rng.random() < config.scale_p:
        low, high = config.scale
        matrix = np.diag((*(2 * [1 / math.exp(rng.uniform(math.log(low), math.log(high)))]), 1)) @ matrix
        changed = True
    if rng.random() < config.mirror_p:
        matrix = np.diag((-1.0, 1.0, 1.0)) @ matrix
        changed = True
    if rng.random() < config.crop_p:
        # A field of view that was planned smaller and off the patient's centre, but inside of what was scanned.
        share = rng.uniform(*config.crop)
        room = (1 - share) / 2
        shift = rng.uniform(-room, room, 2) * (width, height)
        matrix = np.array(((share, 0, shift[0]), (0, share, shift[1]), (0, 0, 1))) @ matrix
        changed = True
    return matrix[:2] if changed else None


def intensity(
    image: Tensor,
    config: AugmentationConfig,
    rngs: Sequence[np.random.Generator],
    limits: tuple[float, float] | None = (0.0, 1.0),
) -> Tensor:
    """Noise, blur, brightness, contrast, low resolution and gamma, in nnU-Net's order, each sample by its own draw.

    Slices, shape (n, c, h, w), or blocks, shape (n, 1, k, j, i); clipped to `limits` in the end unless they are None.
    """
    out = image.clone()
    axes = tuple(range(1, image.ndim))

    def drawn(probability: float, limits: tuple[float, float]) -> tuple[list[int], list[float]]:
        """Return which samples get a change, and its strength for each of them."""
        draws = [(rng.random() < probability, rng.uniform(*limits)) for rng in rngs]
        return [n for n, (hit, _) in enumerate(draws) if hit], [value for hit, value in draws if hit]

    chosen, values = drawn(config.noise_p, config.noise)
    if chosen:
        shape = out.shape[1:]
        noise = np.stack([rngs[n].standard_normal(shape, dtype=np.float32) for n in chosen])
        out[chosen] += column(values, out) * torch.from_numpy(noise).to(out.device)
    chosen, values = drawn(config.blur_p, config.blur)
    if chosen:
        out[chosen] = gaussian_blur(out[chosen], values)
    chosen, values = drawn(config.brightness_p, config.brightness)
    if chosen:
        out[chosen] *= column(values, out)
    chosen, values = drawn(config.contrast_p, config.contrast)
    if chosen:
        part = out[chosen]
        mean = part.mean(dim=axes, keepdim=True)
        out[chosen] = torch.clamp(
            (part - mean) * column(values, out) + mean,
            part.amin(dim=axes, keepdim=True),
            part.amax(dim=axes, keepdim=True),
        )
    chosen, values = drawn(config.low_resolution_p, config.low_resolution)
    for n, zoom in zip(chosen, values, strict=True):
        out[n] = _low_resolution(out[n : n + 1], zoom)[0]
    chosen, values = drawn(config.inverted_gamma_p, config.gamma)
    if chosen:
        out[chosen] = 1 - _gamma(1 - out[chosen], column(values, out))
    chosen, values = drawn(config.gamma_p, config.gamma)
    if chosen:
        out[chosen] = _gamma(out[chosen], column(values, out))
    return out if limits is None else out.clamp_(*limits)


def _low_resolution(image: Tensor, zoom: float) -> Tensor:
    sides = tuple(image.shape[2:])
    reduced = functional.interpolate(image, tuple(max(8, round(n * zoom)) for n in sides), mode="nearest-exact")
    smooth = "bicubic" if len(sides) == 2 else "trilinear"
    return functional.interpolate(reduced, sides, mode=smooth, align_corners=False)


def _gamma(image: Tensor, exponent: Tensor) -> Tensor:
    """Raise the range of each image to `exponent` and give it its mean and standard deviation back."""
    axes = tuple(range(1, image.ndim))
    low = image.amin(dim=axes, keepdim=True)
    extent = (image.amax(dim=axes, keepdim=True) - low).clamp(min=1e-7)
    changed = ((image - low) / extent).clamp(0, 1) ** exponent * extent + low
    mean, deviation = image.mean(dim=axes, keepdim=True), image.std(dim=axes, keepdim=True)
    spread = changed.std(dim=axes, keepdim=True).clamp(min=1e-7)
    return (changed - changed.mean(dim=axes, keepdim=True)) / spread * deviation + mean
