"""A batch from its inputs to its tables."""

from __future__ import annotations

import dataclasses
import datetime
import json
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import LiverMarginLib
from LiverMarginLib.batch.case_list import read_case_list
from LiverMarginLib.batch.discovery import RULES, Choice, Found, find_cases, with_references
from LiverMarginLib.batch.lock import run_lock
from LiverMarginLib.batch.pipeline import Pipeline, Recipe
from LiverMarginLib.batch.plan import Case, Left, settings_digest
from LiverMarginLib.batch.records import CaseRecord, Status, read_record, sweep
from LiverMarginLib.batch.registry import Registry, write_mapping
from LiverMarginLib.batch.tables import counts, row, versions, write_cases, write_run
from LiverMarginLib.errors import Cancelled, InputError, LiverMarginError
from LiverMarginLib.events import CancelToken, CaseEnded, Notice, OnEvent, Progress
from LiverMarginLib.io.atomic import atomic_path, write_error
from LiverMarginLib.io.writers import formats as known_formats
from LiverMarginLib.models.store import find_localiser
from LiverMarginLib.plain_text import one_line

if TYPE_CHECKING:
    from LiverMarginLib.jobs.batch import BatchJob
    from LiverMarginLib.models.bundle import Bundle

_TABLE_SECONDS = 5.0
_NOT_REACHED = "The batch ended before this case; start it again to go on."


def run_batch(job: BatchJob, on_event: OnEvent, cancel: CancelToken) -> dict[str, Any]:
    """Run a batch; see `LiverMarginLib.jobs.batch.BatchJob`.

    Raises
    ------
    LiverMarginError
        If nothing could start.
    Cancelled
        If `cancel` was raised; the tables say how far it came.
    """
    bundles = job.segment_job().bundles()
    _check_formats(job.formats)
    cases, left = _find(job, Choice.of_model(bundles[0].manifest, job.min_slices, job.all_series), on_event)
    if not cases:
        raise InputError(f"No image is a case for this model: {_why(left)}; --dry-run lists them.")
    if job.dry_run:
        return _plan(job, cases, left)
    folder = Path(job.folder)
    shard = job.part()
    with ExitStack() as held:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not held.enter_context(run_lock(folder / ".batch", shard)):
                on_event(Notice("This disk has no locks; make sure that no other run uses the output folder."))
            registry = Registry.load(folder / ".batch" / "registry.json")
            names = registry.names(case.place for case in cases)
            registry.save()
        except OSError as error:
            raise write_error(error, folder.name) from error
        if job.mapping:
            write_mapping({names[case.place]: case.path for case in cases}, Path(job.mapping))
        chosen = [_named(case, names[case.place], job.label) for case in cases]
        if shard is not None:
            chosen = chosen[shard[0] - 1 :: shard[1]]
        settings = _settings(job, bundles)
        recipe = _recipe(job, settings)
        # Alone in the folder, the run also removes what parts of other runs have left.
        for work in [recipe.work] if shard else (folder / ".batch").glob("work*"):
            sweep(work)
        run = _Run(job, chosen, _facts(job, bundles, settings, left), on_event)
        run.go(recipe, cancel)
        return run.result()


def merge(folder: Path) -> dict[str, Any]:
    """Make one table out of the parts that `--shard` left in one output folder.

    Returns
    -------
    dict
        As from `run_batch`.

    Raises
    ------
    InputError
        If there are no parts, or they do not belong together.
    """
    parts = []
    for path in sorted(folder.glob("run-*-of-*.json")):
        try:
            parts.append(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise InputError(f"{path.name} cannot be read; run that part again.") from error
    if not parts:
        raise InputError("There are no parts in this folder; give the output folder of runs with --shard.")
    first = parts[0]
    if any(part.get("settings") != first.get("settings") for part in parts):
        raise InputError("The parts were run with different models or options; run them again with the same.")
    present = {part["shard"][0] for part in parts}
    missing = sorted(set(range(1, first["shard"][1] + 1)) - present)
    if missing:
        raise InputError(f"Part {missing[0]} of {first['shard'][1]} has not run yet; run it, then merge.")
    names = sorted(entry["case"] for part in parts for entry in part["cases"])
    records = [_known(folder / "cases" / name, name) for name in names]
    facts = {key: value for key, value in first.items() if key not in ("schema", "version", "counts", "cases", "shard")}
    facts["started"] = min(part["started"] for part in parts)
    facts["ended"] = max(part["ended"] for part in parts)
    facts["wall_seconds"] = max(part["wall_seconds"] for part in parts)
    with run_lock(folder / ".batch", None):
        return _publish(folder, "", records, facts, 0)


def _known(folder: Path, name: str) -> CaseRecord:
    return read_record(folder) or CaseRecord(name, Status.NOT_DONE, message=_NOT_REACHED)


@dataclass
class _Run:
    """The cases of one run and what is known of them so far."""

    job: BatchJob
    cases: Sequence[Case]
    facts: dict[str, Any]
    on_event: OnEvent
    records: dict[str, CaseRecord] = field(default_factory=dict)
    computed: int = 0
    stopped: str = ""
    _table_at: float = 0.0

    def go(self, recipe: Recipe, cancel: CancelToken) -> None:
        """Run all cases; the tables are written however it ends."""
        from LiverMarginLib.batch.cluster import run_on_cluster

        started = time.monotonic()
        self.on_event(Progress(0, len(self.cases), "batch"))
        pipeline = None
        try:
            if self.job.scheduler:
                run_on_cluster(self.job.scheduler, recipe, self.cases, self._keep, cancel)
            else:
                pipeline = Pipeline(recipe, self.job.workers)
                pipeline.run(self.cases, self._keep, cancel)
        except Cancelled:
            self._end(pipeline, started)
            done = sum(record.status.has_result for record in self.records.values())
            raise Cancelled(
                f"Stopped; {done} of {len(self.cases)} cases have a result. Start the same batch again to go on."
            ) from None
        except LiverMarginError as error:
            # The machine refuses; what is done stays done, and the table says why the rest is not.
            if not self.records:
                self._close(pipeline)
                raise
            self.stopped = error.message
            self.on_event(Notice(error.message))
            self._end(pipeline, started)
        except BaseException:
            self._close(pipeline)
            raise
        else:
            self._end(pipeline, started, at_once=False)

    def result(self) -> dict[str, Any]:
        """What the job gives; the tables are written."""
        return _values(Path(self.job.folder), self._part, self._rows(), self.computed)

    @property
    def _part(self) -> str:
        shard = self.job.part()
        return "" if shard is None else f"-{shard[0]}-of-{shard[1]}"

    def _close(self, pipeline: Pipeline | None, at_once: bool = True) -> None:
        if pipeline is not None:
            pipeline.close(at_once)

    def _end(self, pipeline: Pipeline | None, started: float, at_once: bool = True) -> None:
        self._close(pipeline, at_once)
        self.facts["ended"] = _now()
        self.facts["wall_seconds"] = round(time.monotonic() - started, 1)
        self.facts["computed"] = self.computed
        try:
            _publish(Path(self.job.folder), self._part, self._rows(), self.facts, self.computed)
        except LiverMarginError as error:
            if not self.stopped:
                raise
            self.on_event(Notice(f"The tables could not be written: {error.message}"))

    def _rows(self) -> list[CaseRecord]:
        pending = self.stopped or _NOT_REACHED
        return [
            self.records.get(case.name) or CaseRecord(case.name, Status.NOT_DONE, message=pending)
            for case in sorted(self.cases, key=lambda case: case.name)
        ]

    def _keep(self, record: CaseRecord, fresh: bool, log: Sequence[str]) -> None:
        self.records[record.case] = record
        self.computed += fresh
        folder = Path(self.job.folder)
        if fresh:
            with atomic_path(folder / "logs" / f"{record.case}.log") as temporary:
                temporary.write_text("".join(f"{line}\n" for line in log), encoding="utf-8")
        self.on_event(CaseEnded(record.case, record.status.value, row(record)))
        self.on_event(Progress(len(self.records), len(self.cases), "batch", record.case))
        if fresh and time.monotonic() - self._table_at > _TABLE_SECONDS:
            self._table_at = time.monotonic()
            write_cases(self._rows(), folder / f"cases{self._part}.csv")


def _publish(
    folder: Path, part: str, records: Sequence[CaseRecord], facts: dict[str, Any], computed: int
) -> dict[str, Any]:
    from LiverMarginLib.report.batch_summary import write_summary

    write_cases(records, folder / f"cases{part}.csv")
    write_run(records, facts, folder / f"run{part}.json")
    write_summary(records, facts, folder / "cases", folder / f"summary{part}.html")
    return _values(folder, part, records, computed)


def _values(folder: Path, part: str, records: Sequence[CaseRecord], computed: int) -> dict[str, Any]:
    good = all(record.status.has_result and not record.error for record in records)
    return {
        "folder": str(folder),
        "outputs": [str(folder / f"{name}{part}.{end}") for name, end in _TABLES],
        "counts": counts(records),
        "computed": computed,
        "cases": [row(record) for record in records],
        "exit_code": 0 if good else 1,
    }


_TABLES = (("cases", "csv"), ("run", "json"), ("summary", "html"))


def _find(job: BatchJob, choice: Choice, on_event: OnEvent) -> tuple[list[Found], list[Left]]:
    from LiverMarginLib.jobs.compare import patient_files

    if not job.inputs:
        raise InputError("There is nothing to segment; give a folder, a file, or a CSV that lists cases.")
    references = patient_files(Path(job.references)) if job.references else {}
    if job.references and not references:
        raise InputError("The folder of references holds no segmentation; check its path.")
    cases: list[Found] = []
    left: list[Left] = []
    for number, given in enumerate(job.inputs):
        path = Path(given).expanduser()
        if path.suffix.lower() == ".csv":
            found, others = read_case_list(path, choice)
        else:
            found, others = find_cases(path, choice, on_event)
            found = with_references(found, path if path.is_dir() else path.parent, references)
        # Two inputs may hold the same names below them.
        cases += [dataclasses.replace(case, place=f"{number}|{case.place}") for case in found]
        left += others
    # Results of an earlier run may lie below the folder that is searched.
    own = Path(job.folder).absolute() if job.folder else None
    cases = [case for case in cases if own is None or not case.path.absolute().is_relative_to(own)]
    left = [image for image in left if own is None or not image.path.absolute().is_relative_to(own)]
    unique: dict[tuple[Path, tuple[str, ...]], Found] = {}
    for case in cases:
        same = (case.path.absolute(), case.files)
        if same in unique and not case.problem:
            left.append(Left(case.path, case.what, "listed twice"))
        else:
            unique[same if not case.problem else (case.path, (case.place,))] = case
    return list(unique.values()), left


def _named(case: Found, name: str, label: str | None) -> Case:
    return Case(
        name=name,
        folder=str(case.path.absolute()),
        files=case.files,
        modality=case.modality,
        reference=None if case.reference is None else str(case.reference.absolute()),
        label=case.label or label,
        problem=case.problem,
    )


def _check_formats(formats: Sequence[str]) -> None:
    known = [suffix.lstrip(".") for suffix in known_formats()]
    for suffix in formats:
        if suffix not in known:
            raise InputError(f"The format {suffix!r} cannot be written; use {', '.join(known)}.")


def _settings(job: BatchJob, bundles: tuple[Bundle, Bundle | None]) -> str:
    """Digest of what decides about a result; where and how fast it is computed does not."""
    return settings_digest(
        {
            "version": LiverMarginLib.__version__,
            "models": [None if bundle is None else _descriptions(bundle) for bundle in bundles],
            "options": _options(job),
            "formats": sorted(job.formats),
            "label": job.label,
        }
    )


def _options(job: BatchJob) -> dict[str, Any]:
    """What was chosen besides the models, which are named by what they are and not by where they lie."""
    return {name: value for name, value in job.deciding_options().items() if name not in ("model", "denoise")}


def _descriptions(bundle: Bundle) -> list[str]:
    """All that a model says of itself, thresholds and members of an ensemble too, and what its localisers say."""
    manifest = bundle.manifest
    inputs = [manifest, *(manifest.seen_as(item.modality) for item in manifest.other_inputs)]
    names = dict.fromkeys(one.localiser.model for one in inputs if one.localiser is not None)
    return [manifest.to_json(), *(find_localiser(bundle, name).manifest.to_json() for name in names)]


def _model(bundle: Bundle) -> dict[str, Any]:
    manifest = bundle.manifest
    return {"name": manifest.name, "version": manifest.version, "sha256": dict(manifest.weights)}


def _recipe(job: BatchJob, settings: str) -> Recipe:
    shard = job.part()
    return Recipe(
        folder=str(Path(job.folder).absolute()),
        settings=settings,
        options=job.worker_options(),
        formats=job.formats,
        part="" if shard is None else f"-{shard[0]}-of-{shard[1]}",
        retry_failed=job.retry_failed,
        case_timeout=job.case_timeout,
        memory_limit=None if job.memory_limit is None else round(job.memory_limit * 2**30),
        python=job.python,
    )


def _facts(job: BatchJob, bundles: tuple[Bundle, Bundle | None], settings: str, left: Sequence[Left]) -> dict[str, Any]:
    return {
        "software": versions(),
        "models": [_model(bundle) for bundle in bundles if bundle is not None],
        "options": {**_options(job), "formats": list(job.formats), "label": job.label},
        "settings": settings,
        "workers": job.workers if not job.scheduler else "Dask cluster",
        "shard": None if job.part() is None else list(job.part() or ()),
        "left_out": dict(Counter(image.reason for image in left)),
        "started": _now(),
    }


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _why(left: Sequence[Left]) -> str:
    reasons = Counter(image.reason for image in left)
    return "; ".join(f"{n} x {reason}" for reason, n in reasons.most_common(5)) or "there is none"


def _plan(job: BatchJob, cases: Sequence[Found], left: Sequence[Left]) -> dict[str, Any]:
    """What `--dry-run` tells: the only answer that names files, because the person who asks must recognise them."""
    registry = Registry.load(Path(job.folder) / ".batch" / "registry.json")
    names = registry.names(case.place for case in cases)
    return {
        "dry_run": True,
        "rules": list(RULES),
        "cases": [
            {
                "case": names[case.place],
                "image": one_line(str(case.path)),
                "what": one_line(case.what),
                "reference": "" if case.reference is None else one_line(str(case.reference)),
                "has_record": read_record(Path(job.folder) / "cases" / names[case.place]) is not None,
                "problem": one_line(case.problem),
            }
            for case in cases
        ],
        "left_out": [
            {"image": one_line(str(image.path)), "what": one_line(image.what), "reason": one_line(image.reason)}
            for image in left
        ],
        "exit_code": 0,
    }
