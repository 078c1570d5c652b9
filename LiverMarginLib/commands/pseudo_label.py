"""`livermargin pseudo-label --model LIVER --data DATA -o OUT`."""

from __future__ import annotations

import argparse

from LiverMarginLib.commands.dataset import add_reading_options, reading_fields
from LiverMarginLib.commands.segment import add_precision
from LiverMarginLib.commands.terminal import Terminal
from LiverMarginLib.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--model", "-m", required=True, help="name or folder of a liver model")
    parser.add_argument("--data", required=True, help="data set without liver labels, with or without cancer labels")
    parser.add_argument("-o", "--output", default="pseudo-labels", help="folder for label maps and their provenance")
    parser.add_argument(
        "--litres", type=float, nargs=2, metavar=("MIN", "MAX"), default=(0.5, 4.0), help="gate (default: 0.5 4)"
    )
    parser.add_argument(
        "--cancer-inside", type=float, default=0.9, help="gate: share of the cancer inside the liver (default: 0.9)"
    )
    parser.add_argument("--modality", choices=("CT", "MR"), help="for images that do not say what made them")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    parser.add_argument("--runtime", default="auto", help="auto, ncnn, onnx or torch")
    parser.add_argument("--threads", type=int, help="processor threads")
    add_precision(parser)
    add_reading_options(parser)


def run(options: argparse.Namespace, terminal: Terminal) -> int:
    """Draw and print what became of each case."""
    from LiverMarginLib.jobs.pseudo_label import PseudoLabelJob

    result = terminal.run(
        PseudoLabelJob(
            **reading_fields(options),
            model=options.model,
            folder=options.output,
            min_litres=options.litres[0],
            max_litres=options.litres[1],
            min_cancer_inside=options.cancer_inside,
            modality=options.modality,
            device=options.device,
            runtime=options.runtime,
            threads=options.threads,
            precision=options.precision,
        )
    )
    terminal.table(
        f"Livers drawn by {result['model']}",
        ("case", "liver", "cancer", "litres", "cancer inside", "kept", "reason"),
        [
            tuple(row[key] for key in ("case", "liver", "cancer", "litres", "cancer_inside", "kept", "reason"))
            for row in result["cases"]
        ],
    )
    lines = [f"{result['kept']} kept, {result['dropped']} dropped, {len(result['failed'])} could not be read"]
    terminal.result(result, [*lines, f"written: {result['folder']}"])
    return InputError.exit_code if result["failed"] else 0
