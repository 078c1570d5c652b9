"""What `pip install` brings."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile

import pytest
from conftest import REPOSITORY

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())


def test_every_package_of_the_library_is_listed():
    folders = {path.parent for path in (REPOSITORY / "LiverMarginLib").rglob("__init__.py")}
    names = {".".join(folder.relative_to(REPOSITORY).parts) for folder in folders}
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == names | {"LiverMarginLib.Resources"}


def test_what_a_slicer_user_must_install_is_small_and_replaces_nothing_of_slicers():
    lines = (REPOSITORY / "LiverMargin/Resources/requirements.txt").read_text().splitlines()
    names = {line.partition(">")[0].strip().lower() for line in lines if line and not line.startswith("#")}
    assert not names & {"torch", "numpy", "scipy", "simpleitk", "vtk", "detectron2", "torchvision"}


@pytest.mark.slow
def test_a_wheel_holds_the_library_and_the_shipped_models(tmp_path):
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path), str(REPOSITORY)]
    subprocess.run(command, check=True)
    names = set(zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist())
    for path in (REPOSITORY / "LiverMarginLib").rglob("*.py"):
        assert path.relative_to(REPOSITORY).as_posix() in names
    for path in (REPOSITORY / "Resources/Models").glob("*/*"):
        assert f"LiverMarginLib/{path.relative_to(REPOSITORY).as_posix()}" in names
