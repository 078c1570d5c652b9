"""How long a user waits for a first sign of life: the command line, the warm worker, the first slice.

Every figure is the median of the repetitions, all of them in turns, beside the limit that it has to keep and a bare
`python -c "import numpy"` of the same moment, which says how busy the machine is.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.measuring import in_own_process

MODEL = "unet-ct"
BARE = "python -c 'import numpy'"
LIMITS = {
    BARE: None,
    "command line: first progress": 1.5,
    "warm worker: first event of a job": 0.05,
    "first slice of a loaded volume": 2.0,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `benchmark.py startup`."""
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write every figure here")
    parser.add_argument("--first-slice", type=Path, help=argparse.SUPPRESS)


def run(options: argparse.Namespace) -> int:
    """Measure all in turns and print the table."""
    if options.first_slice:
        print(json.dumps({"seconds": first_slice(options.first_slice)}))
        return 0
    with tempfile.TemporaryDirectory() as name:
        image = _phantom(Path(name))
        measures: dict[str, Callable[[], float]] = dict(
            zip(
                LIMITS,
                (
                    lambda: _seconds_until(["-c", "import numpy"]),
                    lambda: _first_progress(image),
                    lambda: _warm_worker(image),
                    lambda: _first_slice_in_own_process(image),
                ),
                strict=True,
            )
        )
        found: dict[str, list[float]] = {key: [] for key in measures}
        for repeat in range(options.repeats):
            for key, measure in measures.items():
                found[key].append(measure())
            print(f"round {repeat + 1} of {options.repeats}", flush=True)
    print(f"\n{'':36}{'seconds':>9}{'(range)':>16}{'limit':>8}")
    for key, seconds in found.items():
        limit = "" if LIMITS[key] is None else f"{LIMITS[key]:8.2f}"
        print(f"{key:36}{statistics.median(seconds):9.3f}{min(seconds):8.3f} -{max(seconds):6.3f}{limit}")
    if options.json:
        options.json.write_text(json.dumps(found, indent=2))
    return 0


def _phantom(folder: Path) -> Path:
    from LiverMarginLib.io.volume_writers import write_volume
    from LiverMarginLib.phantom import make_phantom

    # Uncompressed, as Slicer hands volumes to the worker.
    return write_volume(make_phantom(1).volume, folder / "phantom.nrrd", compress=False)


def _seconds_until(arguments: list[str], sign: bytes = b"") -> float:
    """Seconds from the start of a Python until its terminal shows `sign`, or until it ends if there is none."""
    import pty  # progress bars are for terminals

    terminal, side = pty.openpty()
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, *arguments], stdin=side, stdout=subprocess.DEVNULL, stderr=side)
    os.close(side)
    heard = b""
    try:
        while not sign or sign not in heard:
            heard += os.read(terminal, 4096)
    except OSError:  # the other side was closed
        if sign:
            raise RuntimeError(f"{' '.join(arguments)} never showed {sign.decode()!r}") from None
    seconds = time.perf_counter() - started
    process.kill()
    process.wait()
    os.close(terminal)
    return seconds


def _first_progress(image: Path) -> float:
    out = image.with_name("liver.nii.gz")
    arguments = ["-m", "LiverMarginLib", "segment", str(image), "--model", MODEL, "--output", str(out)]
    return _seconds_until(arguments, b"Read")


def _warm_worker(image: Path) -> float:
    """Seconds between a job's line and its first event, in a worker that has done such a job before."""
    worker = subprocess.Popen(
        [sys.executable, "-m", "LiverMarginLib.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert worker.stdin is not None and worker.stdout is not None
    job = {"job": "segment", "input": str(image), "model": MODEL, "outputs": []}

    def next_event() -> dict[str, Any]:
        assert worker.stdout is not None
        return dict(json.loads(worker.stdout.readline()))

    try:
        next_event()
        worker.stdin.write(json.dumps(job).encode() + b"\n")
        worker.stdin.flush()
        while (last := next_event())["event"] not in ("result", "error"):
            pass
        if last["event"] == "error":
            raise RuntimeError(last["message"])
        started = time.perf_counter()
        worker.stdin.write(json.dumps(job).encode() + b"\n")
        worker.stdin.flush()
        next_event()
        return time.perf_counter() - started
    finally:
        worker.kill()
        worker.communicate()


def _first_slice_in_own_process(image: Path) -> float:
    script = Path(__file__).resolve().parents[1] / "benchmark.py"
    return float(in_own_process([str(script), "startup", "--first-slice", str(image)])["seconds"])


def first_slice(path: Path) -> float:
    """Seconds from a volume in memory, and nothing of the network loaded, to the labels of the first slice."""
    from LiverMarginLib.io.readers import read_volume

    class Enough(Exception):
        pass

    volume = read_volume(path)
    started = time.perf_counter()
    from LiverMarginLib.events import Event, SliceReady
    from LiverMarginLib.inference.segmenter import load_segmenter
    from LiverMarginLib.inference.slicewise import segment_volume
    from LiverMarginLib.models.store import find_bundle

    def stop_at_the_first(event: Event) -> None:
        if isinstance(event, SliceReady):
            raise Enough

    bundle = find_bundle(MODEL)
    try:
        segment_volume(volume, bundle, load_segmenter(bundle, device="cpu"), on_event=stop_at_the_first)
    except Enough:
        return time.perf_counter() - started
    raise RuntimeError("no slice was ever ready")
