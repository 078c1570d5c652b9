"""The run manifest: what one would need to know to get the same weights again."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import torch

import LiverMarginLib
from LiverMarginLib.digest import sha256_of
from LiverMarginLib.jsonable import dumps
from LiverMarginLib.training.config import TrainConfig
from LiverMarginLib.training.data import Fingerprinted, NamesCases, Source
from LiverMarginLib.training.distributed import Group
from LiverMarginLib.training.files import write_atomically
from LiverMarginLib.training.initial import weights_file

MANIFEST = "manifest.json"
# What changes the order of sums, and so the last bits.
_ENVIRONMENT = ("CUBLAS_WORKSPACE_CONFIG", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "PYTHONHASHSEED")
# Names of folders may hold a patient's or a user's name, and say nothing about how to repeat the training.
_LEFT_OUT = frozenset({"out", "resume", "initial"})


def run_manifest(
    config: TrainConfig, train: Source, validation: Source | None, device: torch.device, group: Group
) -> dict[str, Any]:
    """Return versions, device, seed, source commit and fingerprints of the data, as plain JSON types.

    Patients are counted, never named; cases of volumetric trainings are named by the hash of their voxels.
    """
    return {
        "versions": {
            "livermargin": LiverMarginLib.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "scipy": scipy.__version__,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        },
        "source": git_state(Path(LiverMarginLib.__file__).parent),
        "machine": {
            "system": platform.system(),
            "processor": platform.machine(),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "threads": torch.get_num_threads(),
            "processes": group.world,
            "environment": {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
        },
        "seed": config.seed,
        "deterministic": config.deterministic,
        "config": {name: value for name, value in config.to_dict().items() if name not in _LEFT_OUT},
        "initial_sha256": None if config.initial is None else sha256_of(weights_file(config.initial)),
        "data": {"train": _describe(train), "validation": None if validation is None else _describe(validation)},
    }


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write ``manifest.json``."""
    write_atomically(folder / MANIFEST, (dumps(manifest, indent=2) + "\n").encode())


def _describe(source: Source) -> dict[str, Any]:
    described = {
        "items": len(source),
        "patients": len({source.patient(index) for index in range(len(source))}),
        "sha256": source.fingerprint() if isinstance(source, Fingerprinted) else None,
    }
    return described | ({"cases": source.cases()} if isinstance(source, NamesCases) else {})


def git_state(folder: Path) -> dict[str, Any]:
    """Return the commit that `folder` is checked out at and whether it was changed; None where it is not a checkout."""

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=True
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    changes = git("status", "--porcelain", "--untracked-files=no", "--", ".")
    return {"commit": git("rev-parse", "HEAD"), "changed": None if changes is None else bool(changes)}
