"""Time, memory and values of the metrics against MONAI, surface-distance and the official Boundary IoU.

Needs MONAI, opencv-python-headless and google-deepmind's surface-distance (not the package of that name on the
index) beside LiverMargin's own dependencies; what is missing is left out and said. Every figure is taken in a fresh
process, all contenders in turns (A B ... A B ...), and the median of the repetitions is shown.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from pathlib import Path

from benchmarks.measuring import in_own_process, measured
from benchmarks.metric_contenders import COMBINATIONS, CONTENDERS, OURS, OURS_ONE_THREAD, example_masks

SPACING = (1.0, 0.78, 0.78)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `benchmark.py metrics`."""
    parser.add_argument("--slices", type=int, nargs="+", default=[100, 300, 1000], help="512 x 512 slices")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write every figure here")
    parser.add_argument("--leave-out", nargs="+", default=[], choices=sorted(CONTENDERS), metavar="CONTENDER")
    parser.add_argument("--contender", choices=sorted(CONTENDERS), help=argparse.SUPPRESS)


def run(options: argparse.Namespace) -> int:
    """Run every contender in turns and print the tables."""
    if options.contender:
        print(json.dumps(one(options.contender, options.slices[0])))
        return 0
    results = {}
    for n in options.slices:
        runs: dict[str, list[dict]] = {name: [] for name in CONTENDERS if name not in options.leave_out}
        for repeat in range(options.repeats):
            for name in list(runs):
                try:
                    runs[name].append(in_own_process(_arguments(name, n)))
                except RuntimeError as error:
                    print(f"{name} is left out: {error}", flush=True)
                    del runs[name]
            print(f"{n} slices: round {repeat + 1} of {options.repeats}", flush=True)
        results[n] = {
            name: {
                "seconds": statistics.median(r["seconds"] for r in found),
                "spread": [min(r["seconds"] for r in found), max(r["seconds"] for r in found)],
                "mib": statistics.median(r["mib"] for r in found),
                "numbers": found[0]["numbers"],
            }
            for name, found in runs.items()
        }
        show(n, results[n])
    if len(results) > 1:
        print(
            "\nLiverMargin, milliseconds a slice: "
            + ", ".join(f"{n}: {found[OURS]['seconds'] / n * 1000:.2f}" for n, found in results.items())
        )
    if options.json:
        options.json.write_text(json.dumps(results, indent=2))
    return 0


def _arguments(name: str, n: int) -> list[str]:
    script = Path(__file__).resolve().parents[1] / "benchmark.py"
    return [str(script), "metrics", "--contender", name, "--slices", str(n)]


def one(name: str, n: int) -> dict:
    """Run one contender once, after a small warm-up that pays for its imports."""
    contender = CONTENDERS[name]()
    contender(*example_masks(8, side=64), SPACING)
    masks = example_masks(n)
    numbers, seconds, mib = measured(lambda: contender(*masks, SPACING))
    return {"numbers": numbers, "seconds": seconds, "mib": mib}


def show(n: int, found: dict[str, dict]) -> None:
    """Print one size's table: ratios to LiverMargin, and the largest difference of any value."""
    ours = found[OURS]
    labels = 2 * n * 512 * 512 / 2**20
    print(f"\n512 x 512 x {n}; the two label arrays are {labels:.0f} MiB")
    print(f"{'':44}{'seconds':>9}{'(range)':>16}{'ratio':>8}{'MiB':>8}{'ratio':>8}   largest difference")
    for name, r in found.items():
        difference = _largest_difference(ours["numbers"], r["numbers"]) if name != OURS else ""
        seconds, mib = r["seconds"], r["mib"]
        print(
            f"{name:44}{seconds:9.2f}{r['spread'][0]:8.2f} -{r['spread'][1]:6.2f}{seconds / ours['seconds']:8.1f}"
            f"{mib:8.0f}{mib / max(ours['mib'], 1):8.1f}   {difference}"
        )
    complete = [c for c in COMBINATIONS if all(name in found for name in c)]
    if complete:
        best = min(complete, key=lambda c: sum(found[name]["seconds"] for name in c))
        seconds = sum(found[name]["seconds"] for name in best)
        memory = max(found[name]["mib"] for name in best)
        print(
            f"fastest combination for the same numbers: {' + '.join(best)}: {seconds:.2f} s, "
            f"{seconds / ours['seconds']:.1f} times LiverMargin's time "
            f"({seconds / found[OURS_ONE_THREAD]['seconds']:.1f} times with one thread), "
            f"{memory / max(ours['mib'], 1):.1f} times its memory"
        )


def _largest_difference(ours: dict[str, float], theirs: dict[str, float]) -> str:
    differences = {key: abs(value - ours[key]) for key, value in theirs.items() if key in ours}
    worst = max(differences, key=lambda key: differences[key] if math.isfinite(differences[key]) else math.inf)
    return f"{differences[worst]:.1e} ({worst}, of {len(differences)})"
