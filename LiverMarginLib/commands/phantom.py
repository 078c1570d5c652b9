"""`livermargin phantom FOLDER`."""

from __future__ import annotations

import argparse

from LiverMarginLib.commands.terminal import Terminal


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("folder", help="receives the image, its liver reference and all organs")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same patient (default: 0)")
    parser.add_argument(
        "--contact-sheet",
        type=int,
        nargs="?",
        const=24,
        default=0,
        metavar="N",
        help="only a picture with slices of N phantoms (default: 24), from the seed on",
    )
    parser.add_argument("--outlines", action="store_true", help="outline the liver in the picture")
    parser.add_argument(
        "--shape",
        type=int,
        nargs=3,
        metavar=("K", "J", "I"),
        help="voxels (default: 64 512 512; in a contact sheet 44 256 256, as networks are trained on)",
    )
    parser.add_argument(
        "--spacing", type=float, nargs=3, metavar=("K", "J", "I"), help="mm (default: 4 0.8 0.8; 5 1.55 1.55)"
    )
    parser.add_argument("--modality", choices=("CT", "MR"), default="CT", help="default: CT")
    parser.add_argument(
        "--phase", choices=("native", "arterial", "portal", "delayed"), help="default: drawn by the seed"
    )
    parser.add_argument("--sequence", choices=("t1", "t2"), help="of an MR (default: drawn by the seed)")
    parser.add_argument("--lesions", type=int, help="number of liver lesions (default: drawn by the seed)")
    parser.add_argument(
        "--lesion-kinds",
        nargs="+",
        choices=("hypovascular", "hypervascular", "rim", "capsule", "cyst"),
        help="what the lesions are (default: drawn by the seed)",
    )
    parser.add_argument("--lesion-mm", type=float, nargs=2, metavar=("MIN", "MAX"), help="radius of the lesions")
    parser.add_argument(
        "--lesions-at-border", type=float, default=0.0, metavar="SHARE", help="lesions at the surface of the liver"
    )
    parser.add_argument(
        "--noise", type=float, help="standard deviation of the noise: HU, for MR a share of the liver's signal"
    )
    parser.add_argument(
        "--from-labels", metavar="FILE", help="label map whose organs, deformed by the seed, replace the drawn ones"
    )
    add_label_names(parser)
    parser.add_argument("--format", choices=("dicom", "nii.gz", "nrrd", "mha"), default="dicom")


def add_label_names(parser: argparse.ArgumentParser) -> None:
    """Declare what the values of a label map mean."""
    parser.add_argument(
        "--label-names",
        nargs="+",
        default=[],
        metavar="NAME",
        help="what its values mean: amos, totalsegmentator, or liver=1 spleen=2 ...",
    )


def run(options: argparse.Namespace, terminal: Terminal) -> int:
    """Make the phantom and say where it is."""
    from LiverMarginLib.jobs.cohort import PhantomCohort
    from LiverMarginLib.jobs.phantom import PhantomJob

    usual = PhantomCohort if options.contact_sheet else PhantomJob
    result = terminal.run(
        PhantomJob(
            folder=options.folder,
            seed=options.seed,
            shape=usual.shape if options.shape is None else tuple(options.shape),
            spacing=usual.spacing if options.spacing is None else tuple(options.spacing),
            modality=options.modality,
            phase=options.phase,
            sequence=options.sequence,
            lesions=options.lesions,
            lesion_kinds=None if options.lesion_kinds is None else tuple(options.lesion_kinds),
            lesion_mm=None if options.lesion_mm is None else tuple(options.lesion_mm),
            lesions_at_border=options.lesions_at_border,
            noise=options.noise,
            format=options.format,
            contact_sheet=options.contact_sheet,
            outlines=options.outlines,
            from_labels=options.from_labels,
            label_names=tuple(options.label_names),
        )
    )
    shown = [name for name in ("sheet", "volume", "liver", "organs") if name in result]
    terminal.result(result, [f"{name}: {result[name]}" for name in shown])
    return 0
