"""Time and peak memory of a piece of work, in a process of its own."""

from __future__ import annotations

import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any


def measured(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """Run once; return the result, the seconds, and the peak of memory in MiB above what was in use before."""
    gc.collect()
    before = _status("VmRSS")
    # Linux forgets the peak so far; elsewhere the peak of the whole process has to do.
    peak_file = Path("/proc/self/clear_refs")
    if peak_file.exists():
        peak_file.write_text("5")
    started = time.perf_counter()
    result = work()
    seconds = time.perf_counter() - started
    return result, seconds, max(0.0, _status("VmHWM") - before)


def peak_of_this_process() -> float:
    """Return the largest memory of this process so far, in MiB, with the interpreter and all libraries."""
    return _status("VmHWM")


def _status(field: str) -> float:
    path = Path("/proc/self/status")
    if path.exists():
        line = next(line for line in path.read_text().splitlines() if line.startswith(field))
        return int(line.split()[1]) / 1024
    import resource

    scale = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale


def in_own_process(arguments: list[str]) -> dict[str, Any]:
    """Start this script again with other arguments; its last line of output is JSON.

    Raises
    ------
    RuntimeError
        If it fails, with the last line of its error stream.
    """
    result = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )
    if result.returncode:
        raise RuntimeError((result.stderr.strip().splitlines() or ["no message"])[-1])
    return dict(json.loads(result.stdout.strip().splitlines()[-1]))


def in_turns(
    names: Iterable[str], repeats: int, arguments: Callable[[str], list[str]]
) -> tuple[dict[str, list[dict[str, Any]]], list[float]]:
    """Measure contenders by `in_own_process`, one after the other in every round.

    Returns
    -------
    tuple
        What each of them said, round by round, and the load of the machine after each turn.
    """
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    busy = []
    for repeat in range(repeats):
        for name, said in found.items():
            said.append(in_own_process(arguments(name)))
            busy.append(load())
        print(f"round {repeat + 1} of {repeats}", flush=True)
    return found, busy


def load() -> float:
    """Return how many processes wanted a core in the last minute, ours included; 0 where nobody counts."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def ratio_of(peer: list[dict[str, Any]], ours: list[dict[str, Any]], key: str) -> float:
    """Return the median, over the rounds, of how many times as much of something the peer took."""
    return statistics.median(a[key] / b[key] for a, b in zip(peer, ours, strict=True))
