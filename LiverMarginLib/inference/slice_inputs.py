"""The slices of a volume as a slice-wise network wants them, made when asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from LiverMarginLib.inference.compatibility import InputPlan
from LiverMarginLib.preprocessing import InPlaneFit, SliceContext


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

    def is_blank(self, index: int) -> bool:
        """Whether nothing in a slice's input reaches above the window's lower end: air, or a scanner's padding.

        All blank slices have the same input to the bit, because windowing clips every such value to the same number.
        So what a network makes of one of them is what it makes of all. (Values that are not numbers do not count.)
        """
        return all(map(self._is_dark, self.channels(index)))

    def _is_dark(self, k: int) -> bool:
        if k not in self._dark:
            self._dark[k] = bool(self.voxels[k].max() <= self.plan.scale.low)
        return self._dark[k]

    def _one(self, index: int) -> npt.NDArray[np.float32]:
        units = (self.plan.apply(self.voxels[k]) for k in self.channels(index))
        return np.stack([self.fit.to_network(unit) for unit in units])
