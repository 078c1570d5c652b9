"""A compared case as a JSON file, and back: what makes a long comparison resumable.

Everything but the margin errors point by point survives. Infinite numbers (a failed distance) are the strings
"inf" and "-inf", undefined ones null, because JSON has neither.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from LiverMarginLib.comparison.result import (
    CaseComparison,
    Estimate,
    PredictionComparison,
    RegionError,
    SliceTable,
    Value,
)
from LiverMarginLib.comparison.settings import CompareSettings
from LiverMarginLib.errors import InputError, technical
from LiverMarginLib.io.atomic import atomic_path
from LiverMarginLib.jsonable import dumps, read_json
from LiverMarginLib.metrics.boundary import BoundaryCounts, Width
from LiverMarginLib.metrics.overlap import Overlap, SliceDetection
from LiverMarginLib.volume import Geometry

SCHEMA = "livermargin.case"
VERSION = 1


def write_case(case: CaseComparison, path: Path) -> None:
    """Write a case to a JSON file, which appears complete or not at all.

    Raises
    ------
    ResourceError
        If the disk is full or the folder must not be written to.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(dumps(encode(case_to_dict(case))), encoding="utf-8")


def read_case(path: Path) -> CaseComparison:
    """Read a case that `write_case` wrote.

    Raises
    ------
    InputError
        If the file cannot be read, or is not a case of this version.
    """
    try:
        return case_from_dict(read_json(path))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise InputError(
            f"{path.name} is not a stored comparison of this version; delete it and compare the case again.",
            details=technical(error),
        ) from error


def case_to_dict(case: CaseComparison) -> dict[str, Any]:
    """Plain form of a case; numbers may be nan or infinite (see `encode`)."""
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "case": case.case,
        "labels": case.labels,
        "shape": case.geometry.shape,
        "ijk_to_ras": case.geometry.ijk_to_ras,
        "official": dataclasses.asdict(case.official),
        "settings": dataclasses.asdict(case.settings),
        "predictions": {
            name: {
                "labels": p.labels,
                "slices": dict(p.slices.columns),
                "values": {key: dataclasses.asdict(v) for key, v in p.values.items()},
                "slice_means": {key: dataclasses.asdict(m) for key, m in p.slice_means.items()},
                "detection": dataclasses.asdict(p.detection),
                "where": {key: dataclasses.asdict(r) for key, r in p.where.items()},
                "overlap": dataclasses.asdict(p.overlap),
                "boundaries": [
                    {"width": dataclasses.asdict(w), "counts": dataclasses.asdict(c)} for w, c in p.boundaries.items()
                ],
                "notes": p.notes,
                "provenance": dict(p.provenance),
            }
            for name, p in case.predictions.items()
        },
    }


def case_from_dict(values: Mapping[str, Any]) -> CaseComparison:
    """Rebuild a case from the JSON form of `case_to_dict`.

    Raises
    ------
    ValueError, KeyError, TypeError
        If it is not one.
    """
    if values["schema"] != SCHEMA or values["version"] != VERSION:
        raise ValueError(f"schema {values['schema']} version {values['version']}")
    settings = dict(values["settings"])
    return CaseComparison(
        values["case"],
        tuple(values["labels"]),
        Geometry(tuple(values["shape"]), np.array(values["ijk_to_ras"])),
        Width(**values["official"]),
        CompareSettings(
            **{
                **settings,
                "widths": tuple(Width(**w) for w in settings["widths"]),
                "nsd_tolerances_mm": tuple(settings["nsd_tolerances_mm"]),
                "lesion_ious": tuple(settings.get("lesion_ious") or ()),
            }
        ),
        {name: _prediction(name, p) for name, p in values["predictions"].items()},
    )


def _prediction(name: str, values: Mapping[str, Any]) -> PredictionComparison:
    boundaries = {}
    for entry in values["boundaries"]:
        counts = {key: np.array(c) for key, c in entry["counts"].items() if key != "band"}
        boundaries[Width(**entry["width"])] = BoundaryCounts(band=_overlap(entry["counts"]["band"]), **counts)
    return PredictionComparison(
        name,
        tuple(values["labels"]),
        SliceTable({key: _array(column) for key, column in values["slices"].items()}),
        {key: Value(**_numbers(v)) for key, v in values["values"].items()},
        {key: Estimate(**_numbers(m)) for key, m in values["slice_means"].items()},
        SliceDetection(**values["detection"]),
        {key: RegionError(**_numbers(r)) for key, r in values["where"].items()},
        _overlap(values["overlap"]),
        boundaries,
        None,
        tuple(values["notes"]),
        values["provenance"],
    )


def _overlap(values: Mapping[str, Any]) -> Overlap:
    return Overlap(**{key: np.array(counts, dtype=np.int64) for key, counts in values.items()})


def encode(value: Any) -> Any:
    """Plain JSON values, infinite numbers as strings and undefined ones as None."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    if isinstance(value, Mapping):
        return {str(key): encode(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [encode(item) for item in value]
    return value


def _decode(value: Any) -> Any:
    if value is None:
        return math.nan
    return float(value) if value in ("inf", "-inf") else value


def _numbers(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _decode(value) for key, value in values.items()}


def _array(column: list[Any]) -> np.ndarray[Any, np.dtype[Any]]:
    return np.array([_decode(value) for value in column])
