"""Every benchmark runs to its table and JSON, on the smallest work there is; figures are never judged here."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY

SCRIPT = REPOSITORY / "scripts" / "benchmark.py"


def measure(folder: Path, *words: str) -> tuple[str, Any]:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *words, "--json", str(folder / "figures.json")],
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads((folder / "figures.json").read_text())


@pytest.mark.slow
def test_segment_compares_with_an_eager_loop_and_with_the_peak(tmp_path):
    words = ["--slices", "8", "--network-slices", "2", "--repeats", "1", "--threads", "1"]
    table, figures = measure(tmp_path, "segment", *words)
    assert "eager torch, slice by slice" in table and "floors" in table and "DICOM to seg.nrrd" in table
    parts = {f"{who}-{kind}" for who in ("ours", "eager") for kind in ("slices", "noise")}
    assert set(figures) == {*parts, "peak", "end-to-end", "compared"}
    assert all(found["largest_difference"] < 5e-5 for found in figures["compared"].values())
    assert figures["end-to-end"][0]["slices"] == 8


@pytest.mark.slow
def test_memory_is_measured_by_every_runtime_that_is_installed(tmp_path):
    _, figures = measure(tmp_path, "memory", "--slices", "3")
    packages = {"ncnn": "ncnn", "onnx": "onnxruntime", "torch": "torch"}
    installed = [name for name, package in packages.items() if importlib.util.find_spec(package)]
    assert [row["runtime"] for row in figures] == installed
    assert all(row["peak"] > row["volume"] == 3.0 for row in figures)


@pytest.mark.slow
def test_train_compares_a_training_with_one_batch_replayed(tmp_path):
    words = ["--size", "32", "--batch", "1", "--steps", "1", "--repeats", "1", "--threads", "1"]
    table, figures = measure(tmp_path, "train", *words)
    assert "of the pure rate" in table
    assert figures["share"] == figures["replaying one batch"][0] / figures["training"][0]


@pytest.mark.slow
def test_startup_measures_command_worker_and_first_slice(tmp_path):
    table, figures = measure(tmp_path, "startup", "--repeats", "1")
    assert "command line" in table and "warm worker" in table and "first slice" in table
    assert figures


def test_volumetric_asks_for_its_peer(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(REPOSITORY / "scripts"))
    from benchmarks import volumetric

    monkeypatch.setattr(volumetric.importlib.util, "find_spec", lambda name: None)
    parser = volumetric.argparse.ArgumentParser()
    volumetric.add_arguments(parser)
    assert volumetric.run(parser.parse_args([])) == 2
    assert "monai" in capsys.readouterr().out
