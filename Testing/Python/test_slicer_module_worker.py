"""The module's side of the worker protocol: whatever the process does, a run ends once and in order."""

from __future__ import annotations

import json
import sys

import pytest
from LiverMarginPanels import worker_client
from LiverMarginPanels.qt_process import QtProcess
from LiverMarginPanels.worker_client import WorkerClient
from slicer_stand_ins import COMMAND, READY, Clock, FakeProcess

from LiverMarginLib.events import Failure, Notice, Progress, Result
from LiverMarginLib.interpreter import clean_environment, slicer_python
from LiverMarginLib.jobs.export import ExportJob

JOB = ExportJob("a.nrrd", ("b.stl",))


class Conversation:
    """A client with one job, its process, and what it told."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.process = FakeProcess()
        self.client = WorkerClient(lambda: self.process, self.clock.later)
        self.events, self.outcomes, self.running_at_the_end = [], [], []
        self.client.event.connect(self.events.append)
        self.client.finished.connect(self.outcomes.append)
        self.client.finished.connect(lambda _: self.running_at_the_end.append(self.client.running))
        self.client.start(COMMAND, JOB)


@pytest.fixture
def talk() -> Conversation:
    return Conversation()


def test_a_job_is_sent_and_its_events_and_result_are_told(talk):
    assert talk.process.job == json.loads(json.dumps(JOB.to_dict()))
    talk.process.say(READY, Progress(1, 2, "write").to_dict(), Notice("Careful.").to_dict(), Result({"x": 1}).to_dict())
    assert talk.events == [Progress(1, 2, "write"), Notice("Careful.")]
    assert talk.process.closed and not talk.outcomes and talk.client.running  # the process is still there
    talk.process.ended.emit(0, False)
    assert talk.outcomes == [Result({"x": 1})]
    assert talk.running_at_the_end == [False]
    talk.clock.pass_by(1000)
    assert not talk.process.killed and len(talk.outcomes) == 1


def test_lines_and_characters_that_are_cut_in_two_are_put_together(talk):
    data = json.dumps(Notice("Größe Ω.").to_dict(), ensure_ascii=False).encode() + b"\n"
    for n in range(len(data)):
        talk.process.output.emit(data[n : n + 1])
    talk.process.output.emit(data + data)
    assert talk.events == [Notice("Größe Ω.")] * 3


def test_garbage_between_events_is_kept_for_the_details_only(talk):
    talk.process.say(READY)
    for garbage in (b"hello\n", b"\xff\xfe\x00\n", b'{"event": "fly"}\n', b"[1]\n", b"\n", b"[" * 20000 + b"\n"):
        talk.process.output.emit(garbage)
    talk.process.say(Progress(1, 2).to_dict())
    assert talk.events == [Progress(1, 2)]
    talk.process.errors.emit(b"ImportError: no module\n")
    talk.process.ended.emit(1, False)
    (outcome,) = talk.outcomes
    assert outcome.kind == "crash" and "code 1" in outcome.message
    assert "hello" in outcome.details and "ImportError" in outcome.details


def test_a_line_without_end_does_not_fill_the_memory(talk):
    for _ in range(5):
        talk.process.output.emit(b"x" * (worker_client.LONGEST_LINE // 4))
    assert talk.process.closed
    talk.process.ended.emit(0, False)
    assert [outcome.kind for outcome in talk.outcomes] == ["internal"]


def test_a_crash_is_told_once(talk):
    talk.process.say(READY)
    talk.process.ended.emit(11, True)
    (outcome,) = talk.outcomes
    assert outcome.kind == "crash" and "crashed" in outcome.message


def test_an_error_of_the_worker_arrives_as_it_is(talk):
    failure = Failure("input", "No such file; choose another.", "details")
    talk.process.say(READY, failure.to_dict())
    talk.process.ended.emit(0, False)
    assert talk.outcomes == [failure]


def test_cancelling_closes_the_input_and_kills_only_who_does_not_go(talk):
    talk.process.say(READY)
    talk.client.cancel()
    talk.client.cancel()
    assert talk.process.closed and not talk.process.killed
    talk.process.say(Progress(1, 2).to_dict(), Result({}).to_dict())  # too late
    talk.clock.pass_by(worker_client.GRACE_SECONDS + 1)
    assert talk.process.killed == [4711]
    talk.process.ended.emit(9, True)
    assert [outcome.kind for outcome in talk.outcomes] == ["cancelled"]
    assert not talk.events


def test_a_worker_that_has_not_answered_yet_is_killed_as_soon_as_it_is_cancelled(talk):
    talk.client.cancel()
    assert talk.process.closed and talk.process.killed == [None]
    talk.process.ended.emit(9, True)
    assert [outcome.kind for outcome in talk.outcomes] == ["cancelled"]


def test_a_job_whose_results_are_thrown_away_is_killed_as_soon_as_it_is_cancelled_and_only_then():
    processes = [FakeProcess() for _ in range(2)]
    clock, outcomes, waiting = Clock(), [], list(processes)
    client = WorkerClient(lambda: waiting.pop(0), clock.later)
    client.finished.connect(outcomes.append)
    client.start(COMMAND, JOB, disposable=True)
    processes[0].say(READY, Result({}).to_dict())
    client.cancel()  # too late: it is ending in order
    assert not processes[0].killed
    processes[0].ended.emit(0, False)
    client.start(COMMAND, JOB, disposable=True)
    processes[1].say(READY)
    client.cancel()
    client.cancel()
    assert processes[1].killed == [4711]
    processes[1].ended.emit(9, True)
    assert [getattr(outcome, "kind", "result") for outcome in outcomes] == ["result", "cancelled"]


def test_a_process_of_whose_end_nobody_tells_is_given_up(talk):
    talk.process.say(READY)
    talk.client.cancel()
    talk.clock.pass_by(10 * worker_client.GRACE_SECONDS)
    assert [outcome.kind for outcome in talk.outcomes] == ["cancelled"]
    talk.process.ended.emit(0, False)
    assert len(talk.outcomes) == 1


def test_a_failed_start_says_which_python(talk):
    talk.process.not_started.emit("No such file or directory")
    (outcome,) = talk.outcomes
    assert outcome.kind == "dependency" and "python" in outcome.message
    assert outcome.details == "No such file or directory"


def test_a_start_that_takes_long_is_waited_for_and_one_without_end_is_not(talk):
    talk.clock.pass_by(worker_client.START_SECONDS - 1)
    assert not talk.process.closed
    talk.process.say(READY)
    talk.clock.pass_by(10 * worker_client.START_SECONDS)
    assert not talk.process.closed

    other = Conversation()
    other.clock.pass_by(worker_client.START_SECONDS + 1)
    assert other.process.closed
    other.process.ended.emit(0, False)
    assert [outcome.kind for outcome in other.outcomes] == ["resource"]


def test_another_version_of_the_protocol_is_refused(talk):
    talk.process.say(READY | {"protocol": 2}, Result({}).to_dict())
    talk.process.ended.emit(0, False)
    assert [outcome.kind for outcome in talk.outcomes] == ["dependency"]


def test_abandoning_kills_and_tells_nobody(talk):
    talk.process.say(READY)
    talk.client.abandon()
    assert talk.process.killed == [4711] and not talk.client.running
    talk.process.ended.emit(9, True)
    talk.clock.pass_by(1000)
    assert not talk.outcomes


def test_a_second_job_starts_when_the_first_has_ended_and_not_before(talk):
    with pytest.raises(RuntimeError):
        talk.client.start(COMMAND, JOB)
    first = talk.process
    talk.process = FakeProcess()
    talk.client.finished.connect(lambda _: talk.client.start(COMMAND, JOB) if len(talk.outcomes) == 1 else None)
    first.say(READY, Result({}).to_dict())
    first.ended.emit(0, False)
    assert talk.client.running and talk.process.job
    talk.process.say(READY, Result({"n": 2}).to_dict())
    talk.process.ended.emit(0, False)
    assert talk.outcomes == [Result({}), Result({"n": 2})]


def test_a_foreign_python_does_not_get_slicers_variables():
    environment = {"PYTHONHOME": "a", "PYTHONPATH": "b", "LD_LIBRARY_PATH": "c", "PATH": "p", "HOME": "h"}
    assert clean_environment(environment) == {"PATH": "p", "HOME": "h"}


def test_slicers_real_python_is_preferred_to_its_launcher(tmp_path):
    application = tmp_path / "bin" / "SlicerApp-real"
    application.parent.mkdir()
    application.touch()
    assert slicer_python(tmp_path, str(application), str(tmp_path / "nowhere")) is None
    assert slicer_python(tmp_path, sys.executable) is not None
    real = tmp_path / "bin" / "python-real"
    real.touch()
    assert slicer_python(tmp_path, str(application), str(tmp_path)) == real


class FakeQt:
    """Just enough of PythonQt's QProcess: signals by signature, `connect` that says False."""

    class QProcess:
        FailedToStart, CrashExit = 0, 1
        known = (
            "readyReadStandardOutput()",
            "readyReadStandardError()",
            "finished(int,QProcess::ExitStatus)",
            "errorOccurred(QProcess::ProcessError)",
        )

        def __init__(self):
            self.slots, self.left = {}, [b"", b""]

        def connect(self, name, slot):
            self.slots[name] = slot
            return name in self.known

        def readAllStandardOutput(self):
            return _Bytes(self.left, 0)

        def readAllStandardError(self):
            return _Bytes(self.left, 1)

        def errorString(self):
            return "execvp: No such file or directory"


class _Bytes:
    def __init__(self, left, n):
        self._data, left[n] = left[n], b""

    def data(self):
        return self._data


def qt_process(monkeypatch):
    monkeypatch.setitem(sys.modules, "qt", FakeQt)
    process = QtProcess()
    told = []
    process.output.connect(lambda data: told.append(("output", data)))
    process.errors.connect(lambda data: told.append(("errors", data)))
    process.ended.connect(lambda code, crashed: told.append(("ended", code, crashed)))
    process.not_started.connect(lambda reason: told.append(("not started", reason)))
    return process, process._process, told


def test_the_last_bytes_are_read_before_the_end_is_told(monkeypatch):
    _process, inner, told = qt_process(monkeypatch)
    inner.left[:] = b"last line\n", b"last log\n"
    inner.slots["finished(int,QProcess::ExitStatus)"](3, 0)
    assert told == [("output", b"last line\n"), ("errors", b"last log\n"), ("ended", 3, False)]


def test_only_a_failed_start_is_told_by_the_error_signal(monkeypatch):
    _process, inner, told = qt_process(monkeypatch)
    inner.slots["errorOccurred(QProcess::ProcessError)"](1)  # a crash: `finished` follows
    inner.slots["errorOccurred(QProcess::ProcessError)"](0)
    assert told == [("not started", "execvp: No such file or directory")]


def test_a_signal_of_a_wrong_name_is_an_error_and_not_silence(monkeypatch):
    monkeypatch.setattr(FakeQt.QProcess, "known", ())
    monkeypatch.setitem(sys.modules, "qt", FakeQt)
    with pytest.raises(RuntimeError, match="readyRead"):
        QtProcess()
