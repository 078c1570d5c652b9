"""`livermargin export SEGMENTATION -o OUT.dcm --source DICOM`."""

from __future__ import annotations

import argparse

from LiverMarginLib.commands.terminal import Terminal


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


def run(options: argparse.Namespace, terminal: Terminal) -> int:
    """Convert and say what was written."""
    from LiverMarginLib.jobs.export import ExportJob

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
