"""Cases through warm workers: reading the next and finishing the last one while the network computes.

    readers    read ->           -> finish
    computers        -> segment

Every stage is a job in a worker of its own kind. A worker that dies, hangs or grows takes its job with it and nothing
else: the stage is tried once more in a new worker, then the case has failed and the others go on.
"""

from __future__ import annotations

import dataclasses
import os
import queue
import secrets
import shutil
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from LiverMarginLib.batch.plan import Case
from LiverMarginLib.batch.privacy import Scrubber
from LiverMarginLib.batch.processes import Launch, WorkerProcess, is_last
from LiverMarginLib.batch.records import CaseRecord, Status, publish_record, read_record
from LiverMarginLib.batch.stages import ComputeJob, FinishJob, ReadJob
from LiverMarginLib.errors import LiverMarginError, ResourceError
from LiverMarginLib.events import CancelToken, Event, Failure, Notice, Result
from LiverMarginLib.io.atomic import write_error
from LiverMarginLib.jobs.base import Job

ATTEMPTS = 2
_MOST_STARTS = 3
_LOOK_SECONDS = 0.25


@dataclass(frozen=True)
class Recipe:
    """What is done to every case.

    Parameters
    ----------
    folder : str
        Of the output.
    settings : str
        Digest of everything that decides about a result besides the image and its reference.
    options : dict
        Fields of `SegmentJob`.
    formats : tuple of str
        Suffixes to write.
    part : str
        Which shard of a run this is, such as "-1-of-4".
    retry_failed : bool
        Also do cases that failed on the same files with the same settings.
    case_timeout : float
        Seconds of work that a case may take.
    memory_limit : int, optional
        Bytes that a worker may grow to.
    python : str, optional
        Interpreter of the workers.
    """

    folder: str
    settings: str
    options: dict[str, Any]
    formats: tuple[str, ...]
    part: str = ""
    retry_failed: bool = False
    case_timeout: float = 3600.0
    memory_limit: int | None = None
    python: str | None = None

    def final(self, case: str) -> Path:
        """Folder of a case's result."""
        return Path(self.folder) / "cases" / case

    @property
    def work(self) -> Path:
        """Folder of what is unfinished."""
        return Path(self.folder) / ".batch" / f"work{self.part}"


@dataclass
class Passage:
    """One case on its way."""

    case: Case
    scratch: Path
    scrub: Scrubber
    stage: str = "read"
    attempts: int = 0
    spent: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    found: dict[str, Any] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)


@dataclass
class _Place:
    """A worker's place: the process that is there now, and what it does."""

    computes: bool
    launch: Launch
    worker: WorkerProcess | None = None
    passage: Passage | None = None
    since: float = 0.0
    starts: int = 0
    verdict: tuple[str, str] | None = None


OnRecord = Callable[[CaseRecord, bool, Sequence[str]], None]


class Pipeline:
    """Warm workers for any number of cases.

    Parameters
    ----------
    recipe : Recipe
    workers : int
        Cases that are computed at the same time; as many more are read ahead or finished.
    """

    def __init__(self, recipe: Recipe, workers: int = 1) -> None:
        self._recipe = recipe
        self._lookahead = workers
        self._inbox: queue.Queue[tuple[WorkerProcess, Event | None]] = queue.Queue()
        self._places = [_Place(True, Launch(recipe.python, _visible_gpu(n, workers))) for n in range(workers)]
        # Numerics in a reader's threads would only take the processor from the network.
        self._places += [_Place(False, Launch(recipe.python, {"OMP_NUM_THREADS": "1"})) for _ in range(workers)]
        self._queues: dict[str, deque[Passage]] = {"read": deque(), "segment": deque(), "finish": deque()}
        self._on_record: OnRecord = lambda record, fresh, log: None

    def run(self, cases: Sequence[Case], on_record: OnRecord, cancel: CancelToken) -> None:
        """Bring cases to their end.

        Parameters
        ----------
        cases : sequence of Case
        on_record : callable
            Told of each case when it ends: its record, whether it was computed now, and the lines of its log.
        cancel : CancelToken

        Raises
        ------
        Cancelled
            If `cancel` was raised; the cases that are not finished then have no record.
        ResourceError
            If no worker comes up, or the output folder cannot be written to.
        """
        self._on_record = on_record
        for case in cases:
            passage = self._passage(case)
            if case.problem:
                self._end(passage, Status.FAILED, "input", passage.scrub(case.problem))
            else:
                self._queues["read"].append(passage)
        while any(self._queues.values()) or any(place.passage for place in self._places):
            cancel.check()
            self._dispatch()
            try:
                worker, event = self._inbox.get(timeout=_LOOK_SECONDS)
            except queue.Empty:
                pass
            else:
                self._hear(worker, event)
            self._watch()

    def close(self, at_once: bool = False) -> None:
        """End all workers and remove what they had not finished."""
        workers = [place.worker for place in self._places if place.worker is not None]
        for worker in workers:
            worker.close()
            if at_once:
                worker.kill()
        for worker in workers:
            worker.wait()
        for place in self._places:
            if place.passage is not None:
                shutil.rmtree(place.passage.scratch, ignore_errors=True)
            place.worker = place.passage = None
        for passages in self._queues.values():
            for passage in passages:
                shutil.rmtree(passage.scratch, ignore_errors=True)
            passages.clear()

    def _passage(self, case: Case) -> Passage:
        scratch = self._recipe.work / f"{case.name}-{secrets.token_hex(6)}"
        return Passage(case, scratch, Scrubber(case.folder, case.reference))

    def _dispatch(self) -> None:
        """Give every idle worker the work that is furthest on."""
        for place in self._places:
            if place.passage is not None:
                continue
            passage = self._next(place.computes)
            if passage is None:
                continue
            if place.worker is None:
                place.worker = self._start(place)
            place.passage, place.since, place.verdict = passage, time.monotonic(), None
            passage.log.append(f"{passage.stage}: begun")
            place.worker.send(self._job(passage))

    def _next(self, computes: bool) -> Passage | None:
        if computes:
            # Finishing that cannot keep up must not fill the disk with what waits for it.
            waits = len(self._queues["finish"]) > 2 * self._lookahead
            return self._queues["segment"].popleft() if self._queues["segment"] and not waits else None
        if self._queues["finish"]:
            return self._queues["finish"].popleft()
        ahead = len(self._queues["segment"])
        ahead += sum(place.passage is not None and place.passage.stage == "read" for place in self._places)
        return self._queues["read"].popleft() if self._queues["read"] and ahead < self._lookahead else None

    def _job(self, passage: Passage) -> Job:
        case, scratch = dataclasses.asdict(passage.case), str(passage.scratch)
        final = str(self._recipe.final(passage.case.name))
        if passage.stage == "read":
            return ReadJob(case, scratch, self._recipe.settings, final, self._recipe.retry_failed)
        if passage.stage == "segment":
            return ComputeJob(case, scratch, self._recipe.options)
        return FinishJob(
            case,
            scratch,
            final,
            self._recipe.formats,
            passage.found["key"],
            passage.found["digests"],
            passage.seconds,
            tuple(passage.notes),
        )

    def _hear(self, worker: WorkerProcess, event: Event | None) -> None:
        place = next((place for place in self._places if place.worker is worker), None)
        if place is None:
            return  # one that was replaced
        if event is None:
            self._died(place)
        elif place.passage is not None and isinstance(event, Notice):
            sentence = place.passage.scrub(event.message)
            place.passage.notes.append(sentence)
            place.passage.log.append(f"{place.passage.stage}: {sentence}")
        elif place.passage is not None and is_last(event):
            passage, place.passage, place.starts = place.passage, None, 0
            self._spend(passage, place)
            if isinstance(event, Result):
                self._advance(passage, dict(event.values))
            elif isinstance(event, Failure):
                self._failed(passage, event.kind, event.message)

    def _advance(self, passage: Passage, values: dict[str, Any]) -> None:
        passage.attempts = 0
        if passage.stage == "read":
            if values["unchanged"]:
                record = read_record(self._recipe.final(passage.case.name))
                if record is not None:
                    self._on_record(record, False, ())
                    return
                self._queues["read"].append(passage)  # it was taken away in this very moment
                return
            passage.found = values
            if "problem" in values:
                self._failed(passage, values["kind"], values["problem"])
                return
        if passage.stage == "finish":
            self._finished(passage)
            return
        passage.seconds[passage.stage] = values["seconds"]
        passage.log.append(f"{passage.stage}: {values['seconds']:.1f} s")
        passage.stage = {"read": "segment", "segment": "finish"}[passage.stage]
        self._queues[passage.stage].append(passage)

    def _finished(self, passage: Passage) -> None:
        record = read_record(self._recipe.final(passage.case.name))
        shutil.rmtree(passage.scratch, ignore_errors=True)
        if record is None:
            raise ResourceError("The output folder was changed or removed while the batch ran; start it again.")
        passage.log.append(f"finish: {record.seconds.get('finish', 0):.1f} s")
        self._on_record(record, True, passage.log)

    def _failed(self, passage: Passage, kind: str, message: str) -> None:
        if kind == "resource":
            # Either this case is too much for the machine, or the output folder refuses and every other case is vain.
            self._check_output()
        self._end(passage, Status.FAILED, kind, passage.scrub(message))

    def _check_output(self) -> None:
        work = self._recipe.work
        probe = work / f"probe-{secrets.token_hex(6)}"
        try:
            if not Path(self._recipe.folder).is_dir():
                raise FileNotFoundError
            work.mkdir(parents=True, exist_ok=True)
            probe.write_bytes(bytes(1 << 20))
            probe.unlink()
        except OSError as error:
            probe.unlink(missing_ok=True)
            raise write_error(error, "the result") from error

    def _end(self, passage: Passage, status: Status, kind: str, message: str) -> None:
        shutil.rmtree(passage.scratch, ignore_errors=True)
        record = CaseRecord(
            passage.case.name,
            status,
            key=passage.found.get("key", ""),
            message=message,
            error=kind,
            seconds=passage.seconds,
            digests=passage.found.get("digests", {}),
        )
        try:
            publish_record(record, self._recipe.final(passage.case.name), self._recipe.work)
        except LiverMarginError:
            raise
        except OSError as error:
            raise write_error(error, "the record of a case") from error
        passage.log.append(f"{passage.stage}: {status}: {message}")
        self._on_record(record, True, passage.log)

    def _watch(self) -> None:
        """Kill what hangs or has grown too large; its end is heard later."""
        for place in self._places:
            worker = place.worker
            if worker is None or place.verdict is not None:
                continue
            if worker.overdue:
                place.verdict = ("start", "did not come up")
                worker.kill()
                continue
            limit, used = self._recipe.memory_limit, None
            if limit is not None:
                used = worker.memory()
            if limit is not None and used is not None and used > limit:
                place.verdict = ("memory", f"grew over {limit / 2**30:.1f} GB")
                worker.kill()
            elif place.passage is not None:
                spent = place.passage.spent + (time.monotonic() - place.since if worker.ready else 0.0)
                if spent > self._recipe.case_timeout:
                    place.verdict = ("timeout", f"took longer than {self._recipe.case_timeout:g} s")
                    worker.kill()

    def _spend(self, passage: Passage, place: _Place) -> None:
        passage.spent += time.monotonic() - place.since

    def _died(self, place: _Place) -> None:
        worker, place.worker = place.worker, None
        passage, place.passage = place.passage, None
        assert worker is not None
        how = worker.how_it_ended()
        if not worker.ready:
            place.starts += 1
            if place.starts >= _MOST_STARTS:
                why = worker.broken or (place.verdict and place.verdict[1]) or how
                raise ResourceError(f"No worker process comes up ({why}); run livermargin doctor, or free some memory.")
        if passage is None:
            return
        self._spend(passage, place)
        kind, why = place.verdict or ("crash", how)
        passage.log.append(f"{passage.stage}: the worker {why}")
        if not worker.ready:
            self._queues[passage.stage].appendleft(passage)
            return
        passage.attempts += 1
        if kind == "timeout" or passage.attempts >= ATTEMPTS:
            sentence = {
                "timeout": f"The case {why}; raise --case-timeout, or look at the image.",
                "memory": f"The worker {why} with this case; raise --memory-limit, or crop the image.",
            }.get(kind, f"The worker {why} in the stage '{passage.stage}'; the machine may be short of memory.")
            self._end(passage, Status.FAILED, kind, sentence)
            return
        # What the dead worker half made must not be taken for whole.
        if passage.stage == "read":
            shutil.rmtree(passage.scratch, ignore_errors=True)
        shutil.rmtree(passage.scratch / "result", ignore_errors=True)
        self._queues[passage.stage].appendleft(passage)

    def _start(self, place: _Place) -> WorkerProcess:
        try:
            return WorkerProcess(place.launch, self._inbox)
        except OSError as error:
            raise ResourceError("A worker process cannot be started; name an interpreter with --python.") from error


def _visible_gpu(number: int, workers: int) -> dict[str, str]:
    """Divide several GPUs among workers; one GPU, or a choice of the user's, is left as it is."""
    cards = len(list(Path("/dev").glob("nvidia[0-9]*")))
    if workers < 2 or cards < 2 or "CUDA_VISIBLE_DEVICES" in os.environ:
        return {}
    return {"CUDA_VISIBLE_DEVICES": str(number % cards)}
