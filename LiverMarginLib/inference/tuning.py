"""Choosing threshold and post-processing of a slice-wise model on images whose truth is known.

The network runs once for each image; every setting after that only labels and post-processes what it gave.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from LiverMarginLib.events import CancelToken
from LiverMarginLib.inference.options import SegmentOptions
from LiverMarginLib.inference.segmenter import Segmenter
from LiverMarginLib.inference.slicewise import segment_volume
from LiverMarginLib.metrics.overlap import dice
from LiverMarginLib.models.bundle import Bundle
from LiverMarginLib.models.manifest import FillHoles, Postprocessing
from LiverMarginLib.preprocessing import FloatImage
from LiverMarginLib.volume import Volume

THRESHOLDS = (0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7)
LEAST_GAIN = 0.0005
"""Mean Dice by which a setting must be better than the model's own to replace it."""


@dataclass(frozen=True)
class Setting:
    """What is tuned, and what it reaches.

    Parameters
    ----------
    threshold : float
    postprocessing : Postprocessing
    score : float
        Mean Dice over the images; of an image without the organ 1 if nothing is found and 0 otherwise.
    """

    threshold: float
    postprocessing: Postprocessing
    score: float


@dataclass(frozen=True)
class Tuning:
    """The model's own setting, the best one, and the score of each threshold."""

    own: Setting
    best: Setting
    by_threshold: dict[float, float]


class _Recorded:
    """A segmenter that keeps what its network gives for an image, and gives it again."""

    def __init__(self, segmenter: Segmenter) -> None:
        self._segmenter = segmenter
        self.input_size, self.classes = segmenter.input_size, segmenter.classes
        self.device, self.runtime = segmenter.device, segmenter.runtime
        self._kept: list[npt.NDArray[np.float16]] = []
        self._next: int | None = None

    def predict(self, batch: FloatImage) -> FloatImage:
        """See `Segmenter.predict`."""
        if self._next is None:
            probabilities = self._segmenter.predict(batch)
            self._kept.extend(probabilities.astype(np.float16))  # 2e-4 of a probability is beyond any threshold here
            return probabilities
        start, self._next = self._next, self._next + len(batch)
        return np.stack(self._kept[start : self._next]).astype(np.float32)

    def rewind(self) -> None:
        """Give the same again, from the first slice on."""
        self._next = 0


def tune(
    bundle: Bundle,
    segmenter: Segmenter,
    images: Sequence[Callable[[], tuple[Volume, npt.NDArray[np.bool_]]]],
    on_image: Callable[[int], None],
    cancel: CancelToken,
) -> Tuning:
    """Find the threshold, then the post-processing, with the best mean score.

    Parameters
    ----------
    bundle : Bundle
        A slice-wise model that segments.
    segmenter : Segmenter
        Its network.
    images : sequence of callable
        Each makes an image and its truth (bool, shape of the volume); both are let go before the next is made.
    on_image : callable
        Told how many images are done.
    cancel : CancelToken
    """
    own = bundle.manifest.mask_threshold, bundle.manifest.postprocessing
    shapes = _shapes(own[1])
    settings = [(value, shape) for value in sorted({*THRESHOLDS, own[0]}) for shape in shapes]
    scores = np.zeros((len(images), len(settings)))
    for row, make in enumerate(images):
        volume, truth = make()
        recorded = _Recorded(segmenter)
        for column, (threshold, shape) in enumerate(settings):
            cancel.check()
            options = SegmentOptions(
                threshold=threshold,
                largest_component=shape.largest_component,
                fill_holes=shape.fill_holes,
                min_volume_ml=shape.min_volume_ml,
            )
            found = segment_volume(volume, bundle, recorded, options).array > 0
            scores[row, column] = _score(truth, found)
            recorded.rewind()
        on_image(row + 1)
    means = dict(zip(settings, scores.mean(axis=0).tolist(), strict=True))
    best = max(settings, key=lambda setting: means[setting])
    if means[best] < means[own] + LEAST_GAIN:
        best = own
    return Tuning(
        Setting(*own, means[own]),
        Setting(*best, means[best]),
        {value: round(means[value, best[1]], 5) for value, shape in settings if shape == best[1]},
    )


def _shapes(own: Postprocessing) -> list[Postprocessing]:
    """The model's own post-processing and its alternatives; what is not tuned stays."""
    others = [
        replace(own, largest_component=largest, fill_holes=holes)
        for largest in (False, True)
        for holes in (FillHoles.NONE, FillHoles.SLICE)
    ]
    return list(dict.fromkeys([own, *others]))


def _score(truth: npt.NDArray[Any], found: npt.NDArray[Any]) -> float:
    if truth.any():
        return float(dice(truth, found)) if found.any() else 0.0
    return 0.0 if found.any() else 1.0
