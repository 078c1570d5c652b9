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
    """The model's own setting, the best one, and the score of each threshold with the model's post-processing."""

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
        Each makes an image and its truth (bool, shape of the volume). All are kept, with 2 bytes a voxel for what the
        network gave.
    on_image : callable
        Told how many images are done.
    cancel : CancelToken
    """
    own = bundle.manifest.mask_threshold, bundle.manifest.postprocessing
    known: list[tuple[Volume, npt.NDArray[np.bool_], _Recorded]] = []
    scores: dict[tuple[float, Postprocessing], float] = {}

    def score(case: tuple[Volume, npt.NDArray[np.bool_], _Recorded], setting: tuple[float, Postprocessing]) -> float:
        cancel.check()
        volume, truth, recorded = case
        threshold, shape = setting
        options = SegmentOptions(
            threshold=threshold,
            largest_component=shape.largest_component,
            fill_holes=shape.fill_holes,
            min_volume_ml=shape.min_volume_ml,
        )
        found = segment_volume(volume, bundle, recorded, options).array > 0
        recorded.rewind()
        return _score(truth, found)

    def best_of(settings: Sequence[tuple[float, Postprocessing]]) -> tuple[float, Postprocessing]:
        for setting in settings:
            if setting not in scores:
                scores[setting] = float(np.mean([score(case, setting) for case in known]))
        return max(settings, key=lambda setting: scores[setting])

    first = []
    for done, make in enumerate(images, 1):
        known.append((*make(), _Recorded(segmenter)))
        first.append(score(known[-1], own))
        on_image(done)
    scores[own] = float(np.mean(first))
    by_threshold = [(value, own[1]) for value in sorted({*THRESHOLDS, own[0]})]
    threshold, _ = best_of(by_threshold)
    best = best_of([(threshold, shape) for shape in _shapes(own[1])])
    if scores[best] < scores[own] + LEAST_GAIN:
        best = own
    return Tuning(
        Setting(*own, scores[own]),
        Setting(*best, scores[best]),
        {setting[0]: round(scores[setting], 5) for setting in by_threshold},
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
