"""The organs of a real label map as smooth distances, so that they can be moved, bent and painted like drawn ones."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from LiverMarginLib.errors import InputError
from LiverMarginLib.phantom.fields import FloatArray
from LiverMarginLib.phantom.organs import Organ
from LiverMarginLib.volume import LabelMap, axial_view

_MARGIN = 12.0  # mm around an organ in which its distance is known
_STEP = 2.0  # mm; finer maps are thinned, because the smoothed distance has no finer detail
_SMOOTHING = (3.0, 1.2, 1.2)  # mm along (z, y, x): slices are thick, and labelled one by one
_FEWEST = 30  # voxels; less of an organ is a slip of the pen
_CLOSING = 1.5  # how fast an organ that the map cuts off closes beyond the cut, mm a mm


@dataclass(frozen=True, eq=False)
class DonorOrgan:
    """One organ: the signed distance to its surface in mm, negative inside, on a grid around it.

    Parameters
    ----------
    distance : ndarray of float32, shape (k, j, i)
    low : ndarray, shape (3,)
        Position (x, y, z) of the first voxel's centre in mm: x to the left, y to the back, z up.
    step : ndarray, shape (3,)
        Distance of voxels in mm, (x, y, z).
    centre : ndarray, shape (3,)
        Of the organ's voxels.
    bounds : ndarray, shape (2, 3)
        Lowest and highest position of its voxels.
    cut : tuple of float
        Heights (z) of its lowest and highest slice where the map ends within the organ, and -inf and inf otherwise.
    """

    distance: FloatArray
    low: npt.NDArray[np.float64]
    step: npt.NDArray[np.float64]
    centre: npt.NDArray[np.float64]
    bounds: npt.NDArray[np.float64]
    cut: tuple[float, float]

    @property
    def top(self) -> float:
        """Height up to which it reaches in mm, what closes a cut included."""
        if not np.isfinite(self.cut[1]):
            return float(self.bounds[1, 2])
        last = min(len(self.distance) - 1, round((self.cut[1] - self.low[2]) / self.step[2]))
        return float(self.cut[1] - self.distance[last].min() / _CLOSING)

    def at(self, x: FloatArray, y: FloatArray, z: FloatArray, *, closing: bool) -> FloatArray:
        """Distance at some positions.

        Parameters
        ----------
        x, y, z : ndarray of float32
            Positions in mm, all of one shape.
        closing : bool
            Whether the organ ends in a dome where the map cuts it off; it goes on straight otherwise.
        """
        kept = np.clip(z, *self.cut)
        places = [
            (values - np.float32(low)) / np.float32(step)
            for values, low, step in zip((kept, y, x), self.low[::-1], self.step[::-1], strict=True)
        ]
        distance = ndimage.map_coordinates(self.distance, places, order=1, mode="nearest", output=np.float32)
        if closing:
            distance += np.float32(_CLOSING) * np.abs(z - kept)
        return np.asarray(distance, dtype=np.float32)


@dataclass(frozen=True, eq=False)
class Donor:
    """The organs of one person.

    Parameters
    ----------
    organs : mapping of Organ to DonorOrgan
    fingerprint : str
        SHA-256 of labels, names and geometry.
    """

    organs: Mapping[Organ, DonorOrgan]
    fingerprint: str

    @classmethod
    def from_labels(cls, labels: LabelMap, names: Mapping[int, Organ]) -> Donor:
        """Take the organs out of a label map.

        Parameters
        ----------
        labels : LabelMap
            In any axis order; a slightly oblique one is taken as straight.
        names : mapping of int to Organ
            What its values mean; those not named are left out.

        Returns
        -------
        Donor

        Raises
        ------
        InputError
            If there is no liver in it.
        """
        view = axial_view(labels.geometry)
        array = view.to_view(labels.array)
        spacing = np.array(view.geometry.spacing)
        organs = {}
        for organ in dict.fromkeys(names.values()):
            values = [value for value, named in names.items() if named is organ]
            found = _take(np.isin(array, values), spacing)
            if found is not None:
                organs[organ] = found
        if Organ.LIVER not in organs:
            raise InputError("There is no liver in this label map; check which value the liver has.")
        digest = hashlib.sha256(repr((sorted(names.items()), array.shape, spacing.tolist())).encode())
        digest.update(np.ascontiguousarray(array).tobytes())
        return cls(organs, digest.hexdigest())


def _take(mask: npt.NDArray[np.bool_], spacing: npt.NDArray[np.float64]) -> DonorOrgan | None:
    """Make an organ of a mask in the axial view; None if there is next to nothing of it."""
    where = np.argwhere(mask)
    if len(where) < _FEWEST:
        return None
    first, last = where.min(axis=0), where.max(axis=0)
    pad = np.ceil(_MARGIN / spacing).astype(int)
    start, stop = np.maximum(first - pad, 0), np.minimum(last + pad + 1, mask.shape)
    part = mask[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]
    # A voxel's own half belongs to it: without it the surface would lie at the centres of the outermost voxels.
    half = 0.5 * float(spacing[1:].mean())
    inside, outside = (ndimage.distance_transform_edt(m, sampling=spacing) for m in (part, ~part))
    distance = np.where(part, half - inside, outside - half)
    distance = ndimage.gaussian_filter(distance, np.array(_SMOOTHING) / spacing, mode="nearest")
    thinning = np.maximum(1, (_STEP / spacing).astype(int))
    distance = distance[tuple(slice(None, None, step) for step in thinning)]
    heights = first[0] * spacing[0], last[0] * spacing[0]
    return DonorOrgan(
        distance=np.ascontiguousarray(distance, dtype=np.float32),
        low=(start * spacing)[::-1],
        step=(thinning * spacing)[::-1],
        centre=(where.mean(axis=0) * spacing)[::-1],
        bounds=np.stack([first * spacing, last * spacing])[:, ::-1],
        cut=(heights[0] if first[0] == 0 else -np.inf, heights[1] if last[0] == mask.shape[0] - 1 else np.inf),
    )
