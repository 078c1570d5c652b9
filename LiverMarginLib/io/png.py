"""Pictures as arrays with their values untouched: 16-bit stays 16-bit, palette indices stay indices.

Pillow reads and writes them; this module holds the few conversions by which label values are silently lost
elsewhere (a 16-bit mask read as 8-bit has every 1 become 0).
"""

from __future__ import annotations

import io
import struct
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from LiverMarginLib.errors import InputError, technical

PICTURE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"})
# 16384 x 16384 is beyond any slice; a picture that claims more is a decompression bomb.
_MAX_PIXELS = 1 << 28
_VALUE_MODES = frozenset({"1", "L", "I", "I;16", "I;16B", "I;16L", "F"})


def decode_picture(content: bytes, name: str) -> npt.NDArray[Any]:
    """Decode a picture without changing its values.

    Parameters
    ----------
    content : bytes
        A PNG, JPEG, BMP or TIFF file.
    name : str
        What to call it in an error, without a path.

    Returns
    -------
    ndarray
        Shape (h, w) for greyscale (bool, uint8, uint16, int32 or float32), (h, w, 3) uint8 for colour. An alpha
        channel is dropped, a palette is applied.

    Raises
    ------
    InputError
        If the file is damaged, not a picture, or too large.
    """
    with _open(content, name) as picture:
        if picture.mode == "P":
            # A palette whose entries are all grey stays greyscale.
            colours = np.asarray(picture.convert("RGB"))
            grey = (colours == colours[..., :1]).all()
            return colours[..., 0] if grey else colours
        if picture.mode in ("LA", "La"):
            return np.asarray(picture.convert("L"))
        if picture.mode not in _VALUE_MODES:
            return np.asarray(picture.convert("RGB"))
        return np.asarray(picture)


def decode_indices(content: bytes, name: str) -> npt.NDArray[np.int64]:
    """Decode a picture whose values are numbers of classes or instances, not colours.

    Parameters
    ----------
    content, name
        As in `decode_picture`.

    Returns
    -------
    ndarray of int64, shape (h, w)
        Palette pictures give their indices.

    Raises
    ------
    InputError
        If the file is damaged or holds colours.
    """
    with _open(content, name) as picture:
        if picture.mode not in _VALUE_MODES | {"P"}:
            raise InputError(f"{name} holds colours where class numbers are expected; export the masks again.")
        return np.asarray(picture).astype(np.int64)


def decode_colours(content: bytes, name: str) -> npt.NDArray[np.uint8]:
    """Decode a picture as 8-bit RGB, shape (h, w, 3); `InputError` where it is damaged."""
    with _open(content, name) as picture:
        return np.asarray(picture.convert("RGB"))


def encode_png(array: npt.NDArray[Any]) -> bytes:
    """Encode uint8 or uint16 (h, w), or uint8 (h, w, 3), as PNG.

    Raises
    ------
    InputError
        For any other kind of array: a PNG has no place for its values.
    """
    if not (
        (array.ndim == 2 and array.dtype in (np.uint8, np.uint16)) or (array.ndim == 3 and array.dtype == np.uint8)
    ):
        raise InputError(
            f"A {array.ndim}-D array of {array.dtype} does not fit into a PNG; convert it to 8 or 16 bits first."
        )
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(array)).save(buffer, format="PNG")
    return buffer.getvalue()


def _open(content: bytes, name: str) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit follows
            picture = Image.open(io.BytesIO(content), formats=("PNG", "JPEG", "BMP", "TIFF"))
            if picture.width * picture.height > _MAX_PIXELS:
                raise InputError(f"{name} claims {picture.width} x {picture.height} pixels; do not trust this file.")
            picture.load()
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise InputError(f"{name} is damaged or not a picture; export it again.", technical(error)) from error
    return picture
