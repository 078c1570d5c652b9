"""The benchmark of the metrics runs, and leaves out what is not installed."""

from __future__ import annotations

import json
import subprocess
import sys

from conftest import REPOSITORY

SCRIPT = REPOSITORY / "scripts" / "benchmark.py"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, timeout=120)


def test_one_contender_reports_its_numbers_time_and_memory():
    result = run("metrics", "--contender", "LiverMargin", "--slices", "8")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert 0.5 < report["numbers"]["dice"] < 1
    assert report["seconds"] > 0
    assert report["mib"] >= 0


def test_a_contender_that_is_not_installed_is_left_out_and_said(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(REPOSITORY / "scripts"))
    from benchmarks import metrics
    from benchmarks.metric_contenders import OURS, OURS_ONE_THREAD, example_masks

    def stand_in(arguments: list[str]) -> dict[str, object]:
        name = arguments[arguments.index("--contender") + 1]
        if name not in (OURS, OURS_ONE_THREAD):
            raise RuntimeError(f"ModuleNotFoundError: {name}")
        return {"numbers": {"dice": 0.9}, "seconds": 1.0, "mib": 10.0}

    monkeypatch.setattr(metrics, "in_own_process", stand_in)
    parser = metrics.argparse.ArgumentParser()
    metrics.add_arguments(parser)
    assert metrics.run(parser.parse_args(["--slices", "8", "--repeats", "2"])) == 0
    printed = capsys.readouterr().out
    assert "surface-distance is left out: ModuleNotFoundError" in printed
    assert "0.0e+00 (dice, of 1)" in printed
    reference, prediction = example_masks(8, side=64)
    assert reference.any()
    assert (reference != prediction).any()


def test_an_unknown_sub_command_is_bad_usage():
    assert run("nothing").returncode == 2
