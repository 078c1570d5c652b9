"""Kill -9 at random moments, a cluster that loses machines, a clock that jumps: what remains is whole, and a resumed
run ends with the same bytes as one that nobody disturbed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import REPOSITORY
from model_tools import ct

from LiverMarginLib.batch.records import RECORD, is_whole, read_record
from LiverMarginLib.cli import main
from LiverMarginLib.digest import sha256_of
from LiverMarginLib.io.volume_writers import write_volume

KILLS = 50
CASES = 6

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals are POSIX")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    """Small cases in three formats."""
    folder = tmp_path_factory.mktemp("inputs")
    for n in range(CASES):
        write_volume(ct((8, 32, 32), seed=n), folder / f"p{n}.{('nii.gz', 'nrrd', 'mha')[n % 3]}")
    return folder


def words(inputs: Path, output: Path, model: Path, *more: str) -> list[str]:
    return ["batch", str(inputs), "-o", str(output), "-m", str(model), "--device", "cpu", "--threads", "1", *more]


def results(output: Path) -> dict[str, str]:
    """sha256 of every file of every case but the record, which holds seconds; and the record's own word for them."""
    found = {}
    for folder in sorted((output / "cases").iterdir()):
        record = read_record(folder)
        assert record is not None and is_whole(record, folder), folder
        assert {path.name for path in folder.iterdir()} == {RECORD, *record.files}
        found[f"{folder.name} {record.status} {record.key}"] = str(sorted(record.files.items()))
    return found


def assert_nothing_is_half_written(output: Path) -> None:
    """What lies under a final name is whole at any moment."""
    for folder in (output / "cases").glob("*"):
        try:
            names = {path.name for path in folder.iterdir()}
        except FileNotFoundError:
            continue  # it is being replaced
        record = read_record(folder)
        if folder.is_dir():
            assert record is not None and is_whole(record, folder), (folder, names)


@dataclass(frozen=True)
class Calm:
    """A batch that nobody disturbed: its results, and how long it took."""

    results: dict[str, str]
    seconds: float


@pytest.fixture(scope="module")
def undisturbed(inputs, tiny_model, tmp_path_factory) -> Calm:
    output = tmp_path_factory.mktemp("undisturbed") / "out"
    started = time.monotonic()
    assert start(words(inputs, output, tiny_model.folder)).wait() == 0
    return Calm(results(output), time.monotonic() - started)


def start(arguments: list[str]) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "LiverMarginLib", *arguments],
        cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip


def children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children")
    try:
        return [int(child) for child in found.read_text().split()]
    except OSError:
        return []


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="children are found by /proc")
def test_killed_fifty_times_a_batch_loses_nothing_and_ends_with_the_same_bytes(
    inputs, tiny_model, undisturbed, tmp_path
):
    draw = random.Random(8)
    killed = {"parent": 0, "worker": 0}
    episode = 0
    while sum(killed.values()) < KILLS:
        output = tmp_path / f"out{episode}"
        arguments = words(inputs, output, tiny_model.folder, "--workers", "2", "--retry-failed")
        code = None
        while code != 0:
            batch = start(arguments)
            while (code := batch.poll()) is None:
                # Not before there is something to lose, on a machine of whatever speed.
                time.sleep(draw.uniform(0.01, 0.25) * undisturbed.seconds)
                assert_nothing_is_half_written(output)
                # No more than a case bears: the second death of a worker with the same case is a failure, as it must.
                if sum(killed.values()) >= KILLS + 20 or batch.poll() is not None:
                    continue
                alive = children(batch.pid)
                if draw.random() < 0.4 or not alive:
                    batch.kill()
                    killed["parent"] += 1
                else:
                    os.kill(draw.choice(alive), signal.SIGKILL)
                    killed["worker"] += 1
            assert code in (0, 1, 2, -signal.SIGKILL)
        assert results(output) == undisturbed.results
        assert not list((output / ".batch").glob("work*/*"))
        episode += 1
    sys.stdout.write(f"killed {killed} in {episode} batches\n")


def test_a_killed_batch_leaves_its_folder_free_and_goes_on(inputs, tiny_model, undisturbed, tmp_path):
    output = tmp_path / "out"
    arguments = words(inputs, output, tiny_model.folder)
    batch = start(arguments)
    deadline = time.monotonic() + 200
    while not list(output.glob("cases/*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    batch.kill()
    batch.wait()
    assert_nothing_is_half_written(output)
    assert main(arguments) == 0
    assert results(output) == undisturbed.results


def test_ctrl_c_ends_in_order_with_the_table_written(inputs, tiny_model, tmp_path):
    output = tmp_path / "out"
    batch = start(words(inputs, output, tiny_model.folder))
    deadline = time.monotonic() + 200
    while not list(output.glob("cases/*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    batch.send_signal(signal.SIGINT)
    assert batch.wait(timeout=60) == 130
    table = (output / "cases.csv").read_text().splitlines()
    assert len(table) == 1 + CASES
    assert "done" in table[1]
    assert not list((output / ".batch").glob("work*/*"))


@pytest.mark.slow
def test_parts_of_a_batch_are_merged_into_one_table(inputs, tiny_model, undisturbed, tmp_path, capsys):
    output = tmp_path / "out"
    assert main(words(inputs, output, tiny_model.folder, "--shard", "1/2")) == 0
    assert main(["batch", "merge", str(output)]) == 2
    assert "Part 2 of 2 has not run yet" in capsys.readouterr().err
    assert main(words(inputs, output, tiny_model.folder, "--shard", "2/2")) == 0
    assert main(["batch", "merge", str(output)]) == 0
    assert results(output) == undisturbed.results
    assert len((output / "cases.csv").read_text().splitlines()) == 1 + CASES


@pytest.mark.parametrize("moment", ["at the start", pytest.param("meanwhile", marks=pytest.mark.slow)])
def test_an_output_folder_that_cannot_be_is_said(inputs, tiny_model, tmp_path, capsys, moment, monkeypatch):
    output = tmp_path / "out"
    if moment == "at the start":
        output.write_text("a file")
        assert main(words(inputs, output, tiny_model.folder)) == 2
    else:
        from LiverMarginLib.batch import pipeline

        def vanish(self, passage):
            self._recipe.final("x").parent.mkdir(exist_ok=True)
            monkeypatch.undo()
            output.rename(tmp_path / "elsewhere")
            raise OSError(2, "No such file or directory", "out")

        monkeypatch.setattr(pipeline.Pipeline, "_finished", vanish)
        assert main(words(inputs, output, tiny_model.folder)) in (1, 2)
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.slow
def test_a_clock_that_jumps_changes_nothing(inputs, tiny_model, undisturbed, tmp_path, monkeypatch):
    output = tmp_path / "out"
    times = iter(range(2_000_000_000, 0, -86_400))
    monkeypatch.setattr(time, "time", lambda: float(next(times)))
    for path in inputs.iterdir():
        os.utime(path, (4_000_000_000, 4_000_000_000))
    assert main(words(inputs, output, tiny_model.folder)) == 0
    assert results(output) == undisturbed.results
    digests = {path: sha256_of(path) for path in output.glob("cases/*/*")}
    for path in inputs.iterdir():
        os.utime(path, (1, 1))
    assert main(words(inputs, output, tiny_model.folder)) == 0
    assert digests == {path: sha256_of(path) for path in output.glob("cases/*/*")}


@pytest.fixture
def cluster():
    """A Dask cluster of two worker processes."""
    distributed = pytest.importorskip("distributed", reason="Dask is not installed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, memory_limit=0
    ) as made:
        yield made


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_dask_cluster_gives_the_same_results_also_when_it_loses_a_worker(
    inputs, tiny_model, undisturbed, tmp_path, cluster
):
    calm = tmp_path / "calm"
    assert main(words(inputs, calm, tiny_model.folder, "--scheduler", cluster.scheduler_address)) == 0
    assert results(calm) == undisturbed.results

    output = tmp_path / "out"
    batch = start(words(inputs, output, tiny_model.folder, "--scheduler", cluster.scheduler_address))
    deadline = time.monotonic() + 300
    while not list(output.glob(".batch/work/*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    # The process that computes, not the nanny that watches over it: Dask starts another one.
    os.kill(next(iter(cluster.workers.values())).pid, signal.SIGKILL)
    assert batch.wait(timeout=600) == 0
    assert results(output) == undisturbed.results


def test_a_scheduler_that_does_not_answer_is_one_sentence(inputs, tiny_model, tmp_path, capsys, monkeypatch):
    pytest.importorskip("distributed", reason="Dask is not installed")
    monkeypatch.setattr("LiverMarginLib.batch.cluster._CONNECT_SECONDS", 2)
    assert main(words(inputs, tmp_path / "o", tiny_model.folder, "--scheduler", "tcp://127.0.0.1:9")) == 2
    assert "The Dask scheduler does not answer" in capsys.readouterr().err
