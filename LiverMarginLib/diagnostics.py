"""What is installed, and which device really computes: the facts behind `livermargin doctor` and the panel.

A package counts as working when it imports; a device when one tensor operation on it gave the right number. Torch
builds that see a card they cannot use are common (a new card with an old build), and `is_available` says yes there.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import sys
from dataclasses import dataclass, field
from pathlib import Path

# Package on the registry, module to import, what it is for, whether LiverMargin runs without it.
_PACKAGES = (
    ("numpy", "numpy", "arrays", True),
    ("scipy", "scipy", "distances and components", True),
    ("SimpleITK", "SimpleITK", "reading and writing images", True),
    ("pydicom", "pydicom", "reading DICOM", True),
    ("highdicom", "highdicom", "DICOM SEG", True),
    ("scikit-image", "skimage", "resampling and contours", True),
    ("vtk", "vtkmodules", "surfaces", True),
    ("onnxruntime", "onnxruntime", "running the shipped models", True),
    ("matplotlib", "matplotlib", "figures", True),
    ("rich", "rich", "progress on the command line", True),
    ("torch", "torch", "training; running models on a GPU", False),
    ("safetensors", "safetensors", "reading weights without ONNX Runtime", False),
    ("onnx", "onnx", "exporting trained models", False),
    ("torchvision", "torchvision", "Detectron2", False),
    ("detectron2", "detectron2", "training Mask R-CNN", False),
)


@dataclass(frozen=True)
class Package:
    """One package: its version, or None where it is missing, and the error where it is broken."""

    name: str
    purpose: str
    required: bool
    version: str | None
    problem: str = ""


@dataclass(frozen=True)
class Device:
    """One way to compute; `proved` only after an operation on it gave the right number."""

    name: str
    description: str
    proved: bool
    problem: str = ""
    free_memory_gb: float | None = None


@dataclass(frozen=True)
class Diagnosis:
    """Everything `diagnose` found."""

    python: str
    executable: str
    platform: str
    processors: int
    packages: tuple[Package, ...]
    devices: tuple[Device, ...]
    sample_data: str | None
    problems: tuple[str, ...] = field(default=())


def diagnose() -> Diagnosis:
    """Look at this Python, its packages and its devices.

    Returns
    -------
    Diagnosis
        `problems` holds one sentence for each thing without which LiverMargin cannot segment.
    """
    packages = tuple(_package(*row) for row in _PACKAGES)
    devices = (_cpu(), *_torch_devices())
    problems = [
        f"{package.name} ({package.purpose}) is {'broken' if package.problem else 'missing'}: "
        f"{package.problem or f'install it with pip install {package.name}'}."
        for package in packages
        if package.required and (package.version is None or package.problem)
    ]
    problems += [
        f"The device {device.name} is there but does not work: {device.problem}."
        for device in devices
        if device.problem
    ]
    return Diagnosis(
        python=platform.python_version(),
        executable=sys.executable,
        platform=platform.platform(terse=True),
        processors=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        packages=packages,
        devices=devices,
        sample_data=None if (data := sample_data_folder()) is None else str(data),
        problems=tuple(problems),
    )


def _package(name: str, module: str, purpose: str, required: bool) -> Package:
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        if importlib.util.find_spec(module) is None:
            return Package(name, purpose, required, None)
        version = "unknown version"
    try:
        importlib.import_module(module)
    except Exception as error:  # a broken binary package may raise anything
        return Package(name, purpose, required, version, problem=f"{type(error).__name__}: {error}".splitlines()[0])
    return Package(name, purpose, required, version)


def _cpu() -> Device:
    return Device("cpu", platform.processor() or platform.machine(), proved=True)


def _torch_devices() -> tuple[Device, ...]:
    if importlib.util.find_spec("torch") is None:
        return ()
    try:
        import torch
    except Exception:  # reported with the packages
        return ()
    found = []
    for n in range(torch.cuda.device_count()) if torch.cuda.is_available() else ():
        description = f"{torch.cuda.get_device_name(n)}, torch {torch.__version__}"
        free = None
        problem = _prove(f"cuda:{n}")
        if not problem:
            free = round(torch.cuda.mem_get_info(n)[0] / 2**30, 1)
        found.append(Device(f"cuda:{n}", description, not problem, problem, free))
    if getattr(torch.backends, "mps", None) is not None and torch.backends.mps.is_available():
        problem = _prove("mps")
        found.append(Device("mps", f"Apple GPU, torch {torch.__version__}", not problem, problem))
    return tuple(found)


def _prove(device: str) -> str:
    """Convolve ones with ones on the device; return what went wrong, or nothing."""
    import torch

    try:
        ones = torch.ones((1, 1, 8, 8), device=device)
        total = float(torch.nn.functional.conv2d(ones, ones[:, :, :3, :3]).sum().cpu())
    except Exception as error:  # drivers raise anything
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return "" if total == 9 * 36 else f"a convolution gave {total} instead of 324"


def sample_data_folder() -> Path | None:
    """Return where the real volumes for development lie (LIVERMARGIN_DATA, ../shared/data); None if they do not."""
    candidates = [os.environ.get("LIVERMARGIN_DATA"), Path(__file__).resolve().parents[2] / "shared" / "data"]
    return next((Path(c) for c in candidates if c and (Path(c) / "ct_portal_slab").is_dir()), None)
