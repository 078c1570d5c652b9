"""Fuzz targets in processes of their own, count what they find, and go on after a crash."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from fuzzing.targets import TARGETS

Plan = dict[str, tuple[int, int]]

_SILENCE = 300.0  # seconds of wall time, because the machine may be busy
_HERE = Path(__file__).resolve().parents[1]


@dataclass
class Finding:
    """What a target's inputs have shown: how many were read, and the defects with the first input that shows each."""

    inputs: int = 0
    defects: dict[str, int] = field(default_factory=dict)
    times: Counter[str] = field(default_factory=Counter)

    def add(self, problem: str, number: int) -> None:
        """Count a defect; those at one place for one reason are one."""
        key = problem.split(": ")[0]
        if not self.times[key]:
            self.defects[problem] = number
        self.times[key] += 1


def fuzz(names: Iterable[str], count: int, first: int = 0) -> dict[str, Finding]:
    """Read inputs `first` to `first + count - 1` of each target.

    Parameters
    ----------
    names : iterable of str
        Out of `TARGETS`.
    count, first : int

    Returns
    -------
    dict of str to Finding
    """
    plan = dict.fromkeys(names, (first, first + count))
    findings = {name: Finding(count) for name in plan}
    while plan:
        plan = _one_child(plan, findings)
    return findings


def _one_child(plan: Plan, findings: dict[str, Finding]) -> Plan:
    """Let one child read; return what is left when it has crashed."""
    environment = {
        **os.environ, "MALLOC_ARENA_MAX": "2", "OMP_NUM_THREADS": "1",
        "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "1", "PYTHONPATH": os.pathsep.join((str(_HERE.parents[1]), str(_HERE))),
    }  # fmt: skip
    at: tuple[str, int] | None = None
    with tempfile.TemporaryFile("w+") as errors:
        child = subprocess.Popen(
            [sys.executable, "-m", "fuzzing.child", json.dumps(plan)],
            stdout=subprocess.PIPE, stderr=errors, text=True, env=environment,
        )  # fmt: skip
        with child, _ended_when_silent(child) as heard:
            assert child.stdout is not None
            for line in child.stdout:
                heard()
                kind, name, number, text = json.loads(line)
                at = name, number
                if kind == "defect":
                    findings[name].add(text, number)
        errors.seek(0)
        said = errors.read()
    if child.returncode == 0:
        return {}
    if at is None:
        raise RuntimeError(f"the fuzzing process does not start:\n{said}")
    name, number = at
    place = next((line.strip() for line in said.splitlines() if "LiverMarginLib" in line), said[-300:])
    findings[name].add(f"the process ended with {child.returncode} in {place}", number)
    names = list(plan)
    rest = {later: plan[later] for later in names[names.index(name) + 1 :]}
    return ({name: (number + 1, plan[name][1])} if number + 1 < plan[name][1] else {}) | rest


@contextmanager
def _ended_when_silent(child: subprocess.Popen[str]) -> Iterator[Callable[[], None]]:
    """Kill a child that hangs in a native library, where its own clock is not looked at; yields how to say it lives."""
    last, over = time.monotonic(), threading.Event()

    def heard() -> None:
        nonlocal last
        last = time.monotonic()

    def watch() -> None:
        while not over.wait(1):
            if time.monotonic() - last > _SILENCE:
                child.kill()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield heard
    finally:
        over.set()
        watcher.join()


def report(findings: Mapping[str, Finding]) -> str:
    """A table for a person: inputs, different defects, and each defect with an input that shows it."""
    lines = []
    for name, finding in findings.items():
        lines.append(f"{name:16}{finding.inputs:7} inputs{len(finding.defects):5} defects")
        lines += [f"    #{number} ({finding.times[text.split(': ')[0]]} times) {text}"
                  for text, number in finding.defects.items()]  # fmt: skip
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=10_000, help="in all, over all targets")
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("targets", nargs="*", default=[], help=f"of: {', '.join(TARGETS)}; all by default")
    options = parser.parse_args()
    names = options.targets or list(TARGETS)
    share = -(-options.inputs // len(names))
    bad = False
    for name in names:
        started = time.monotonic()
        findings = fuzz([name], share, options.first)
        bad = bad or bool(findings[name].defects)
        sys.stdout.write(f"{report(findings)}   {time.monotonic() - started:.0f} s\n")
        sys.stdout.flush()
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
