"""Run the tests on a bare Python: `python3 scripts/test.py [--slow] [pytest options]`.

Makes its own environment, checks style and types, then runs pytest. Tests that need something that is not here are
skipped and say what it is.
"""

from __future__ import annotations

import os
import subprocess
import sys

import _environment


def main() -> int:
    """Run every check; the first non-zero exit code wins."""
    arguments = sys.argv[1:]
    selection = [] if "--slow" in arguments else ["-m", "not slow"]
    arguments = [argument for argument in arguments if argument != "--slow"]
    steps = [
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "."],
        ["mypy"],
        # One process for each core; libraries that bring threads of their own would only get in each other's way.
        ["pytest", "-n", "logical", *selection, *arguments],
    ]
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    codes = []
    for step in steps:
        print("$", " ".join(step), flush=True)
        codes.append(subprocess.call([sys.executable, "-m", *step], cwd=_environment.REPOSITORY, env=environment))
    return next((code for code in codes if code), 0)


if __name__ == "__main__":
    _environment.enter("test", "[test]")
    sys.exit(main())
