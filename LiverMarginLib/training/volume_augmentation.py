"""Variation of training patches, on the device and on whole batches; the 3-D sibling of `augmentation`.

Rotation about all three axes, scale and mirroring in one interpolation; intensities as for slices; fields of view that
end within the patch. Meant for grids of about the same spacing along all axes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from LiverMarginLib.training.augmentation import intensity
from LiverMarginLib.training.config import AugmentationConfig
from LiverMarginLib.training.determinism import Purpose, keyed_rng


class VolumeAugmentation:
    """Applies an `AugmentationConfig` to batches of patches; elastic deformation is for slices.

    Parameters
    ----------
    config : AugmentationConfig
    seed : int
    """

    def __init__(self, config: AugmentationConfig, seed: int) -> None:
        self._config = config
        self._seed = seed

    @torch.no_grad()
    def __call__(
        self,
        image: Tensor,
        target: Tensor,
        samples: Sequence[int],
        padding: Tensor,
        limits: tuple[float, float] | None = (0.0, 1.0),
    ) -> tuple[Tensor, Tensor]:
        """Vary a batch.

        Parameters
        ----------
        image : Tensor of float32, shape (n, 1, k, j, i)
        target : Tensor of uint8, same shape
            Class numbers.
        samples : sequence of int
            Number of each sample in the training's stream.
        padding : Tensor of float32, shape (n, 1, 1, 1, 1)
            What comes in from outside of each patch.
        limits : tuple of float, optional
            To which the image is clipped in the end; None for images that are not windowed to [0, 1].

        Returns
        -------
        tuple of Tensor
            Image and target; the inputs are not changed.
        """
        rngs = [keyed_rng(self._seed, Purpose.AUGMENTATION, sample) for sample in samples]
        drawn = [_draw_affine(self._config, rng, image.shape[2:]) for rng in rngs]
        chosen = [n for n, matrix in enumerate(drawn) if matrix is not None]
        target = target.clone()
        if chosen:
            matrices = np.stack([matrix for matrix in drawn if matrix is not None])
            affine = torch.tensor(matrices, device=image.device, dtype=torch.float32)
            grid = functional.affine_grid(affine, [len(chosen), 1, *image.shape[2:]], align_corners=False)
            image = image.clone()
            outside = padding[chosen]
            image[chosen] = functional.grid_sample(image[chosen] - outside, grid, align_corners=False) + outside
            moved = functional.grid_sample(target[chosen].float(), grid, mode="nearest", align_corners=False)
            target[chosen] = moved.to(target.dtype)
        image = intensity(image, self._config, rngs, limits)
        for n, rng in enumerate(rngs):  # last, because what surrounds a scan has neither noise nor contrast
            for axis in (1, 2, 3):
                if rng.random() < self._config.crop_p:
                    _crop(image[n], target[n], padding[n], axis, self._config.crop, rng)
        return image, target


def _crop(
    image: Tensor, target: Tensor, padding: Tensor, axis: int, share: tuple[float, float], rng: np.random.Generator
) -> None:
    """Let a patch, shape (1, k, j, i), show a share of itself along an axis, as in a scan that is shorter."""
    length = image.shape[axis]
    kept = max(1, round(length * rng.uniform(*share)))
    start = int(rng.integers(length - kept + 1))
    for first, stop in ((0, start), (start + kept, length)):
        image.narrow(axis, first, stop - first).copy_(padding.expand_as(image).narrow(axis, first, stop - first))
        target.narrow(axis, first, stop - first).zero_()


def _draw_affine(config: AugmentationConfig, rng: np.random.Generator, shape: Sequence[int]) -> np.ndarray | None:
    """Return the matrix of shape (3, 4) from output to input in `affine_grid`'s (x, y, z) from -1 to 1, or None."""
    matrix = np.eye(3)
    changed = False
    if rng.random() < config.rotation_p:
        for axis in range(3):
            angle = math.radians(rng.uniform(-config.rotation, config.rotation))
            turn = np.eye(3)
            a, b = (n for n in range(3) if n != axis)
            turn[a, a] = turn[b, b] = math.cos(angle)
            turn[a, b], turn[b, a] = -math.sin(angle), math.sin(angle)
            matrix = turn @ matrix
        changed = True
    if rng.random() < config.scale_p:
        low, high = config.scale
        matrix = matrix / math.exp(rng.uniform(math.log(low), math.log(high)))
        changed = True
    if rng.random() < config.mirror_p:
        matrix = np.diag((-1.0, 1.0, 1.0)) @ matrix
        changed = True
    if not changed:
        return None
    # In voxels a rotation is a rotation; -1 to 1 is another length along each axis.
    sides = np.array(shape[::-1], dtype=np.float64)
    return np.hstack((matrix * sides / sides[:, None], np.zeros((3, 1))))
