"""How much of its time a training computes: steps with reading and augmentation against one batch replayed.

The replayed batch is read and varied once, so that its steps are the network's forward and backward pass and the
optimiser alone. Both run in this process in turns, on phantoms, as the trainer runs them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from LiverMarginLib.training.config import TrainConfig
from LiverMarginLib.training.profiles import PROFILES

GOAL = 0.9


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `benchmark.py train`."""
    parser.add_argument("model", nargs="?", default="unet", choices=sorted(PROFILES))
    parser.add_argument("--profile", default="robust")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=8, help="in each turn")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path, help="also write every figure here")


def run(options: argparse.Namespace) -> int:
    """Train and replay in turns and print both rates."""
    import torch

    from LiverMarginLib.phantom import PhantomOptions
    from LiverMarginLib.training.distributed import Group
    from LiverMarginLib.training.engine import choose_device
    from LiverMarginLib.training.phantom_source import PhantomSource
    from LiverMarginLib.training.task import build_task

    if options.threads:
        torch.set_num_threads(options.threads)
    config = replace(PROFILES[options.model][options.profile], size=options.size, batch=options.batch)
    found: dict[str, list[float]] = {"training": [], "replaying one batch": []}
    with tempfile.TemporaryDirectory() as folder:
        source = PhantomSource([1, 2], PhantomOptions(shape=(44, 256, 256), spacing=(5.0, 1.55, 1.55)), folder)
        source.store.prepare()
        device = choose_device(config.device, Group())
        engine = build_task(config).engine(device, Group(), 100_000)
        for repeat in range(options.repeats + 1):
            real, replayed = _turn(config, engine, source, repeat * options.steps, options.steps)
            if repeat:  # the first turn warms up
                found["training"].append(real)
                found["replaying one batch"].append(replayed)
                print(f"round {repeat} of {options.repeats}", flush=True)
    share = statistics.median(b / a for a, b in zip(*found.values(), strict=True))
    print(f"\n{options.model} {options.profile}, {options.batch} x {options.size} x {options.size}, on {device}")
    for name, seconds in found.items():
        print(f"{name:24}{1000 * statistics.median(seconds):8.0f} ms a step")
    print(f"the training reaches {share:.0%} of the pure rate; the goal is {GOAL:.0%}")
    if options.json:
        options.json.write_text(json.dumps({**found, "share": share}, indent=2))
    return 0


def _turn(config: TrainConfig, engine: Any, source: Any, first: int, steps: int) -> tuple[float, float]:
    """Seconds of a step with everything, and of one with the last batch again."""
    from LiverMarginLib.training.loader import BatchLoader, SampleOrder

    task = engine._task
    keys = SampleOrder(range(len(source)), config.seed).steps(first, first + steps, config.batch)
    read = partial(task.read_training, source)
    batch = None
    with BatchLoader(read, keys, 0, config.prefetch, engine.device.type == "cuda") as batches:
        started = time.perf_counter()
        for step, batch in enumerate(batches, first):
            engine.step(batch.to(engine.device), step)
        _wait(engine.device)
        real = (time.perf_counter() - started) / steps
    assert batch is not None
    varied = task.vary(batch.to(engine.device))
    task.vary = lambda same: varied
    try:
        started = time.perf_counter()
        for step in range(first, first + steps):
            engine.step(varied, step)
        _wait(engine.device)
        return real, (time.perf_counter() - started) / steps
    finally:
        del task.vary


def _wait(device: Any) -> None:
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)
