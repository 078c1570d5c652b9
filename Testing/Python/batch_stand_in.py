"""A worker that speaks the protocol and does what a case's folder is called, without any heavy import.

Run as a program in the place of ``LiverMarginLib.worker``; the tests of the pipeline start it by `stand_in_launch`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path


def tell(**event: object) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def behave(job: dict) -> None:
    word, _, stage = Path(job["case"]["folder"]).name.partition("@")
    if stage and job["job"] != f"batch-{stage}":
        return
    once = Path(job["scratch"]).parent / f"{job['case']['name']}.was-here"
    if word == "crash" or (word == "crash-once" and not once.exists()):
        once.parent.mkdir(parents=True, exist_ok=True)
        once.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    elif word == "hang":
        time.sleep(600)
    elif word == "grow":
        ballast = bytearray(300 << 20)
        time.sleep(600)
        del ballast
    elif word == "babble":
        sys.stdout.write("a library that prints\n")
    elif word == "full":
        tell(event="error", kind="resource", message="The disk is full; free some space.", details="")
        raise StopIteration
    elif word.startswith("slow"):
        time.sleep(0.3)


def main() -> None:
    tell(event="ready", protocol=1, pid=os.getpid())
    for line in sys.stdin:
        job = json.loads(line)
        try:
            behave(job)
        except StopIteration:
            continue
        if job["job"] == "batch-read":
            Path(job["scratch"]).mkdir(parents=True, exist_ok=True)
            tell(event="result", values={"key": "k", "unchanged": False, "digests": {}, "seconds": 0.1})
        elif job["job"] == "batch-segment":
            tell(event="result", values={"seconds": 0.1, "device": "cpu"})
        else:
            final = Path(job["final"])
            final.mkdir(parents=True, exist_ok=True)
            record = {
                "schema": "livermargin.batch-case", "version": 1, "case": job["case"]["name"], "status": "done",
                "key": job["key"], "seconds": {"finish": 0.1}, "device": str(os.getpid()),
            }  # fmt: skip
            (final / "case.json").write_text(json.dumps(record))
            tell(event="result", values={"status": "done"})


if __name__ == "__main__":
    main()
