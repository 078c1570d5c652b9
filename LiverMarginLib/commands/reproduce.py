"""`livermargin reproduce --setup random|seed|deterministic --runs N`."""

from __future__ import annotations

import argparse

from LiverMarginLib.commands.dataset import add_reading_options, reading_fields
from LiverMarginLib.commands.terminal import Terminal
from LiverMarginLib.commands.train import setting


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--setup",
        choices=("random", "seed", "deterministic"),
        nargs="+",
        default=["deterministic"],
        help="what is held fixed: nothing, the seed, or the seed and every algorithm's bits; several for one figure",
    )
    parser.add_argument("--runs", type=int, default=3, help="trainings of each setup (default: 3)")
    parser.add_argument("-o", "--output", default="reproduce", help="folder for tables, figure and trainings")
    parser.add_argument("--model", default="unet3d", help="the network (default: unet3d)")
    parser.add_argument("--profile", default="tiny", help="its shipped settings (default: tiny, minutes on two cores)")
    parser.add_argument("--data", default="", help="data set; without it phantoms are made and trained on")
    parser.add_argument("--split", help="split.json of `livermargin dataset split`")
    parser.add_argument("--fold", type=int, help="which fold of a k-fold split is left for testing")
    parser.add_argument("--cache", help="folder of phantoms and prepared images, to share between experiments")
    parser.add_argument("--phantoms", type=int, default=6, help="number of phantom patients (default: 6)")
    parser.add_argument("--validation-phantoms", type=int, default=3, help="others, to score on (default: 3)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting; repeatable")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--seed", type=int, help="of the setups that have one")
    parser.add_argument("--device", help="auto, cpu, cuda, cuda:1 or mps")
    add_reading_options(parser)


def run(options: argparse.Namespace, terminal: Terminal) -> int:
    """Train several times and print how far the results differ."""
    from LiverMarginLib.jobs.reproduce import ReproduceJob

    settings = dict(setting(text) for text in options.set)
    short = {"epochs": options.epochs, "seed": options.seed, "device": options.device}
    settings |= {key: str(value) for key, value in short.items() if value is not None}
    result = terminal.run(
        ReproduceJob(
            **reading_fields(options),
            setups=tuple(options.setup),
            runs=options.runs,
            folder=options.output,
            model=options.model,
            profile=options.profile,
            split=options.split,
            fold=options.fold,
            cache=options.cache,
            phantoms=options.phantoms,
            validation_phantoms=options.validation_phantoms,
            settings=settings,
        )
    )
    terminal.table(
        "IoU on the held-out patients",
        ("setup", "label", "runs", "distinct results", "mean", "min", "max", "SD"),
        [
            (
                setup,
                label,
                values["runs"],
                values["distinct_results"],
                *(numbers[key] for key in ("mean", "minimum", "maximum", "deviation")),
            )
            for setup, values in result["setups"].items()
            for label, numbers in values["iou"].items()
        ],
    )
    terminal.result(result, [f"written: {path}" for path in result["outputs"]])
    return 0
