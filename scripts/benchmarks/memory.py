"""How much memory `segment` takes for volumes of more and more slices, beside the limit of the volume plus 1 GB.

The volume is counted in single precision, as it is held. Every slice is computed, by each runtime that is installed,
in a process of its own; the time shows whether it is linear in the slices.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measuring import in_own_process, peak_of_this_process

LIMIT_MB = 1024


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `benchmark.py memory`."""
    parser.add_argument("--slices", type=int, nargs="+", default=[300, 600, 2000], help="512 x 512 slices")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--model", default="unet-ct")
    parser.add_argument("--json", type=Path, help="also write every figure here")
    parser.add_argument("--image", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--runtime", help=argparse.SUPPRESS)


def run(options: argparse.Namespace) -> int:
    """Measure every size with every runtime and print the table."""
    if options.image:
        print(json.dumps(one(options)))
        return 0
    runtimes = [
        name
        for name, package in (("ncnn", "ncnn"), ("onnx", "onnxruntime"), ("torch", "torch"))
        if importlib.util.find_spec(package)
    ]
    script = str(Path(__file__).resolve().parents[1] / "benchmark.py")
    found: list[dict[str, Any]] = []
    print(f"{'slices':>8}{'runtime':>10}{'volume MiB':>12}{'peak MiB':>10}{'limit':>8}{'seconds':>9}{'ms a slice':>12}")
    for n in options.slices:
        with tempfile.TemporaryDirectory() as name:
            image = _image(Path(name), n)
            for runtime in runtimes:
                words = [script, "memory", "--image", str(image), "--runtime", runtime, "--model", options.model]
                runs = [in_own_process(words) for _ in range(options.repeats)]
                peak, seconds = (statistics.median(run[key] for run in runs) for key in ("mib", "seconds"))
                volume = n * 512 * 512 * 4 / 2**20
                found.append({"slices": n, "runtime": runtime, "volume": volume, "peak": peak, "seconds": seconds})
                print(
                    f"{n:8}{runtime:>10}{volume:12.0f}{peak:10.0f}{volume + LIMIT_MB:8.0f}{seconds:9.1f}"
                    f"{1000 * seconds / n:12.1f}",
                    flush=True,
                )
    if options.json:
        options.json.write_text(json.dumps(found, indent=2))
    return 0


def _image(folder: Path, slices: int) -> Path:
    """A phantom of 40 slices, repeated up and down: no slice is empty, and no time goes into making it."""
    import SimpleITK as sitk

    from LiverMarginLib.phantom import PhantomOptions, make_phantom

    phantom = make_phantom(1, PhantomOptions(shape=(40, 512, 512), spacing=(5.0, 0.78, 0.78)))
    stack = phantom.volume.array.astype(np.int16)
    there_and_back = np.concatenate([stack, stack[::-1]])
    repeated = there_and_back[np.arange(slices) % len(there_and_back)]
    image = sitk.GetImageFromArray(repeated)
    image.SetSpacing((0.78, 0.78, 1.0))
    path = folder / "long.nii.gz"
    sitk.WriteImage(image, str(path), useCompression=True, compressionLevel=1)
    return path


def one(options: argparse.Namespace) -> dict[str, Any]:
    """Segment once; the peak is that of the whole process, Python and libraries included."""
    import time

    from LiverMarginLib.jobs.base import run as run_job
    from LiverMarginLib.jobs.segment import SegmentJob

    out = options.image.with_name(f"liver-{options.runtime}-{time.time_ns()}.seg.nrrd")
    started = time.perf_counter()
    run_job(SegmentJob(str(options.image), options.model, (str(out),), device="cpu", runtime=options.runtime))
    return {"seconds": time.perf_counter() - started, "mib": peak_of_this_process()}
