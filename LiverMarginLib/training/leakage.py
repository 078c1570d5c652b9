"""No case that a model has learnt from may judge it: cases are compared by the hash of their voxels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from LiverMarginLib.errors import InputError
from LiverMarginLib.events import Notice, OnEvent, ignore
from LiverMarginLib.models.bundle import Bundle


def models_that_saw(case: str, models: Iterable[Bundle]) -> list[str]:
    """Names of the models that record to have learnt from a case (`VolumeSample.case`), or to be chosen by it."""
    return [bundle.manifest.name for bundle in models if case in _seen(bundle)]


def _seen(bundle: Bundle) -> set[str]:
    record = bundle.manifest.training
    return {*record.get("train_cases", ()), *record.get("validation_cases", ())}


def refuse_seen_cases(models: Iterable[Bundle], tests: Mapping[str, set[str]], on_event: OnEvent = ignore) -> None:
    """Refuse test patients of whom a model has seen an image.

    Parameters
    ----------
    models : iterable of Bundle
        Whose training records name the cases that they were trained on and chosen by.
    tests : mapping of str to set of str
        The cases (`VolumeSample.case`) of each test patient.
    on_event : callable
        Told where a model does not name its cases.

    Raises
    ------
    InputError
        If a test patient was seen; it says how many and by which model.
    """
    for bundle in models:
        name = bundle.manifest.name
        if "train_cases" not in bundle.manifest.training:
            on_event(
                Notice(
                    f"The model {name!r} does not record what it was trained on, so nobody can tell whether it has "
                    "seen the test cases."
                )
            )
            continue
        seen = _seen(bundle)
        leaked = [patient for patient, cases in tests.items() if cases & seen]
        if leaked:
            raise InputError(
                f"{len(leaked)} of the {len(tests)} test patients were used to train the model {name!r}, so scores on "
                "them would say nothing; take them out of the test part, or train that model without them."
            )
