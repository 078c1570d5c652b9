"""What every segmentation format must know of a label map: its segments, where they lie, and how they were made."""

from __future__ import annotations

import colorsys
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from LiverMarginLib.errors import InputError
from LiverMarginLib.jsonable import loads
from LiverMarginLib.terminology import Segment
from LiverMarginLib.volume import LabelMap

Box = tuple[slice, slice, slice]

_LARGEST_LABEL = np.iinfo(np.uint16).max


# Under which the provenance stands in a NRRD header, and among the tags of a seg.nrrd's segments.
PROVENANCE_KEY = "LiverMargin.Provenance"


@dataclass(frozen=True)
class TableRow:
    """One segment of a label map.

    Parameters
    ----------
    segment : Segment
    named : bool
        False where the label map says nothing of this value and name and colour were made up here.
    box : tuple of slice, optional
        Smallest (k, j, i) box around its voxels; None if it has none.
    """

    segment: Segment
    named: bool
    box: Box | None


@dataclass(frozen=True)
class Algorithm:
    """The program or model that made a segmentation, as DICOM names it."""

    name: str
    version: str


def stored_labels(labels: LabelMap) -> npt.NDArray[np.unsignedinteger]:
    """Return the label array, shape (k, j, i), in the smaller of uint8 and uint16 that holds every value.

    Raises
    ------
    InputError
        If a value is negative or above 65535, which no segmentation format holds.
    """
    array = labels.array
    if array.dtype == np.bool_:
        return array.view(np.uint8)
    low, high = int(array.min()), int(array.max())
    if low < 0 or high > _LARGEST_LABEL:
        raise InputError(
            f"The label values run from {low} to {high}; renumber them between 0 and {_LARGEST_LABEL} first."
        )
    return array.astype(np.uint8 if high <= np.iinfo(np.uint8).max else np.uint16, copy=False)


def segment_table(labels: LabelMap, stored: npt.NDArray[Any] | None = None) -> tuple[TableRow, ...]:
    """List every segment of `labels`, described or merely present, by label value.

    Parameters
    ----------
    labels : LabelMap
    stored : ndarray, optional
        `stored_labels` of it, where the caller has it already.

    Returns
    -------
    tuple of TableRow
        Described segments without voxels are listed too: "looked for and not found" is a result.
    """
    boxes = ndimage.find_objects(stored_labels(labels) if stored is None else stored)
    found = {value: box for value, box in enumerate(boxes, start=1) if box is not None}
    described = {segment.label: segment for segment in labels.segments}
    return tuple(
        TableRow(described.get(value) or _unnamed(value), value in described, found.get(value))
        for value in sorted(described.keys() | found.keys())
    )


def algorithm(provenance: Mapping[str, Any]) -> Algorithm | None:
    """Find what made the labels in their provenance.

    Parameters
    ----------
    provenance : mapping
        Its key ``model`` is the model's name, or a mapping with ``name`` and, where known, ``version`` and
        ``sha256``; the latter two may also stand beside ``model``.

    Returns
    -------
    Algorithm or None
        None where no model is named: the labels are then taken as drawn by a person, as 3D Slicer does.
    """
    model = provenance.get("model")
    if not model:
        return None
    values = {**provenance, **model} if isinstance(model, Mapping) else {**provenance, "name": model}
    version = values.get("version") or str(values.get("sha256", ""))[:12] or "unknown"
    return Algorithm(str(values.get("name", "unknown")), str(version))


def provenance_text(provenance: Mapping[str, Any]) -> str:
    """One line of ASCII JSON; ``|`` is escaped because 3D Slicer separates segment tags with it."""
    return json.dumps(provenance, sort_keys=True, separators=(",", ":"), default=str).replace("|", "\\u007c")


def read_provenance(fields: Mapping[str, str]) -> dict[str, Any]:
    """Find what `provenance_text` has written in the key/value pairs of a NRRD or seg.nrrd header.

    Parameters
    ----------
    fields : mapping of str to str

    Returns
    -------
    dict
        Empty where there is none, or something else stands in its place.
    """
    tags = [value for key, value in fields.items() if key.startswith("Segment") and key.endswith("_Tags")]
    found = re.findall(rf"{re.escape(PROVENANCE_KEY)}:([^|]*)", "|".join(tags))
    for text in [fields.get(PROVENANCE_KEY, ""), *found]:
        try:
            values = loads(text)
        except ValueError:
            continue
        if isinstance(values, dict):
            return values
    return {}


def _unnamed(label: int) -> Segment:
    # Steps of the golden ratio around the colour circle keep neighbouring values apart for any number of them.
    red, green, blue = colorsys.hsv_to_rgb(label * 0.6180339887 % 1.0, 0.55, 0.9)
    return Segment(label, f"Segment_{label}", (round(255 * red), round(255 * green), round(255 * blue)))
