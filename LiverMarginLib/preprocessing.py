"""From voxels to a slice-wise network's input, and from its probabilities back; intensities for all networks.

Training and inference use the same functions, so that a network sees in use what it saw in training.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from scipy.sparse import csr_array

FloatImage = npt.NDArray[np.float32]
_Weights: TypeAlias = "tuple[csr_array, csr_array]"

MOST_CONTEXT = 8
"""Neighbours on either side beyond which a network's input would be a block of voxels rather than a slice."""


def window_to_unit(image: npt.NDArray[Any], low: float, high: float) -> FloatImage:
    """Map intensities linearly so that `low` becomes 0 and `high` 1, and clip to [0, 1].

    Parameters
    ----------
    image : ndarray
        Any shape and real dtype; not changed.
    low, high : float
        In the units of `image`, ``low < high``.

    Returns
    -------
    ndarray of float32, same shape, C-contiguous
        Values that are not numbers become 0, like air.
    """
    # A copy in one memory order, whatever the input's, so that the same slice always gives the same bits.
    unit = np.array(image, dtype=np.float32, order="C")
    unit -= np.float32(low)
    unit *= np.float32(1.0 / (high - low))
    np.clip(unit, 0.0, 1.0, out=unit)
    unit[np.isnan(unit)] = 0.0
    return unit


@dataclass(frozen=True)
class Scale:
    """What becomes of intensities: clipped to [low, high], less `shift`, divided by `divisor`.

    Parameters
    ----------
    low, high : float
        Infinite where nothing is clipped.
    shift, divisor : float
    """

    low: float
    high: float
    shift: float
    divisor: float

    @classmethod
    def unit(cls, low: float, high: float) -> Scale:
        """The window becomes [0, 1]."""
        return cls(low, high, low, high - low)

    @property
    def padding(self) -> float:
        """The network input that stands for what lies outside of the image: the darkest one, or 0 as it is."""
        return (self.low - self.shift) / self.divisor if np.isfinite(self.low) else 0.0

    def apply(self, image: npt.NDArray[Any]) -> FloatImage:
        """Make network inputs of intensities, of the same shape; values that are not numbers become the padding."""
        if self == Scale.unit(self.low, self.high):
            return window_to_unit(image, self.low, self.high)
        scaled = np.array(image, dtype=np.float32, order="C")
        missing = ~np.isfinite(scaled) if scaled.size and not np.isfinite(scaled.sum()) else None
        np.clip(scaled, self.low, self.high, out=scaled)
        scaled -= np.float32(self.shift)
        scaled *= np.float32(1.0 / self.divisor)
        if missing is not None:
            scaled[missing] = self.padding
        return scaled


@dataclass(frozen=True)
class SliceContext:
    """Which slices a slice-wise network sees beside the one that it segments.

    Parameters
    ----------
    slices : int
        How many on either side.
    mm : float, optional
        Distance of each to the one before it; None for slices that follow each other, however far apart they are.
    """

    slices: int = 0
    mm: float | None = None

    @property
    def channels(self) -> int:
        """Number of slices that are seen together."""
        return 1 + 2 * self.slices

    def rows(self, index: int, depth: int, spacing: float | None) -> list[int]:
        """Find the slices of a volume that are seen with slice `index`, lowest first, it being in the middle.

        Of the slices that lie as far away as wanted the nearest is taken, never the slice itself or the same one twice,
        and nothing is interpolated: the mean of two slices has less noise than a slice, so that a network would see by
        the texture where its input comes from. Beyond the ends of the volume the end slices are repeated.

        Parameters
        ----------
        index : int
        depth : int
            Number of slices of the volume.
        spacing : float, optional
            mm from slice to slice; None where nobody knows it, and slices that follow each other are taken.

        Returns
        -------
        list of int, of length `channels`
        """
        # Spacings come out of a matrix and differ in their last digits between orientations of the same image.
        apart = None if self.mm is None or spacing is None else self.mm / float(f"{spacing:.6g}")
        steps = [n if apart is None else max(n, math.floor(n * apart + 0.5)) for n in range(1, self.slices + 1)]
        wanted = [index - step for step in reversed(steps)] + [index] + [index + step for step in steps]
        return [min(max(row, 0), depth - 1) for row in wanted]


@dataclass(frozen=True, eq=False)
class InPlaneFit:
    """The mapping between a slice and the network's input, a physically true field with square pixels.

    A slice that has the network's size and square pixels goes through unchanged, bit for bit. Any other is scaled
    evenly in millimetres until it fits, and centred; what lies outside it is 0. Resampling is separable and linear
    with half-pixel centres; where it reduces resolution, the kernel is widened to the coarser pixel (anti-aliasing).

    Build it with `fit_in_plane`.

    Parameters
    ----------
    slice_shape, network_shape : tuple of int
        (h, w) on either side.
    to_rows, to_columns : ndarray of float32 or None
        Weights of shapes (network h, slice h) and (network w, slice w); None for the identity.
    from_rows, from_columns : ndarray of float32 or None
        Weights of the way back, shapes (slice h, network h) and (slice w, network w).
    """

    slice_shape: tuple[int, int]
    network_shape: tuple[int, int]
    to_rows: FloatImage | None
    to_columns: FloatImage | None
    from_rows: FloatImage | None
    from_columns: FloatImage | None

    @property
    def is_identity(self) -> bool:
        """Whether slices go through unchanged."""
        return self.to_rows is None

    def to_network(self, image: FloatImage) -> FloatImage:
        """Resample slices to the network's input.

        Parameters
        ----------
        image : ndarray of float32, shape (..., h, w)
            Windowed to [0, 1].

        Returns
        -------
        ndarray of float32, shape (..., network h, network w)
            `image` itself for the identity.
        """
        return image if self._to is None else _resampled(image, *self._to)

    def from_network(self, probabilities: FloatImage) -> FloatImage:
        """Resample probabilities to the slice's own grid, to be thresholded there.

        Parameters
        ----------
        probabilities : ndarray of float32, shape (..., network h, network w)

        Returns
        -------
        ndarray of float32, shape (..., h, w)
            `probabilities` itself for the identity.
        """
        return probabilities if self._from is None else _resampled(probabilities, *self._from)

    @cached_property
    def _to(self) -> _Weights | None:
        return _sparse(self.to_rows, self.to_columns)

    @cached_property
    def _from(self) -> _Weights | None:
        return _sparse(self.from_rows, self.from_columns)


def _sparse(rows: FloatImage | None, columns: FloatImage | None) -> _Weights | None:
    """Keep of the weights the two to four in each row that are not 0: a full product is hundreds of times the work."""
    from scipy.sparse import csr_array

    return None if rows is None or columns is None else (csr_array(rows), csr_array(columns))


def _resampled(images: FloatImage, rows: csr_array, columns: csr_array) -> FloatImage:
    resampled = np.empty((*images.shape[:-2], rows.shape[0], columns.shape[0]), np.float32)
    for index in np.ndindex(images.shape[:-2]):
        resampled[index] = (columns @ (rows @ images[index]).T).T
    return resampled


def fit_in_plane(
    slice_shape: tuple[int, int], spacing: tuple[float, float], network_shape: tuple[int, int]
) -> InPlaneFit:
    """Find how slices go into a network's input.

    Parameters
    ----------
    slice_shape : tuple of int
        (h, w) of the slices in pixels.
    spacing : tuple of float
        Pixel spacing (rows apart, columns apart) in mm; only their ratio matters.
    network_shape : tuple of int
        (h, w) of the network's input.

    Returns
    -------
    InPlaneFit
    """
    # Spacings come out of a matrix and differ in their last digits between orientations of the same image.
    down, across = (float(f"{s:.6g}") for s in spacing)
    if slice_shape == network_shape and down == across:
        return InPlaneFit(slice_shape, network_shape, None, None, None, None)
    (h, w), (rows, columns) = slice_shape, network_shape
    pixel = max(h * down / rows, w * across / columns)
    return InPlaneFit(
        slice_shape,
        network_shape,
        to_rows=resampling_weights(rows, h, pixel / down),
        to_columns=resampling_weights(columns, w, pixel / across),
        from_rows=resampling_weights(h, rows, down / pixel),
        from_columns=resampling_weights(w, columns, across / pixel),
    )


def resampling_weights(n_out: int, n_in: int, step: float) -> FloatImage:
    """Weights that resample a line of `n_in` samples to `n_out`, both centred on the same point.

    Parameters
    ----------
    n_out, n_in : int
        Number of samples.
    step : float
        Distance of two output samples in input samples.

    Returns
    -------
    ndarray of float32, shape (n_out, n_in)
        Each row adds up to 1, or to 0 where the output sample lies outside the input's extent. The kernel is a
        triangle of half-width ``max(1, step)`` input samples.
    """
    centres = (np.arange(n_out) + 0.5 - n_out / 2) * step + n_in / 2 - 0.5
    width = max(1.0, step)
    weights = np.maximum(0.0, 1.0 - np.abs(np.arange(n_in) - centres[:, None]) / width)
    inside = (centres >= -0.5 - 1e-9) & (centres <= n_in - 0.5 + 1e-9)
    weights /= weights.sum(axis=1, keepdims=True).clip(min=1e-12)
    weights[~inside] = 0.0
    return weights.astype(np.float32)
