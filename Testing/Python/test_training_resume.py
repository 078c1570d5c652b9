"""Stopping at any moment, going on to the same weights, and being repeatable."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from training_toys import config, source

torch = pytest.importorskip("torch")

from LiverMarginLib.errors import InputError, ResourceError  # noqa: E402
from LiverMarginLib.events import CancelToken, Event, Progress  # noqa: E402
from LiverMarginLib.training import checkpoint  # noqa: E402
from LiverMarginLib.training.checkpoint import load_checkpoint, save_checkpoint  # noqa: E402
from LiverMarginLib.training.config import Decay, OptimiserConfig, OptimiserKind, ScheduleConfig  # noqa: E402
from LiverMarginLib.training.determinism import rng_state, set_rng_state, weights_hash  # noqa: E402
from LiverMarginLib.training.trainer import Ending, TrainResult, train  # noqa: E402

TOYS = Path(__file__).with_name("training_toys.py")


def final_weights(folder: Path) -> str:
    """The hash of everything that a training ends with, not only of its best weights."""
    saved = load_checkpoint(folder)
    assert saved is not None
    return weights_hash(
        {**saved["engine"]["model"], **{f"average.{k}": v for k, v in saved["engine"]["average"].items()}}
    )


def run(out: Path, on_event=lambda event: None, cancel: CancelToken | None = None, **changes: object) -> TrainResult:
    return train(config(out, **changes), source(1, 2, 3), source(4, 5), on_event, cancel)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    return run(tmp_path_factory.mktemp("unbroken"))


def test_two_runs_of_one_seed_give_the_same_bits_and_another_seed_others(unbroken: TrainResult, tmp_path: Path) -> None:
    again = run(tmp_path / "again")
    other = run(tmp_path / "other", seed=1)
    assert final_weights(again.folder) == final_weights(unbroken.folder)
    assert again.weights_sha256 == unbroken.weights_sha256
    assert [{**row, "seconds": 0} for row in again.history] == [{**row, "seconds": 0} for row in unbroken.history]
    assert final_weights(other.folder) != final_weights(unbroken.folder)


@pytest.mark.parametrize("workers", [2])
def test_loader_processes_do_not_change_the_weights(unbroken: TrainResult, tmp_path: Path, workers: int) -> None:
    assert run(tmp_path, workers=workers).weights_sha256 == unbroken.weights_sha256


class StopAt:
    """Cancels from another thread as soon as it hears of a step."""

    def __init__(self, step: int, token: CancelToken) -> None:
        self._step, self._token = step, token

    def __call__(self, event: Event) -> None:
        if isinstance(event, Progress) and event.stage == "train" and event.done == self._step:
            thread = threading.Thread(target=self._token.cancel)
            thread.start()
            thread.join()


@pytest.mark.parametrize("step", [4, 6])
def test_a_training_stopped_at_any_step_resumes_to_the_same_bits(
    unbroken: TrainResult, tmp_path: Path, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("LiverMarginLib.training.trainer._SECONDS_BETWEEN_EVENTS", 0.0)
    token = CancelToken()
    stopped = run(tmp_path, StopAt(step, token), token, checkpoint_steps=None)
    assert stopped.ending is Ending.STOPPED and stopped.steps == step
    # What other code draws between the two parts must not matter.
    torch.rand(7), np.random.rand(7)  # noqa: NPY002
    resumed = run(tmp_path, resume=True)
    assert resumed.ending is Ending.FINISHED
    assert final_weights(tmp_path) == final_weights(unbroken.folder)
    assert resumed.weights_sha256 == unbroken.weights_sha256
    assert [row["train_loss"] for row in resumed.history] == [row["train_loss"] for row in unbroken.history]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_the_training_and_the_handlers_come_back(
    tmp_path: Path, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("LiverMarginLib.training.trainer._SECONDS_BETWEEN_EVENTS", 0.0)
    before = signal.getsignal(number)

    def interrupt(event: Event) -> None:
        if isinstance(event, Progress) and event.done == 5:
            os.kill(os.getpid(), number)

    result = run(tmp_path, interrupt, checkpoint_steps=None)
    assert result.ending is Ending.STOPPED and result.steps == 5
    assert signal.getsignal(number) is before
    assert load_checkpoint(tmp_path)["state"]["step"] == 5


def spawn(folder: Path, resume: bool, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Train in a process of its own."""
    folder.mkdir(exist_ok=True)
    settings = folder / "config.json"
    settings.write_text(json.dumps(config(folder / "out", resume=resume).to_dict()))
    environment = {**os.environ, "PYTHONPATH": str(TOYS.parents[2]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(TOYS), str(settings), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_training_killed_in_the_middle_of_an_epoch_resumes_to_the_same_bits(
    unbroken: TrainResult, tmp_path: Path
) -> None:
    killed = spawn(tmp_path, False, "6")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    saved = load_checkpoint(tmp_path / "out")
    assert saved is not None and saved["state"]["step"] == 5, "not in the middle of an epoch"
    resumed = spawn(tmp_path, True)
    assert resumed.returncode == 0, resumed.stderr
    assert final_weights(tmp_path / "out") == final_weights(unbroken.folder)
    found = json.loads((tmp_path / "out" / "found.json").read_text())
    assert found == {"hash": unbroken.weights_sha256, "ending": "finished", "rows": 3}


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs process groups")
def test_ctrl_c_in_a_terminal_saves_a_training_with_loader_processes(tmp_path: Path) -> None:
    settings = tmp_path / "config.json"
    long = config(tmp_path / "out", workers=2, epochs=10_000, checkpoint_steps=None, validate_every=10_000)
    settings.write_text(json.dumps(long.to_dict()))
    environment = {**os.environ, "PYTHONPATH": str(TOYS.parents[2]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(TOYS), str(settings)]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 120
    while not (tmp_path / "out" / "log.csv").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)  # to the loader processes as well, as a terminal does
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert json.loads((tmp_path / "out" / "found.json").read_text())["ending"] == "stopped"
    assert load_checkpoint(tmp_path / "out")["state"]["step"] > 0


def test_a_stop_during_validation_is_made_up_for(unbroken: TrainResult, tmp_path: Path) -> None:
    token = CancelToken()

    class Reluctant:
        """The validation patients; looking at them cancels the training."""

        def __init__(self) -> None:
            self._source = source(4, 5)

        def __len__(self) -> int:
            return len(self._source)

        def patient(self, index: int) -> str:
            return self._source.patient(index)

        def annotated(self, index: int) -> bool:
            return True

        def read(self, index: int):
            token.cancel()
            return self._source.read(index)

    stopped = train(config(tmp_path), source(1, 2, 3), Reluctant(), cancel=token)
    assert stopped.ending is Ending.STOPPED and stopped.steps == 4 and stopped.epochs == 0
    assert run(tmp_path, resume=True).weights_sha256 == unbroken.weights_sha256


@pytest.mark.parametrize("optimiser", [OptimiserKind.SGD, OptimiserKind.ADAM])
def test_every_optimiser_resumes_to_the_same_bits(
    tmp_path: Path, optimiser: OptimiserKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("LiverMarginLib.training.trainer._SECONDS_BETWEEN_EVENTS", 0.0)
    changes = {
        "optimiser": OptimiserConfig(optimiser, 1e-2, ema_decay=0.9),
        "schedule": ScheduleConfig(Decay.POLY, warmup_steps=3),
        "epochs": 2,
    }
    whole = run(tmp_path / "whole", **changes)
    token = CancelToken()
    run(tmp_path / "parts", StopAt(3, token), token, **changes)
    run(tmp_path / "parts", resume=True, **changes)
    assert final_weights(tmp_path / "parts") == final_weights(whole.folder)


def test_a_finished_training_is_only_told_again(unbroken: TrainResult) -> None:
    again = run(unbroken.folder, resume=True)
    assert again.steps == unbroken.steps and again.weights_sha256 == unbroken.weights_sha256


def test_a_finished_training_can_be_given_more_epochs(tmp_path: Path) -> None:
    run(tmp_path, epochs=1)
    assert run(tmp_path, epochs=2, resume=True).epochs == 2


def test_a_folder_with_a_training_is_not_overwritten(unbroken: TrainResult) -> None:
    with pytest.raises(InputError, match="holds a training already"):
        run(unbroken.folder)


def test_a_training_does_not_resume_with_other_settings(unbroken: TrainResult) -> None:
    with pytest.raises(InputError, match="another 'batch'"):
        run(unbroken.folder, resume=True, batch=2)


@pytest.mark.parametrize("damage", [b"", b"not a checkpoint", None])
def test_a_damaged_checkpoint_is_refused_with_one_sentence(tmp_path: Path, damage: bytes | None) -> None:
    run(tmp_path, epochs=1)
    path = tmp_path / checkpoint.CHECKPOINT
    path.write_bytes(path.read_bytes()[:-1000] if damage is None else damage)
    with pytest.raises(InputError, match="damaged"):
        run(tmp_path, epochs=1, resume=True)


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "owned"),))

    torch.save({"schema": 1, "state": Evil()}, tmp_path / checkpoint.CHECKPOINT)
    with pytest.raises(InputError):
        load_checkpoint(tmp_path)
    assert not (tmp_path / "owned").exists()


def test_a_full_disk_leaves_the_previous_checkpoint(
    unbroken: TrainResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = os.fsync, 0

    def full(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls > 8:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr("LiverMarginLib.training.files.os.fsync", full)
    with pytest.raises(ResourceError, match=r"disk is full.*free some space.*resume.*before it is intact"):
        run(tmp_path)
    monkeypatch.undo()
    assert not list(tmp_path.glob(".*")), "half-written files were left"
    assert 0 < load_checkpoint(tmp_path)["state"]["step"] < 12
    assert run(tmp_path, resume=True).weights_sha256 == unbroken.weights_sha256


def test_a_slice_that_becomes_unreadable_stops_the_training_with_everything_saved(
    unbroken: TrainResult, tmp_path: Path
) -> None:
    class Decaying:
        """Training slices of which one cannot be read any more from the second pass on."""

        def __init__(self) -> None:
            self._source, self._reads = source(1, 2, 3), 0

        def __len__(self) -> int:
            return len(self._source)

        def patient(self, index: int) -> str:
            return self._source.patient(index)

        def annotated(self, index: int) -> bool:
            return True

        def read(self, index: int):
            self._reads += index == 5
            if index == 5 and self._reads > 1:
                raise InputError("A slice cannot be read: the PNG is damaged.")
            return self._source.read(index)

    with pytest.raises(InputError, match="the PNG is damaged"):
        train(config(tmp_path, checkpoint_steps=None), Decaying(), source(4, 5))
    assert load_checkpoint(tmp_path)["state"]["step"] >= 3
    assert run(tmp_path, resume=True).weights_sha256 == unbroken.weights_sha256


def test_a_loss_that_is_no_number_never_reaches_a_checkpoint(tmp_path: Path) -> None:
    wild = OptimiserConfig(OptimiserKind.SGD, 1e30)
    with pytest.raises(InputError, match="lower the learning rate"):
        run(tmp_path, optimiser=wild, schedule=ScheduleConfig(), checkpoint_steps=1)
    saved = load_checkpoint(tmp_path)
    assert saved is None or all(torch.isfinite(x).all() for x in saved["processes"][0]["sums"].values())


def test_random_states_survive_a_checkpoint(tmp_path: Path) -> None:
    import random

    save_checkpoint(tmp_path, {"rng": rng_state()})
    drawn = (random.random(), np.random.rand(), torch.rand(3))  # noqa: NPY002
    set_rng_state(load_checkpoint(tmp_path)["rng"])
    assert (random.random(), np.random.rand()) == drawn[:2]  # noqa: NPY002
    assert torch.equal(torch.rand(3), drawn[2])


def test_the_weights_hash_sees_bits_and_names_but_not_memory_layout() -> None:
    weights = {"a": torch.rand(2, 3, 4, 4), "b": torch.tensor(3)}
    digest = weights_hash(weights)
    assert weights_hash({**weights, "a": weights["a"].contiguous(memory_format=torch.channels_last)}) == digest
    assert weights_hash({**weights, "b": torch.tensor(4)}) != digest
    assert weights_hash({"a": weights["a"], "c": weights["b"]}) != digest


@pytest.mark.slow
def test_torchrun_trains_in_two_processes_and_stays_near_one(tmp_path: Path) -> None:
    settings = replace(config(tmp_path / "out"), model_options={"widths": [4, 8, 16], "dropout": 0.0})
    plain = replace(settings, loss=replace(settings.loss, kind="bce"))
    (tmp_path / "config.json").write_text(json.dumps(plain.to_dict()))
    environment = {**os.environ, "PYTHONPATH": str(TOYS.parents[2]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(TOYS)]
    done = subprocess.run(
        [*command, str(tmp_path / "config.json")], env=environment, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out" / "found.json").read_text())
    assert found["ending"] == "finished" and found["rows"] == 3
    alone = train(
        replace(plain, out=str(tmp_path / "alone"), loss=replace(settings.loss, kind=type(settings.loss.kind)("bce"))),
        source(1, 2, 3),
        source(4, 5),
    )
    together = load_checkpoint(tmp_path / "out")["engine"]["model"]
    for name, weight in load_checkpoint(tmp_path / "alone")["engine"]["model"].items():
        torch.testing.assert_close(together[name], weight, atol=1e-4, rtol=1e-3)
    assert alone.epochs == 3
