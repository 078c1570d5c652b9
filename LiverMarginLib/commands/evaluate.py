"""`livermargin evaluate MODEL [MODEL ...] --data DATA --split split.json`."""

from __future__ import annotations

import argparse

from LiverMarginLib.commands.compare import print_models
from LiverMarginLib.commands.dataset import add_reading_options, reading_fields
from LiverMarginLib.commands.segment import add_precision
from LiverMarginLib.commands.terminal import Terminal
from LiverMarginLib.commands.train import add_lesion_options, add_phantom_options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("models", nargs="+", help="names or folders of bundles, compared side by side")
    parser.add_argument("--data", default="", help="data set; without it phantoms that no training ever sees")
    parser.add_argument("-o", "--output", default="evaluation", help="folder for tables and pictures")
    parser.add_argument("--split", help="split.json of `livermargin dataset split`")
    parser.add_argument("--part", choices=("train", "val", "test"), default="test")
    parser.add_argument("--fold", type=int, help="which fold of a k-fold split is the test part")
    parser.add_argument("--phantoms", type=int, default=10, help="number of phantom patients (default: 10)")
    parser.add_argument("--phantom-noise", type=float, metavar="HU", help="noise of the phantoms (default: it varies)")
    parser.add_argument("--modality", choices=("CT", "MR"), help="of phantoms, and of images that do not say it")
    parser.add_argument("--denoise", metavar="BUNDLE", help="evaluate every model after this denoising as well")
    parser.add_argument(
        "--target", choices=("liver", "tumour"), default="liver", help="what is compared; the liver with its masses"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto")
    parser.add_argument("--runtime", choices=("auto", "ncnn", "onnx", "torch"), default="auto")
    add_precision(parser)
    add_phantom_options(parser)
    add_lesion_options(parser)
    add_reading_options(parser)


def run(options: argparse.Namespace, terminal: Terminal) -> int:
    """Evaluate and print the table of the models."""
    from LiverMarginLib.jobs.cohort import PhantomCohort
    from LiverMarginLib.jobs.evaluate import EvaluateJob

    result = terminal.run(
        EvaluateJob(
            **reading_fields(options),
            models=tuple(options.models),
            folder=options.output,
            split=options.split,
            part=options.part,
            fold=options.fold,
            phantoms=options.phantoms,
            phantom_shape=tuple(options.phantom_shape or PhantomCohort.shape),
            phantom_spacing=tuple(options.phantom_spacing or PhantomCohort.spacing),
            phantom_lesions=options.phantom_lesions,
            phantom_lesion_mm=tuple(options.phantom_lesion_mm) if options.phantom_lesion_mm else None,
            modality=options.modality,
            phantom_noise=options.phantom_noise,
            denoise=options.denoise,
            target=options.target,
            device=options.device,
            runtime=options.runtime,
            precision=options.precision,
        )
    )
    print_models(result, terminal)
    terminal.result(result, [f"written: {path}" for path in result["outputs"]])
    return 0
