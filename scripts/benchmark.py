"""Measure LiverMargin against other software: `python scripts/benchmark.py metrics`.

Each file of scripts/benchmarks that defines `add_arguments` and `run` is a sub-command. Ratios are taken within one
run, in turns, so that a busy machine slows all contenders alike.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
sys.path[:0] = [str(FOLDER), str(FOLDER.parent)]


def main() -> int:
    """Hand over to the sub-command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    modules = {}
    for path in sorted((FOLDER / "benchmarks").glob("*.py")):
        module = importlib.import_module(f"benchmarks.{path.stem}")
        if hasattr(module, "add_arguments"):
            modules[path.stem] = module
            module.add_arguments(commands.add_parser(path.stem, help=module.__doc__.splitlines()[0]))
    options = parser.parse_args()
    return modules[options.command].run(options)


if __name__ == "__main__":
    sys.exit(main())
