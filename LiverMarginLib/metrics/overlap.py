"""How much two masks have in common: Mask IoU, Dice, precision, recall, specificity, relative volume difference.

Every score is computed from integer counts, so that a slice, a patient and a whole study are scored by the same
code: add the counts up and score the sum ("pooled").

The policy for empty masks is the same everywhere: where both masks are empty a score is nan (there is nothing to
score; such slices are counted as true negatives, never as 1), where exactly one is empty it is 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

BoolArray = npt.NDArray[np.bool_]
CountArray = npt.NDArray[np.int64]
ScoreArray = npt.NDArray[np.float64]


def ratio(numerator: npt.ArrayLike, denominator: npt.ArrayLike) -> ScoreArray:
    """Elementwise quotient as float64; nan where the denominator is 0."""
    top, bottom = np.asarray(numerator, dtype=np.float64), np.asarray(denominator, dtype=np.float64)
    return np.divide(top, bottom, out=np.full(np.broadcast(top, bottom).shape, np.nan), where=bottom != 0)


@dataclass(frozen=True)
class Overlap:
    """Sizes of a reference mask, a predicted mask and their intersection.

    Parameters
    ----------
    reference, prediction, intersection : ndarray of int64
        Numbers of pixels or voxels; one value each (shape ``()``) or one for each slice (shape ``(n,)``).
    """

    reference: CountArray
    prediction: CountArray
    intersection: CountArray

    @property
    def union(self) -> CountArray:
        """|G ∪ P|."""
        return self.reference + self.prediction - self.intersection

    def iou(self) -> ScoreArray:
        """Intersection over union, |G ∩ P| / |G ∪ P| (Jaccard index). Symmetric."""
        return ratio(self.intersection, self.union)

    def dice(self) -> ScoreArray:
        """Dice coefficient, 2 |G ∩ P| / (|G| + |P|); the same as the F1 score of the voxels. Symmetric."""
        return ratio(2 * self.intersection, self.reference + self.prediction)

    def precision(self) -> ScoreArray:
        """Precision (positive predictive value), |G ∩ P| / |P|; 0 where only the prediction is empty."""
        return self._share_of(self.prediction)

    def recall(self) -> ScoreArray:
        """Recall (sensitivity), |G ∩ P| / |G|; 0 where only the reference is empty."""
        return self._share_of(self.reference)

    def relative_volume_difference(self) -> ScoreArray:
        """Signed relative volume difference RVD, (|P| - |G|) / |G|; nan where the reference is empty.

        Positive means that too much was segmented (Heimann et al. 2009, doi 10.1109/TMI.2009.2013851, there in per
        cent; here a fraction).
        """
        return ratio(self.prediction - self.reference, self.reference)

    def sum(self) -> Overlap:
        """Counts added up over the slices."""
        return Overlap(*(np.asarray(c.sum()) for c in (self.reference, self.prediction, self.intersection)))

    def _share_of(self, size: CountArray) -> ScoreArray:
        # Where `size` is 0 the intersection is 0 too, and the policy asks for 0 unless both masks are empty.
        return ratio(self.intersection, np.where(self.union > 0, np.maximum(size, 1), 0))


@dataclass(frozen=True)
class SliceDetection:
    """Which slices show the organ: slices as the unit instead of voxels.

    Parameters
    ----------
    true_positive, false_positive, false_negative, true_negative : int
        Numbers of slices with the organ in both masks, in the prediction only, in the reference only, in neither.
    """

    true_positive: int
    false_positive: int
    false_negative: int
    true_negative: int

    @classmethod
    def from_overlap(cls, overlap: Overlap) -> SliceDetection:
        """Classify each slice by whether the masks are empty in it."""
        reference, prediction = overlap.reference > 0, overlap.prediction > 0
        return cls(
            int(np.count_nonzero(reference & prediction)),
            int(np.count_nonzero(~reference & prediction)),
            int(np.count_nonzero(reference & ~prediction)),
            int(np.count_nonzero(~reference & ~prediction)),
        )

    def __add__(self, other: SliceDetection) -> SliceDetection:
        return SliceDetection(
            self.true_positive + other.true_positive,
            self.false_positive + other.false_positive,
            self.false_negative + other.false_negative,
            self.true_negative + other.true_negative,
        )

    def sensitivity(self) -> float:
        """Share of the reference's slices in which anything was segmented; nan without such slices."""
        return float(ratio(self.true_positive, self.true_positive + self.false_negative))

    def specificity(self) -> float:
        """Share of the slices without the organ that were left empty; nan without such slices."""
        return float(ratio(self.true_negative, self.true_negative + self.false_positive))

    def precision(self) -> float:
        """Share of the segmented slices that show the organ; nan if nothing was segmented."""
        return float(ratio(self.true_positive, self.true_positive + self.false_positive))


def count_overlap(reference: npt.NDArray[np.bool_], prediction: npt.NDArray[np.bool_]) -> Overlap:
    """Count two boolean masks of the same shape, any number of dimensions, as a whole.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    if reference.shape != prediction.shape:
        raise ValueError(f"masks of different shapes {reference.shape} and {prediction.shape}")
    counts = (np.count_nonzero(m) for m in (reference, prediction, reference & prediction))
    return Overlap(*(np.asarray(c, dtype=np.int64) for c in counts))


def mask_iou(reference: BoolArray, prediction: BoolArray) -> float:
    """Mask IoU of two boolean masks; see `Overlap.iou`."""
    return float(count_overlap(reference, prediction).iou())


def dice(reference: BoolArray, prediction: BoolArray) -> float:
    """Dice coefficient of two boolean masks; see `Overlap.dice`."""
    return float(count_overlap(reference, prediction).dice())


def precision(reference: BoolArray, prediction: BoolArray) -> float:
    """Precision of two boolean masks; see `Overlap.precision`."""
    return float(count_overlap(reference, prediction).precision())


def recall(reference: BoolArray, prediction: BoolArray) -> float:
    """Recall of two boolean masks; see `Overlap.recall`."""
    return float(count_overlap(reference, prediction).recall())
