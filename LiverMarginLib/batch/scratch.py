"""What one stage of a case hands to the next: arrays as they are in memory, in a folder that is removed afterwards.

The stages run in different processes, so that reading the next case and writing the last one do not wait for the
network. A memory map of an uncompressed array costs the next stage nothing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from LiverMarginLib.jsonable import dumps
from LiverMarginLib.terminology import Segment, Terminology
from LiverMarginLib.volume import Geometry, IntensityKind, LabelMap, Modality, Volume


def save_volume(volume: Volume, folder: Path) -> None:
    """Keep an image."""
    np.save(folder / "volume.npy", volume.array)
    facts = {
        "ijk_to_ras": volume.geometry.ijk_to_ras.tolist(),
        "modality": volume.modality,
        "intensity": volume.intensity,
        "spacing_known": volume.spacing_known,
        "notes": volume.notes,
    }
    (folder / "volume.json").write_text(dumps(facts), encoding="utf-8")


def load_volume(folder: Path) -> Volume:
    """Return the image of `save_volume`, its voxels as a read-only memory map in their order in memory."""
    facts = json.loads((folder / "volume.json").read_text(encoding="utf-8"))
    array = np.load(folder / "volume.npy", mmap_mode="r")
    return Volume(
        array,
        _geometry(array.shape, facts),
        Modality(facts["modality"]),
        IntensityKind(facts["intensity"]),
        facts["spacing_known"],
        tuple(facts["notes"]),
    )


def save_labels(labels: LabelMap, folder: Path, **more: Any) -> None:
    """Keep a segmentation, and further plain values with it."""
    np.save(folder / "labels.npy", labels.array)
    facts = {
        "ijk_to_ras": labels.geometry.ijk_to_ras.tolist(),
        "segments": [_plain(segment) for segment in labels.segments],
        "provenance": labels.provenance,
        "more": more,
    }
    (folder / "labels.json").write_text(dumps(facts), encoding="utf-8")


def load_labels(folder: Path) -> tuple[LabelMap, dict[str, Any]]:
    """Return what `save_labels` kept."""
    facts = json.loads((folder / "labels.json").read_text(encoding="utf-8"))
    array = np.load(folder / "labels.npy", mmap_mode="r")
    segments = tuple(_segment(values) for values in facts["segments"])
    return LabelMap(array, _geometry(array.shape, facts), segments, facts["provenance"]), facts["more"]


def _geometry(shape: tuple[int, ...], facts: dict[str, Any]) -> Geometry:
    return Geometry((shape[0], shape[1], shape[2]), np.array(facts["ijk_to_ras"]))


def _plain(segment: Segment) -> dict[str, Any]:
    entry = None if segment.terminology is None else segment.terminology.to_slicer()
    return {"label": segment.label, "name": segment.name, "colour": segment.colour, "terminology": entry}


def _segment(values: dict[str, Any]) -> Segment:
    red, green, blue = values["colour"]
    entry = values["terminology"]
    terminology = None if entry is None else Terminology.from_slicer(entry)
    return Segment(values["label"], values["name"], (red, green, blue), terminology)
