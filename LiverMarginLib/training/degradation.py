"""How DnCNN-SR's training pairs are made: a clean slice in, a noisy (and for scale 2 smaller) one out.

The model is that of methods such as Zhang et al. 2021: blur, down-sampling, noise; with what is special to CT: noise
that is correlated by the reconstruction kernel, and streaks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from LiverMarginLib.training.config import DegradationConfig
from LiverMarginLib.training.determinism import Purpose, keyed_rng
from LiverMarginLib.training.filters import gaussian_blur

_FLAT_IDENTITY_P = 0.5


class Degradation:
    """Applies a `DegradationConfig` to batches of clean slices.

    Parameters
    ----------
    config : DegradationConfig
    scale : int
        1, or 2 for input of half the side.
    width : float
        Width in HU (grey values) of the window that became [0, 1].
    seed : int
    purpose : Purpose
        `Purpose.VALIDATION` gives each slice the same degradation at every validation.
    """

    def __init__(
        self,
        config: DegradationConfig,
        scale: int,
        width: float,
        seed: int,
        purpose: Purpose = Purpose.DEGRADATION,
    ) -> None:
        self._config = config
        self._scale = scale
        self._width = width
        self._seed = seed
        self._purpose = purpose

    @torch.no_grad()
    def __call__(self, clean: Tensor, samples: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Make the pairs of a batch.

        Parameters
        ----------
        clean : Tensor of float32, shape (n, 1, h, w)
            In [0, 1]; h and w multiples of the scale.
        samples : sequence of int
            Number of each sample in its stream.

        Returns
        -------
        tuple of Tensor
            What is to be learnt, shape (n, 1, h, w): the input, but for samples that became flat. What it is to be
            learnt from, shape (n, 1, h / scale, w / scale). Both float32 in [0, 1].
        """
        config = self._config
        rngs = [keyed_rng(self._seed, self._purpose, sample) for sample in samples]
        flat = [rng.random() < config.flat_p for rng in rngs]
        if any(flat):
            clean = clean.clone()
            for n, rng in enumerate(rngs):
                if flat[n]:
                    # Air and bone are flat at the very ends of the window.
                    clean[n] = float(np.clip(rng.uniform(-0.5, 1.5), 0, 1))
        chances = [_FLAT_IDENTITY_P if is_flat else config.identity_p for is_flat in flat]
        identity = [rng.random() < chance for rng, chance in zip(rngs, chances, strict=True)]
        blur = [0.0 if same else rng.uniform(*config.blur) for same, rng in zip(identity, rngs, strict=True)]
        image = gaussian_blur(clean, blur)
        keep = torch.tensor(identity, device=clean.device).view(-1, 1, 1, 1)
        image = torch.where(keep, clean, image)
        if self._scale > 1:
            image = functional.avg_pool2d(image, self._scale)
        noise = torch.stack([self._noise(image.shape[-2:], rng) for rng in rngs]).unsqueeze(1).to(image.device)
        return clean, torch.where(keep, image, image + noise).clamp_(0, 1)

    def _noise(self, shape: Sequence[int], rng: np.random.Generator) -> Tensor:
        """Return noise and streaks of one slice, shape (h, w), in units of the window."""
        config = self._config
        height, width = shape
        white = torch.from_numpy(rng.standard_normal((height, width), dtype=np.float32))
        sigma, correlation = rng.uniform(*config.noise), rng.uniform(*config.correlation)
        noise = gaussian_blur(white[None, None], [correlation])[0, 0]
        noise = noise * (sigma / self._width / noise.std().clamp(min=1e-7))
        if rng.random() < config.streaks_p:
            noise = noise + torch.from_numpy(_streaks(height, width, rng)) * (
                rng.uniform(*config.streaks) / self._width
            )
        return noise


def _streaks(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Return rays of unit standard deviation through a point, thin as those that dense bone and metal throw."""
    y0, x0 = rng.uniform(0.2, 0.8, 2) * (height, width)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    angle = np.arctan2(y - y0, x - x0) % math.pi
    profile = rng.standard_normal(360).astype(np.float32)
    profile = np.where(rng.random(360) < 0.15, profile, 0).astype(np.float32)
    rays = np.interp(angle, np.linspace(0, math.pi, 360, endpoint=False), profile, period=math.pi).astype(np.float32)
    return np.asarray(rays / max(float(rays.std()), 1e-7), dtype=np.float32)
