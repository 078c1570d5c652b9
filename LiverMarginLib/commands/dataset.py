"""`livermargin dataset check|split|export-kitti DATA`."""

from __future__ import annotations

import argparse
from typing import Any

from LiverMarginLib.commands.terminal import Terminal
from LiverMarginLib.errors import InputError

ACTIONS = ("check", "split", "export-kitti")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "action",
        choices=ACTIONS,
        help="report what is odd; divide by patient; write each case as a KITTI 1.0 zip",
    )
    parser.add_argument("data", help="folder, zip or dataset.json")
    parser.add_argument(
        "-o",
        "--output",
        action="append",
        default=[],
        help="check: report file (.json, .csv, .txt; repeatable); split: split.json; export-kitti: folder",
    )
    add_reading_options(parser)
    split = parser.add_argument_group("split")
    split.add_argument("--folds", type=int, help="number of folds for cross-validation")
    split.add_argument("--fractions", type=float, nargs="+", help="shares of train, val and test")
    split.add_argument("--seed", type=int, default=0, help="the same seed gives the same split (default: 0)")
    split.add_argument("--no-stratify", action="store_true", help="do not balance the parts by number of liver slices")
    split.add_argument("--by", choices=("patient", "slice"), default="patient")
    split.add_argument("--force", action="store_true", help="allow --by slice, whose scores mean nothing")
    split.add_argument(
        "--no-duplicate-check", action="store_true", help="do not look for one patient under two names (reads all)"
    )
    export = parser.add_argument_group("export-kitti")
    export.add_argument("--no-images", action="store_true", help="masks alone")
    export.add_argument("--separate-tumour", action="store_true", help="two classes, liver and tumour")
    export.add_argument(
        "--window", type=float, nargs=2, metavar=("LOW", "HIGH"), help="values that become 0 and 255 (default: by kind)"
    )
    export.add_argument("--overwrite", action="store_true", help="replace zips that exist")


def add_reading_options(parser: argparse.ArgumentParser) -> None:
    """Declare how the data of any command on data sets are taken."""
    reading = parser.add_argument_group("how the data are taken")
    reading.add_argument("--label", help="value or name of the liver's label, where it cannot be told")
    reading.add_argument("--tumour", help="value or name of the tumour's label")
    reading.add_argument(
        "--empty-outside",
        action="store_true",
        help="slices without a mask hold no liver (default: nobody looked at them)",
    )
    reading.add_argument(
        "--spacing", type=float, nargs=3, metavar=("K", "J", "I"), help="mm, of pictures, which carry none"
    )
    reading.add_argument("--inferior-first", action="store_true", help="the first picture is the lowest slice")
    reading.add_argument("--frame-offset", type=int, help="number of an image minus number of its mask")
    reading.add_argument("--images", help="where the images of an export without images lie")
    reading.add_argument("--case-table", help="CSV with case, patient, age, gender, health_status, disease")


def reading_fields(options: argparse.Namespace) -> dict[str, Any]:
    """The fields of a `DatasetJob` from the options of `add_reading_options`, and ``data``."""
    return {
        "data": options.data,
        "label": _value_or_name(options.label),
        "tumour": _value_or_name(options.tumour),
        "empty_outside": options.empty_outside,
        "spacing": tuple(options.spacing) if options.spacing else None,
        "inferior_first": options.inferior_first,
        "frame_offset": options.frame_offset,
        "images": options.images,
        "case_table": options.case_table,
    }


def run(options: argparse.Namespace, terminal: Terminal) -> int:
    """Do what the action says."""
    reading = reading_fields(options)
    return {"check": _check, "split": _split, "export-kitti": _export}[options.action](options, terminal, reading)


def _check(options: argparse.Namespace, terminal: Terminal, reading: dict[str, Any]) -> int:
    from LiverMarginLib.jobs.dataset import CheckDatasetJob

    result = terminal.run(CheckDatasetJob(**reading, outputs=tuple(options.output)))
    text = result.pop("text")
    terminal.result(result, [*text.splitlines(), *(f"written: {path}" for path in result["outputs"])])
    return 0


def _split(options: argparse.Namespace, terminal: Terminal, reading: dict[str, Any]) -> int:
    from LiverMarginLib.jobs.dataset import SplitDatasetJob

    result = terminal.run(
        SplitDatasetJob(
            **reading,
            output=_one_output(options, "split.json"),
            folds=options.folds,
            fractions=tuple(options.fractions) if options.fractions else None,
            seed=options.seed,
            stratify_by_size=not options.no_stratify,
            by=options.by,
            force=options.force,
            check_duplicates=not options.no_duplicate_check,
        )
    )
    lines = [f"{part}: {count} cases" for part, count in sorted(result["cases_by_part"].items())]
    terminal.result(result, [*lines, f"written: {result['output']}"])
    return 0


def _export(options: argparse.Namespace, terminal: Terminal, reading: dict[str, Any]) -> int:
    from LiverMarginLib.jobs.dataset import ExportKittiJob

    result = terminal.run(
        ExportKittiJob(
            **reading,
            output=_one_output(options, "kitti"),
            with_images=not options.no_images,
            separate_tumour=options.separate_tumour,
            window=tuple(options.window) if options.window else None,
            overwrite=options.overwrite,
        )
    )
    lines = [f"written: {entry['path']} ({entry['frames_with_masks']} frames)" for entry in result["written"]]
    terminal.result(result, lines or ["Nothing was written."])
    return InputError.exit_code if result["failed"] else 0


def _one_output(options: argparse.Namespace, default: str) -> str:
    if len(options.output) > 1:
        raise InputError(f"`livermargin dataset {options.action}` writes one output; give --output once.")
    return options.output[0] if options.output else default


def _value_or_name(text: str | None) -> int | str | None:
    return int(text) if text is not None and text.isdigit() else text
