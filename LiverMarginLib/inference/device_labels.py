"""From voxels to packed labels on one device, as torch operations: what `preprocessing` and `labelling` do in numpy.

Windowing and thresholds are the same to the bit; resampling adds up in another order, so that a voxel whose probability
lies within about 1e-7 of the threshold may fall on its other side.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from LiverMarginLib.inference.labelling import Labelling, SliceLabels
from LiverMarginLib.preprocessing import InPlaneFit, Scale

# Of each slice: how many voxels have a label, the sum of their probabilities, and how many values are no numbers.
_FACTS = 3
_BITS = (128, 64, 32, 16, 8, 4, 2, 1)


class DeviceLabels:
    """Windows slices, fits them to a network, calls it, labels what it finds on the slices' own grid, packs it.

    Parameters
    ----------
    network : callable
        Maps float32 images (n, c, network h, network w) to float32 probabilities (n, classes, network h, network w).
    scale : Scale
    fit : InPlaneFit
    labelling : Labelling
    dark : ndarray of float32, shape (network h, network w)
        See `SliceInputs.dark`.
    device : str
    """

    def __init__(
        self,
        network: Callable[[Tensor], Tensor],
        scale: Scale,
        fit: InPlaneFit,
        labelling: Labelling,
        dark: npt.NDArray[np.float32],
        device: str,
    ) -> None:
        self._network = network
        self._scale = scale
        self._labelling = labelling
        self._dark = torch.from_numpy(dark).to(device)
        self._to = _resampling(fit.to_rows, fit.to_columns, device)
        self._back = _resampling(fit.from_rows, fit.from_columns, device)
        self._values = torch.from_numpy(labelling.values).to(device)
        self._bits = torch.tensor(_BITS, dtype=torch.uint8, device=device)
        self.packing = Packing(fit.slice_shape, tuple(int(value) for value in labelling.values[1:]))

    def __call__(self, voxels: Tensor, channels: Tensor | None) -> Tensor:
        """Compute packed labels; nothing here waits for the device.

        Parameters
        ----------
        voxels : Tensor, shape (m, h, w)
            Slices as they are stored, of any real dtype.
        channels : Tensor of int64, shape (n, c), optional
            Which of them are the channels of each image; without it each slice is an image of its own.

        Returns
        -------
        Tensor of uint8, shape (n, packing.size)
            To be read by `Packing.read`.
        """
        units = self._to(scaled(voxels, self._scale))
        inputs = units[:, None] if channels is None else units[channels]
        probabilities = self._network(inputs)
        wrong = (~probabilities.isfinite()).sum(dim=(1, 2, 3), dtype=torch.float64)
        probabilities = self._back(probabilities * self._body(inputs))
        labels = self._label(probabilities)
        inside = labels > 0
        something = probabilities.sum(1) if self._labelling.exclusive else probabilities.amax(1)
        total = torch.where(inside, something, 0.0).sum(dim=(1, 2), dtype=torch.float64)
        facts = torch.stack((inside.sum(dim=(1, 2), dtype=torch.float64), total, wrong), dim=1)
        payload = self._packed_bits(inside) if self.packing.single else labels.flatten(1)
        return torch.cat((facts.view(torch.uint8), payload), dim=1)

    def _body(self, inputs: Tensor) -> Tensor:
        """See `SliceInputs.body`; what the device makes of dark pixels differs in its last digits where it is not 0."""
        bright = (inputs != self._dark).any(1, keepdim=True).to(torch.uint8)
        width = bright.shape[-1]
        columns = torch.arange(width, device=bright.device)
        first, last = bright.argmax(-1, keepdim=True), width - bright.flip(-1).argmax(-1, keepdim=True)
        return (columns >= first) & (columns < last) & (bright.amax(-1, keepdim=True) > 0)

    def _label(self, probabilities: Tensor) -> Tensor:
        """See `Labelling.__call__`; shape (n, classes, h, w) to (n, h, w)."""
        threshold = self._labelling.threshold
        if self._labelling.exclusive:
            found, likeliest = probabilities.max(1)
            something = probabilities.sum(1)
            chosen = found > 1.0 - something if threshold is None else something >= threshold
            return torch.where(chosen, self._values[likeliest + 1], self._values[0])
        assert threshold is not None  # only the classes of a softmax go without one
        labels = self._values[0].expand(len(probabilities), *probabilities.shape[2:])
        for n, value in enumerate(self._values[1:]):
            labels = torch.where(probabilities[:, n] >= threshold, value, labels)
        return labels

    def _packed_bits(self, inside: Tensor) -> Tensor:
        flat = inside.flatten(1).to(torch.uint8)
        eights = F.pad(flat, (0, -flat.shape[1] % 8)).unflatten(1, (-1, 8))
        return (eights * self._bits).sum(-1, dtype=torch.uint8)


@dataclass(frozen=True)
class Packing:
    """How `DeviceLabels` packs a slice: a few facts, then a bit a voxel, or a byte where there are several labels.

    Parameters
    ----------
    shape : tuple of int
        (h, w) of a slice.
    values : tuple of int
        The labels.
    """

    shape: tuple[int, int]
    values: tuple[int, ...]

    @property
    def single(self) -> bool:
        """Whether there is one label only."""
        return len(self.values) == 1

    @property
    def size(self) -> int:
        """Bytes of a slice."""
        voxels = self.shape[0] * self.shape[1]
        return 8 * _FACTS + (-(-voxels // 8) if self.single else voxels)

    def read(self, row: npt.NDArray[np.uint8]) -> SliceLabels:
        """Unpack a slice into memory of its own.

        Parameters
        ----------
        row : ndarray of uint8, shape (size,)
        """
        voxels, total, wrong = row[: 8 * _FACTS].view(np.float64)
        payload = row[8 * _FACTS :]
        if self.single:
            payload = np.unpackbits(payload, count=self.shape[0] * self.shape[1]) * np.uint8(self.values[0])
        else:
            payload = payload.copy()
        return SliceLabels(payload.reshape(self.shape), int(voxels), float(total), finite=not wrong)


def scaled(voxels: Tensor, scale: Scale) -> Tensor:
    """See `Scale.apply`: the same, step by step, rounded in the same places."""
    unit = voxels.to(torch.float32)
    if scale == Scale.unit(scale.low, scale.high):
        unit = ((unit - _single(scale.low)) * _single(1.0 / (scale.high - scale.low))).clamp(0.0, 1.0)
        return torch.where(unit.isnan(), 0.0, unit)
    values = (unit.clamp(_single(scale.low), _single(scale.high)) - _single(scale.shift)) * _single(1.0 / scale.divisor)
    return torch.where(unit.isfinite(), values, _single(scale.padding))


def _single(value: float) -> float:
    return float(np.float32(value))


def _resampling(
    rows: npt.NDArray[np.float32] | None, columns: npt.NDArray[np.float32] | None, device: str
) -> Callable[[Tensor], Tensor]:
    if rows is None or columns is None:
        return lambda images: images
    left, right = torch.from_numpy(rows).to(device), torch.from_numpy(columns.T.copy()).to(device)
    return lambda images: left @ images @ right
