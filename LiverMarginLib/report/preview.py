"""A small picture by which a person sees whether a segmentation is about right: one axial and one coronal slice."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from LiverMarginLib.io.atomic import atomic_path
from LiverMarginLib.report.colours import REFERENCE, model_colours
from LiverMarginLib.report.contours import outline
from LiverMarginLib.report.pictures import ABDOMEN_WINDOW
from LiverMarginLib.volume import IntensityKind, LabelMap, Volume, axial_view

if TYPE_CHECKING:
    from PIL import Image

HEIGHT = 240
_MOST_WIDTH = 360
_GAP = 6
_DARK, _FEW = 60, 0.02
_MODEL = model_colours(["unet"])["unet"]

Grey = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]


def draw_preview(volume: Volume, labels: LabelMap, reference: Mask | None, path: Path) -> None:
    """Draw the axial slice with the most of the organ, and the coronal slice through its middle.

    Parameters
    ----------
    volume : Volume
    labels : LabelMap
        On the volume's grid; drawn in red.
    reference : ndarray of bool, shape (k, j, i), optional
        In the axial view; drawn in blue.
    path : Path
        A PNG file without metadata, which appears complete or not at all.
    """
    from PIL import Image

    view = axial_view(volume.geometry)
    voxels, found = view.to_view(volume.array), view.to_view(labels.array)
    sk, sj, si = view.geometry.spacing
    k, j = _slices(found if reference is None or found.any() else reference)
    window = ABDOMEN_WINDOW if volume.intensity is IntensityKind.HU else None
    planes = []
    # Rows run to the back in an axial slice, and downwards in a coronal one.
    for grey, mask, truth, pixel in (
        (voxels[k], found[k], None if reference is None else reference[k], (sj, si)),
        (voxels[::-1, j], found[::-1, j], None if reference is None else reference[::-1, j], (sk, si)),
    ):
        planes.append(_picture(_to_grey(grey, window), mask > 0, truth, pixel))
    width = sum(plane.width for plane in planes) + _GAP
    both = Image.new("RGB", (width, HEIGHT))
    both.paste(planes[0], (0, 0))
    both.paste(planes[1], (planes[0].width + _GAP, (HEIGHT - planes[1].height) // 2))
    with atomic_path(path) as temporary:
        both.quantize(64).save(temporary, format="PNG", optimize=True)


def _slices(mask: npt.NDArray[np.generic]) -> tuple[int, int]:
    areas = np.array([np.count_nonzero(plane) for plane in mask])
    if not areas.any():
        return mask.shape[0] // 2, mask.shape[1] // 2
    k = int(areas.argmax())
    rows = np.flatnonzero(np.asarray(mask[k]).any(axis=1))
    return k, int(rows[len(rows) // 2])


def _to_grey(plane: npt.NDArray[np.generic], window: tuple[float, float] | None) -> Grey:
    values = np.asarray(plane, np.float32)
    low, high = window or (float(v) for v in np.nanpercentile(values, (1, 99)))
    return np.rint(255 * np.clip((np.nan_to_num(values) - low) / max(high - low, 1e-6), 0, 1)).astype(np.uint8)


def _picture(grey: Grey, mask: Mask, reference: Mask | None, pixel: tuple[float, float]) -> Image.Image:
    """One slice with outlines, its pixels square."""
    from PIL import Image, ImageDraw

    box = _body(grey, mask)
    grey, mask, reference = grey[box], mask[box], None if reference is None else reference[box]
    rows, columns = grey.shape
    scale = min(HEIGHT / (rows * pixel[0]), _MOST_WIDTH / (columns * pixel[1]))
    size = max(1, round(columns * pixel[1] * scale)), max(1, round(rows * pixel[0] * scale))
    picture = Image.fromarray(grey).resize(size, Image.Resampling.BILINEAR).convert("RGB")
    drawing = ImageDraw.Draw(picture)
    for colour, region in ((REFERENCE, reference), (_MODEL, mask)):
        for line in () if region is None else outline(region):
            points = (line + 0.5) * (size[0] / columns, size[1] / rows)
            drawing.line([(float(x), float(y)) for x, y in points], fill=colour, width=2)
    return picture


def _body(grey: Grey, mask: Mask) -> tuple[slice, slice]:
    """Rows and columns of the body: those with more than a few bright pixels, and all that is marked."""
    bright = grey > _DARK
    sides = []
    for axis in (1, 0):
        used = np.flatnonzero((bright.mean(axis=axis) > _FEW) | mask.any(axis=axis))
        sides.append(slice(int(used[0]), int(used[-1]) + 1) if used.size else slice(None))
    return sides[0], sides[1]
