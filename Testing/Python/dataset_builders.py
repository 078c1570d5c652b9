"""Small data sets on disk, written with other means than the code under test."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from PIL import Image

LIVER_COLOUR = (250, 50, 83)
LABEL_TABLE = "0 0 0 background\n250 50 83 liver\n"


def png(array):
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(array)).save(buffer, format="PNG")
    return buffer.getvalue()


def put(path: Path, content: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def two_pieces(shape=(48, 40)):
    """A liver of two pieces on the image's left, 80 and 42 pixels."""
    mask = np.zeros(shape, dtype=np.uint8)
    mask[4:14, 3:11] = 1
    mask[20:26, 3:10] = 1
    return mask


def cvat_frame(mask, ids=None):
    """The three PNGs that CVAT writes for one binary mask; instance ids 0, as its polygons have none."""
    classes = mask.astype(np.uint16)
    instance = classes * 256 + (0 if ids is None else ids.astype(np.uint16))
    colours = np.zeros((*mask.shape, 3), dtype=np.uint8)
    colours[mask > 0] = LIVER_COLOUR
    return {"instance": png(instance), "semantic": png(classes), "semantic_rgb": png(colours)}


def put_frame(folder: Path, stem: str, mask, subset="default") -> None:
    for encoding, content in cvat_frame(mask).items():
        put(folder / subset / encoding / f"{stem}.png", content)


def images(count, shape=(48, 40), seed=0):
    return np.random.default_rng(seed).integers(1, 255, (count, *shape)).astype(np.uint8)


def put_case(folder: Path, *, slices=8, annotated=(2, 3, 4), seed=0, mask=None) -> None:
    """A case folder as the liver-margin paper's: images, and KITTI 1.0 masks for some of them."""
    mask = two_pieces() if mask is None else mask
    for number, image in enumerate(images(slices, mask.shape, seed), start=1):
        put(folder / "images" / f"{number:04d}.png", png(image))
    put(folder / "masks" / "label_colors.txt", LABEL_TABLE)
    for index in annotated:
        put_frame(folder / "masks", f"{index + 1:04d}", mask)


def put_volume(path: Path, array, *, spacing=(0.8, 0.9, 2.5), origin=(0.0, 0.0, 0.0), direction=None) -> None:
    """A NIfTI or NRRD written by SimpleITK; spacing and origin along (x, y, z) in LPS."""
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    if direction is not None:
        image.SetDirection(direction)
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))


def ct_like(shape=(6, 20, 24), seed=0):
    """Air around a body of soft tissue, in HU."""
    array = np.full(shape, -1000, dtype=np.int16)
    array[:, 3:-3, 3:-3] = np.random.default_rng(seed).integers(0, 120, (shape[0], shape[1] - 6, shape[2] - 6))
    return array
