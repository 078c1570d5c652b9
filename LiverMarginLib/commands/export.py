"""`livermargin export SEGMENTATION -o OUT.dcm --source DICOM`, and `... -o OUT.stl --print`."""

from __future__ import annotations

import argparse
from typing import Any

from LiverMarginLib.commands.terminal import Terminal
from LiverMarginLib.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("input", help="segmentation in any format that can be read")
    parser.add_argument(
        "-o",
        "--output",
        action="append",
        required=True,
        help="file to write (.seg.nrrd, .nii.gz, .dcm, .stl, ...; .zip for KITTI 1.0); repeatable",
    )
    parser.add_argument("--label", action="append", default=[], help="label value or segment name to keep; repeatable")
    parser.add_argument("--source", help="DICOM series that a DICOM SEG must reference")
    parser.add_argument("--image", help="CT or MR whose slices KITTI holds beside the masks")
    printing = parser.add_argument_group("for 3-D printing (.stl, .obj, .ply, .3mf)")
    printing.add_argument(
        "--print",
        action="store_true",
        dest="printing",
        help="check the surfaces, refuse those that cannot be printed, and write a report beside the first file",
    )
    # No defaults here, so that an option without --print is noticed.
    printing.add_argument("--triangles", type=int, help="budget of a surface (default: 200000)")
    printing.add_argument("--smoothing", type=float, help="0 (none) to 1 (strong), at most (default: 0.6)")
    printing.add_argument("--largest-piece", action="store_true", default=None, help="keep the largest piece only")
    printing.add_argument("--fill-cavities", action="store_true", default=None, help="fill what is enclosed")
    printing.add_argument("--space", choices=("LPS", "RAS"), help="axes of the files (default: LPS)")
    printing.add_argument(
        "--allow-faults", action="store_true", default=None, help="write surfaces that cannot be printed too"
    )
    printing.add_argument("--report", metavar="JSON", help="file for the checks (default: OUTPUT.print.json)")
    printing.add_argument("--picture", metavar="PNG", help="draw the surfaces")


_PRINTING = (
    "triangles",
    "smoothing",
    "largest_piece",
    "fill_cavities",
    "space",
    "allow_faults",
    "report",
    "picture",
)


def run(options: argparse.Namespace, terminal: Terminal) -> int:
    """Convert and say what was written."""
    from LiverMarginLib.jobs.export import ExportJob

    given = {name: getattr(options, name) for name in _PRINTING if getattr(options, name) is not None}
    if options.printing:
        return _print(options, given, terminal)
    if given:
        raise InputError(f"--{next(iter(given)).replace('_', '-')} is for printing; add --print.")
    result = terminal.run(
        ExportJob(
            input=options.input,
            outputs=tuple(options.output),
            labels=tuple(options.label),
            source=options.source,
            image=options.image,
        )
    )
    terminal.result(result, [f"written: {path}" for path in result["outputs"]])
    return 0


def _print(options: argparse.Namespace, given: dict[str, Any], terminal: Terminal) -> int:
    from LiverMarginLib.jobs.printing import PrintJob

    result = terminal.run(PrintJob(options.input, tuple(options.output), tuple(options.label), **given))
    columns = ("segment", "triangles", "shells", "ml", "error %", "mean mm", "max mm", "fit")
    terminal.table(
        f"Surfaces, {result['space']}; mean and max: deviation from the voxels",
        columns,
        [
            (
                row["name"],
                str(row["triangles"]),
                row["shells"] + row["cavities"],
                row["volume_ml"],
                100 * row["volume_error"],
                row["mean_deviation_mm"],
                row["max_deviation_mm"],
                "yes" if row["printable"] else "no",
            )
            for row in result["segments"]
        ],
    )
    written = [*result["outputs"], result["report"], *([result["picture"]] if result["picture"] else [])]
    terminal.result(result, [f"written: {path}" for path in written])
    return 0
