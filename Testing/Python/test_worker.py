"""The worker process, spoken to as 3D Slicer and the batch script speak to it."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from conftest import REPOSITORY

from LiverMarginLib import worker
from LiverMarginLib.events import Result, event_from_dict
from LiverMarginLib.jobs.export import ExportJob


@pytest.fixture
def labels(tmp_path) -> Path:
    array = np.zeros((6, 8, 8), np.uint8)
    array[1:4, 2:6, 2:6] = 1
    path = tmp_path / "labels.nrrd"
    sitk.WriteImage(sitk.GetImageFromArray(array), str(path))
    return path


@pytest.fixture
def process():
    """A worker that is waiting for jobs."""
    started = subprocess.Popen(
        [sys.executable, "-m", "LiverMarginLib.worker"],
        cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    yield started
    started.kill()
    started.wait()


def send(process: subprocess.Popen, values: object) -> None:
    process.stdin.write(json.dumps(values) + "\n")
    process.stdin.flush()


def hear(process: subprocess.Popen) -> dict:
    line = process.stdout.readline()
    assert line, process.stderr.read()
    return json.loads(line)


def hear_the_end(process: subprocess.Popen) -> dict:
    while (event := hear(process))["event"] not in ("result", "error"):
        event_from_dict(event)
    return event


def test_a_worker_says_it_is_ready_does_two_jobs_and_ends_with_its_input(process, labels, tmp_path):
    assert hear(process) == {"event": "ready", "protocol": 1, "pid": process.pid}
    for name in ("one.nii.gz", "two.stl"):
        send(process, ExportJob(str(labels), (str(tmp_path / name),)).to_dict())
        assert event_from_dict(hear_the_end(process)) == Result({"outputs": [str(tmp_path / name)]})
        assert (tmp_path / name).is_file()
    process.stdin.close()
    assert process.wait(timeout=20) == 0


def test_an_error_is_an_event_and_the_worker_goes_on(process, labels, tmp_path):
    hear(process)
    send(process, ExportJob(str(tmp_path / "nowhere.nrrd"), (str(tmp_path / "o.nrrd"),)).to_dict())
    error = hear_the_end(process)
    assert (error["event"], error["kind"]) == ("error", "input")
    for wrong in ({"job": "fly"}, [1], {"job": "export", "input": 3}):
        send(process, wrong)
        assert hear_the_end(process)["kind"] == "input"
    process.stdin.write("this is not json\n")
    send(process, ExportJob(str(labels), (str(tmp_path / "o.nrrd"),)).to_dict())
    assert hear_the_end(process)["kind"] == "input"
    assert hear_the_end(process)["event"] == "result"


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="process groups are POSIX")
def test_a_worker_leads_a_process_group_and_ends_when_its_parent_dies(tmp_path):
    code = (
        "import subprocess, sys\n"
        "p = subprocess.Popen([sys.executable, '-m', 'LiverMarginLib.worker'], stdin=subprocess.PIPE,"
        " stdout=subprocess.PIPE)\n"
        "p.stdout.readline()\n"
        "print(p.pid, flush=True)\n"
        "import time; time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline())
    assert os.getpgid(pid) == pid
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    raise AssertionError("the worker outlived its parent")


class SlowJob(ExportJob):
    """Counts until it is cancelled."""

    def execute(self, on_event, cancel):
        while True:
            cancel.check()
            time.sleep(0.005)


class Commands(io.BytesIO):
    """A standard input whose lines come when the worker is busy, and whose end comes when the test says so."""

    def __init__(self, lines: list[bytes], busy) -> None:
        super().__init__()
        self._lines = lines
        self._busy = busy

    def readline(self, size=-1) -> bytes:
        line = self._lines.pop(0)
        if line != JOB:
            deadline = time.monotonic() + 10
            while not self._busy() and time.monotonic() < deadline:
                time.sleep(0.005)
        return line


JOB = b'{"job": "slow"}\n'


def serve(lines: list[bytes], monkeypatch) -> list[dict]:
    monkeypatch.setattr(worker, "job_from_dict", lambda values: SlowJob("", ()))
    monkeypatch.setattr(worker, "_leave", lambda: None)
    replies = io.StringIO()
    served = worker.Worker(None, replies)
    served._commands = Commands(lines, lambda: served._current is not None)
    assert served.serve() == 0
    return [json.loads(line) for line in replies.getvalue().splitlines()]


def test_cancel_stops_the_job_that_runs(monkeypatch):
    events = serve([JOB, b'{"cancel": true}\n', b""], monkeypatch)
    assert [event["event"] for event in events] == ["ready", "error"]
    assert events[1]["kind"] == "cancelled"


def test_closing_the_input_stops_the_job_that_runs(monkeypatch):
    events = serve([JOB, b""], monkeypatch)
    assert events[-1]["kind"] == "cancelled"


def test_what_libraries_print_does_not_reach_the_protocol(tmp_path):
    code = (
        "import sys, runpy, LiverMarginLib.worker as w\n"
        "original = w.Worker.serve\n"
        "def serve(self):\n"
        "    print('noise from a library')\n"
        "    sys.stdout.flush()\n"
        "    return original(self)\n"
        "w.Worker.serve = serve\n"
        "sys.exit(w.main())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, input="", capture_output=True, text=True)
    assert [json.loads(line)["event"] for line in done.stdout.splitlines()] == ["ready"]
    assert "noise" in done.stderr


def test_a_segmentation_can_be_watched_while_it_grows(process, tiny_model, tmp_path):
    from model_tools import ct

    from LiverMarginLib.io.volume_writers import write_volume
    from LiverMarginLib.jobs.segment import SegmentJob

    live = tmp_path / "live.raw"
    job = SegmentJob(
        str(write_volume(ct(), tmp_path / "v.nrrd")), str(tiny_model.folder), (str(tmp_path / "labels.nrrd"),),
        modality="CT", device="cpu", live=str(live),
    )  # fmt: skip
    send(process, job.to_dict())
    seen = []
    while (event := hear(process))["event"] not in ("result", "error"):
        if event["event"] == "slice":
            grown = np.memmap(live, np.uint8, "r", shape=(6, 32, 32))
            seen.append((event["index"], int(grown[event["index"]].sum())))
    assert event["event"] == "result", event
    final = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "labels.nrrd")))
    assert seen == [(k, int(plane.sum())) for k, plane in enumerate(final)] and final.any()
    np.testing.assert_array_equal(np.memmap(live, np.uint8, "r", shape=(6, 32, 32)), final)
    assert event["values"]["provenance"]["model"]["name"] == "tiny"

    send(process, job.to_dict())
    assert "exists already" in hear_the_end(process)["message"]
