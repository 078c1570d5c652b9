"""What all tests share: where the real volumes are, and why a test that needs something was skipped."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from LiverMarginLib.diagnostics import sample_data_folder

if TYPE_CHECKING:
    from LiverMarginLib.models.bundle import Bundle

REPOSITORY = Path(__file__).resolve().parents[2]


def _has_cuda() -> bool:
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reasons = {
        "realdata": (sample_data_folder() is not None, "no real volumes (../shared/data or LIVERMARGIN_DATA)"),
        "slicer": (importlib.util.find_spec("slicer") is not None, "slicer-core is not installed"),
        "detectron2": (importlib.util.find_spec("detectron2") is not None, "detectron2 is not installed"),
    }
    for item in items:
        for marker, (available, reason) in reasons.items():
            if not available and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))
        if item.get_closest_marker("gpu") and not _has_cuda():
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real volumes; use with ``@pytest.mark.realdata``."""
    folder = sample_data_folder()
    assert folder is not None
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle of a U-Net of 32 x 32 pixels with random weights, made once; copy its folder to change it."""
    from model_tools import tiny_bundle

    return tiny_bundle(tmp_path_factory.mktemp("models") / "tiny")
