"""Pictures of the compare view by 3D Slicer's own displayable managers, and facts about their pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from compare_stage import COLOURS, CompareStage, comparison_of
from LiverMarginPanels.compare_result import SCORES, Comparison
from scipy import ndimage
from view_rendering import PlotPicture, SlicePicture, SpacePicture, why_no_pictures

from LiverMarginLib.io.readers import read_labels, read_volume, resolve_label
from LiverMarginLib.phantom import PhantomOptions, liver_target, make_phantom
from LiverMarginLib.report.colours import REFERENCE
from LiverMarginLib.terminology import LIVER
from LiverMarginLib.volume import LabelMap, Volume, axial_view

pytestmark = pytest.mark.slicer
SIZE = (360, 300)
# Half of an outline's width, where it turns around the corner of a voxel.
_REACH = 5


@dataclass
class Scene:
    """A comparison and the image that it is drawn on."""

    image: Volume
    reference: LabelMap
    comparison: Comparison


def disturbed(reference: LabelMap, shift: tuple[int, int, int], growth: int) -> LabelMap:
    """A segmentation with deliberate errors: moved in the axial view, and grown or shrunk in its slices."""
    view = axial_view(reference.geometry)
    moved = ndimage.shift(view.to_view(reference.array), shift, order=0) > 0
    disc = np.ones((1, 3, 3), bool)
    if growth:
        change = ndimage.binary_dilation if growth > 0 else ndimage.binary_erosion
        moved = change(moved, disc, iterations=abs(growth))
    array = np.ascontiguousarray(view.from_view(moved.astype(np.uint8)))
    return LabelMap(array, reference.geometry, (LIVER,))


def compared(image: Volume, reference: LabelMap, folder) -> Scene:
    models = {"U-Net": disturbed(reference, (0, 3, 0), -2), "Detectron2": disturbed(reference, (0, 0, 4), 2)}
    return Scene(image, reference, comparison_of(reference, models, folder))


@pytest.fixture(scope="module")
def phantom(tmp_path_factory) -> Scene:
    made = make_phantom(3, PhantomOptions(shape=(24, 128, 128), spacing=(9.0, 3.0, 3.0)))
    liver = liver_target(made.labels)
    return compared(made.volume, liver, tmp_path_factory.mktemp("phantom"))


@pytest.fixture(scope="module")
def portal(tmp_path_factory, real_data) -> Scene:
    folder = real_data / "ct_portal_slab"
    labels = read_labels(folder / "labels.nii.gz")
    mask = labels.mask(resolve_label(labels, 5)).astype(np.uint8)
    reference = LabelMap(mask, labels.geometry, (LIVER,))
    return compared(read_volume(folder / "dicom"), reference, tmp_path_factory.mktemp("portal"))


class Shown:
    """The compare view of a scene, drawn."""

    def __init__(self, monkeypatch, tmp_path, scene: Scene) -> None:
        if reason := why_no_pictures():
            pytest.skip(reason)
        self.stage = CompareStage(monkeypatch, tmp_path)
        self.scene = scene
        self.view = self.stage.view()
        self.view.show(scene.comparison, SCORES[0], self.stage.volume(scene.image.geometry, scene.image.array))
        manager = self.stage.manager
        tags = ("LiverMarginAll", "LiverMargin1", "LiverMargin2")
        self.slices = {tag: SlicePicture(manager.application, manager.slice_logics[tag], SIZE) for tag in tags}
        space = self.stage.scene.GetSingletonNode("LiverMargin3D", "vtkMRMLViewNode")
        self.space = SpacePicture(manager.application, space, SIZE)
        self.view.zoom()

    def go_to(self, index: int) -> dict[str, np.ndarray]:
        self.index = index
        self.view.go_to(self.scene.comparison, index)
        return {tag: picture.pixels() for tag, picture in self.slices.items()}

    def contour(self, labels: LabelMap, tag: str) -> np.ndarray:
        """Where the outline of a label map must be in a slice view, from the view's own matrix alone."""
        import slicer

        to_ras = slicer.util.arrayFromVTKMatrix(self.stage.slice_node(tag).GetXYToRAS())
        columns, rows = np.meshgrid(np.arange(SIZE[0]), np.arange(SIZE[1])[::-1])
        pixels = np.stack([columns.ravel(), rows.ravel(), np.zeros(columns.size), np.ones(columns.size)])
        i, j, k = np.rint((np.linalg.inv(labels.geometry.ijk_to_ras) @ to_ras @ pixels)[:3]).astype(int)
        inside = np.ones(columns.size, bool)
        for at, n in zip((k, j, i), labels.array.shape, strict=True):
            inside &= (at >= 0) & (at < n)
        mask = np.zeros(columns.size, bool)
        mask[inside] = labels.array[k[inside], j[inside], i[inside]] > 0
        mask = mask.reshape(columns.shape)
        return mask & ~ndimage.binary_erosion(mask)


def has(picture: np.ndarray, colour: str) -> np.ndarray:
    """Pixels of about a colour."""
    wanted = np.array(list(bytes.fromhex(colour[1:])))
    return np.abs(picture.astype(int) - wanted).max(axis=2) < 40


def near(mask: np.ndarray) -> np.ndarray:
    return ndimage.distance_transform_edt(~mask) <= _REACH


def check_outlines(shown: Shown, indices) -> None:
    scene, models = shown.scene, shown.scene.comparison.predictions
    for index in indices:
        for tag, picture in shown.go_to(index).items():
            own = {"LiverMarginAll": list(models), "LiverMargin1": ["U-Net"], "LiverMargin2": ["Detectron2"]}[tag]
            reference = shown.contour(scene.reference, tag)
            expected = {REFERENCE: reference} | {COLOURS[name]: shown.contour(models[name], tag) for name in own}
            everything = np.logical_or.reduce(list(expected.values()))
            for colour, contour in expected.items():
                drawn = has(picture, colour)
                assert contour.sum() > 100 and not (drawn & ~near(contour)).any(), (tag, colour)
                hidden = near(everything & ~contour)  # another line may lie upon it
                visible = contour & ~hidden
                assert visible.sum() == 0 or near(drawn)[visible].mean() > 0.95, (tag, colour)
            for name in set(models) - set(own):
                assert not has(picture, COLOURS[name]).any(), (tag, name)
            # What has a colour is an outline; the image is grey.
            coloured = picture.max(axis=2).astype(int) - picture.min(axis=2) > 30
            assert not (coloured & ~near(everything)).any(), tag
            assert picture[~near(everything)].std() > 5  # the image is there


def test_the_outlines_of_the_phantom_lie_where_the_masks_end(monkeypatch, tmp_path, phantom):
    shown = Shown(monkeypatch, tmp_path, phantom)
    used = np.flatnonzero(axial_view(phantom.reference.geometry).to_view(phantom.reference.array).any(axis=(1, 2)))
    check_outlines(shown, (int(used[len(used) // 3]), int(used[len(used) // 2])))


@pytest.mark.realdata
def test_the_outlines_on_a_real_ct_lie_where_the_masks_end(monkeypatch, tmp_path, portal):
    check_outlines(Shown(monkeypatch, tmp_path, portal), (4, 15))


def test_the_margin_error_is_seen_on_the_surface_with_its_legend_and_in_the_slices(monkeypatch, tmp_path, phantom):
    shown = Shown(monkeypatch, tmp_path, phantom)
    blank = shown.space.pixels()
    orange, purple = "#b35806", "#542788"
    assert not has(blank, orange).any()
    shown.view.colour("U-Net", False)
    shrunk = shown.space.pixels()
    shown.view.colour("Detectron2", False)
    grown = shown.space.pixels()
    assert has(shrunk, orange).sum() > 2 * has(grown, orange).sum()
    assert has(grown, purple).sum() > 2 * has(shrunk, purple).sum()
    legend = grown[:, int(0.75 * SIZE[0]) :]
    assert has(legend, orange).any() and has(legend, purple).any()
    index = len(shown.scene.comparison.places) // 2
    plain = shown.go_to(index)["LiverMargin2"]
    shown.view.colour("Detectron2", True)
    coloured = shown.go_to(index)["LiverMargin2"]
    contour = shown.contour(phantom.comparison.predictions["Detectron2"], "LiverMargin2")
    changed = (coloured != plain).any(axis=2)
    assert near(changed)[contour].mean() > 0.9
    assert near(contour)[changed].mean() > 0.9
    shown.view.colour(None, False)
    assert np.abs(shown.space.pixels().astype(int) - blank).max() < 8


def test_the_plot_draws_a_curve_of_each_models_colour(monkeypatch, tmp_path, phantom):
    import slicer

    shown = Shown(monkeypatch, tmp_path, phantom)
    (chart,) = slicer.util.getNodesByClass("vtkMRMLPlotChartNode", shown.stage.scene)
    picture = PlotPicture(chart, (500, 300)).pixels()
    for colour in COLOURS.values():
        assert has(picture, colour).sum() > 100
