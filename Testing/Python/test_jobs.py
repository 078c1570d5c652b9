"""Jobs and events as plain data."""

from __future__ import annotations

import argparse
import dataclasses
import errno
import importlib
import json
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from LiverMarginLib.commands import COMMANDS
from LiverMarginLib.errors import Cancelled, DependencyError, InputError, ResourceError
from LiverMarginLib.events import EVENT_TYPES, CancelToken, Failure, Metric, Notice, Progress, Result, event_from_dict
from LiverMarginLib.jobs import JOB_TYPES, Job, job_from_dict, run
from LiverMarginLib.jobs.segment import SegmentJob
from LiverMarginLib.jsonable import dumps

JOB = SegmentJob(input="ct", model="unet-ct", outputs=("a.seg.nrrd", "b.stl"), slices=(2, 9), threshold=0.4)


@dataclass(frozen=True)
class RaisingJob(Job):
    """Raises what the test wants."""

    kind: ClassVar[str] = "raising"
    error: BaseException | None = None

    def execute(self, on_event, cancel):
        cancel.check()
        if self.error:
            raise self.error
        return {"value": 1}


def test_a_job_survives_a_round_trip_through_json():
    assert job_from_dict(json.loads(json.dumps(JOB.to_dict()))) == JOB


@pytest.mark.parametrize("kind", JOB_TYPES)
def test_every_job_type_can_be_found_by_its_kind(kind):
    with pytest.raises(InputError, match=f"{kind} job has no field"):
        job_from_dict({"job": kind, "no such field": 1})


@pytest.mark.parametrize("kind", sorted((JOB_TYPES.keys() & COMMANDS.keys()) - {"export"}))
def test_an_option_that_is_left_out_means_what_the_job_means(kind):
    module, _, name = JOB_TYPES[kind].partition(":")
    fields = dataclasses.fields(getattr(importlib.import_module(module), name))
    parser = argparse.ArgumentParser()
    importlib.import_module(f"LiverMarginLib.commands.{kind.replace('-', '_')}").add_arguments(parser)
    options = {action.dest: action.default for action in parser._actions if action.default not in (None, [])}
    known = {one.name: one.default for one in fields if one.name in options and one.default != dataclasses.MISSING}
    assert known, "the test compares something"
    assert {name: tuple(options[name]) if isinstance(options[name], list) else options[name] for name in known} == known


@pytest.mark.parametrize(
    "change",
    [
        {"job": "fly"},
        {"job": None},
        {"model": 3},
        {"outputs": "a.nii"},
        {"outputs": [1]},
        {"slices": [1, 2, 3]},
        {"threshold": "0.5"},
        {"batch_size": True},
        {"colour": "red"},
    ],
)
def test_a_job_with_wrong_fields_is_refused(change):
    with pytest.raises(InputError):
        job_from_dict({**json.loads(json.dumps(JOB.to_dict())), **change})


@pytest.mark.parametrize(
    "event",
    [Progress(1, 2, "read", "x"), Notice("careful"), Metric("loss", 0.5, 3, "train"), Failure("input", "no", "why")],
)
def test_events_survive_a_round_trip_through_json(event):
    assert event_from_dict(json.loads(json.dumps(event.to_dict()))) == event


@pytest.mark.parametrize("values", [{}, {"event": "nothing"}, {"event": "progress"}, {"event": "slice", "i": 1}])
def test_something_that_is_no_event_is_refused(values):
    with pytest.raises(ValueError, match="event"):
        event_from_dict(values)


def test_every_event_has_a_name_of_its_own():
    assert len({event.name for event in EVENT_TYPES.values()}) == len(EVENT_TYPES)


def test_the_last_event_of_a_job_is_its_result():
    heard = []
    assert run(RaisingJob(), heard.append) == {"value": 1}
    assert heard == [Result({"value": 1})]


def test_a_cancelled_job_says_so_and_gives_no_result():
    heard, token = [], CancelToken()
    token.cancel()
    with pytest.raises(Cancelled):
        run(RaisingJob(), heard.append, token)
    assert heard == []


@pytest.mark.parametrize(
    ("error", "expected", "words"),
    [
        (MemoryError(), ResourceError, "memory"),
        (ModuleNotFoundError("gone", name="skimage"), DependencyError, "lacks the package skimage"),
        (OSError(errno.ENOSPC, "No space left"), ResourceError, "disk is full"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), ResourceError, "disk is full"),
        (OSError(errno.EFBIG, "File too large"), ResourceError, "disk is full"),
        (PermissionError(errno.EACCES, "denied"), ResourceError, "Permission"),
        (OSError(errno.EROFS, "read only"), ResourceError, "Permission"),
        (FileNotFoundError(errno.ENOENT, "gone"), InputError, "no such file"),
        (OSError(errno.EIO, "Input/output error"), ResourceError, "refused"),
    ],
)
def test_faults_of_the_machine_become_one_sentence(error, expected, words):
    with pytest.raises(expected, match=words):
        run(RaisingJob(error=error))


def test_json_holds_no_nan_and_no_numpy():
    text = dumps({"a": float("nan"), "b": np.float32(np.inf), "c": np.arange(2), "d": (np.int64(1), np.bool_(True))})
    assert json.loads(text) == {"a": None, "b": None, "c": [0, 1], "d": [1, True]}
