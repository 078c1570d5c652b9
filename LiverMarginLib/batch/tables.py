"""cases.csv, run.json and the HTML summary: what a batch tells about all its cases."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from LiverMarginLib.batch.records import CaseRecord, Status
from LiverMarginLib.comparison.tables import write_csv
from LiverMarginLib.io.atomic import atomic_path
from LiverMarginLib.jsonable import dumps

SCHEMA = "livermargin.batch"
VERSION = 1
METRICS = (
    "dice", "mask_iou", "boundary_iou", "boundary_f", "trimap_iou", "hd95_mm", "assd_mm", "nsd_surfel_2mm", "rvd",
)  # fmt: skip


def row(record: CaseRecord) -> dict[str, Any]:
    """A case's row of cases.csv; empty cells are ""."""
    volumes = list(record.volumes_ml.items())
    seconds = sum(record.seconds.values())
    return {
        "case": record.case,
        "status": record.status.value,
        "seconds": round(seconds, 1) if record.seconds else "",
        "volume_ml": _blank(volumes[0][1] if volumes else None),
        "other_volumes_ml": "; ".join(f"{name} {_blank(volume)}" for name, volume in volumes[1:]),
        "confidence": _blank(record.confidence),
        "least_sure_slice": _blank(record.least_sure_slice),
        "least_confidence": _blank(record.least_confidence),
        "slices": record.slices or "",
        **{key: _blank(record.metrics.get(key)) for key in METRICS},
        "device": record.device,
        "error": record.error,
        "message": record.message,
    }


def _blank(value: float | str | None) -> float | str:
    if value is None:
        return ""
    return round(value, 6) if isinstance(value, float) else value


def write_cases(records: Iterable[CaseRecord], path: Path) -> None:
    """Write the table of all cases, whole or not at all."""
    write_csv((row(record) for record in records), path)


def write_run(records: Sequence[CaseRecord], facts: Mapping[str, Any], path: Path) -> None:
    """Write run.json: what ran (`facts`), and for each case the sha256 of what went in and what came out."""
    content = {
        "schema": SCHEMA,
        "version": VERSION,
        **facts,
        "counts": counts(records),
        "cases": [
            {
                "case": record.case,
                "status": record.status,
                "key": record.key,
                "sha256_in": record.digests,
                "sha256_out": record.files,
            }
            for record in records
        ],
    }
    with atomic_path(path) as temporary:
        temporary.write_text(dumps(content, indent=1), encoding="utf-8")


def counts(records: Iterable[CaseRecord]) -> dict[str, int]:
    """Number of cases by status."""
    found = {status.value: 0 for status in Status}
    for record in records:
        found[record.status.value] += 1
    return found


def versions() -> dict[str, str]:
    """Versions of what computes."""
    import importlib.metadata

    import LiverMarginLib

    found = {"LiverMargin": LiverMarginLib.__version__, "Python": platform.python_version()}
    for name in ("numpy", "scipy", "SimpleITK", "pydicom", "onnxruntime", "torch"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
