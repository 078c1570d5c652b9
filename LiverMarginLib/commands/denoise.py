"""`livermargin denoise CT -o denoised.nii.gz`."""

from __future__ import annotations

import argparse

from LiverMarginLib.commands.terminal import Terminal


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("input", help="DICOM folder, NIfTI, NRRD, MHA; it is never changed")
    parser.add_argument("-o", "--output", required=True, help="image to write (.nii.gz, .nrrd, .mha)")
    parser.add_argument("-m", "--model", default="dncnn-sr", help="name or folder of a denoising bundle")
    parser.add_argument("--series", help="which DICOM series, as `livermargin info` lists them")
    parser.add_argument("--modality", choices=("CT", "MR"), help="for files that do not say what made them")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto")
    parser.add_argument("--runtime", choices=("auto", "onnx", "torch"), default="auto")
    parser.add_argument("--threads", type=int, help="processor threads")
    parser.add_argument("--figure", help="PNG of one slice before and after")
    parser.add_argument(
        "--allow-mismatch", action="store_true", help="run although the model was made for other images"
    )


def run(options: argparse.Namespace, terminal: Terminal) -> int:
    """Denoise and say what was written."""
    from LiverMarginLib.jobs.denoise import DenoiseJob

    result = terminal.run(
        DenoiseJob(
            input=options.input,
            output=options.output,
            model=options.model,
            series=options.series,
            modality=options.modality,
            device=options.device,
            runtime=options.runtime,
            threads=options.threads,
            figure=options.figure,
            allow_mismatch=options.allow_mismatch,
        )
    )
    terminal.result(result, [f"written: {path}" for path in result["outputs"]])
    return 0
