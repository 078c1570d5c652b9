"""`livermargin batch INPUT [INPUT ...] -o FOLDER` and `livermargin batch merge FOLDER`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from LiverMarginLib.commands.segment import add_precision
from LiverMarginLib.commands.terminal import Terminal
from LiverMarginLib.errors import Cancelled, InputError, LiverMarginError
from LiverMarginLib.events import CaseEnded, Event
from LiverMarginLib.jsonable import dumps

MERGE = "merge"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = (
        "Exit codes: 0 every case has a result, 1 some have not, 2 nothing could start, 130 stopped. "
        "`livermargin batch merge FOLDER` makes one table of the parts of --shard."
    )
    parser.add_argument(
        "inputs", nargs="+", metavar="INPUT", help="folder of DICOM studies or of files, image file, or CSV of cases"
    )
    parser.add_argument("-o", "--output", metavar="FOLDER", help="folder for results, table and summary")
    parser.add_argument("-m", "--model", default="unet-ct", help="name or folder of a model bundle (default: unet-ct)")
    parser.add_argument(
        "-f", "--format", action="append", help="seg.nrrd, nii.gz, dcm, stl, ...; repeatable (default: seg.nrrd)"
    )
    parser.add_argument("--references", metavar="FOLDER", help="segmentations named like the cases, to measure against")
    parser.add_argument("--label", help="value or name of the liver in the references; 1,2 joins two")
    parser.add_argument("--dry-run", action="store_true", help="list the cases, what is left out and why; do nothing")
    parser.add_argument("--all-series", action="store_true", help="every usable series of a study, not only the best")
    parser.add_argument("--min-slices", type=int, default=10, help="fewest slices of a DICOM series (default: 10)")
    parser.add_argument("--retry-failed", action="store_true", help="also do cases that failed on these very files")
    parser.add_argument("--mapping", metavar="FILE", help="write which case is which file (may name patients)")
    machine = parser.add_argument_group("where and how fast")
    machine.add_argument("--workers", type=int, default=1, help="cases computed at the same time (default: 1)")
    machine.add_argument(
        "--case-timeout", type=float, default=3600.0, metavar="SECONDS", help="per case (default: 3600)"
    )
    machine.add_argument("--memory-limit", type=float, metavar="GB", help="a worker that grows over it is replaced")
    machine.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto")
    machine.add_argument("--runtime", choices=("auto", "ncnn", "onnx", "torch"), default="auto")
    machine.add_argument("--batch-size", type=int, help="slices at a time (default: chosen from the machine)")
    machine.add_argument("--threads", type=int, help="processor threads of a worker (default: divided among them)")
    add_precision(machine)
    machine.add_argument("--python", metavar="PATH", help="interpreter of the workers (default: this one)")
    machine.add_argument("--scheduler", metavar="ADDRESS", help="use an existing Dask cluster, such as tcp://host:8786")
    machine.add_argument("--shard", metavar="I/N", help="only the I-th of N parts, for job arrays")
    result = parser.add_argument_group("the segmentation")
    result.add_argument("--threshold", type=float, help="probability from which a voxel is liver")
    result.add_argument("--largest-component", action=argparse.BooleanOptionalAction, help="keep one connected piece")
    result.add_argument("--fill-holes", choices=("none", "slice", "volume"), help="which enclosed holes are filled")
    result.add_argument("--denoise", metavar="MODEL", help="denoise what the network sees by this model first")
    result.add_argument("--allow-mismatch", action="store_true", help="run although the model is for other images")
    parser.add_argument("--json-events", action="store_true", help="print every event as one JSON object a line")


def run(options: argparse.Namespace, terminal: Terminal) -> int:
    """Run the batch, print its table, return its exit code."""
    if options.json_events:
        terminal.as_json = True
        terminal.listeners.append(lambda event: print(dumps(event.to_dict()), flush=True))
    else:
        terminal.listeners.append(lambda event: _tell(event, terminal))
    try:
        values = terminal.run(_job(options))
    except Cancelled:
        raise
    except LiverMarginError as error:
        # Whatever stopped it, nothing could start: that is one exit code here.
        raise InputError(error.message, error.details) from error
    if values.get("dry_run"):
        _print_plan(values, terminal)
    else:
        _print_cases(values, terminal)
    if not options.json_events:
        terminal.result(values, [f"written: {path}" for path in values.get("outputs", ())])
    return int(values["exit_code"])


def _job(options: argparse.Namespace) -> Any:
    from LiverMarginLib.jobs.batch import BatchJob, MergeBatchJob

    if options.inputs[0] == MERGE:
        if len(options.inputs) != 2 or options.output:
            raise InputError("Write `livermargin batch merge FOLDER` with the output folder of the parts.")
        return MergeBatchJob(options.inputs[1])
    if not options.output and not options.dry_run:
        raise InputError("Say where the results go with --output FOLDER.")
    return BatchJob(
        inputs=tuple(options.inputs),
        folder=options.output or "",
        model=options.model,
        formats=tuple(dict.fromkeys(name.lstrip(".") for name in options.format or ("seg.nrrd",))),
        references=options.references,
        label=options.label,
        device=options.device,
        runtime=options.runtime,
        batch_size=options.batch_size,
        threads=options.threads,
        precision=options.precision,
        threshold=options.threshold,
        largest_component=options.largest_component,
        fill_holes=options.fill_holes,
        denoise=options.denoise,
        allow_mismatch=options.allow_mismatch,
        all_series=options.all_series,
        min_slices=options.min_slices,
        dry_run=options.dry_run,
        retry_failed=options.retry_failed,
        workers=options.workers,
        case_timeout=options.case_timeout,
        memory_limit=options.memory_limit,
        shard=options.shard,
        scheduler=options.scheduler,
        python=options.python,
        mapping=options.mapping,
    )


def _tell(event: Event, terminal: Terminal) -> None:
    """A line for each case that failed, as soon as it does; the others move the bar."""
    if isinstance(event, CaseEnded) and event.values.get("error"):
        terminal.note(f"{event.case}: {event.status}: {event.values['message']}")


def _print_cases(values: dict[str, Any], terminal: Terminal) -> None:
    from LiverMarginLib.report.numbers import count

    rows = values["cases"]
    shown = {"case": "case", "status": "status", "volume_ml": "volume (ml)", "confidence": "confidence",
             "dice": "Dice", "boundary_iou": "Boundary IoU", "hd95_mm": "HD95 (mm)", "seconds": "time (s)"}  # fmt: skip
    shown = {key: title for key, title in shown.items() if any(row[key] != "" for row in rows)}
    counted = ", ".join(f"{n} {status}" for status, n in values["counts"].items() if n)
    terminal.table(
        f"{count(len(rows), 'case')}: {counted}; {values['computed']} computed now",
        tuple(shown.values()),
        [tuple(row[key] for key in shown) for row in rows],
    )


def _print_plan(values: dict[str, Any], terminal: Terminal) -> None:
    from LiverMarginLib.report.numbers import count

    if not terminal.as_json:
        for rule in values["rules"]:
            terminal.note(f"* {rule}")
    entries = [*values["cases"], *values["left_out"]]
    base = os.path.commonpath([Path(entry["image"]).parent for entry in entries])

    def short(entry: dict[str, str]) -> str:
        return os.path.relpath(entry["image"], base)

    terminal.table(
        f"{count(len(values['cases']), 'case')} below {base}",
        ("case", "image", "what", "reference", "state"),
        [
            (
                case["case"],
                short(case),
                case["what"],
                "yes" if case["reference"] else "",
                case["problem"] or ("has a record" if case["has_record"] else "new"),
            )
            for case in values["cases"]
        ],
    )
    if values["left_out"]:
        terminal.table(
            f"{count(len(values['left_out']), 'image')} left out",
            ("image", "what", "why"),
            [(short(image), image["what"], image["reason"]) for image in values["left_out"]],
        )
