"""The process that reads damaged files: ``python -m fuzzing.child PLAN`` tells of each input by a line.

The plan is JSON: for each target the numbers of the first input and of the one after the last.

It has 2 GB of address space more than it needs for its libraries and 10 s of computing for each input, so that what
is greedy or hangs is found; a crash of a native library ends it, and its parent goes on with the next input.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import resource
import signal
import sys
import tempfile
from pathlib import Path

from fuzzing.targets import TARGETS, Target, check, write_files

SECONDS = 10
MEMORY = 2 << 30


class Hang(BaseException):
    """An input took more computing than it may."""


def _stop(number: int, frame: object) -> None:
    raise Hang


def _limit_memory() -> None:
    with Path("/proc/self/statm").open() as stream:
        mapped = int(stream.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (mapped + MEMORY, resource.RLIM_INFINITY))


def main() -> None:
    plan = json.loads(sys.argv[1])
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    faulthandler.enable()
    logging.disable(logging.CRITICAL)
    signal.signal(signal.SIGPROF, _stop)

    def tell(kind: str, name: str, number: int, text: str = "") -> None:
        replies.write(json.dumps([kind, name, number, text]) + "\n")
        replies.flush()

    with tempfile.TemporaryDirectory() as workplace:
        os.chdir(workplace)
        for name, (first, end) in plan.items():
            target, folder = TARGETS[name], Path(workplace, "input")
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            write_files(target.sound, folder)
            for problem in check(target, folder):  # libraries are loaded, and sound files are read
                tell("defect", name, -1, f"the sound files give: {problem}")
            _limit_memory()
            for number in range(first, end):
                write_files(target.input(number), folder)
                tell("begin", name, number)
                for problem in dict.fromkeys(_watched(target, folder)):
                    tell("defect", name, number, problem)
                tell("end", name, number)


def _watched(target: Target, folder: Path) -> list[str]:
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        return check(target, folder)
    except Hang:
        return [f"more than {SECONDS} s of computing"]
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


if __name__ == "__main__":
    main()
