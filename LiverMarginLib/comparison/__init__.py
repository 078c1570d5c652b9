"""One reference, any number of predictions, one or many patients: numbers per slice, per patient and pooled.

`compare_case` compares one patient, `compare_cases` many, `summarise` turns patients into a `Study`, `write_tables`
writes it. Definitions and policies: docs/metrics.md.
"""

from LiverMarginLib.comparison.batch import CaseInput, compare_cases
from LiverMarginLib.comparison.cases import case_masks, compare_case
from LiverMarginLib.comparison.ranking import (
    RankedSlice,
    median_slices,
    ranked_slices,
    two_region_slices,
    worst_slices,
)
from LiverMarginLib.comparison.readers import agreement_columns, compare_readers
from LiverMarginLib.comparison.result import (
    CaseComparison,
    Estimate,
    PredictionComparison,
    RegionError,
    SliceStatus,
    SliceTable,
    Value,
)
from LiverMarginLib.comparison.settings import Column, CompareSettings, patient_columns, slice_score_columns
from LiverMarginLib.comparison.statistics import WilcoxonResult
from LiverMarginLib.comparison.store import read_case, write_case
from LiverMarginLib.comparison.study import (
    FailedCase,
    MetricSummary,
    ModelSummary,
    PairedComparison,
    Study,
    summarise,
)
from LiverMarginLib.comparison.tables import write_tables
from LiverMarginLib.comparison.where import REGIONS

__all__ = [
    "REGIONS",
    "CaseComparison",
    "CaseInput",
    "Column",
    "CompareSettings",
    "Estimate",
    "FailedCase",
    "MetricSummary",
    "ModelSummary",
    "PairedComparison",
    "PredictionComparison",
    "RankedSlice",
    "RegionError",
    "SliceStatus",
    "SliceTable",
    "Study",
    "Value",
    "WilcoxonResult",
    "agreement_columns",
    "case_masks",
    "compare_case",
    "compare_cases",
    "compare_readers",
    "median_slices",
    "patient_columns",
    "ranked_slices",
    "read_case",
    "slice_score_columns",
    "summarise",
    "two_region_slices",
    "worst_slices",
    "write_case",
    "write_tables",
]
