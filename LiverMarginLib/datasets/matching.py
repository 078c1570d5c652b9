"""Which mask belongs to which image, by their file names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

_TRAILING_NUMBER = re.compile(r"(\d+)$")
_VIDEO_FRAME = re.compile(r"frame_\d{6,}$", re.IGNORECASE)  # what CVAT calls the frames of a stack; counts from 0


@dataclass(frozen=True)
class Matching:
    """The result of `match_masks`.

    Parameters
    ----------
    of_image : tuple of int or None
        For each image the index of its mask, None where it has none.
    unmatched : tuple of int
        Indices of masks that belong to no image.
    note : str
        How they were matched where it was not by equal names; empty otherwise.
    """

    of_image: tuple[int | None, ...]
    unmatched: tuple[int, ...] = ()
    note: str = ""


def trailing_number(stem: str) -> int | None:
    """The integer at the end of a name, None where there is none."""
    found = _TRAILING_NUMBER.search(stem)
    return int(found.group(1)) if found else None


def number_prefix(stem: str) -> str:
    """A name without the integer at its end: what the slices of one series have in common."""
    return _TRAILING_NUMBER.sub("", stem)


def match_masks(images: Sequence[str], masks: Sequence[str], *, offset: int | None = None) -> Matching:
    """Match masks to images by equal name, then by the integer at the end of the name.

    Numbers may start at 0 on one side and at 1 on the other. An offset is taken where it is the only one under which
    every mask finds an image, or where the masks carry the names that CVAT gives to the frames of a stack, which
    count from 0.

    Parameters
    ----------
    images, masks : sequence of str
        Stems, without suffix; the folder part of an image's stem may be missing in a mask's and the other way round.
    offset : int, optional
        Number of an image minus number of its mask, where the user knows it.

    Returns
    -------
    Matching
    """
    by_name = _match_by_name(images, masks)
    if offset is None and not by_name.unmatched:
        return by_name
    by_number = _match_by_number(images, masks, offset)
    # Equal names outweigh equal numbers: a stray mask must not shift all others by one slice. Only where every image
    # has a mask, and the numbers fit without exception, do the names mislead.
    complete = len(masks) == len(images) and not by_number.unmatched
    if offset is None and len(by_name.unmatched) < len(masks) and not complete:
        return by_name
    return by_number


def _match_by_name(images: Sequence[str], masks: Sequence[str]) -> Matching:
    whole = _pair([stem.casefold() for stem in images], [stem.casefold() for stem in masks])
    bases = [[PurePosixPath(stem).name.casefold() for stem in stems] for stems in (images, masks)]
    return min(whole, _pair(*bases), key=lambda found: len(found.unmatched))


def _match_by_number(images: Sequence[str], masks: Sequence[str], offset: int | None) -> Matching:
    image_numbers = [trailing_number(stem) for stem in images]
    mask_numbers = [trailing_number(stem) for stem in masks]
    if offset is None:
        offset = _guess_offset(image_numbers, mask_numbers, masks)
    found = _pair(image_numbers, [None if number is None else number + offset for number in mask_numbers])
    note = "masks were matched to images by the number at the end of their names"
    if offset:
        note += f", with image number = mask number {'+' if offset > 0 else '-'} {abs(offset)}"
    return Matching(found.of_image, found.unmatched, note)


def _guess_offset(images: Sequence[int | None], masks: Sequence[int | None], mask_stems: Sequence[str]) -> int:
    there = {number for number in images if number is not None}
    wanted = {number for number in masks if number is not None}
    if not there or not wanted:
        return 0
    if min(there) == 1 and all(_VIDEO_FRAME.search(stem) for stem in mask_stems) and {n + 1 for n in wanted} <= there:
        return 1
    fitting = [offset for offset in (0, 1, -1) if {number + offset for number in wanted} <= there]
    return fitting[0] if len(fitting) == 1 else 0  # with two that fit, nothing is known


def _pair(image_keys: Sequence[object], mask_keys: Sequence[object]) -> Matching:
    # A key that occurs twice on one side says nothing.
    image_counts, mask_counts = Counter(image_keys), Counter(mask_keys)
    of_key = {key: n for n, key in enumerate(mask_keys) if key is not None and mask_counts[key] == 1}
    of_image = tuple(of_key.get(key) if image_counts[key] == 1 else None for key in image_keys)
    used = set(of_image)
    return Matching(of_image, tuple(n for n in range(len(mask_keys)) if n not in used))
