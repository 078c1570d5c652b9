"""`livermargin compare REFERENCE PREDICTION [PREDICTION ...] -o FOLDER`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from LiverMarginLib.commands.terminal import Terminal
from LiverMarginLib.errors import InputError

# What the terminal shows; the files hold everything.
SHOWN = {
    "mask_iou": "Mask IoU",
    "dice": "Dice",
    "boundary_iou": "Boundary IoU",
    "boundary_f": "Boundary F",
    "hd95_mm": "HD95 (mm)",
    "assd_mm": "ASSD (mm)",
    "nsd_surfel_2mm": "NSD 2 mm",
    "prediction_ml": "volume (ml)",
    "rvd": "RVD",
    "lesion_recall_iou0.1": "Lesion recall, IoU 0.1",
    "lesion_precision_iou0.1": "Lesion precision, IoU 0.1",
    "lesion_recall_iou0.5": "Lesion recall, IoU 0.5",
    "lesion_precision_iou0.5": "Lesion precision, IoU 0.5",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("reference", help="a segmentation, or a folder with one label map file for each patient")
    parser.add_argument("predictions", nargs="+", help="segmentations, or folders of patients with the same file names")
    parser.add_argument("-o", "--output", default="comparison", help="folder for tables, report and pictures")
    parser.add_argument("--name", action="append", default=[], help="name of a prediction, in their order; repeatable")
    parser.add_argument("--label", help="label value or segment name of the organ in the reference; 1,2 joins two")
    parser.add_argument("--prediction-label", help="the same in the predictions, where it differs")
    parser.add_argument("--image", help="the CT or MR, to draw the contours on")
    parser.add_argument("--series", help="which DICOM series of --image")
    parser.add_argument("--no-report", action="store_true", help="write tables and pictures only, no report.html")
    parser.add_argument("--pdf", action="store_true", help="also write report.pdf, the table and figures as pages")
    parser.add_argument(
        "--surfaces", action="store_true", help="also write each prediction's surface with its margin error (.vtp)"
    )


def run(options: argparse.Namespace, terminal: Terminal) -> int:
    """Compare, print the table, say where the files are."""
    from LiverMarginLib.jobs.compare import CompareJob

    names = options.name or default_names(options.predictions)
    if len(names) != len(options.predictions) or len(set(names)) != len(names):
        raise InputError("Give as many --name as predictions, all different, or none.")
    result = terminal.run(
        CompareJob(
            reference=options.reference,
            predictions=dict(zip(names, options.predictions, strict=True)),
            folder=options.output,
            label=options.label,
            prediction_label=options.prediction_label,
            image=options.image,
            series=options.series,
            report=not options.no_report,
            pdf=options.pdf,
            surfaces=options.surfaces,
        )
    )
    print_models(result, terminal)
    terminal.result(result, [f"written: {path}" for path in result["outputs"]])
    return 0


def print_models(result: dict[str, Any], terminal: Terminal) -> None:
    """Print the table of the models of a comparison's result."""
    models = result["models"]
    terminal.table(
        f"{len(result['patients'])} patient(s), mean over patients",
        ("", *models),
        [
            (title, *(scores[key] for scores in models.values()))
            for key, title in SHOWN.items()
            if all(key in scores for scores in models.values())
        ],
    )


def default_names(paths: list[str]) -> list[str]:
    """Name predictions by their files, or by their folders where the files are named alike."""
    stems = [Path(path).name.partition(".")[0] for path in paths]
    if len(set(stems)) == len(stems):
        return stems
    folders = [Path(path).resolve().parent.name for path in paths]
    if len(set(folders)) == len(folders):
        return folders
    return [f"prediction {n + 1}" for n in range(len(paths))]
