"""Small Mask R-CNNs and slices for the tests of Detectron2 and of what replaces it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from LiverMarginLib.models.maskrcnn_spec import MaskRCNNSpec
from LiverMarginLib.training.data import InMemorySource, SliceSample

SIZE = 128
SMALL: dict[str, Any] = {"depth": 18, "fpn_channels": 32, "mask_channels": 32, "box_width": 64}


def small_spec(**changes: Any) -> MaskRCNNSpec:
    return MaskRCNNSpec(**{**SMALL, "size": SIZE, "norm": "BN", "score_threshold": 0.1, **changes})


def images(count: int = 3, size: int = SIZE) -> npt.NDArray[np.float32]:
    """Smooth random images (n, 1, size, size) in [0, 1], each of another coarseness."""
    rng = np.random.default_rng(0)
    blurred = [ndimage.gaussian_filter(rng.normal(size=(size, size)), 2 + 3 * n) * (2 + 3 * n) for n in range(count)]
    return (np.stack(blurred)[:, None] * 0.375 + 0.5).clip(0, 1).astype(np.float32)


def enliven(model: Any, seed: int = 1) -> Any:
    """Give a Mask R-CNN, Detectron2's or ours, random weights under which boxes, scores and masks differ much."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    deviations = {
        "rpn_head.objectness_logits": 0.1,
        "rpn_head.anchor_deltas": 0.02,
        "cls_score": 0.5,
        "bbox_pred": 0.05,
        "mask_head.predictor": 0.5,
        "point_head.predictor": 0.3,
    }
    with torch.no_grad():
        for name, module in model.named_modules():
            for part, deviation in deviations.items():
                if name.endswith(part):
                    module.weight.normal_(0, deviation, generator=generator)
            if name.endswith("conv3.norm"):
                module.weight.fill_(0.2)  # otherwise a deep residual network of random weights explodes
            elif name.endswith("norm") and hasattr(module, "running_mean"):
                module.running_mean.normal_(0, 0.1, generator=generator)
                module.running_var.uniform_(0.8, 1.2, generator=generator)
    return model.eval()


def ellipses(count: int, seed: int, size: int = SIZE) -> InMemorySource:
    """Noisy slices in HU with a bright ellipse for a liver: none in every fourth, two in another; eight a patient."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size
    samples = []
    for number in range(count):
        mask = np.zeros((size, size), dtype=bool)
        for _ in range((0, 1, 1, 2)[number % 4]):
            (cy, cx), (a, b) = rng.uniform(0.25, 0.75, 2), rng.uniform(0.08, 0.22, 2)
            mask |= ((y - cy) / a) ** 2 + ((x - cx) / b) ** 2 < 1
        image = rng.normal(0, 15, (size, size)) + np.where(mask, 110, 0)
        samples.append(SliceSample(image.astype(np.float32), mask.astype(np.uint8), (1.0, 1.0)))
    return InMemorySource(samples, [f"{seed}-{number // 8}" for number in range(count)])
