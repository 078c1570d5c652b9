"""The same metrics of one pair of masks by LiverMargin and by other software.

Each contender takes boolean masks (k, j, i) and the spacing in mm, and returns numbers under LiverMargin's names.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Numbers = dict[str, float]
Contender = Callable[[Any, Any, tuple[float, float, float]], Numbers]
TOLERANCES = (1.0, 2.0, 3.0)


def example_masks(n_slices: int, seed: int = 0, side: int = 512) -> tuple[np.ndarray, np.ndarray]:
    """A liver-sized pair in `n_slices` of `side` x `side`: about 230 x 260 pixels in half of the slices; uint8."""
    rng = np.random.default_rng(seed)
    depth, height, width = max(2, n_slices // 2), round(side * 0.45), round(side * 0.5)
    z, y, x = (np.linspace(-1, 1, n, dtype=np.float32) for n in (depth, height, width))
    # Long waves make the shape, short ones of half a pixel to a few the disagreement.
    masks = np.zeros((2, n_slices, side, side), dtype=np.uint8)
    first = (n_slices - depth) // 2
    top, left = (side - height) // 2, (side - width) // 2
    shape_waves, error_waves = (rng.uniform(0, 2 * math.pi, (6, 3)) for _ in range(2))
    for k in range(depth):
        radius = z[k] ** 2 + (y[:, None] ** 2 + x**2) / 0.9
        for number, (a, b, c) in enumerate(shape_waves, start=1):
            radius += (
                0.12 / number * np.sin(a + number * 2 * z[k]) * np.sin(b + number * 3 * y[:, None]) * np.sin(c + 3 * x)
            )
        error = np.zeros_like(radius)
        for number, (a, b, c) in enumerate(error_waves, start=2):
            error += np.sin(a + number * 5 * z[k]) * np.sin(b + number * 4 * y[:, None]) * np.sin(c + number * 4 * x)
        masks[0, first + k, top : top + height, left : left + width] = radius < 0.85
        masks[1, first + k, top : top + height, left : left + width] = radius + 0.02 * error < 0.85
    return masks[0], masks[1]


def livermargin(threads: int | None) -> Contender:
    """All of LiverMargin's metrics, also those that no other contender computes."""
    from LiverMarginLib.metrics.boundary import Width, official_width
    from LiverMarginLib.metrics.slicepass import Labelled
    from LiverMarginLib.metrics.suite import measure

    def run(reference: np.ndarray, prediction: np.ndarray, spacing: tuple[float, float, float]) -> Numbers:
        official = Width(official_width(reference.shape[1:]))
        widths = dict.fromkeys((official, Width(2), Width(6)))
        masks = Labelled(reference), {"prediction": Labelled(prediction)}
        found = measure(*masks, spacing, list(widths), threads=threads).measures["prediction"]
        total = found.overlap.sum()
        return {
            "mask_iou": float(total.iou()),
            "dice": float(total.dice()),
            "boundary_iou": float(np.nanmean(found.boundaries[official].boundary_iou())),
            "hd_mm": found.voxel.hausdorff(),
            "hd95_mm": found.voxel.hausdorff_percentile(95),
            "assd_mm": found.voxel.assd(),
            **{f"nsd_voxel_{t:g}mm": found.voxel.nsd(t) for t in TOLERANCES},
            **{f"nsd_surfel_{t:g}mm": found.surfel.nsd(t) for t in TOLERANCES},
            "trimap_iou": float(np.nanmean(found.boundaries[official].trimap_iou())),
            "boundary_f": float(np.nanmean(found.boundaries[official].boundary_f())),
        }

    return run


def surface_distance() -> Contender:
    """google-deepmind/surface-distance."""
    import surface_distance as peer

    if not hasattr(peer, "compute_surface_dice_at_tolerance"):
        raise ImportError("another package of that name")

    def run(reference: np.ndarray, prediction: np.ndarray, spacing: tuple[float, float, float]) -> Numbers:
        distances = peer.compute_surface_distances(reference.astype(bool), prediction.astype(bool), spacing)
        return {f"nsd_surfel_{t:g}mm": float(peer.compute_surface_dice_at_tolerance(distances, t)) for t in TOLERANCES}

    return run


def monai_voxel() -> Contender:
    """MONAI's edges and distances, computed once and used for every metric of the voxel variant."""
    import torch
    from monai.metrics.utils import get_edge_surface_distance

    def run(reference: np.ndarray, prediction: np.ndarray, spacing: tuple[float, float, float]) -> Numbers:
        g, p = (torch.from_numpy(m.astype(bool)) for m in (reference, prediction))
        _, distances, _ = get_edge_surface_distance(p, g, spacing=spacing, symmetric=True)
        both = torch.cat(distances)
        common, sizes = (g & p).sum(), g.sum() + p.sum()
        return {
            "mask_iou": float(common / (sizes - common)),
            "dice": float(2 * common / sizes),
            "hd_mm": float(both.max()),
            # torch.quantile refuses more than 16 million values; numpy's is the same.
            "hd95_mm": max(float(np.percentile(d.numpy(), 95)) for d in distances),
            "assd_mm": float(both.double().mean()),
            **{f"nsd_voxel_{t:g}mm": float((both <= t).double().mean()) for t in TOLERANCES},
        }

    return run


def monai_surfel() -> Contender:
    """MONAI's sub-voxel edges and areas, computed once."""
    import torch
    from monai.metrics.utils import get_edge_surface_distance

    def run(reference: np.ndarray, prediction: np.ndarray, spacing: tuple[float, float, float]) -> Numbers:
        g, p = (torch.from_numpy(m.astype(bool)) for m in (reference, prediction))
        (edges_p, edges_g), (to_g, to_p), (areas_p, areas_g) = get_edge_surface_distance(
            p, g, spacing=spacing, symmetric=True, use_subvoxels=True
        )
        distances = torch.cat((to_g, to_p))
        areas = torch.cat((areas_p[edges_p], areas_g[edges_g])).double()
        return {f"nsd_surfel_{t:g}mm": float(areas[distances <= t].sum() / areas.sum()) for t in TOLERANCES}

    return run


def monai_metrics() -> Contender:
    """MONAI's public metric functions, one call a number, as its documentation shows."""
    import torch
    from monai.metrics import (
        compute_average_surface_distance,
        compute_hausdorff_distance,
        compute_surface_dice,
    )

    def run(reference: np.ndarray, prediction: np.ndarray, spacing: tuple[float, float, float]) -> Numbers:
        g, p = (torch.from_numpy(m.astype(bool))[None, None] for m in (reference, prediction))
        options = {"include_background": True, "spacing": spacing}
        numbers = {
            "hd_mm": compute_hausdorff_distance(p, g, **options),
            "hd95_mm": compute_hausdorff_distance(p, g, percentile=95, **options),
            "assd_mm": compute_average_surface_distance(p, g, symmetric=True, **options),
        }
        for t in TOLERANCES:
            numbers[f"nsd_voxel_{t:g}mm"] = compute_surface_dice(p, g, [t], **options)
            numbers[f"nsd_surfel_{t:g}mm"] = compute_surface_dice(p, g, [t], use_subvoxels=True, **options)
        return {key: float(value) for key, value in numbers.items()}

    return run


def official_boundary_iou() -> Contender:
    """The official Boundary IoU: each whole slice padded by one and eroded d times by 3 x 3 (OpenCV, as there)."""
    import cv2

    kernel = np.ones((3, 3), np.uint8)

    def band(mask: np.ndarray, d: int) -> np.ndarray:
        padded = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
        return mask - cv2.erode(padded, kernel, iterations=d)[1:-1, 1:-1]

    def run(reference: np.ndarray, prediction: np.ndarray, spacing: tuple[float, float, float]) -> Numbers:
        d = max(1, round(0.02 * math.hypot(*reference.shape[1:])))
        scores = []
        for g, p in zip(reference, prediction, strict=True):
            if g.any() or p.any():
                bands = band(g, d), band(p, d)
                scores.append((bands[0] & bands[1]).sum() / (bands[0] | bands[1]).sum())
        return {"boundary_iou": float(np.mean(scores))}

    return run


OURS = "LiverMargin"
OURS_ONE_THREAD = "LiverMargin, one thread"
CONTENDERS: Mapping[str, Callable[[], Contender]] = {
    OURS: lambda: livermargin(None),
    OURS_ONE_THREAD: lambda: livermargin(1),
    "official Boundary IoU": official_boundary_iou,
    "MONAI voxel, distances once": monai_voxel,
    "MONAI surfel, distances once": monai_surfel,
    "surface-distance": surface_distance,
    "MONAI metric by metric": monai_metrics,
}

# What together gives the numbers that LiverMargin gives; the fastest is the one to beat.
COMBINATIONS = (
    ("official Boundary IoU", "MONAI voxel, distances once", "MONAI surfel, distances once"),
    ("official Boundary IoU", "MONAI voxel, distances once", "surface-distance"),
    ("official Boundary IoU", "MONAI metric by metric"),
)
