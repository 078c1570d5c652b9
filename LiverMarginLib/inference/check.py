"""Trying a bundle out: loads it in every runtime that is installed, runs it, compares the results."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from LiverMarginLib.errors import BundleError, DependencyError, LiverMarginError, ResourceError
from LiverMarginLib.inference.denoising import load_denoiser
from LiverMarginLib.inference.segmenter import Device, Runtime, load_segmenter
from LiverMarginLib.models.bundle import Bundle
from LiverMarginLib.models.manifest import ONNX_FILE, SAFETENSORS_FILE, Task
from LiverMarginLib.preprocessing import FloatImage

# torch and ONNX Runtime add up in different orders; more than this is another network.
LARGEST_DIFFERENCE = 1e-3

_SEED = 20250101


@dataclass(frozen=True)
class CheckReport:
    """What `check_bundle` found.

    Parameters
    ----------
    name, version : str
    seconds : mapping of str to float
        Time of one prediction (after one to warm up) by runtime.
    skipped : mapping of str to str
        Why a runtime was not tried, one sentence.
    largest_difference : float, optional
        Between the outputs of two runtimes; None unless two ran.
    """

    name: str
    version: str
    seconds: dict[str, float] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    largest_difference: float | None = None


def check_bundle(path: str | os.PathLike[str], *, device: Device | str = Device.CPU) -> CheckReport:
    """Validate a bundle, run one prediction by each runtime that it has weights for, and compare them.

    Parameters
    ----------
    path : path
        The bundle's folder.
    device : Device or str

    Returns
    -------
    CheckReport

    Raises
    ------
    BundleError
        If it is invalid, cannot be run, gives anything but probabilities (images, from a denoising network), or
        differs between runtimes.
    DependencyError, ResourceError
        If none of the runtimes that it needs is installed, or the device cannot be used.
    """
    bundle = Bundle.load(path)
    manifest = bundle.manifest
    seconds: dict[str, float] = {}
    skipped: dict[str, str] = {}
    reason: LiverMarginError | None = None
    results = []
    shape = (1, manifest.channels, *manifest.input_size)
    image = np.random.default_rng(_SEED).random(shape, dtype=np.float32)
    forms = [(Runtime.ONNX, ONNX_FILE), (Runtime.TORCH, SAFETENSORS_FILE)]
    runtimes = [runtime for runtime, file_name in forms if bundle.has(file_name)]
    for runtime in runtimes or [Runtime.AUTO]:  # a bundle of bundles has no weights of its own
        try:
            predict = _network(bundle, device, runtime)
        except (DependencyError, ResourceError) as error:
            skipped[runtime.value], reason = error.message, error
            continue
        predict(image)
        start = time.perf_counter()
        output = predict(image)
        seconds[runtime.value] = time.perf_counter() - start
        if not np.isfinite(output).all():
            raise BundleError(f"The model {manifest.name!r} gives values that are not numbers by {runtime.value}.")
        if manifest.task is Task.SEGMENTATION and not (output.min() >= 0 and output.max() <= 1):
            raise BundleError(f"The model {manifest.name!r} does not give probabilities by {runtime.value}.")
        results.append(output)
    if reason is not None and not results:
        raise reason
    difference = float(np.abs(results[0] - results[1]).max()) if len(results) == 2 else None
    if difference is not None and difference > LARGEST_DIFFERENCE:
        raise BundleError(
            f"The two forms of the weights of the model {manifest.name!r} give different results (by up to "
            f"{difference:.3g}); get the model again from its source."
        )
    return CheckReport(manifest.name, manifest.version, seconds, skipped, difference)


def _network(bundle: Bundle, device: Device | str, runtime: Runtime) -> Callable[[FloatImage], FloatImage]:
    """Return what computes a batch, for any task."""
    if bundle.manifest.task is Task.DENOISING:
        return load_denoiser(bundle, device=device, runtime=runtime).run
    return load_segmenter(bundle, device=device, runtime=runtime).predict
