"""Labels of slices, batch after batch, wherever they are made: on the machine or on a device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from LiverMarginLib.inference.labelling import Labelling, SliceLabels
from LiverMarginLib.inference.memory import FrugalPredictor
from LiverMarginLib.inference.segmenter import LabelsOnDevice, Segmenter
from LiverMarginLib.inference.slice_inputs import SliceInputs
from LiverMarginLib.inference.stages import not_numbers


class SliceWay(Protocol):
    """One way from slices to their labels."""

    @property
    def at_a_time(self) -> int:
        """How many batches may be begun before the first one's labels are taken."""

    def begin(self, indices: Sequence[int]) -> Callable[[], Iterable[SliceLabels]]:
        """Begin with some slices; the call that is returned waits for their labels and gives them in order."""


class HostSlices:
    """Prepares slices and labels them on the machine, around any `Segmenter`; see `SliceWay`."""

    # A thread that ran the network while this one labels gains nothing (docs/performance.md), and would see a cancelled
    # run a batch late.
    at_a_time = 1

    def __init__(self, source: SliceInputs, labelling: Labelling, segmenter: Segmenter) -> None:
        self._source = source
        self._labelling = labelling
        self._segmenter = segmenter

    def begin(self, indices: Sequence[int]) -> Callable[[], Iterable[SliceLabels]]:
        """See `SliceWay.begin`: the network has been run then."""
        inputs = self._source.batch(indices)
        probabilities = self._segmenter.predict(inputs) * self._source.body(inputs)
        return lambda: (self._labelling.of_slice(one, self._source.fit) for one in probabilities)


@dataclass(frozen=True, eq=False)
class Begun:
    """A batch that has been begun.

    Parameters
    ----------
    indices : range
        The slices that it answers for.
    labels : callable
        Waits for their labels and gives them in order.
    """

    indices: range
    labels: Callable[[], Iterator[SliceLabels]]


class SliceLabeller:
    """Labels slices by a network, but for those that are nothing but air.

    Parameters
    ----------
    source : SliceInputs
    predictor : FrugalPredictor
    labelling : Labelling
    name : str
        Of the model, for messages.
    """

    def __init__(self, source: SliceInputs, predictor: FrugalPredictor, labelling: Labelling, name: str) -> None:
        self._source = source
        self._predictor = predictor
        self._labelling = labelling
        self._name = name
        self._segmenter: Segmenter | None = None
        self._way: SliceWay | None = None

    @property
    def at_a_time(self) -> int:
        """See `SliceWay`."""
        return 1 if self._way is None else self._way.at_a_time

    def begin(self, slices: range) -> Begun:
        """Begin with the first of some slices, as many as memory allows.

        Batches are to be finished in the order in which they were begun.

        Raises
        ------
        BundleError
            If the network cannot be run; also when the labels are taken, if it gave values that are not numbers.
        ResourceError
            If memory does not suffice for a single slice.
        """
        slices = slices[: self._predictor.batch_size]
        wanted = [k for k in slices if not self._source.is_blank(k)]
        begun, take = self._predictor.attempt(lambda segmenter, most: self._begin(segmenter, wanted[:most]))
        if len(begun) < len(wanted):
            slices = range(slices.start, wanted[len(begun)])
        return Begun(slices, lambda: self._labels(slices, set(begun), take()))

    def _begin(self, segmenter: Segmenter, indices: list[int]) -> tuple[list[int], Callable[[], Iterable[SliceLabels]]]:
        if not indices:  # nothing but air
            return indices, list
        return indices, self._way_of(segmenter).begin(indices)

    def _way_of(self, segmenter: Segmenter) -> SliceWay:
        """Let a segmenter label on its device if it can; short memory may have made it another one than the last."""
        if self._way is None or segmenter is not self._segmenter:
            way: SliceWay | None = None
            if isinstance(segmenter, LabelsOnDevice):
                way = segmenter.slices_on_device(self._source, self._labelling, self._predictor.batch_size)
            self._way, self._segmenter = way or HostSlices(self._source, self._labelling, segmenter), segmenter
        return self._way

    def _labels(self, slices: range, begun: set[int], found: Iterable[SliceLabels]) -> Iterator[SliceLabels]:
        coming = iter(found)
        for k in slices:
            labels = (
                next(coming) if k in begun else SliceLabels(np.zeros(self._source.fit.slice_shape, np.uint8), 0, 0.0)
            )
            if not labels.finite:
                raise not_numbers(self._name, self._predictor.segmenter)
            yield labels
