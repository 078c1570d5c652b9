"""What the report needs of a case beyond its numbers: pictures and maps, made while its masks are in memory.

They are kept beside the stored comparison, as plain arrays, so that a resumed run makes the same report and a report
can be drawn anew in another form.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import numpy as np

from LiverMarginLib.comparison import CaseComparison, Study, median_slices, two_region_slices, worst_slices
from LiverMarginLib.errors import InputError, technical
from LiverMarginLib.events import CancelToken
from LiverMarginLib.io.atomic import atomic_path
from LiverMarginLib.jsonable import loads
from LiverMarginLib.report.contours import Outline, SlicePicture, SliceStack
from LiverMarginLib.report.facts import shown_cases
from LiverMarginLib.report.margin_histogram import MarginHistogram, count_errors
from LiverMarginLib.report.margin_map import MarginMap, unroll

SCHEMA = "livermargin.report-fragment"
VERSION = 1

_WORST, _TWO_REGIONS, _MEDIAN = 3, 2, 1


class Reason(StrEnum):
    """Why a slice is in the gallery."""

    WORST = "worst"
    TWO_REGIONS = "two regions"
    MEDIAN = "median"


@dataclass(frozen=True, eq=False)
class GallerySlice:
    """A slice of the gallery.

    Parameters
    ----------
    picture : SlicePicture
    chosen : tuple of (Reason, str)
        Why, and by which model's score.
    """

    picture: SlicePicture
    chosen: tuple[tuple[Reason, str], ...]


@dataclass(frozen=True, eq=False)
class CaseFragment:
    """One case's part of the report.

    Parameters
    ----------
    case : str
    gallery : tuple of GallerySlice
        The worst slices first.
    maps : mapping of str to MarginMap
        By model.
    histograms : mapping of str to MarginHistogram
        By model.
    """

    case: str
    gallery: tuple[GallerySlice, ...]
    maps: Mapping[str, MarginMap]
    histograms: Mapping[str, MarginHistogram]


# Returns a case's fragment by the case's name, or None if there is none.
FragmentOf = Callable[[str], CaseFragment | None]


def make_fragment(case: CaseComparison, stack: SliceStack) -> CaseFragment:
    """Make a case's part of the report.

    Parameters
    ----------
    case : CaseComparison
        With its margin errors.
    stack : SliceStack
        Its masks and, if there is one, its image.

    Returns
    -------
    CaseFragment
    """
    chosen = _choose(case)
    pictures = stack.pictures(list(chosen))
    # A patient without lesions has no margin to unroll.
    margins = {
        name: p.margin
        for name, p in case.predictions.items()
        if p.margin is not None and len(p.margin.reference_points)
    }
    return CaseFragment(
        case.case,
        tuple(GallerySlice(picture, tuple(chosen[picture.index])) for picture in pictures),
        {name: unroll(margin, case.geometry) for name, margin in margins.items()},
        {name: count_errors(margin) for name, margin in margins.items()},
    )


def _choose(case: CaseComparison) -> dict[int, list[tuple[Reason, str]]]:
    """Slices with the reasons to show them; ranked by Boundary IoU, all models' worst ones before the others."""
    chosen: dict[int, list[tuple[Reason, str]]] = {}
    for reason in Reason:
        for name, prediction in case.predictions.items():
            ranked = {
                Reason.WORST: lambda p: worst_slices(p, _WORST),
                Reason.TWO_REGIONS: lambda p: two_region_slices(p, _TWO_REGIONS),
                Reason.MEDIAN: lambda p: median_slices(p, _MEDIAN),
            }[reason](prediction)
            for entry in ranked:
                chosen.setdefault(entry.index, []).append((reason, name))
    return chosen


def collect(
    study: Study, fragment_of: FragmentOf, cancel: CancelToken | None = None
) -> tuple[dict[str, CaseFragment], dict[str, MarginHistogram]]:
    """Go through all fragments once.

    Parameters
    ----------
    study : Study
    fragment_of : callable
    cancel : CancelToken, optional

    Returns
    -------
    fragments : dict of str to CaseFragment
        By case, of the patients that are shown one by one, so that memory does not grow with the others.
    histograms : dict of str to MarginHistogram
        By model, all patients added up.

    Raises
    ------
    Cancelled
        If `cancel` was raised.
    """
    shown = {case.case for case in shown_cases(study)}
    kept: dict[str, CaseFragment] = {}
    found: dict[str, list[MarginHistogram]] = {}
    for case in study.cases:
        if cancel:
            cancel.check()
        fragment = fragment_of(case.case)
        if fragment is None:
            continue
        for name, histogram in fragment.histograms.items():
            found.setdefault(name, []).append(histogram)
        if case.case in shown:
            kept[case.case] = fragment
    return kept, {name: reduce(add, found[name]) for name in study.models if name in found}


def write_fragment(fragment: CaseFragment, path: Path) -> None:
    """Write a fragment as a compressed NPZ file, which appears complete or not at all.

    Raises
    ------
    ResourceError
        If the disk is full or the folder must not be written to.
    """
    arrays: dict[str, Any] = {}
    outlines: list[list[Outline]] = []
    models = list(fragment.gallery[0].picture.models) if fragment.gallery else []
    for n, entry in enumerate(fragment.gallery):
        arrays[f"grey{n}"] = entry.picture.grey
        outlines.append([entry.picture.reference, *(entry.picture.models[name] for name in models)])
    lines = [line for of_slice in outlines for of_mask in of_slice for line in of_mask]
    arrays["points"] = np.concatenate(lines) if lines else np.zeros((0, 2), dtype=np.float32)
    for n, unrolled in enumerate(fragment.maps.values()):
        arrays[f"map{n}"] = unrolled.error_mm
    for n, counts in enumerate(fragment.histograms.values()):
        arrays[f"signed{n}"], arrays[f"within{n}"] = counts.signed, counts.within
    header = {
        "schema": SCHEMA,
        "version": VERSION,
        "case": fragment.case,
        "models": models,
        "gallery": [
            {
                "index": entry.picture.index,
                "pixel_mm": entry.picture.pixel_mm,
                "chosen": entry.chosen,
                "lengths": [[len(line) for line in of_mask] for of_mask in of_slice],
            }
            for entry, of_slice in zip(fragment.gallery, outlines, strict=True)
        ],
        "maps": {name: (m.bottom_mm, m.top_mm) for name, m in fragment.maps.items()},
        "histograms": {name: counts.n for name, counts in fragment.histograms.items()},
    }
    arrays["header"] = np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, **arrays)


def read_fragment(path: Path) -> CaseFragment:
    """Read a fragment that `write_fragment` wrote.

    Raises
    ------
    InputError
        If the file cannot be read, or is not a fragment of this version.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return _fragment(loads(arrays["header"].tobytes()), arrays)
    except (OSError, ValueError, KeyError, TypeError, IndexError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise InputError(
            f"{path.name} is not a stored part of a report of this version; delete it and compare the case again.",
            details=technical(error),
        ) from error


def _fragment(header: Mapping[str, Any], arrays: Mapping[str, Any]) -> CaseFragment:
    if header["schema"] != SCHEMA or header["version"] != VERSION:
        raise ValueError(f"schema {header['schema']} version {header['version']}")
    rest = arrays["points"]
    gallery = []
    for n, entry in enumerate(header["gallery"]):
        of_slice: list[Outline] = []
        for lengths in entry["lengths"]:
            ends = np.cumsum(lengths, dtype=int)
            of_slice.append(tuple(np.split(rest[: ends[-1]], ends[:-1])) if len(ends) else ())
            rest = rest[int(ends[-1]) if len(ends) else 0 :]
        picture = SlicePicture(
            entry["index"],
            arrays[f"grey{n}"],
            tuple(entry["pixel_mm"]),
            of_slice[0],
            dict(zip(header["models"], of_slice[1:], strict=True)),
        )
        gallery.append(GallerySlice(picture, tuple((Reason(reason), name) for reason, name in entry["chosen"])))
    return CaseFragment(
        header["case"],
        tuple(gallery),
        {name: MarginMap(arrays[f"map{n}"], *ends) for n, (name, ends) in enumerate(header["maps"].items())},
        {
            name: MarginHistogram(arrays[f"signed{n}"], arrays[f"within{n}"], count)
            for n, (name, count) in enumerate(header["histograms"].items())
        },
    )
