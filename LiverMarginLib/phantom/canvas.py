"""The grid that organs are painted on, and the rule by which they displace each other.

Each voxel holds at most two materials and the share of the first: enough for exact labels at voxel centres, for the
partial volume at their borders, and for drawing any number of contrast phases from one anatomy.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from LiverMarginLib.phantom.fields import FloatArray, smooth_max
from LiverMarginLib.phantom.organs import Organ
from LiverMarginLib.phantom.splines import SplineField, sample_at
from LiverMarginLib.phantom.tissues import Tissue

Box = tuple[slice, slice, slice]
Organs = tuple[int, ...]
FAR = 60.0  # mm; the clearance of a place where nothing has been painted yet


@dataclass(frozen=True)
class Material:
    """Something with one mean intensity: a tissue, the organ it belongs to, and how it differs from its kind.

    `shade` counts standard deviations of the tissue's spread, so that two bowel loops or lesions may differ.
    """

    tissue: Tissue
    organ: int
    shade: float = 0.0


@dataclass
class Palette:
    """The materials of one anatomy, by number; number 0 is the air around the patient."""

    materials: list[Material] = field(default_factory=lambda: [Material(Tissue.AIR, 0)])

    def add(self, tissue: Tissue, organ: int, shade: float = 0.0) -> int:
        """Return the number of this material, registering it if it is new."""
        material = Material(tissue, int(organ), float(shade))
        if material in self.materials:
            return self.materials.index(material)
        if len(self.materials) > 255:
            raise ValueError("an anatomy has at most 255 materials")
        self.materials.append(material)
        return len(self.materials) - 1

    def select(self, organs: Organs) -> npt.NDArray[np.bool_]:
        """Boolean table, shape (256,), of the materials registered so far that belong to `organs`."""
        table = np.zeros(256, dtype=bool)
        table[: len(self.materials)] = [material.organ in organs for material in self.materials]
        return table


@dataclass(frozen=True)
class Placement:
    """Where the grid lies in the standard patient: an affine map and a smooth bounded warp.

    Parameters
    ----------
    matrix : ndarray, shape (3, 3)
        Grid millimetres (x left, y posterior, z superior, about the grid's centre) to standard ones.
    origin : ndarray, shape (3,)
        Standard position of the grid's centre, mm.
    warp : tuple of SplineField
        Displacement along x, y and z as functions of grid millimetres.
    amplitude : ndarray, shape (3,)
        Standard deviation of the displacement in mm.
    """

    matrix: npt.NDArray[np.float64]
    origin: npt.NDArray[np.float64]
    warp: tuple[SplineField, SplineField, SplineField]
    amplitude: npt.NDArray[np.float64]

    def to_grid(self, points: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Grid millimetres (x, y, z) of standard points, shape (n, 3), by fixed-point iteration."""
        target = np.atleast_2d(np.asarray(points, dtype=np.float64)) - self.origin
        inverse = np.linalg.inv(self.matrix)
        grid = target @ inverse.T
        for _ in range(2):
            shift = sample_at(self.warp, grid) * self.amplitude
            grid = (target - shift) @ inverse.T
        return grid


class Canvas:
    """A slab of the grid: standard coordinates of its voxels, the materials painted so far, and the free room.

    Parameters
    ----------
    axes : tuple of ndarray
        Grid millimetres of the voxel centres along (k, j, i).
    placement : Placement
    noise : dict of int to SplineField
        Shape noise by feature size in mm, functions of grid millimetres.
    palette : Palette
    detail : bool
        Whether thin tubes are painted; a first coarse look does without.

    Attributes
    ----------
    x, y, z : ndarray of float32, shape (k, j, i)
        Standard millimetres.
    first, second : ndarray of uint8
        Materials; `first` is the one at the voxel's centre.
    share : ndarray of float32
        Part of the voxel that `first` fills, 0.5 to 1.
    clearance : ndarray of float32
        Distance in mm to what has been painted as solid; negative inside.
    """

    def __init__(
        self,
        axes: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]],
        placement: Placement,
        noise: dict[int, SplineField],
        palette: Palette,
        detail: bool = True,
    ) -> None:
        self.axes = axes
        self.placement = placement
        self.palette = palette
        self._noise_fields = noise
        self._noise: dict[int, FloatArray] = {}
        zg, yg, xg = (
            np.asarray(a, dtype=np.float32).reshape(s)
            for a, s in zip(axes, ((-1, 1, 1), (1, -1, 1), (1, 1, -1)), strict=True)
        )
        coordinates = []
        for row, origin, warp, amplitude in zip(
            placement.matrix.astype(np.float32), placement.origin, placement.warp, placement.amplitude, strict=True
        ):
            values = warp.sample(*axes)
            values *= np.float32(amplitude)
            values += (row[1] * yg + row[2] * zg + np.float32(origin)) + row[0] * xg
            coordinates.append(values)
        self.x, self.y, self.z = coordinates
        shape = self.x.shape
        self.shape = shape
        self.detail = detail
        self.voxel = sum(float(a[1] - a[0]) if len(a) > 1 else 0.0 for a in axes)
        self.first = np.zeros(shape, dtype=np.uint8)
        self.second = np.zeros(shape, dtype=np.uint8)
        self.share = np.ones(shape, dtype=np.float32)
        self.clearance = np.full(shape, FAR, dtype=np.float32)
        self.fields: dict[str, FloatArray] = {}

    def noise(self, size: int, box: Box = (slice(None), slice(None), slice(None))) -> FloatArray:
        """Shape noise of unit standard deviation with features of `size` mm, within `box`."""
        if size not in self._noise:
            self._noise[size] = self._noise_fields[size].sample(*self.axes)
        return self._noise[size][box]

    def box(self, low: npt.ArrayLike, high: npt.ArrayLike, pad: float = 8.0) -> Box | None:
        """Part of the slab that may hold standard positions from `low` to `high` (x, y, z); None if there is none."""
        ends = np.stack([np.asarray(low, dtype=float), np.asarray(high, dtype=float)])
        corners = np.array([(ends[a, 0], ends[b, 1], ends[c, 2]) for a in (0, 1) for b in (0, 1) for c in (0, 1)])
        return self.box_of_grid(self.placement.to_grid(corners), pad)

    def box_of_grid(self, points: npt.NDArray[np.float64], pad: float) -> Box | None:
        """The same for points in grid millimetres."""
        slices = []
        for axis, low, high in zip(self.axes, points.min(axis=0)[::-1], points.max(axis=0)[::-1], strict=True):
            start, stop = np.searchsorted(axis, (low - pad, high + pad))
            if start >= stop:
                return None
            slices.append(slice(int(start), int(stop)))
        return slices[0], slices[1], slices[2]

    def at(self, box: Box) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Standard coordinates (x, y, z) of the voxels in `box`."""
        return self.x[box], self.y[box], self.z[box]

    def avoid(self, distance: FloatArray, box: Box, gap: float = 0.5, width: float = 4.0) -> FloatArray:
        """Push a field back from what is already painted, leaving `gap` mm."""
        return smooth_max(distance, np.float32(gap) - self.clearance[box], width)

    def paint(
        self,
        material: int,
        distance: FloatArray,
        box: Box,
        over: Organs | None = None,
        solid: bool = True,
        margin: float = 0.0,
    ) -> None:
        """Fill the inside of a field with a material, with partial volume at its surface.

        The covered part of a voxel is that of a half-space with the field's local slope: ``0.5 - d / w`` where w
        is the range of d across the voxel. Thick slices thus blur shallow surfaces and leave steep ones sharp.

        Parameters
        ----------
        material : int
            Number in the palette.
        distance : ndarray of float32
            Field on `box`, negative inside; any units.
        box : tuple of slice
        over : tuple of Organ, optional
            What may be painted over (0 is the air outside); everything when None.
        solid : bool
            Whether later organs must stay clear of this one (the field is then in mm).
        margin : float
            How far in mm they must stay, beyond the gap that each keeps: fat that belongs to this organ.
        """
        if solid:
            np.minimum(self.clearance[box], distance - np.float32(margin), out=self.clearance[box])
        # Fields rise by about 1 per mm, so only voxels this near to the surface can be partly covered.
        limit = np.float32(0.75 * self.voxel)
        first, second, share = self.first[box], self.second[box], self.share[box]
        inside = distance < -limit
        allowed = None if over is None else self.palette.select(over)
        if allowed is not None:
            inside &= allowed[first]
        np.copyto(first, np.uint8(material), where=inside)
        np.copyto(share, np.float32(1), where=inside)

        near = np.abs(distance) <= limit
        if allowed is not None:
            near &= allowed[first]
        where = np.nonzero(near)
        if not where[0].size:
            return
        reach = _range_across_voxels(distance, where)
        covered = np.clip(np.float32(0.5) - distance[where] / np.maximum(reach, np.float32(1e-4)), 0, 1)
        old, old_share = first[where], share[where]
        old_second = second[where]
        loose = self.palette.select((Organ.VISCERAL_FAT,))
        same = old == material
        takes = (covered > 0.5) & ~same
        # Where two organs meet, the rest of the voxel is the other organ, not the fat that was there before both.
        meets = takes & loose[old] & ~loose[old_second] & (old_share < 0.85)
        fills = ~takes & ~same & loose[old_second] & (covered > 0.4 * (1 - old_share))
        touches = ~takes & ~same & ~fills & (covered > 1 - old_share)
        first[where] = np.where(takes, np.uint8(material), old)
        second[where] = np.where(takes & ~meets, old, np.where(touches | fills, np.uint8(material), old_second))
        share[where] = np.where(
            takes, covered, np.where(touches, 1 - covered, np.where(same, np.maximum(old_share, covered), old_share))
        )


def _range_across_voxels(distance: FloatArray, where: tuple[npt.NDArray[np.intp], ...]) -> FloatArray:
    """Sum over the axes of the field's mean absolute difference to both neighbours, at some voxels."""
    here = distance[where]
    total = np.zeros_like(here)
    for axis, n in enumerate(distance.shape):
        if n < 2:
            continue
        steps = []
        for sign in (-1, 1):
            neighbour = list(where)
            neighbour[axis] = np.clip(where[axis] + sign, 0, n - 1)
            steps.append(np.abs(distance[tuple(neighbour)] - here))
        # At the box's edge the step to the outside reads 0: take the other one twice.
        edge = (where[axis] == 0) | (where[axis] == n - 1)
        total += np.where(edge, np.float32(1), np.float32(0.5)) * (steps[0] + steps[1])
    return total
