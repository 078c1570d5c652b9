"""Contact sheets: many slices or phantoms in one picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from LiverMarginLib.phantom.generate import Phantom
from LiverMarginLib.phantom.organs import ORGANS, Organ
from LiverMarginLib.volume import IntensityKind, LabelMap, Volume


def contact_sheet(
    volume: Volume,
    labels: LabelMap | None = None,
    *,
    slices: Sequence[int] | None = None,
    count: int = 12,
    columns: int = 4,
    window: float | None = None,
    level: float | None = None,
    all_organs: bool = False,
) -> npt.NDArray[np.uint8]:
    """Lay out axial slices from the uppermost to the lowest, with contours if labels are given.

    Parameters
    ----------
    volume : Volume
        In the canonical axial view, as phantoms are.
    labels : LabelMap, optional
        Contour of the liver (and its masses) in the organ's colour; of every organ with `all_organs`.
    slices : sequence of int, optional
        Slice indices; `count` evenly spaced ones when None.
    count, columns : int
        Number of slices and of columns.
    window, level : float, optional
        In the image's units; by default 400 and 40 HU for CT, and from 0 to the 99.5th percentile for others.

    Returns
    -------
    ndarray of uint8, shape (height, width, 3)
        RGB.
    """
    depth = volume.array.shape[0]
    usual = (400.0, 40.0)
    if volume.intensity is not IntensityKind.HU:
        brightest = max(float(np.percentile(volume.array, 99.5)), 1.0)
        usual = (brightest, brightest / 2)
    window, level = usual[0] if window is None else window, usual[1] if level is None else level
    if slices is None:
        slices = np.unique(np.linspace(depth - 1, 0, min(count, depth)).round().astype(int))[::-1].tolist()
    tiles = []
    for k in slices:
        grey = np.clip((volume.array[k].astype(np.float32) - (level - window / 2)) / window, 0, 1)
        tile = np.repeat((grey * 255).astype(np.uint8)[..., None], 3, axis=2)
        if labels is not None:
            _draw_contours(tile, labels.array[k], all_organs)
        tiles.append(tile)
    blank = np.zeros_like(tiles[0])
    tiles += [blank] * (-len(tiles) % columns)
    rows = [np.hstack(tiles[n : n + columns]) for n in range(0, len(tiles), columns)]
    return np.vstack(rows)


def preview_row(phantom: Phantom, *, count: int = 6, outlines: bool = False) -> npt.NDArray[np.uint8]:
    """Lay out slices of one phantom side by side, with what was drawn of it written over them.

    Parameters
    ----------
    phantom : Phantom
    count : int
        Number of slices, from the uppermost to the lowest; those at the very ends are left out.
    outlines : bool
        Whether the liver and its masses are outlined.

    Returns
    -------
    ndarray of uint8, shape (height, count * width, 3)
        RGB.
    """
    from PIL import Image, ImageDraw

    depth = phantom.volume.array.shape[0]
    slices = np.linspace(depth - 1, 0, count + 2).round().astype(int)[1:-1].tolist()
    labels = phantom.labels if outlines else None
    picture = Image.fromarray(contact_sheet(phantom.volume, labels, slices=slices, columns=count))
    ImageDraw.Draw(picture).text((3, 1), _caption(phantom), fill=(255, 220, 120))
    return np.asarray(picture)


def stack_rows(rows: Sequence[npt.NDArray[np.uint8]], columns: int = 2) -> npt.NDArray[np.uint8]:
    """Put rows of the same size below each other, `columns` of them side by side."""
    rows = [*rows, *[np.zeros_like(rows[0])] * (-len(rows) % columns)]
    return np.vstack([np.hstack(rows[n : n + columns]) for n in range(0, len(rows), columns)])


def _caption(phantom: Phantom) -> str:
    """Seed, scan and findings in a few words."""
    drawn = phantom.description
    words = [f"seed {drawn['seed']}", drawn.get("sequence", ""), drawn["phase"]]
    words += ["random contrast"] if drawn["random_contrast"] else []
    words += [name.replace("_", " ") for name, found in drawn["findings"].items() if found and name != "table"]
    return ", ".join(word for word in words if word)


def _draw_contours(tile: npt.NDArray[np.uint8], labels: npt.NDArray[np.integer], all_organs: bool) -> None:
    """Colour the border pixels of organs in place."""
    if not all_organs:
        liver = np.isin(labels, (Organ.LIVER, Organ.LIVER_VESSEL))
        labels = np.where(liver, Organ.LIVER, np.where(labels == Organ.LIVER_MASS, labels, 0))
    border = np.zeros(labels.shape, dtype=bool)
    border[:-1] |= labels[:-1] != labels[1:]
    border[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    for segment in ORGANS:
        tile[border & (labels == segment.label)] = segment.colour
