"""One reference, any number of predictions, one or many patients: numbers per slice, per patient and pooled."""

from LiverMarginLib.comparison.cases import compare_case
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

__all__ = [
    "CaseComparison",
    "Column",
    "CompareSettings",
    "Estimate",
    "PredictionComparison",
    "RegionError",
    "SliceStatus",
    "SliceTable",
    "Value",
    "compare_case",
    "patient_columns",
    "slice_score_columns",
]
