"""Refuse images that cannot exist or cannot fit, before any memory is asked for."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

from LiverMarginLib.errors import InputError, ResourceError

# Deflate cannot shrink data by more than this (zlib's documentation); a header that promises more is not true.
_DEFLATE_LIMIT = 1032


def physical_memory() -> int | None:
    """Bytes of memory that this machine has, or None where the system does not say (Windows)."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def check_memory(shape: Sequence[int], itemsize: int) -> int:
    """Return the number of bytes of an image, if this machine could hold it.

    Parameters
    ----------
    shape : sequence of int
        Number of voxels along each axis, as a header announces it.
    itemsize : int
        Bytes of a voxel.

    Raises
    ------
    InputError
        If an axis is empty.
    ResourceError
        If the image is larger than the machine's memory.
    """
    if min(shape, default=0) < 1:
        raise InputError("The image has no voxels; export it again.")
    needed = math.prod(int(n) for n in shape) * itemsize
    # Without an answer from the system, 64 GB still catches the sizes that only a damaged header announces.
    if needed > (physical_memory() or 64e9):
        raise ResourceError(
            f"The image's header announces {needed / 1e9:,.0f} GB of voxels, more than this machine's memory; "
            "crop the image, or export it again if that size is wrong."
        )
    return needed


def check_stored_size(needed: int, stored: int, compressed: bool) -> None:
    """Refuse a file that is too small for the voxels that its header announces.

    Parameters
    ----------
    needed : int
        Bytes of all voxels.
    stored : int
        Bytes in the file for them.
    compressed : bool
        Whether they are deflated (gzip, zlib).

    Raises
    ------
    InputError
        If the file cannot hold the voxels.
    """
    if needed > stored * (_DEFLATE_LIMIT if compressed else 1):
        raise InputError("The image file is shorter than its header says; it is truncated, so copy or export it again.")
