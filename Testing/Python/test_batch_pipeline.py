"""Workers that die, hang, grow or babble: each costs its own case at most, and every case ends with a record."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path

import batch_stand_in
import pytest

from LiverMarginLib.batch import cluster, processes
from LiverMarginLib.batch import pipeline as module
from LiverMarginLib.batch.pipeline import Pipeline, Recipe
from LiverMarginLib.batch.plan import Case
from LiverMarginLib.batch.records import Status
from LiverMarginLib.errors import Cancelled, ResourceError
from LiverMarginLib.events import CancelToken

STAGES = ("read", "segment", "finish")


@pytest.fixture(autouse=True)
def stand_in(monkeypatch):
    """Let `Launch` start the stand-in; what is started is ended after the test."""
    started = []

    def start(self):
        program = [sys.executable, "-S", "-E", batch_stand_in.__file__]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        started.append(subprocess.Popen(program, start_new_session=True, **pipes))
        return started[-1]

    monkeypatch.setattr(processes.Launch, "start", start)
    yield started
    for process in started:
        process.kill()
        process.wait()


def cases(*words: str) -> list[Case]:
    return [Case(f"case-{n:03d}", word) for n, word in enumerate(words, 1)]


def go(tmp_path: Path, *words: str, workers: int = 1, cancel: CancelToken | None = None, **limits) -> dict:
    """Run cases of these behaviours; return the records by behaviour."""
    (tmp_path / "out").mkdir(exist_ok=True)
    recipe = Recipe(str(tmp_path / "out"), "settings", {}, ("seg.nrrd",), **limits)
    pipeline, found = Pipeline(recipe, workers), {}
    try:
        listed = cases(*words)
        names = {case.name: case.folder for case in listed}
        pipeline.run(
            listed, lambda record, fresh, log: found.update({names[record.case]: record}), cancel or CancelToken()
        )
    finally:
        pipeline.close(at_once=True)
    return found


@pytest.mark.parametrize("stage", STAGES)
def test_a_worker_that_dies_once_costs_nothing_but_a_second_attempt(tmp_path, stage):
    found = go(tmp_path, "fine", f"crash-once@{stage}", "fine2")
    assert {record.status for record in found.values()} == {Status.DONE}
    assert len(found) == 3


@pytest.mark.parametrize("stage", STAGES)
def test_a_case_that_kills_every_worker_fails_and_the_others_go_on(tmp_path, stage):
    found = go(tmp_path, f"crash@{stage}", "fine", "fine2")
    bad = found.pop(f"crash@{stage}")
    assert (bad.status, bad.error) == (Status.FAILED, "crash")
    assert "SIGKILL" in bad.message and stage in bad.message
    assert {record.status for record in found.values()} == {Status.DONE}


@pytest.mark.parametrize("stage", STAGES)
def test_a_case_that_hangs_is_ended_after_its_time(tmp_path, stage):
    started = time.monotonic()
    found = go(tmp_path, f"hang@{stage}", "fine", case_timeout=1.0)
    assert time.monotonic() - started < 30
    assert (found[f"hang@{stage}"].status, found[f"hang@{stage}"].error) == (Status.FAILED, "timeout")
    assert found["fine"].status is Status.DONE


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
def test_a_worker_that_grows_over_the_limit_is_replaced_and_its_case_tried_twice(tmp_path, stand_in):
    found = go(tmp_path, "grow@segment", "fine", memory_limit=200 << 20)
    assert (found["grow@segment"].status, found["grow@segment"].error) == (Status.FAILED, "memory")
    assert found["fine"].status is Status.DONE
    assert len(stand_in) == 4  # a reader, and three computers: two that grew and one for the case that is fine


def test_what_a_library_prints_does_not_disturb(tmp_path):
    assert go(tmp_path, "babble")["babble"].status is Status.DONE


def test_several_workers_share_the_cases(tmp_path):
    found = go(tmp_path, *(f"slow-{n}" for n in range(6)), workers=3)
    assert len(found) == 6
    assert len({record.device for record in found.values()}) > 1


def test_reading_and_finishing_go_on_while_the_network_computes(tmp_path):
    """Six cases of three stages of 0.3 s take 18 x 0.3 s one after the other."""
    started = time.monotonic()
    go(tmp_path, *("slow" for _ in range(6)))
    alone = time.monotonic() - started
    assert alone < 0.9 * 18 * 0.3


def test_no_worker_that_comes_up_is_said_once_and_not_tried_for_ever(tmp_path, monkeypatch, stand_in):
    def start(self):
        stand_in.append(
            subprocess.Popen(
                [sys.executable, "-c", "raise SystemExit(3)"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
        )
        return stand_in[-1]

    monkeypatch.setattr(processes.Launch, "start", start)
    with pytest.raises(ResourceError, match=r"No worker process comes up \(ended with code 3\)"):
        go(tmp_path, "fine")
    assert len(stand_in) <= 4


def test_a_stop_ends_all_workers_and_leaves_no_scratch(tmp_path, stand_in):
    token = CancelToken()
    threading.Timer(1.0, token.cancel).start()
    with pytest.raises(Cancelled):
        go(tmp_path, "hang@segment", "hang@read", workers=2, cancel=token)
    assert all(process.poll() is not None for process in stand_in)
    assert list((tmp_path / "out/.batch/work").glob("*")) == []


def test_a_case_that_is_too_much_for_the_machine_fails_alone(tmp_path):
    found = go(tmp_path, "full@segment", "fine")
    assert (found["full@segment"].error, found["fine"].status) == ("resource", Status.DONE)


def test_an_output_folder_that_refuses_ends_the_batch(tmp_path, monkeypatch):
    def refuse(self):
        raise ResourceError("The disk is full while writing the result; free some space.")

    monkeypatch.setattr(module.Pipeline, "_check_output", refuse)
    with pytest.raises(ResourceError, match="disk is full"):
        go(tmp_path, "full@finish", "fine")


def test_a_task_of_a_cluster_is_the_same_pipeline_with_the_same_warm_workers(tmp_path, stand_in, monkeypatch):
    warm: dict = {}
    monkeypatch.setattr(cluster, "_warm", warm)
    (tmp_path / "out").mkdir()
    recipe = asdict(Recipe(str(tmp_path / "out"), "settings", {}, ("seg.nrrd",)))
    answers = [cluster.run_case(recipe, asdict(case)) for case in cases("fine", "crash@segment", "fine2")]
    assert [answer["record"]["status"] for answer in answers] == ["done", "failed", "done"]
    assert all(answer["fresh"] and answer["log"] for answer in answers)
    assert len(stand_in) == 4  # a reader, and a computer that was replaced twice
    warm.popitem()[1][1].close()


def test_workers_killed_at_random_lose_nothing(tmp_path, stand_in):
    words = [f"slow-{n}" for n in range(12)]
    stop = threading.Event()

    def kill_one_now_and_then():
        killed = 0
        while killed < 5 and not stop.wait(0.25):
            alive = [process for process in stand_in if process.poll() is None]
            if alive:
                os.kill(alive[killed % len(alive)].pid, signal.SIGKILL)
                killed += 1

    thread = threading.Thread(target=kill_one_now_and_then)
    thread.start()
    found = go(tmp_path, *words, workers=2)
    stop.set()
    thread.join()
    assert set(found) == set(words)
    assert {record.error for record in found.values()} <= {"", "crash"}
