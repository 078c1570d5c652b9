"""Smooth random scalar fields on a grid: uniform cubic B-splines with random coefficients.

A field is a function of position, not of the grid it is sampled on, so that a volume made slab by slab, or at another
resolution, shows the same patient. Sampling is three small matrix products.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from LiverMarginLib.phantom.fields import FloatArray


def _basis(positions: npt.NDArray[np.float64], low: float, step: float, count: int) -> FloatArray:
    """Weights of `count` control points at each position, shape (positions, count)."""
    t = (positions - low) / step
    return _kernel(np.abs(t[:, None] - np.arange(count)[None, :])).astype(np.float32)


def _kernel(distance: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The uniform cubic B-spline at a distance counted in steps."""
    near = 2.0 / 3.0 - distance**2 + 0.5 * distance**3
    far = np.clip(2.0 - distance, 0, None) ** 3 / 6.0
    return np.where(distance < 1, near, far)


@dataclass(frozen=True)
class SplineField:
    """A random field with about unit standard deviation and features of about `step` mm.

    Parameters
    ----------
    coefficients : ndarray of float32, shape (nz, ny, nx)
    low : tuple of float
        Position in mm of the first control point, (z, y, x).
    step : float
        Distance of control points in mm.
    """

    coefficients: FloatArray
    low: tuple[float, float, float]
    step: float

    @classmethod
    def draw(
        cls, rng: np.random.Generator, low: tuple[float, float, float], high: tuple[float, float, float], step: float
    ) -> SplineField:
        """Draw a field that covers the box from `low` to `high` (z, y, x), in mm."""
        counts = [int(np.ceil((h - lo) / step)) + 4 for lo, h in zip(low, high, strict=True)]
        # A cubic B-spline of white noise keeps 0.479 of the variance on each axis.
        values = rng.standard_normal(counts, dtype=np.float32) / np.float32(0.479**1.5)
        return cls(values, (low[0] - step, low[1] - step, low[2] - step), step)

    def sample(self, z: npt.NDArray[np.float64], y: npt.NDArray[np.float64], x: npt.NDArray[np.float64]) -> FloatArray:
        """Values on the grid spanned by three axes of positions in mm, shape (len(z), len(y), len(x))."""
        nz, ny, nx = self.coefficients.shape
        wz, wy, wx = (_basis(p, lo, self.step, n) for p, lo, n in zip((z, y, x), self.low, (nz, ny, nx), strict=True))
        c = np.tensordot(wz, self.coefficients, axes=(1, 0))  # z first: slabs are thin
        c = np.matmul(wy, c)
        return np.ascontiguousarray(np.matmul(c, wx.T), dtype=np.float32)


def sample_at(fields: Sequence[SplineField], points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Values of fields that share one lattice at single points.

    Parameters
    ----------
    fields : sequence of SplineField
        All with the same `low`, `step` and number of coefficients.
    points : ndarray, shape (n, 3)
        Positions in mm, (x, y, z).

    Returns
    -------
    ndarray of float64, shape (n, len(fields))
    """
    first = fields[0]
    index, weight = [], []
    for axis, low, count in zip((2, 1, 0), first.low, first.coefficients.shape, strict=True):
        t = np.clip((points[:, axis] - low) / first.step, 1, count - 2.001)
        nodes = (np.floor(t).astype(np.intp) - 1)[:, None] + np.arange(4)
        index.append(np.clip(nodes, 0, count - 1))
        weight.append(_kernel(np.abs(t[:, None] - nodes)))
    where = (index[0][:, :, None, None], index[1][:, None, :, None], index[2][:, None, None, :])
    product = weight[0][:, :, None, None] * weight[1][:, None, :, None] * weight[2][:, None, None, :]
    return np.stack([(field.coefficients[where] * product).sum(axis=(1, 2, 3)) for field in fields], axis=1)
