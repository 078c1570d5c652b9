"""What the report tells that the study does not add up itself: regions, pieces, and which patients to show."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from LiverMarginLib.comparison import CaseComparison, RegionError, Study
from LiverMarginLib.comparison.settings import lesion_columns
from LiverMarginLib.metrics.overlap import ratio

TABLE_6 = ("mask_iou", "trimap_iou", "boundary_f", "boundary_iou")
PRIMARY = "boundary_iou"
SIGNIFICANT = 0.05
MOST_SHOWN = 8


def main_columns(study: Study) -> list[str]:
    """Keys of the main table: the four of Table 6, then what clinicians know, lesion by lesion where it is lesions."""
    tolerances = study.settings.nsd_tolerances_mm
    nsd = [f"nsd_surfel_{min(tolerances, key=lambda t: abs(t - 2)):g}mm"] if tolerances else []
    return [*TABLE_6, "dice", "hd95_mm", "assd_mm", *nsd, "rvd", *lesion_columns(study.settings)]


def official_width(study: Study) -> str:
    """The official d in pixels, which depends on the size of the images."""
    used = sorted({case.official.value for case in study.cases})
    text = f"{used[0]:g}" if len(used) == 1 else f"{used[0]:g} to {used[-1]:g}"
    return f"d = {text} px"


def shown_cases(study: Study) -> list[CaseComparison]:
    """The patients that are shown one by one: all, or the worst if there are many, worst first then."""
    if len(study.cases) <= MOST_SHOWN:
        return list(study.cases)
    return sorted(study.cases, key=lambda case: (_worst_value(case), case.case))[:MOST_SHOWN]


def _worst_value(case: CaseComparison) -> float:
    values = [p.values[PRIMARY].value for p in case.predictions.values()]
    return min((v for v in values if not math.isnan(v)), default=0.0)


@dataclass(frozen=True)
class TwoRegions:
    """How a model copes with the slices in which the reference falls into two or more regions.

    Parameters
    ----------
    n : int
        Such slices.
    mask_iou, boundary_iou : float
        Means over them; nan if there are none.
    n_with_miss : int
        Those of them in which at least one piece of the reference was not touched.
    missed, extra : int
        Pieces in all slices, these and others.
    """

    n: int
    mask_iou: float
    boundary_iou: float
    n_with_miss: int
    missed: int
    extra: int


def two_regions(study: Study, model: str) -> TwoRegions:
    """Add up over all patients."""
    tables = [case.predictions[model].slices for case in study.cases if model in case.predictions]

    def column(key: str) -> np.ndarray:
        return np.concatenate([np.asarray(table[key]) for table in tables])

    flags = column("two_regions").astype(bool)
    missed = column("pieces_missed")
    n = int(flags.sum())
    return TwoRegions(
        n,
        float(column("mask_iou")[flags].mean()) if n else math.nan,
        float(column("boundary_iou")[flags].mean()) if n else math.nan,
        int((missed[flags] > 0).sum()),
        int(missed.sum()),
        int(column("pieces_extra").sum()),
    )


def errors_by_region(study: Study, model: str) -> dict[str, RegionError]:
    """Errors by part of the liver's extent, all patients together."""
    parts: dict[str, list[RegionError]] = {}
    for case in study.cases:
        if model in case.predictions:
            for name, region in case.predictions[model].where.items():
                parts.setdefault(name, []).append(region)
    # Dome, middle and lower tip make up the whole liver; the other regions overlap with them.
    whole = [r for name in ("dome", "middle", "lower tip") for r in parts.get(name, ())]
    all_errors = sum(r.missed_ml + r.extra_ml for r in whole)
    return {name: _added(regions, all_errors) for name, regions in parts.items()}


def _added(regions: list[RegionError], all_errors: float) -> RegionError:
    reference, missed, extra = (
        sum(getattr(r, key) for r in regions) for key in ("reference_ml", "missed_ml", "extra_ml")
    )
    common = reference - missed
    measured = [r for r in regions if math.isfinite(r.margin_abs_mm)]
    n = sum(r.n for r in measured)
    return RegionError(
        reference,
        missed,
        extra,
        float(ratio(missed + extra, all_errors)),
        float(ratio(2 * common, 2 * common + missed + extra)),
        float(ratio(sum(r.margin_abs_mm * r.n for r in measured), n)),
        n,
    )
