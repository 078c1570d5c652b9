"""`livermargin segment INPUT -m MODEL -o OUT.seg.nrrd`."""

from __future__ import annotations

import argparse

from LiverMarginLib.commands.terminal import Terminal


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("input", help="DICOM folder, NIfTI, NRRD, MHA, or a folder of pictures")
    parser.add_argument("-m", "--model", default="unet-ct", help="name or folder of a model bundle (default: unet-ct)")
    parser.add_argument(
        "-o",
        "--output",
        action="append",
        required=True,
        help="file to write (.seg.nrrd, .nii.gz, .dcm, .stl, ...); repeatable",
    )
    parser.add_argument("--series", help="which DICOM series, as `livermargin info` lists them")
    parser.add_argument("--modality", choices=("CT", "MR"), help="for files that do not say what made them")
    parser.add_argument("--spacing", type=float, nargs=3, metavar=("K", "J", "I"), help="mm, for a stack of pictures")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto")
    parser.add_argument("--runtime", choices=("auto", "ncnn", "onnx", "torch"), default="auto")
    parser.add_argument("--batch-size", type=int, help="slices at a time (default: chosen from the machine)")
    parser.add_argument("--threads", type=int, help="processor threads (default: all that this process may use)")
    add_precision(parser)
    parser.add_argument(
        "--threshold", type=float, help="probability from which a voxel is liver (default: the model's)"
    )
    parser.add_argument("--largest-component", action=argparse.BooleanOptionalAction, help="keep one connected piece")
    parser.add_argument("--fill-holes", choices=("none", "slice", "volume"), help="which enclosed holes are filled")
    parser.add_argument(
        "--slices", type=int, nargs=2, metavar=("FIRST", "LAST"), help="axial slices, 0 is the most inferior"
    )
    parser.add_argument("--denoise", metavar="MODEL", help="denoise what the network sees by this model first")
    parser.add_argument(
        "--uncertainty",
        metavar="FILE",
        help="image (.nii.gz, .nrrd, .mha) of how unsure a volumetric model is, from predictions with dropout",
    )
    parser.add_argument("--samples", type=int, default=8, help="predictions for the uncertainty (default: 8)")
    parser.add_argument("--uncertainty-kind", choices=("entropy", "std"), default="entropy")
    parser.add_argument(
        "--allow-mismatch", action="store_true", help="run although the model was made for other images"
    )


def add_precision(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Declare ``--precision``."""
    parser.add_argument(
        "--precision",
        choices=("single", "half"),
        default="single",
        help="half: 16 bits, by torch alone; quicker, and not quite the same result (default: single)",
    )


def run(options: argparse.Namespace, terminal: Terminal) -> int:
    """Segment and say what was found."""
    from LiverMarginLib.jobs.segment import SegmentJob

    job = SegmentJob(
        input=options.input,
        model=options.model,
        outputs=tuple(options.output),
        series=options.series,
        modality=options.modality,
        spacing=tuple(options.spacing) if options.spacing else None,
        device=options.device,
        runtime=options.runtime,
        batch_size=options.batch_size,
        threads=options.threads,
        precision=options.precision,
        threshold=options.threshold,
        largest_component=options.largest_component,
        fill_holes=options.fill_holes,
        denoise=options.denoise,
        slices=tuple(options.slices) if options.slices else None,
        allow_mismatch=options.allow_mismatch,
        uncertainty=options.uncertainty,
        samples=options.samples,
        uncertainty_kind=options.uncertainty_kind,
    )
    result = terminal.run(job)
    lines = []
    for segment in result["segments"]:
        volume = "volume unknown (no spacing)" if segment["volume_ml"] is None else f"{segment['volume_ml']:.1f} ml"
        lines.append(f"{segment['name']}: {volume} on {segment['slices']} of {result['slices']} slices")
    if result["confidence"] is not None:
        worst = result["least_sure_slice"]
        where = "" if worst is None else f"; lowest in slice {worst}: {result['slice_confidence'][worst]:.2f}"
        lines.append(f"confidence {result['confidence']:.2f}{where}")
    if result["precision"] != "float32":
        lines.append(f"computed in {result['precision']}")
    lines += [f"written: {path}" for path in result["outputs"]]
    terminal.result(result, lines)
    return 0
