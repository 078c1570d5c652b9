"""What the machine offers: CPU threads, and accelerators that are believed only after a computation."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from pathlib import Path

_PROOF_SIDE = 8


def available_threads() -> int:
    """Number of CPU threads to use: ``OMP_NUM_THREADS`` if set, otherwise the CPUs that this process may use."""
    named = os.environ.get("OMP_NUM_THREADS", "")
    if named.isdigit() and int(named) > 0:
        return int(named)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def accelerator_is_likely() -> bool:
    """Whether it is worth the seconds that importing torch takes to ask it for a GPU."""
    if sys.platform == "darwin":
        return platform.machine() == "arm64"
    drivers = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg", "/dev/kfd")
    return any(Path(driver).exists() for driver in drivers) or shutil.which("nvidia-smi") is not None


def prove_torch_device(name: str) -> str:
    """Let torch compute one convolution on a device and compare the result.

    Parameters
    ----------
    name : str
        "cpu", "cuda" or "mps".

    Returns
    -------
    str
        Empty if the device works, otherwise why not.
    """
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        return (
            "this torch finds no CUDA device" if torch.version.cuda or torch.version.hip else "this torch is CPU only"
        )
    if name == "mps" and not torch.backends.mps.is_available():
        return "this torch finds no Apple GPU"
    try:
        image = torch.arange(_PROOF_SIDE**2, dtype=torch.float32).reshape(1, 1, _PROOF_SIDE, _PROOF_SIDE)
        kernel = torch.ones(1, 1, 3, 3)
        expected = torch.nn.functional.conv2d(image, kernel)
        computed = torch.nn.functional.conv2d(image.to(name), kernel.to(name)).cpu()
    except Exception as error:  # a broken driver raises anything
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return "" if torch.allclose(computed, expected, rtol=1e-2) else "its result of a test computation is wrong"
