"""`livermargin info PATH`."""

from __future__ import annotations

import argparse
import dataclasses

from LiverMarginLib.commands.terminal import Terminal


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("path", help="a file, a DICOM folder or a folder of pictures")


def run(options: argparse.Namespace, terminal: Terminal) -> int:
    """List every image and series under the path, without patient identity."""
    from LiverMarginLib.io.readers import list_images

    images = list_images(options.path)
    terminal.table(
        f"{len(images)} image(s)",
        (
            "series",
            "name",
            "kind",
            "modality",
            "voxels (k, j, i)",
            "spacing (mm)",
            "axes",
            "values",
            "files",
            "remarks",
        ),
        [
            (
                image.key,
                image.path.name,
                image.kind,
                image.modality.value if image.modality else "not said",
                " x ".join(map(str, image.shape)) if image.shape else "",
                " x ".join(f"{step:.3g}" for step in image.spacing) if image.spacing else "unknown",
                image.orientation,
                "{:g} .. {:g}".format(*image.value_range) if image.value_range else "",
                image.files,
                image.problem or ", ".join(image.segments),
            )
            for image in images
        ],
    )
    terminal.result({"images": [dataclasses.asdict(image) for image in images]})
    return 0
