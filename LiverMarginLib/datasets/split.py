"""Split a data set by patient: neighbouring slices of one patient are near-duplicates and must not part."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from LiverMarginLib.datasets.check import DuplicatePair, find_duplicates
from LiverMarginLib.datasets.model import Case, Dataset
from LiverMarginLib.datasets.sources import LabelFile, PictureStack
from LiverMarginLib.errors import InputError, technical
from LiverMarginLib.events import CancelToken, Notice, OnEvent, ignore
from LiverMarginLib.io.atomic import atomic_path
from LiverMarginLib.jsonable import dumps, read_json
from LiverMarginLib.volume import axial_view

_log = logging.getLogger(__name__)

SCHEMA = 1
PARTS = ("train", "val", "test")
SLICE_LEVEL_WARNING = (
    "This split is by slice: neighbouring slices of one patient are in training and test, so that every score "
    "measured on it is too high and says nothing about new patients."
)
Part = str | int


@dataclass(frozen=True)
class Split:
    """Which case, or which slice, belongs to which part.

    Parameters
    ----------
    by : {"patient", "slice"}
    cases : mapping of str to str, int or tuple
        Part of each case: ``train``, ``val`` or ``test``, or the number of its fold. With ``by="slice"`` a tuple with
        the part of each slice of the case's axial view.
    patients : mapping of str to str
        Patient of each case.
    folds : int
        Number of folds; 0 for a split by fractions.
    fractions : mapping of str to float
    seed : int
    stratified_by_size : bool
    warning : str
        What a reader of scores made with this split must know; empty for a sound split.

    Raises
    ------
    InputError
        If a patient is in two parts of a split by patient.
    """

    by: Literal["patient", "slice"]
    cases: Mapping[str, Part | tuple[Part, ...]]
    patients: Mapping[str, str]
    folds: int = 0
    fractions: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
    stratified_by_size: bool = True
    warning: str = ""

    def __post_init__(self) -> None:
        if self.by == "slice":
            return
        part_of: dict[str, Part] = {}
        for case, part in self.cases.items():
            if isinstance(part, tuple):
                raise InputError("A split by patient gives each case one part; make the split again.")
            patient = self.patients.get(case, case)
            if part_of.setdefault(patient, part) != part:
                raise InputError(
                    f"Patient {patient} is in two parts of the split ({part_of[patient]} and {part}); "
                    "put all cases of a patient into one."
                )

    def parts(self, fold: int | None = None) -> dict[str, tuple[str, ...]]:
        """Cases of each part of a split by patient.

        Parameters
        ----------
        fold : int, optional
            Of a k-fold split: this fold is the test part, the next one is for validation (with two folds there is
            none), the others are for training.

        Returns
        -------
        dict of str to tuple of str
            ``train``, ``val`` and ``test`` with case ids.
        """
        if self.by == "slice":
            raise InputError("This split is by slice; ask for slices, not for cases.")
        found: dict[str, list[str]] = {part: [] for part in PARTS}
        for case, part in self.cases.items():
            assert not isinstance(part, tuple)  # __post_init__ has refused it
            found[self._name(part, fold)].append(case)
        return {part: tuple(cases) for part, cases in found.items()}

    def slices(self, part: str, fold: int | None = None) -> dict[str, tuple[int, ...] | None]:
        """Cases that have slices in a part; their indices in the axial view, None for all of them."""
        if self.by == "patient":
            return dict.fromkeys(self.parts(fold)[part])
        found: dict[str, tuple[int, ...] | None] = {}
        for case, parts in self.cases.items():
            assert isinstance(parts, tuple)
            indices = tuple(index for index, own in enumerate(parts) if self._name(own, fold) == part)
            if indices:
                found[case] = indices
        return found

    def check_against(self, dataset: Dataset) -> None:
        """Refuse to use the split with a data set it was not made for.

        Raises
        ------
        InputError
            If the split names a case that is missing, or the data set knows that two parts share a patient.
        """
        known = {case.id: case.patient for case in dataset.cases}
        missing = [case for case in self.cases if case not in known]
        if missing:
            raise InputError(f"The split names case {missing[0]}, which the data set does not hold; make it again.")
        Split(self.by, self.cases, {case: known[case] for case in self.cases})

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write split.json; `ResourceError` where that fails, and then nothing is left."""
        content: dict[str, Any] = {
            "schema": SCHEMA,
            "by": self.by,
            "seed": self.seed,
            "stratified_by_size": self.stratified_by_size,
            **({"folds": self.folds} if self.folds else {"fractions": dict(self.fractions)}),
            **({"warning": self.warning} if self.warning else {}),
            "cases": {case: {"patient": self.patients[case], "part": part} for case, part in self.cases.items()},
        }
        with atomic_path(Path(path)) as temporary:
            temporary.write_text(dumps(content, indent=2) + "\n", encoding="utf-8")

    def _name(self, part: Part, fold: int | None) -> str:
        if not self.folds:
            return str(part)
        if fold is None or not 0 <= fold < self.folds:
            raise InputError(f"This split has {self.folds} folds; say which one is the test (0 to {self.folds - 1}).")
        if part == fold:
            return "test"
        return "val" if self.folds > 2 and part == (fold + 1) % self.folds else "train"


def load_split(path: str | os.PathLike[str]) -> Split:
    """Read split.json.

    Raises
    ------
    InputError
        If it is not a split, or puts one patient into two parts.
    """
    path = Path(path)
    try:
        content = read_json(path)
        if content["schema"] != SCHEMA:
            raise ValueError(f"schema {content['schema']}")
        by, folds = content["by"], int(content.get("folds", 0))
        allowed = set(range(folds)) if folds else set(PARTS)
        cases = {case: _checked_part(entry["part"], by, allowed) for case, entry in content["cases"].items()}
        return Split(
            by,
            cases,
            {case: str(entry["patient"]) for case, entry in content["cases"].items()},
            folds,
            content.get("fractions", {}),
            int(content.get("seed", 0)),
            bool(content.get("stratified_by_size", False)),
            str(content.get("warning", SLICE_LEVEL_WARNING if by == "slice" else "")),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path.name} is not a split that can be used; make it with `livermargin dataset split`.", technical(error)
        ) from error


def split_dataset(
    dataset: Dataset,
    *,
    folds: int | None = None,
    fractions: Mapping[str, float] | Sequence[float] | None = None,
    seed: int = 0,
    stratify_by_size: bool = True,
    by: str = "patient",
    force: bool = False,
    check_duplicates: bool = True,
    on_event: OnEvent = ignore,
    cancel: CancelToken | None = None,
) -> Split:
    """Divide the annotated cases of a data set.

    Parameters
    ----------
    dataset : Dataset
    folds : int, optional
        For k-fold cross-validation. Give either this or `fractions`.
    fractions : mapping or sequence of float, optional
        Shares of ``train``, ``val`` and ``test``, by name or in this order.
    seed : int
        The same seed gives the same split.
    stratify_by_size : bool
        Give every part patients with many and patients with few liver slices: in the liver-margin paper's data 3 of
        25 patients hold 44 % of the slices.
    by : {"patient", "slice"}
        Splits by slice leak and are refused unless `force`, and then carry a warning.
    force : bool
    check_duplicates : bool
        Read all images first and refuse data in which one patient goes by two names.
    on_event : callable
    cancel : CancelToken, optional

    Returns
    -------
    Split

    Raises
    ------
    InputError
        If there are fewer patients than parts, patients share images, or the split would be by slice.
    """
    if by not in ("patient", "slice"):
        raise InputError(f"A split can be by patient (or, forced, by slice), not by {by}.")
    if (folds is None) == (fractions is None):
        raise InputError("Give either a number of folds or fractions for train, val and test.")
    if by == "slice" and not force:
        raise InputError("A split by slice puts one patient into training and test; split by patient (or force it).")
    cases = [case for case in dataset.cases if case.masks is not None]
    left_out = len(dataset.cases) - len(cases)
    if left_out:
        on_event(Notice(f"{left_out} cases without masks are in no part of the split."))
    if check_duplicates:
        _refuse_shared_images(find_duplicates(dataset, on_event, cancel), {case.id for case in cases})
    names, shares = _shares(folds, fractions)
    generator = np.random.default_rng(seed)
    patients = {case.id: case.patient for case in cases}
    parts: Mapping[str, Part | tuple[Part, ...]]
    if by == "slice":
        _log.warning(SLICE_LEVEL_WARNING)
        on_event(Notice(SLICE_LEVEL_WARNING))
        parts = {case.id: _deal_slices(_slice_count(dataset, case), names, shares, generator) for case in cases}
    else:
        sizes: dict[str, int] = dict.fromkeys(patients.values(), 0)
        if stratify_by_size:
            for case in cases:
                sizes[case.patient] += liver_slice_count(dataset, case)
        of_patient = _deal(sizes, names, shares, generator)
        parts = {case: of_patient[patient] for case, patient in patients.items()}
    return Split(
        "slice" if by == "slice" else "patient",
        parts,
        patients,
        folds or 0,
        {} if folds else {str(name): share for name, share in zip(names, shares, strict=True)},
        seed,
        stratify_by_size,
        SLICE_LEVEL_WARNING if by == "slice" else "",
    )


def liver_slice_count(dataset: Dataset, case: Case) -> int:
    """Number of slices with a mask file, or, of a volume, of slices whose label map holds liver."""
    if isinstance(case.images, PictureStack) or not isinstance(case.masks, LabelFile):
        return sum(getattr(case.masks, "annotated", ()))
    labels = dataset.load(case).labels
    if labels is None:
        return 0
    return int((axial_view(labels.geometry).to_view(labels.array) > 0).any(axis=(1, 2)).sum())


def _slice_count(dataset: Dataset, case: Case) -> int:
    if isinstance(case.images, PictureStack):
        return len(case.images.names)
    return len(dataset.load(case).annotated)


def _shares(
    folds: int | None, fractions: Mapping[str, float] | Sequence[float] | None
) -> tuple[tuple[Part, ...], tuple[float, ...]]:
    if folds is not None:
        if folds < 2:
            raise InputError("Cross-validation needs at least 2 folds.")
        return tuple(range(folds)), (1 / folds,) * folds
    assert fractions is not None  # the caller has refused it
    named = dict(fractions) if isinstance(fractions, Mapping) else dict(zip(PARTS, fractions, strict=False))
    given = len(fractions)
    if len(named) != given or not set(named) <= set(PARTS) or "train" not in named:
        raise InputError("Fractions are for train, val and test, in this order or by these names.")
    total = sum(named.values())
    if any(not 0 <= share <= 1 for share in named.values()) or not math.isclose(total, 1, abs_tol=1e-3):
        raise InputError(f"The fractions must lie between 0 and 1 and add up to 1; they add up to {total:g}.")
    kept = {name: share / total for name, share in named.items() if share > 0}
    return tuple(kept), tuple(kept.values())


def _deal(
    sizes: Mapping[str, int], names: Sequence[Part], shares: Sequence[float], generator: np.random.Generator
) -> dict[str, Part]:
    """Deal patients, the largest first, in blocks that are shuffled, each to the part that lacks most."""
    if len(sizes) < len(names):
        raise InputError(
            f"{len(sizes)} patients with masks cannot be divided into {len(names)} parts; ask for fewer parts."
        )
    order = sorted(sizes)
    generator.shuffle(order)
    order.sort(key=lambda patient: -sizes[patient])  # stable: equal sizes stay shuffled
    block = round(1 / min(shares))
    targets = _whole_numbers(len(order), shares)
    dealt = [0] * len(names)
    result: dict[str, Part] = {}
    for start in range(0, len(order), block):
        members = order[start : start + block]
        generator.shuffle(members)
        for patient in members:
            lack = [(target * (len(result) + 1) / len(order) - n) if n < target else -math.inf
                    for target, n in zip(targets, dealt, strict=True)]  # fmt: skip
            most = max(lack)
            chosen = int(generator.choice([n for n, value in enumerate(lack) if math.isclose(value, most)]))
            dealt[chosen] += 1
            result[patient] = names[chosen]
    return result


def _whole_numbers(total: int, shares: Sequence[float]) -> list[int]:
    """Numbers that add up to `total`, close to the shares, none of them zero."""
    numbers = [max(1, math.floor(total * share + 1e-9)) for share in shares]
    while sum(numbers) != total:
        step = 1 if sum(numbers) < total else -1
        gaps = [total * share - number for share, number in zip(shares, numbers, strict=True)]
        order = sorted(range(len(shares)), key=lambda n: -step * gaps[n])
        chosen = next(n for n in order if numbers[n] + step >= 1)
        numbers[chosen] += step
    return numbers


def _deal_slices(
    count: int, names: Sequence[Part], shares: Sequence[float], generator: np.random.Generator
) -> tuple[Part, ...]:
    drawn = generator.choice(len(names), size=count, p=np.asarray(shares) / sum(shares))
    return tuple(names[int(n)] for n in drawn)


def _refuse_shared_images(duplicates: Sequence[DuplicatePair], cases: set[str]) -> None:
    for pair in duplicates:
        if not pair.same_patient and {pair.first, pair.second} <= cases:
            raise InputError(
                f"Cases {pair.first} and {pair.second} share {pair.slices} slices but are two patients; give them one "
                "patient in the case table, or remove one."
            )


def _checked_part(part: Any, by: object, allowed: set[Any]) -> Part | tuple[Part, ...]:
    if by not in ("patient", "slice"):
        raise ValueError(f"by {by}")
    parts: list[Any] = list(part) if by == "slice" else [part]
    if any(isinstance(one, bool | list) or one not in allowed for one in parts):
        raise ValueError(f"part {part}")
    return tuple(parts) if by == "slice" else part
