"""Comparing many patients one after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from LiverMarginLib.comparison.alignment import Labels
from LiverMarginLib.comparison.cases import compare_case
from LiverMarginLib.comparison.result import CaseComparison
from LiverMarginLib.comparison.settings import CompareSettings
from LiverMarginLib.comparison.study import FailedCase, Study, summarise
from LiverMarginLib.errors import Cancelled, InputError, LiverMarginError
from LiverMarginLib.events import CancelToken, Event, Notice, OnEvent, Progress, ignore
from LiverMarginLib.volume import LabelMap

OnCase = Callable[[CaseComparison, LabelMap, Mapping[str, LabelMap]], None]


@dataclass(frozen=True)
class CaseInput:
    """A patient to compare.

    Parameters
    ----------
    name : str
        Must not identify a patient.
    load : callable
        Returns the reference and the predictions by model name; may raise `LiverMarginError`.
    """

    name: str
    load: Callable[[], tuple[LabelMap, Mapping[str, LabelMap]]]


def compare_cases(
    inputs: Sequence[CaseInput],
    label: Labels = 1,
    prediction_label: Labels | Mapping[str, Labels] | None = None,
    *,
    settings: CompareSettings | None = None,
    finished: Mapping[str, CaseComparison] | None = None,
    on_case: OnCase | None = None,
    threads: int | None = None,
    on_event: OnEvent = ignore,
    cancel: CancelToken | None = None,
) -> Study:
    """Compare many patients; one that fails is reported and left out.

    Parameters
    ----------
    inputs : sequence of CaseInput
        Loaded one after the other, so that only one patient is in memory.
    label, prediction_label, settings, threads, cancel
        As for `compare_case`.
    finished : mapping of str to CaseComparison, optional
        Cases of an earlier run (see `LiverMarginLib.comparison.store`), which are not loaded again.
    on_case : callable, optional
        Called with each new case and with the reference and the predictions that were compared, to store or draw it;
        its margin errors point by point are in it here and nowhere later.
    on_event : callable
        Receives `Progress` (cases) and a `Notice` for each failure and each case's notices.

    Raises
    ------
    InputError
        If not one case could be compared.
    Cancelled
        If `cancel` was raised.
    """
    settings = settings or CompareSettings()
    finished = finished or {}
    cases: list[CaseComparison] = []
    failures: list[FailedCase] = []

    def notices_only(event: Event) -> None:
        if isinstance(event, Notice):
            on_event(event)

    for number, item in enumerate(inputs):
        if cancel:
            cancel.check()
        on_event(Progress(number, len(inputs), "compare", item.name))
        if item.name in finished and settings.allows(finished[item.name].settings):
            cases.append(finished[item.name])
            settings = finished[item.name].settings
            continue
        try:
            reference, predictions = item.load()
            case = compare_case(
                reference,
                predictions,
                label,
                prediction_label,
                case=item.name,
                settings=settings,
                threads=threads,
                on_event=notices_only,
                cancel=cancel,
            )
        except Cancelled:
            raise
        except LiverMarginError as error:
            failures.append(FailedCase(item.name, error.message))
            on_event(Notice(f"{item.name} was left out: {error.message}"))
            continue
        settings = case.settings  # what the first one decided holds for all
        # What is kept of a case must not grow with the number of surface voxels.
        cases.append(without_margin(case))
        if on_case:
            on_case(case, reference, predictions)
    on_event(Progress(len(inputs), len(inputs), "compare"))
    if not cases:
        raise InputError(
            failures[0].message if len(failures) == 1 else f"None of the {len(inputs)} cases could be compared."
        )
    return summarise(cases, failures)


def without_margin(case: CaseComparison) -> CaseComparison:
    """The same case without its margin errors point by point, which are most of its size."""
    return replace(case, predictions={name: replace(p, margin=None) for name, p in case.predictions.items()})
