"""From probabilities to labels, in one way for slices, blocks and the validation of a training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from LiverMarginLib.models.architectures import Activation, find_architecture
from LiverMarginLib.models.manifest import Manifest
from LiverMarginLib.preprocessing import InPlaneFit


@dataclass(frozen=True, eq=False)
class SliceLabels:
    """What was found in a slice.

    Parameters
    ----------
    labels : ndarray of uint8, shape (h, w)
    voxels : int
        How many have a label.
    total : float
        Sum of their probabilities to show something that has a label.
    finite : bool
        Whether all that the network gave were numbers.
    """

    labels: npt.NDArray[np.uint8]
    voxels: int
    total: float
    finite: bool = True


class Labelling:
    """Decides which label a voxel gets.

    Independent probabilities (sigmoid): each label from its threshold on, and where several are likely, the later one:
    a tumour in the liver is tumour. Classes that exclude each other (softmax): the likeliest class, background being
    one of them; with a threshold, the likeliest label wherever background is no likelier than one minus the threshold.

    Parameters
    ----------
    values : sequence of int
        The label of each channel.
    exclusive : bool
        Whether the channels are those of a softmax, without its background.
    threshold : float, optional
        Required unless `exclusive`.
    """

    def __init__(self, values: Sequence[int], exclusive: bool, threshold: float | None) -> None:
        self.values = np.array([0, *values], np.uint8)
        self.exclusive = exclusive
        self.threshold = threshold if exclusive or threshold is not None else 0.5

    @classmethod
    def of(cls, manifest: Manifest, threshold: float | None = None) -> Labelling:
        """The labelling of a model, with a threshold that the user may have chosen."""
        exclusive = find_architecture(manifest.architecture).activation is Activation.SOFTMAX
        if threshold is None:
            threshold = manifest.thresholds.get("mask") if exclusive else manifest.mask_threshold
        return cls([segment.label for segment in manifest.labels], exclusive, threshold)

    def __call__(self, probabilities: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
        """Label voxels.

        Parameters
        ----------
        probabilities : ndarray of float32, shape (classes, ...)

        Returns
        -------
        ndarray of uint8, shape (...)
        """
        if self.exclusive:
            likeliest = probabilities.argmax(axis=0)
            found = np.take_along_axis(probabilities, likeliest[None], axis=0)[0]
            something = probabilities.sum(axis=0)
            # Background has what the labels leave; on a tie it stays background.
            chosen = found > 1.0 - something if self.threshold is None else something >= self.threshold
            return np.where(chosen, self.values[likeliest + 1], np.uint8(0))
        labels = np.zeros(probabilities.shape[1:], np.uint8)
        for value, channel in zip(self.values[1:], probabilities, strict=True):
            labels[channel >= self.threshold] = value
        return labels

    def of_slice(self, probabilities: npt.NDArray[np.float32], fit: InPlaneFit) -> SliceLabels:
        """Label a slice on its own grid.

        Parameters
        ----------
        probabilities : ndarray of float32, shape (classes, network h, network w)
        fit : InPlaneFit
            Between the slice and the network's input.
        """
        finite = bool(np.isfinite(probabilities).all())
        found = fit.from_network(probabilities)
        labels = self(found)
        return SliceLabels(labels, *certainty(found, labels, self.exclusive), finite)


class Confidence:
    """How sure a network is of what it found, not how good the boundary is.

    The mean over all labelled voxels of the probability that they show something that has a label.

    Parameters
    ----------
    exclusive : bool
        As for `Labelling`.
    """

    def __init__(self, exclusive: bool = False) -> None:
        self._exclusive = exclusive
        self._slices: list[tuple[int, float]] = []  # number of labelled voxels, and the sum of their probabilities

    def add(self, probabilities: npt.NDArray[np.float32], labels: npt.NDArray[np.uint8]) -> None:
        """Count the voxels of the next slice: probabilities of shape (classes, ...), and their labels, shape (...)."""
        self.add_sum(*certainty(probabilities, labels, self._exclusive))

    def add_sum(self, voxels: int, total: float) -> None:
        """Count the next slice by what `certainty` says of it."""
        self._slices.append((voxels, total))

    @property
    def value(self) -> float | None:
        """Four digits; None if nothing was labelled."""
        return _mean(sum(voxels for voxels, _ in self._slices), sum(total for _, total in self._slices))

    def by_slice(self, planes: npt.NDArray[np.uint8], first: int) -> list[float | None]:
        """The same for each slice of a result.

        Parameters
        ----------
        planes : ndarray of uint8, shape (k, j, i)
            The final labels in the axial view.
        first : int
            Index of the slice that was added first.

        Returns
        -------
        list of float
            One for each slice; None where nothing is labelled in the end.
        """
        values: list[float | None] = [None] * len(planes)
        for k, (voxels, total) in enumerate(self._slices, first):
            if planes[k].any():
                values[k] = _mean(voxels, total)
        return values


def certainty(
    probabilities: npt.NDArray[np.float32], labels: npt.NDArray[np.uint8], exclusive: bool
) -> tuple[int, float]:
    """Return how many voxels have a label, and the sum of their probabilities to show something that has one."""
    found = probabilities[:, labels > 0]
    something = found.sum(axis=0) if exclusive else found.max(axis=0, initial=0.0)
    return found.shape[1], float(something.sum(dtype=np.float64))


def _mean(voxels: int, total: float) -> float | None:
    return round(total / voxels, 4) if voxels else None
