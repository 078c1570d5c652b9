"""Agreement of two human readers, by the same code as the comparison of a model with a reference."""

from __future__ import annotations

from LiverMarginLib.comparison.alignment import Labels
from LiverMarginLib.comparison.cases import compare_case
from LiverMarginLib.comparison.result import CaseComparison
from LiverMarginLib.comparison.settings import Column, CompareSettings, patient_columns
from LiverMarginLib.events import CancelToken, OnEvent, ignore
from LiverMarginLib.volume import LabelMap


def compare_readers(
    first: LabelMap,
    second: LabelMap,
    label: Labels = 1,
    second_label: Labels | None = None,
    *,
    names: tuple[str, str] = ("reader 1", "reader 2"),
    case: str = "case",
    settings: CompareSettings | None = None,
    threads: int | None = None,
    on_event: OnEvent = ignore,
    cancel: CancelToken | None = None,
) -> CaseComparison:
    """Compare the segmentations of two readers, neither of which is the truth.

    The first reader takes the reference's place. Only the columns of `agreement_columns` stay the same if the
    readers are exchanged; the others (precision, recall, Trimap IoU, RVD ...) say how the second differs from the
    first.

    Parameters
    ----------
    first, second : LabelMap
    label, second_label : int or tuple of int
        As `label` and `prediction_label` of `compare_case`.
    names : tuple of str
        For tables; no person's name.
    case, settings, threads, on_event, cancel
        As for `compare_case`.

    Returns
    -------
    CaseComparison
        With the second reader as its one prediction, called "reader 2 / reader 1" with the names given.
    """
    return compare_case(
        first,
        {f"{names[1]} / {names[0]}": second},
        label,
        second_label,
        case=case,
        settings=settings,
        threads=threads,
        on_event=on_event,
        cancel=cancel,
    )


def agreement_columns(settings: CompareSettings) -> dict[str, Column]:
    """The patient columns that are symmetric in reference and prediction, and so measure agreement."""
    return {key: column for key, column in patient_columns(settings).items() if column.definition.symmetric}
