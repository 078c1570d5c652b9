"""Draws Resources/Screenshots/compare_view.png: the compare view of a phantom, as 3D Slicer's displayable managers do.

From the repository's root: ``PYTHONPATH=.:LiverMargin python Testing/Python/draw_compare_view.py``. The shipped U-Net
is compared, and the same liver with deliberate errors in the part of a second reader. No patient's data.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from compare_stage import CompareStage, comparison_of
from LiverMarginPanels.compare_layout import slice_views
from LiverMarginPanels.compare_result import SCORES
from LiverMarginPanels.slice_list import Listed, listed_slices
from PIL import Image, ImageDraw, ImageFont
from test_compare_pictures import disturbed
from view_rendering import PlotPicture, SlicePicture, SpacePicture

from LiverMarginLib.io.readers import read_labels
from LiverMarginLib.io.volume_writers import write_volume
from LiverMarginLib.jobs import run
from LiverMarginLib.jobs.segment import SegmentJob
from LiverMarginLib.phantom import PhantomOptions, liver_target, make_phantom
from LiverMarginLib.report.colours import model_colours

ROOT = Path(__file__).resolve().parents[2]
SLICE, SPACE, PLOT, BAR, GAP = (500, 400), (620, 400), (884, 400), 24, 4


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        draw(Path(folder)).save(ROOT / "Resources" / "Screenshots" / "compare_view.png", optimize=True)


def draw(folder: Path) -> Image.Image:
    """Make the phantom, segment it, compare, and put the views together as the layout does."""
    made = make_phantom(11, PhantomOptions(shape=(32, 320, 320), spacing=(7.0, 1.25, 1.25), phase="portal"))
    reference = liver_target(made.labels)
    write_volume(made.volume, folder / "ct.nrrd")
    run(SegmentJob(str(folder / "ct.nrrd"), str(ROOT / "Resources" / "Models" / "unet-ct"), (str(folder / "u.nrrd"),)))
    models = {"U-Net": read_labels(folder / "u.nrrd"), "Reader B": disturbed(reference, (0, 2, 3), 1)}
    (folder / "stage").mkdir()
    (folder / "compared").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        stage = CompareStage(patch, folder / "stage")
        comparison = comparison_of(reference, models, folder / "compared")
        view, manager = stage.view(), stage.manager
        view.show(comparison, SCORES[0], stage.volume(made.volume.geometry, made.volume.array))
        space = SpacePicture(
            manager.application, stage.scene.GetSingletonNode("LiverMargin3D", "vtkMRMLViewNode"), SPACE
        )
        view.colour("U-Net", False)
        views = slice_views(model_colours(models), "All")
        slices = [SlicePicture(manager.application, manager.slice_logics[each.tag], SLICE) for each in views]
        view.zoom()
        view.go_to(comparison, listed_slices(comparison, Listed.ALL, SCORES[0], "U-Net")[6].index)
        top = [titled(picture.pixels(), each.title, each.colour) for picture, each in zip(slices, views, strict=True)]
        chart = stage.scene.GetFirstNodeByClass("vtkMRMLPlotChartNode")
        low = [titled(space.pixels(), "3D: margin error of U-Net", "#8b8cc7"),
               titled(PlotPicture(chart, PLOT).pixels(), "Boundary IoU by slice", "#c8c8c8")]  # fmt: skip
    return Image.fromarray(np.vstack([beside(top), np.zeros((GAP, beside(top).shape[1], 3), np.uint8), beside(low)]))


def titled(picture: np.ndarray, title: str, colour: str) -> np.ndarray:
    """A picture below a bar, as a view has one in the application."""
    bar = Image.new("RGB", (picture.shape[1], BAR), colour)
    ImageDraw.Draw(bar).text((8, 3), title, "black", ImageFont.load_default(15))
    return np.vstack([np.asarray(bar), picture])


def beside(pictures: list[np.ndarray]) -> np.ndarray:
    gap = np.zeros((pictures[0].shape[0], GAP, 3), np.uint8)
    return np.hstack([part for picture in pictures for part in (picture, gap)][:-1])


if __name__ == "__main__":
    main()
