"""The result as files: per_slice.csv, per_patient.csv and summary.json."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import LiverMarginLib
from LiverMarginLib.comparison.ranking import two_region_slices, worst_slices
from LiverMarginLib.comparison.result import CaseComparison, PredictionComparison
from LiverMarginLib.comparison.settings import patient_columns
from LiverMarginLib.comparison.store import encode
from LiverMarginLib.comparison.study import Study
from LiverMarginLib.comparison.where import REGIONS
from LiverMarginLib.csv_table import write_rows
from LiverMarginLib.io.atomic import atomic_path
from LiverMarginLib.jsonable import dumps
from LiverMarginLib.metrics.definitions import MARGIN, PIECES, Definition

SCHEMA = "livermargin.comparison"
VERSION = 1
WORST_SLICES = 5

Row = Mapping[str, Any]


def write_tables(study: Study, folder: Path) -> dict[str, Path]:
    """Write the three files of a comparison, each complete or not at all.

    Parameters
    ----------
    study : Study
    folder : Path
        Made if it does not exist.

    Returns
    -------
    dict of str to Path
        ``per_slice``, ``per_patient`` and ``summary``.

    Raises
    ------
    ResourceError
        If the disk is full or the folder must not be written to.
    """
    paths = {
        "per_slice": folder / "per_slice.csv",
        "per_patient": folder / "per_patient.csv",
        "summary": folder / "summary.json",
    }
    write_csv(slice_rows(study.cases), paths["per_slice"])
    write_csv(patient_rows(study), paths["per_patient"])
    with atomic_path(paths["summary"]) as temporary:
        temporary.write_text(dumps(summary(study), indent=2), encoding="utf-8")
    return paths


def write_csv(rows: Iterable[Row], path: Path) -> None:
    """Write rows with the same keys as CSV, as `LiverMarginLib.csv_table.write_rows` has it."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        ordered = iter(rows)
        for first in ordered:
            write_rows(stream, [first.keys(), first.values()])
            write_rows(stream, (row.values() for row in ordered))


def slice_rows(cases: Iterable[CaseComparison]) -> Iterator[Row]:
    """One row for each case, model and slice; columns as in docs/metrics.md."""
    for case in cases:
        for name, prediction in case.predictions.items():
            columns = prediction.slices.columns
            for k in range(len(prediction.slices)):
                yield {"case": case.case, "model": name, **{key: column[k] for key, column in columns.items()}}


def patient_rows(study: Study) -> Iterator[Row]:
    """One row for each case and model: counts, d, the patient's numbers, then the means over its slices."""
    for case in study.cases:
        for name, prediction in case.predictions.items():
            d = prediction.detection
            yield {
                "case": case.case,
                "model": name,
                "label": "+".join(str(label) for label in case.labels),
                "n_slices_both": d.true_positive,
                "n_slices_missed": d.false_negative,
                "n_slices_extra": d.false_positive,
                "n_slices_neither": d.true_negative,
                "n_surface_voxels": _counted(prediction, "surface voxels"),
                "n_surface_elements": _counted(prediction, "surface elements"),
                "boundary_d_px": int(case.official.value),
                **{key: prediction.values[key].value for key in patient_columns(study.settings)},
                **{f"{key}_slice_mean": mean.value for key, mean in prediction.slice_means.items()},
                "notes": " ".join(prediction.notes),
            }


def _counted(prediction: PredictionComparison, of: str) -> int:
    return max((value.n for value in prediction.values.values() if value.of == of), default=0)


def summary(study: Study) -> dict[str, Any]:
    """Everything but the slices, as plain JSON values; see docs/metrics.md for the schema."""
    content = {
        "schema": SCHEMA,
        "version": VERSION,
        "software": {"name": "LiverMargin", "version": LiverMarginLib.__version__},
        "settings": dataclasses.asdict(study.settings),
        "intervals": {
            "method": "percentile bootstrap over patients",
            "confidence": study.confidence,
            "resamples": study.resamples,
            "seed": study.seed,
        },
        "definitions": _definitions(study),
        "regions": {
            name: dict(zip(("inferior_to_superior", "anterior_to_posterior", "right_to_left"), thirds, strict=True))
            for name, thirds in REGIONS.items()
        },
        "models": {
            name: {
                "n_patients": model.n_patients,
                "slices": dataclasses.asdict(model.detection),
                "metrics": {key: dataclasses.asdict(metric) for key, metric in model.metrics.items()},
            }
            for name, model in study.models.items()
        },
        "paired": [dataclasses.asdict(pair) for pair in study.paired],
        "cases": [_case(case) for case in study.cases],
        "failed_cases": [dataclasses.asdict(failure) for failure in study.failures],
    }
    plain: dict[str, Any] = encode(content)
    return plain


def _definitions(study: Study) -> dict[str, Any]:
    def plain(definition: Definition, parameter: str = "") -> dict[str, Any]:
        return {**dataclasses.asdict(definition), "parameter": parameter}

    columns = patient_columns(study.settings)
    return {
        **{key: plain(column.definition, column.parameter) for key, column in columns.items()},
        **{key: plain(definition) for key, definition in {**PIECES, **MARGIN}.items()},
    }


def _case(case: CaseComparison) -> dict[str, Any]:
    return {
        "case": case.case,
        "labels": case.labels,
        "slices": case.geometry.shape[0],
        "rows": case.geometry.shape[1],
        "columns": case.geometry.shape[2],
        "spacing_mm": case.geometry.spacing,
        "boundary_d_px": case.official.value,
        "models": {name: _prediction(prediction) for name, prediction in case.predictions.items()},
    }


def _prediction(prediction: PredictionComparison) -> dict[str, Any]:
    def slices(ranked: Sequence[Any]) -> list[dict[str, Any]]:
        return [dataclasses.asdict(r) for r in ranked]

    return {
        "labels": prediction.labels,
        "slices": dataclasses.asdict(prediction.detection),
        "values": {key: dataclasses.asdict(value) for key, value in prediction.values.items()},
        "slice_means": {key: dataclasses.asdict(mean) for key, mean in prediction.slice_means.items()},
        "where": {name: dataclasses.asdict(region) for name, region in prediction.where.items()},
        "worst_slices": slices(worst_slices(prediction, WORST_SLICES)),
        "two_region_slices": slices(two_region_slices(prediction)),
        "notes": prediction.notes,
        "provenance": dict(prediction.provenance),
    }
