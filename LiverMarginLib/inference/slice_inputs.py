"""The slices of a volume as a slice-wise network wants them, made when asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from LiverMarginLib.inference.compatibility import InputPlan
from LiverMarginLib.models.row_spans import RowSpans
from LiverMarginLib.preprocessing import FloatImage, InPlaneFit, SliceContext


@dataclass(frozen=True, eq=False)
class SliceInputs:
    """An image and how its slices become a network's input.

    Parameters
    ----------
    voxels : ndarray, shape (k, h, w)
        The axial view of the image.
    plan : InputPlan
    fit : InPlaneFit
    context : SliceContext
        Which slices are given as further channels.
    apart : float or None
        mm from slice to slice; None where nobody knows it.
    """

    voxels: npt.NDArray[Any]
    plan: InputPlan
    fit: InPlaneFit
    context: SliceContext
    apart: float | None
    _dark: dict[int, bool] = field(default_factory=dict, repr=False)

    def batch(self, indices: Sequence[int]) -> npt.NDArray[np.float32]:
        """Inputs of some slices, shape (n, c, network h, network w)."""
        return np.stack([self._one(k) for k in indices])

    def channels(self, index: int) -> list[int]:
        """Which slices are the channels of a slice's input; beyond the ends of the volume the end slices repeat."""
        return self.context.rows(index, len(self.voxels), self.apart)

    @cached_property
    def dark(self) -> FloatImage:
        """The input, shape (network h, network w), that becomes of a slice of air, or of a scanner's padding.

        Windowing clips all that lies below the window to the same number, so that every dark slice gives the same
        input, and dark pixels the same values, to the bit.
        """
        return self.fit.to_network(self.plan.apply(np.full(self.voxels.shape[1:], self.plan.scale.low, np.float32)))

    def body(self, inputs: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
        """Where an organ can be: in each row of an input between the first and the last pixel that is not dark.

        Parameters
        ----------
        inputs : ndarray of float32, shape (n, c, network h, network w)

        Returns
        -------
        ndarray of bool, shape (n, 1, network h, network w)
        """
        bright = (inputs != self.dark).any(axis=1)
        return np.stack([RowSpans.of(one).mask() for one in bright])[:, None]

    def bright(self, slices: range) -> npt.NDArray[np.bool_]:
        """Which pixels, shape (network h, network w), are not dark in the inputs of all of some slices."""
        first, *others = sorted({row for k in slices for row in self.channels(k)})
        highest = self.voxels[first].copy()
        for k in others:
            np.fmax(highest, self.voxels[k], out=highest)
        # Neither windowing nor resampling makes less of more.
        return self.fit.to_network(self.plan.apply(highest)) != self.dark

    def is_blank(self, index: int) -> bool:
        """Whether nothing in a slice's input reaches above the window's lower end, so that no organ can be in it.

        Values that are not numbers do not count.
        """
        return all(map(self._is_dark, self.channels(index)))

    def _is_dark(self, k: int) -> bool:
        if k not in self._dark:
            self._dark[k] = bool(self.voxels[k].max() <= self.plan.scale.low)
        return self._dark[k]

    def _one(self, index: int) -> npt.NDArray[np.float32]:
        units = (self.plan.apply(self.voxels[k]) for k in self.channels(index))
        return np.stack([self.fit.to_network(unit) for unit in units])
