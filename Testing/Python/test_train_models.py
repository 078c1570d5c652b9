"""scripts/train_models.py: the recipes of the shipped models are trainings that the command line takes."""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys

import pytest
from conftest import REPOSITORY

from LiverMarginLib.commands import train
from LiverMarginLib.jobs.train import TrainJob

SCRIPT = str(REPOSITORY / "scripts/train_models.py")
SHIPPED = sorted(path.name for path in (REPOSITORY / "Resources/Models").iterdir() if path.is_dir())


def commands(model: str, *more: str) -> list[list[str]]:
    told = subprocess.run(
        [sys.executable, SCRIPT, model, "-o", "out", "--dry-run", *more], capture_output=True, text=True, check=True
    )
    return [shlex.split(line)[2:] for line in told.stdout.splitlines()]


@pytest.mark.parametrize("scans", [(), ("--scans", "real scans")], ids=["phantoms", "scans"])
@pytest.mark.parametrize("model", SHIPPED)
def test_every_shipped_model_has_a_recipe_whose_settings_exist(model, scans):
    before = None
    for words in commands(model, *scans):
        parser = argparse.ArgumentParser()
        train.add_arguments(parser)
        options = parser.parse_args(words)
        settings = dict(setting.split("=", 1) for setting in options.set)
        job = TrainJob(model=options.model, out=options.out, profile=options.profile, settings=settings)
        assert job.config().model == options.model
        assert options.init == before
        assert options.data in ("", "real scans") and (not options.data or options.split == "real scans/split.json")
        before = options.out
    assert before == f"out/{model}"
