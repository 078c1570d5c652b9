"""`livermargin fewshot --data DATA --labels 6 -o OUT`, or on phantoms."""

from __future__ import annotations

import argparse

from LiverMarginLib.commands.dataset import add_reading_options, reading_fields
from LiverMarginLib.commands.terminal import Terminal
from LiverMarginLib.commands.train import add_phantom_options, setting


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--data", default="", help="data set; without it phantoms are made and learnt from")
    parser.add_argument("-o", "--output", default="fewshot", help="folder for scores, figure and model")
    parser.add_argument("--work", help="folder of the trainings (default: OUTPUT.training); goes on with what is there")
    parser.add_argument("--labels", type=int, nargs="+", default=[], help="label values to learn (default: the liver)")
    parser.add_argument(
        "--subjects", type=int, nargs="*", default=[1, 2, 4, 8], help="points of the learning curve (default: 1 2 4 8)"
    )
    parser.add_argument("--tests", type=int, help="subjects to test on (default: 4 phantoms, a quarter of a data set)")
    parser.add_argument("--folds", type=int, help="cross-validate over all subjects")
    parser.add_argument("--repeats", type=int, default=1, help="repeat the curve with other subjects (default: 1)")
    parser.add_argument("--small", action="store_true", help="the preset's coarse sibling, for a processor alone")
    parser.add_argument("--steps", type=int, help="of every training (default: the preset's)")
    parser.add_argument("--median-spacing", action="store_true", help="resample to the training subjects' median")
    parser.add_argument("--largest-component", action="store_true", help="the model keeps one connected piece")
    parser.add_argument("--modality", choices=("CT", "MR"), help="for images that do not say what made them")
    parser.add_argument("--phantoms", type=int, help="number of phantom subjects (default: what is needed)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps")
    parser.add_argument("--threads", type=int, help="processor threads")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting; repeatable")
    add_phantom_options(parser)
    add_reading_options(parser)


def run(options: argparse.Namespace, terminal: Terminal) -> int:
    """Learn and print the scores."""
    from LiverMarginLib.jobs.fewshot import FewShotJob

    result = terminal.run(
        FewShotJob(
            **reading_fields(options),
            out=options.output,
            work=options.work,
            profile="few_shot_small" if options.small else "few_shot",
            labels=tuple(options.labels),
            subjects=tuple(options.subjects),
            tests=options.tests,
            folds=options.folds,
            repeats=options.repeats,
            steps=options.steps,
            phantoms=options.phantoms,
            phantom_shape=tuple(options.phantom_shape) if options.phantom_shape else None,
            phantom_spacing=tuple(options.phantom_spacing) if options.phantom_spacing else None,
            median_spacing=options.median_spacing,
            largest_component=options.largest_component,
            modality=options.modality,
            seed=options.seed,
            device=options.device,
            threads=options.threads,
            settings=dict(setting(text) for text in options.set),
        )
    )
    titles = {"curve": "Learning curve: Dice of the test subjects", "folds": "Cross-validation: Dice"}
    for part, title in titles.items():
        if result[part]:
            keys = list(result[part][0])
            terminal.table(title, keys, [[row[key] for key in keys] for row in result[part]])
    lines = [f"written: {path}" for path in result["outputs"]]
    terminal.result(result, [*lines, f"bundle: {result['bundle']}", f"{result['minutes']} min"])
    return 0
