"""`livermargin two-stage --source CT:liver+cancer:DATA --source MR:cancer:DATA -o OUT`, or on phantoms."""

from __future__ import annotations

import argparse
from typing import Any

from LiverMarginLib.commands.dataset import add_reading_options, reading_fields
from LiverMarginLib.commands.terminal import Terminal
from LiverMarginLib.commands.train import add_lesion_options, add_phantom_options, setting

_COLUMNS = {
    "learns": "learns",
    "from": "from",
    "stages": "stages",
    "test": "test",
    "n": "n",
    "liver_dice": "liver Dice",
    "cancer_dice": "cancer Dice",
    "cancer_dice_global": "cancer Dice, global",
    "lesions": "lesions",
    "recall_iou0.1": "recall .1",
    "precision_iou0.1": "precision .1",
    "recall_iou0.5": "recall .5",
    "precision_iou0.5": "precision .5",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_study_options(parser, "two-stage")
    parser.add_argument(
        "--modalities", nargs="+", choices=("CT", "MR"), default=["CT", "MR"], help="learnt by one network"
    )
    parser.add_argument("--target", choices=("cancer", "liver+cancer"), default="liver+cancer")
    parser.add_argument("--single-stage", action="store_true", help="whole images, without the liver's box")


def add_study_options(parser: argparse.ArgumentParser, output: str) -> None:
    """Declare what the commands of two stages have in common."""
    parser.add_argument(
        "--source",
        action="append",
        default=[],
        metavar="MODALITY:ANNOTATED:DATA",
        help="data set, such as MR:cancer:hospital; ANNOTATED is liver, cancer or liver+cancer (default: phantoms)",
    )
    parser.add_argument("-o", "--output", default=output, help="folder for tables, figure and models")
    parser.add_argument("--work", help="folder of the trainings (default: OUTPUT.training); goes on with what is there")
    parser.add_argument("--backbone", choices=("unet3d", "medformer"), default="unet3d")
    parser.add_argument("--small", action="store_true", help="the profiles for two processor cores")
    parser.add_argument("--liver-profile", help="another profile of the first stage")
    parser.add_argument("--profile", help="another profile of the second stage")
    parser.add_argument(
        "--liver-model", action="append", default=[], metavar="MODALITY:MODEL", help="instead of a first stage"
    )
    parser.add_argument(
        "--phantoms",
        type=int,
        nargs=3,
        default=[8, 4, 8],
        metavar=("BOTH", "LIVER", "CANCER"),
        help="phantoms of each modality, by what is marked in them (default: 8 4 8)",
    )
    parser.add_argument("--validation-phantoms", type=int, default=2, help="of each modality (default: 2)")
    parser.add_argument("--test-phantoms", type=int, default=6, help="of each modality (default: 6)")
    parser.add_argument(
        "--fractions", type=float, nargs=3, default=[0.7, 0.1, 0.2], help="train, val and test of each data set"
    )
    parser.add_argument("--litres", type=float, nargs=2, default=[0.5, 4.0], metavar=("MIN", "MAX"), help="gate")
    parser.add_argument("--cancer-inside", type=float, default=0.9, help="gate: share of the cancer in the liver")
    parser.add_argument("--liver-steps", type=int, help="of each first stage (default: the profile's)")
    parser.add_argument("--steps", type=int, help="of each second stage (default: the profile's)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps")
    parser.add_argument("--threads", type=int, help="processor threads")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="of the second stage; repeatable"
    )
    add_phantom_options(parser)
    add_lesion_options(parser)
    add_reading_options(parser)
    parser.set_defaults(data="")


def study_fields(options: argparse.Namespace) -> dict[str, Any]:
    """The fields of a `TwoStageJob` from `add_study_options`."""
    return {
        **reading_fields(options),
        "sources": tuple(options.source),
        "out": options.output,
        "work": options.work,
        "backbone": options.backbone,
        "small": options.small,
        "liver_profile": options.liver_profile,
        "profile": options.profile,
        "liver_models": tuple(options.liver_model),
        "phantoms": tuple(options.phantoms),
        "validation_phantoms": options.validation_phantoms,
        "test_phantoms": options.test_phantoms,
        "phantom_shape": tuple(options.phantom_shape) if options.phantom_shape else None,
        "phantom_spacing": tuple(options.phantom_spacing) if options.phantom_spacing else None,
        "phantom_lesions": options.phantom_lesions,
        "phantom_lesion_mm": tuple(options.phantom_lesion_mm) if options.phantom_lesion_mm else None,
        "fractions": tuple(options.fractions),
        "min_litres": options.litres[0],
        "max_litres": options.litres[1],
        "min_cancer_inside": options.cancer_inside,
        "liver_steps": options.liver_steps,
        "steps": options.steps,
        "seed": options.seed,
        "device": options.device,
        "threads": options.threads,
        "settings": dict(setting(text) for text in options.set),
    }


def run(options: argparse.Namespace, terminal: Terminal) -> int:
    """Train, test and print the table."""
    from LiverMarginLib.jobs.two_stage import TwoStageJob

    job = TwoStageJob(
        **study_fields(options),
        modalities=tuple(dict.fromkeys(options.modalities)),
        target=options.target,
        single_stage=options.single_stage,
    )
    show(terminal.run(job), terminal)
    return 0


def show(result: dict[str, Any], terminal: Terminal) -> None:
    """Print the table of a study and where its files are."""
    terminal.table(
        "Test cases of each modality",
        list(_COLUMNS.values()),
        [[row[key] for key in _COLUMNS] for row in result["rows"]],
    )
    lines = [
        f"{modality}: {count['drawn']} livers drawn, {count['dropped']} of them dropped"
        for modality, count in result["pseudo_labels"].items()
    ]
    lines += [f"written: {path}" for path in result["outputs"]]
    lines += [f"bundle: {path}" for path in result["bundles"]]
    terminal.result(result, [*lines, f"{result['minutes']} min"])
