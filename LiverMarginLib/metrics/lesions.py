"""Detection of single lesions: which connected pieces of the reference and of the prediction match.

A lesion is a 26-connected piece of a 3-D mask. Pieces of the reference and of the prediction are matched one to one
where their IoU reaches a threshold, so that as many as possible are matched and, among those matchings, their IoU
summed up is the largest (optimal assignment, as Metrics Reloaded recommends for detection: Maier-Hein et al. 2024, doi
10.1038/s41592-023-02151-z). Lesion-wise recall and precision at an IoU of one half are those of the LiTS challenge
(Bilic et al. 2023, doi 10.1016/j.media.2022.102680); from one half on no piece can match two.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.optimize import linear_sum_assignment

from LiverMarginLib.metrics.overlap import BoolArray

FloatArray = npt.NDArray[np.float64]

_CORNERS_TOUCH = np.ones((3, 3, 3), dtype=bool)
# More than all IoU of a matching can add up to, so that no number of good matches outweighs one match more.
_MATCH = 1e6


@dataclass(frozen=True)
class LesionDetection:
    """How many lesions were found.

    Parameters
    ----------
    matched, reference, prediction : int
        Number of matched pairs, and of lesions in either mask.
    """

    matched: int
    reference: int
    prediction: int

    @property
    def recall(self) -> float:
        """Share of the reference's lesions that were found; nan if there are none."""
        return self.matched / self.reference if self.reference else float("nan")

    @property
    def precision(self) -> float:
        """Share of the predicted lesions that are lesions; nan if there are none."""
        return self.matched / self.prediction if self.prediction else float("nan")


@dataclass(frozen=True, eq=False)
class LesionOverlaps:
    """IoU of every lesion of the reference with every predicted one.

    Parameters
    ----------
    iou : ndarray of float64, shape (lesions of the reference, predicted lesions)
    """

    iou: FloatArray

    def detection(self, threshold: float) -> LesionDetection:
        """Match the lesions whose IoU is at least `threshold`, which lies in (0, 1]."""
        allowed = self.iou >= threshold
        rows, columns = linear_sum_assignment(np.where(allowed, _MATCH + self.iou, 0.0), maximize=True)
        return LesionDetection(int(allowed[rows, columns].sum()), *self.iou.shape)


def lesion_overlaps(reference: BoolArray, prediction: BoolArray) -> LesionOverlaps:
    """Find the lesions of two masks and how much they overlap.

    Parameters
    ----------
    reference, prediction : ndarray of bool, shape (k, j, i)
        On the same grid.

    Returns
    -------
    LesionOverlaps

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    if reference.shape != prediction.shape:
        raise ValueError("reference and prediction have different shapes")
    box = ndimage.find_objects((reference | prediction).astype(np.uint8))
    part = box[0] if box else (slice(0),) * 3
    first, n_first = ndimage.label(reference[part], structure=_CORNERS_TOUCH)
    second, n_second = ndimage.label(prediction[part], structure=_CORNERS_TOUCH)
    pairs = np.bincount(
        (first.astype(np.int64) * (n_second + 1) + second).ravel(), minlength=(n_first + 1) * (n_second + 1)
    )
    common = pairs.reshape(n_first + 1, n_second + 1)
    sizes = common.sum(axis=1)[1:, None] + common.sum(axis=0)[None, 1:]
    both = common[1:, 1:]
    return LesionOverlaps(both / np.maximum(sizes - both, 1))
