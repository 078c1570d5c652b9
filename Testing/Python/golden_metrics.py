"""The metrics once more, written straight from their definitions: slow, plain, and sharing no code with the library."""

from __future__ import annotations

import itertools
import math

import numpy as np

FOUR = ((-1, 0), (1, 0), (0, -1), (0, 1))
SIX = ((-1, 0, 0), (1, 0, 0), (0, -1, 0), (0, 1, 0), (0, 0, -1), (0, 0, 1))


def iou(a: np.ndarray, b: np.ndarray) -> float:
    union = (a | b).sum()
    return float((a & b).sum() / union) if union else math.nan


def dice(a: np.ndarray, b: np.ndarray) -> float:
    total = a.sum() + b.sum()
    return float(2 * (a & b).sum() / total) if total else math.nan


def precision(reference: np.ndarray, prediction: np.ndarray) -> float:
    if not reference.any() and not prediction.any():
        return math.nan
    return float((reference & prediction).sum() / prediction.sum()) if prediction.any() else 0.0


def erode_once(mask: np.ndarray) -> np.ndarray:
    """One erosion by the full 3 x 3 kernel; what lies outside of the array does not erode."""
    padded = np.pad(mask, 1, constant_values=True)
    out = np.ones_like(mask)
    for dj, di in itertools.product((0, 1, 2), repeat=2):
        out &= padded[dj : dj + mask.shape[0], di : di + mask.shape[1]]
    return out


def official_boundary(mask: np.ndarray, d: int) -> np.ndarray:
    """The official boundary region: image padded by one zero, eroded d times, cropped, taken from the mask."""
    eroded = np.pad(mask, 1)
    for _ in range(d):
        eroded = erode_once(eroded)
    return mask & ~eroded[1:-1, 1:-1]


def boundary_iou(reference: np.ndarray, prediction: np.ndarray, d: int | None = None) -> float:
    if d is None:
        d = max(1, round(0.02 * math.sqrt(reference.shape[0] ** 2 + reference.shape[1] ** 2)))
    return iou(official_boundary(reference, d), official_boundary(prediction, d))


def trimap_iou(reference: np.ndarray, prediction: np.ndarray, d: int) -> float:
    if not reference.any():
        return 0.0 if prediction.any() else math.nan
    # The outer band: background within d steps of the reference, by d dilations (erosions of the background).
    grown = reference
    for _ in range(d):
        grown = ~erode_once(~grown)
    band = official_boundary(reference, d) | (grown & ~reference)
    return float((band & reference & prediction).sum() / (band & (reference | prediction)).sum())


def border(mask: np.ndarray, neighbours: tuple[tuple[int, ...], ...]) -> np.ndarray:
    """Indices of mask elements that have a neighbour outside of the mask or of the array."""
    found = []
    for index in np.argwhere(mask):
        for step in neighbours:
            other = tuple(index + np.array(step))
            if any(o < 0 or o >= n for o, n in zip(other, mask.shape, strict=True)) or not mask[other]:
                found.append(index)
                break
    return np.array(found, dtype=int).reshape(-1, mask.ndim)


def directed(a: np.ndarray, b: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    """Distance from each point of a to the nearest of b, over all pairs."""
    if len(a) == 0 or len(b) == 0:
        return np.full(len(a), math.inf)
    steps = (a[:, np.newaxis, :] - b[np.newaxis, :, :]) * np.array(spacing)
    return np.sqrt((steps**2).sum(axis=2)).min(axis=1)


def boundary_f(reference: np.ndarray, prediction: np.ndarray, d: float, spacing=(1.0, 1.0)) -> float:
    contours = border(reference, FOUR), border(prediction, FOUR)
    if not len(contours[0]) and not len(contours[1]):
        return math.nan
    if not len(contours[0]) or not len(contours[1]):
        return 0.0
    recall = (directed(contours[0], contours[1], spacing) <= d).mean()
    precision_ = (directed(contours[1], contours[0], spacing) <= d).mean()
    return float(2 * precision_ * recall / (precision_ + recall)) if precision_ + recall else 0.0


def voxel_distances(reference: np.ndarray, prediction: np.ndarray, spacing) -> tuple[np.ndarray, np.ndarray]:
    surfaces = border(reference, SIX), border(prediction, SIX)
    return directed(*surfaces, spacing), directed(*surfaces[::-1], spacing)


def surface_numbers(there: np.ndarray, back: np.ndarray, tolerances=(1.0, 2.0, 3.0)) -> dict[str, float]:
    both = np.concatenate((there, back))
    return {
        "hd": float(both.max()),
        "hd95": max(float(np.percentile(there, 95)), float(np.percentile(back, 95))),
        "assd": float(both.sum() / len(both)),
        **{f"nsd{t:g}": float((both <= t).sum() / len(both)) for t in tolerances},
    }


# Pairs of masks with which metrics go wrong.
def difficult_pairs(seed: int = 0) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Pairs of boolean masks, shape (7, 18, 21)."""
    rng = np.random.default_rng(seed)
    shape = (7, 18, 21)

    def empty() -> np.ndarray:
        return np.zeros(shape, dtype=bool)

    def box(*limits: tuple[int, int]) -> np.ndarray:
        mask = empty()
        mask[tuple(slice(*limit) for limit in limits)] = True
        return mask

    def voxel(*index: int) -> np.ndarray:
        mask = empty()
        mask[index] = True
        return mask

    k, j, i = np.indices(shape)
    ball = (k - 3) ** 2 * 4 + (j - 8) ** 2 + (i - 9) ** 2 < 50
    moved = (k - 3) ** 2 * 4 + (j - 9) ** 2 + (i - 12) ** 2 < 40
    return {
        "random, sparse": (rng.random(shape) < 0.05, rng.random(shape) < 0.08),
        "random, dense": (rng.random(shape) < 0.5, rng.random(shape) < 0.6),
        "random, nearly full": (rng.random(shape) < 0.95, rng.random(shape) < 0.97),
        "balls": (ball, moved),
        "equal": (ball, ball.copy()),
        "touching every border": (np.ones(shape, dtype=bool), box((0, 7), (0, 18), (2, 21))),
        "corner": (box((0, 3), (0, 6), (0, 7)), box((0, 2), (0, 8), (0, 5))),
        "far apart": (box((0, 1), (0, 2), (0, 2)), box((6, 7), (15, 18), (18, 21))),
        "single voxels": (voxel(3, 8, 9), voxel(4, 9, 11)),
        "single voxel in a corner": (voxel(0, 0, 0), voxel(6, 17, 20)),
        "thin sheets": (box((3, 4), (2, 15), (3, 18)), box((1, 6), (8, 9), (3, 18))),
        "hollow": (ball & ~moved, ball),
        "empty reference": (empty(), ball),
        "empty prediction": (ball, empty()),
        "both empty": (empty(), empty()),
    }
