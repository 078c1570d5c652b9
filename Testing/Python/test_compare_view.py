"""The compare view on 3D Slicer's real scene, slice and layout logic: what it adds, shows, and takes away again."""

from __future__ import annotations

import io
import types
from xml.etree import ElementTree

import numpy as np
import pytest
from compare_stage import COLOURS, CompareStage, comparison_of
from LiverMarginPanels import slice_navigation
from LiverMarginPanels.compare_layout import (
    MOST_MODELS,
    VIEW_GROUP,
    CompareLayout,
    SliceView,
    layout_xml,
    slice_views,
)
from LiverMarginPanels.compare_result import SCORES, SliceScore
from LiverMarginPanels.display_isolation import DisplayIsolation
from LiverMarginPanels.label_box import cropped
from LiverMarginPanels.plot_clicks import PlotClicks
from LiverMarginPanels.scene_furniture import Furniture
from LiverMarginPanels.slice_list import WORST, Listed, listed_slices
from LiverMarginPanels.slice_navigation import SlicePlaces
from test_mrml import ORIENTATIONS, geometry

from LiverMarginLib import mrml
from LiverMarginLib.errors import ResourceError
from LiverMarginLib.report.colours import REFERENCE
from LiverMarginLib.terminology import LIVER
from LiverMarginLib.volume import Geometry, LabelMap, axial_view

pytestmark = pytest.mark.slicer
SHAPE = (9, 20, 24)
VIEWS = ("LiverMarginAll", "LiverMargin1", "LiverMargin2")


@pytest.fixture
def stage(monkeypatch, tmp_path) -> CompareStage:
    return CompareStage(monkeypatch, tmp_path)


def block(grid: Geometry, start=(2, 4, 5), stop=(7, 15, 18)) -> LabelMap:
    """A box in the axial view."""
    array = np.zeros(grid.shape, np.uint8)
    axial_view(grid).to_view(array)[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = 1
    return LabelMap(array, grid, (LIVER,))


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """A comparison of two models on an oblique grid; the second has missed the two uppermost slices."""
    grid = geometry("oblique", SHAPE)
    models = {"U-Net": block(grid, (2, 4, 7)), "Detectron2": block(grid, stop=(5, 15, 18))}
    return comparison_of(block(grid), models, tmp_path_factory.mktemp("found"))


def elements(xml: str, kind: str) -> list[str]:
    root = ElementTree.parse(io.StringIO(xml))
    return [view.get("singletontag") for view in root.iter("view") if view.get("class") == kind]


def test_there_is_one_slice_view_a_model_and_one_with_all():
    views = slice_views(COLOURS, "All")
    assert views == [
        SliceView("LiverMarginAll", "All", REFERENCE, ("U-Net", "Detectron2")),
        SliceView("LiverMargin1", "U-Net", "#e02f2f", ("U-Net",)),
        SliceView("LiverMargin2", "Detectron2", "#25a244", ("Detectron2",)),
    ]
    assert [view.title for view in slice_views({"U-Net": "#e02f2f"}, "All")] == ["U-Net"]
    many = slice_views({str(n): "#000000" for n in range(20)}, "All")
    assert len(many) == MOST_MODELS + 1 and len(many[0].models) == 20


@pytest.mark.parametrize("count", range(1, MOST_MODELS + 2))
def test_the_layout_holds_every_view_once(count):
    tags = [f"LiverMargin{n}" for n in range(count)]
    xml = layout_xml(tags)
    assert elements(xml, "vtkMRMLSliceNode") == tags
    assert elements(xml, "vtkMRMLViewNode") == ["LiverMargin3D"]
    assert elements(xml, "vtkMRMLPlotViewNode") == ["LiverMarginPlot"]
    assert elements(xml, "vtkMRMLTableViewNode") == ["LiverMarginTable"]
    rows = list(ElementTree.fromstring(xml))
    assert len(rows) == (2 if count <= 4 else 3)
    assert all(len(row.findall("./layout/item")) <= 4 for row in rows)


def test_slicers_layout_logic_makes_the_views_in_a_group_of_their_own(stage):
    layout = CompareLayout(stage.manager)
    layout.show(VIEWS)
    for tag in VIEWS:
        assert stage.slice_node(tag).GetViewGroup() == VIEW_GROUP
    assert stage.slice_node("Red").GetViewGroup() != VIEW_GROUP
    assert stage.scene.GetSingletonNode("LiverMarginTable", "vtkMRMLTableViewNode") is not None


def test_the_users_layout_comes_back_and_is_what_is_saved(stage):
    before = stage.manager.layout
    node = stage.manager.layoutLogic().GetLayoutNode()
    layout = CompareLayout(stage.manager)
    layout.show(VIEWS)
    layout.show(VIEWS[:2])
    assert layout.shown and not node.GetSaveWithScene()
    layout.hide()
    assert stage.manager.layout == before and node.GetSaveWithScene() and not layout.shown
    layout.show(VIEWS)
    stage.manager.setLayout(6)  # the user goes elsewhere, and stays there
    layout.hide()
    assert stage.manager.layout == 6


def test_the_users_segmentations_look_the_same_everywhere_but_in_our_views(stage):
    import slicer

    volume = stage.volume(geometry("LPS", SHAPE), np.zeros(SHAPE, np.int16))
    shown = mrml.labels_to_node(block(geometry("LPS", SHAPE)), volume, "user's").GetDisplayNode()
    confined = mrml.labels_to_node(block(geometry("LPS", SHAPE)), volume, "red only").GetDisplayNode()
    confined.AddViewNodeID("vtkMRMLSliceNodeRed")
    CompareLayout(stage.manager).show(VIEWS)
    ours = {stage.slice_node(tag).GetID() for tag in VIEWS}
    looks = _look(shown)
    isolation = DisplayIsolation()
    isolation.begin(stage.scene, ours)
    assert _look(shown) == looks
    for node in slicer.util.getNodesByClass("vtkMRMLAbstractViewNode", stage.scene):
        if node.IsA("vtkMRMLSliceNode") or node.IsA("vtkMRMLViewNode"):
            assert shown.IsDisplayableInView(node.GetID()) == (node.GetID() not in ours), node.GetID()
    assert _views(confined) == ["vtkMRMLSliceNodeRed"]
    isolation.end()
    assert _views(shown) == [] and _views(confined) == ["vtkMRMLSliceNodeRed"]
    isolation.begin(stage.scene, ours)
    shown.RemoveAllViewNodeIDs()
    shown.AddViewNodeID("vtkMRMLSliceNodeGreen")  # the user's own choice meanwhile stays
    isolation.end()
    assert _views(shown) == ["vtkMRMLSliceNodeGreen"]


def _views(display) -> list[str]:
    return [display.GetNthViewNodeID(n) for n in range(display.GetNumberOfViewNodeIDs())]


def _look(display) -> tuple:
    return (
        display.GetVisibility(), display.GetVisibility2DFill(), display.GetVisibility2DOutline(),
        display.GetOpacity(), display.GetSliceIntersectionThickness(), display.GetVisibility3D(),
    )  # fmt: skip


def _nodes(stage: CompareStage) -> dict[str, object]:
    import slicer

    return {node.GetID(): node for node in slicer.util.getNodesByClass("vtkMRMLNode", stage.scene)}


def test_the_view_leaves_nothing_behind_but_the_table_and_the_plot(stage, found):
    view = stage.view()
    view.show(found, SCORES[0])
    view.colour("U-Net", True)
    view.hide()
    first = _nodes(stage)
    view.show(found, SCORES[1])
    view.colour("Detectron2", False)
    view.hide()
    assert set(_nodes(stage)) == set(first)
    kept = [node for node in first.values() if "LiverMargin" not in (node.GetSingletonTag() or node.GetID())]
    names = {node.GetClassName() for node in kept if node.GetSaveWithScene() and not node.GetSingletonTag()}
    assert {"vtkMRMLTableNode", "vtkMRMLPlotChartNode", "vtkMRMLPlotSeriesNode"} <= names
    assert not {"vtkMRMLSegmentationNode", "vtkMRMLSegmentationDisplayNode", "vtkMRMLColorTableNode"} & names


def test_a_scene_that_is_saved_meanwhile_holds_nothing_that_needs_the_module(stage, found, tmp_path):
    import slicer

    view = stage.view()
    view.show(found, SCORES[0], stage.volume(geometry("oblique", SHAPE), np.zeros(SHAPE, np.int16)))
    view.colour("U-Net", True)
    stage.scene.SetURL(str(tmp_path / "scene.mrml"))
    assert stage.scene.Commit()
    saved = ElementTree.parse(tmp_path / "scene.mrml")
    tags = {element.get("singletonTag") for element in saved.iter()}
    assert "Red" in tags and not {tag for tag in tags if tag and tag.startswith("LiverMargin")}
    kinds = {element.tag for element in saved.iter()}
    assert not kinds & {"Segmentation", "SegmentationDisplay", "Layout", "ColorLegendDisplay"}
    assert {"Table", "PlotChart", "PlotSeries"} <= kinds
    again = slicer.vtkMRMLScene()
    again.SetURL(str(tmp_path / "scene.mrml"))
    assert again.Import()
    assert again.GetFirstNodeByClass("vtkMRMLPlotChartNode").GetNumberOfPlotSeriesNodes() == 2


def test_what_is_drawn_is_not_in_any_list(stage, found):
    before = set(_nodes(stage))
    stage.view().show(found, SCORES[0])
    hierarchy = stage.scene.GetFirstNodeByClass("vtkMRMLSubjectHierarchyNode")
    for node_id, node in _nodes(stage).items():
        if node_id not in before and node.IsA("vtkMRMLSegmentationNode"):
            assert node.GetHideFromEditors() and not hierarchy.GetItemByDataNode(node)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_jump_shows_exactly_the_plane_of_the_slice(stage, orientation):
    import slicer

    grid = geometry(orientation, SHAPE)
    places = SlicePlaces(block(grid))
    CompareLayout(stage.manager).show(VIEWS)
    nodes = [stage.slice_node(tag) for tag in VIEWS]
    for node in nodes:
        places.orient(node)
    view = axial_view(grid)
    for index in (0, 4, len(places) - 1):
        slice_navigation.jump(stage.scene, places.place(index), VIEW_GROUP)
        for node in nodes:
            matrix = slicer.util.arrayFromVTKMatrix(node.GetSliceToRAS())
            # Every point of the view's plane has the index of the slice as its k.
            points = matrix @ np.array([[0, 0, 0, 1], [50, 0, 0, 1], [0, 50, 0, 1]]).T
            np.testing.assert_allclose((np.linalg.inv(view.geometry.ijk_to_ras) @ points)[2], index, atol=1e-6)


@pytest.mark.parametrize("orientation", ["LPS", "RAI", "sagittal"])
def test_volumes_along_the_axes_look_as_in_slicers_axial_view(stage, orientation):
    import slicer

    CompareLayout(stage.manager).show(VIEWS)
    node = stage.slice_node(VIEWS[0])
    SlicePlaces(block(geometry(orientation, SHAPE))).orient(node)
    axial = slicer.util.arrayFromVTKMatrix(stage.slice_node("Red").GetSliceToRAS())
    np.testing.assert_allclose(slicer.util.arrayFromVTKMatrix(node.GetSliceToRAS())[:3, :3], axial[:3, :3], atol=1e-9)


def test_the_whole_organ_is_in_the_picture_whatever_the_shape_of_the_view(stage):
    import slicer

    grid = geometry("oblique", SHAPE)
    places = SlicePlaces(block(grid))
    CompareLayout(stage.manager).show(VIEWS)
    node = stage.slice_node(VIEWS[0])
    corners = np.array([(i, j, 4, 1) for i in (4.5, 17.5) for j in (3.5, 14.5)])
    corners = axial_view(grid).geometry.ijk_to_ras @ corners.T

    for size in ((400, 100), (100, 400)):
        node.SetDimensions(*size, 1)
        places.orient(node)
        slice_navigation.jump(stage.scene, places.place(4), VIEW_GROUP)
        places.zoom(node)
        pixels = np.linalg.inv(slicer.util.arrayFromVTKMatrix(node.GetXYToRAS())) @ corners
        assert (pixels[:2] > 0).all() and (size > pixels[:2].T).all()
        spread = (pixels[:2].max(axis=1) - pixels[:2].min(axis=1)) / size
        assert spread.max() > 0.75
        fov = node.GetFieldOfView()
        assert fov[0] / size[0] == pytest.approx(fov[1] / size[1])


def test_slices_are_moved_keeping_what_the_user_has_zoomed_to(stage):
    CompareLayout(stage.manager).show(VIEWS)
    node = stage.slice_node(VIEWS[0])
    places = SlicePlaces(block(geometry("LPS", SHAPE)))
    places.orient(node)
    node.SetFieldOfView(33, 33, 1)
    before = [node.GetSliceToRAS().GetElement(row, 3) for row in range(2)]
    slice_navigation.jump(stage.scene, places.place(3), VIEW_GROUP)
    assert [node.GetSliceToRAS().GetElement(row, 3) for row in range(2)] == pytest.approx(before)
    assert node.GetFieldOfView()[0] == 33


def test_every_view_is_named_coloured_linked_and_has_the_image(stage, found):
    import slicer

    image = stage.volume(geometry("oblique", SHAPE), np.zeros(SHAPE, np.int16))
    red = slicer.vtkMRMLSliceLogic.GetSliceCompositeNode(stage.slice_node("Red"))
    stage.view().show(found, SCORES[0], image)
    for tag, title, colour in zip(VIEWS, ("All", "1", "2"), (REFERENCE, *COLOURS.values()), strict=True):
        node = stage.slice_node(tag)
        composite = slicer.vtkMRMLSliceLogic.GetSliceCompositeNode(node)
        assert node.GetLayoutLabel() == title
        assert tuple(round(255 * part) for part in node.GetLayoutColor()) == tuple(bytes.fromhex(colour[1:]))
        assert composite.GetLinkedControl() and composite.GetHotLinkedControl()
        assert composite.GetBackgroundVolumeID() == image.GetID()
    assert red.GetBackgroundVolumeID() is None and not red.GetLinkedControl()


def test_each_view_shows_the_reference_and_its_own_model(stage, found):
    import slicer

    stage.view().show(found, SCORES[0])
    shown: dict[str, set[str]] = {tag: set() for tag in VIEWS}
    for display in slicer.util.getNodesByClass("vtkMRMLSegmentationDisplayNode", stage.scene):
        segmentation = display.GetDisplayableNode().GetSegmentation()
        (view,) = _views(display)
        assert not display.GetVisibility2DFill() and not display.GetVisibility3D()
        for n in range(segmentation.GetNumberOfSegments()):
            if display.GetSegmentVisibility(segmentation.GetNthSegmentID(n)):
                shown[view.removeprefix("vtkMRMLSliceNode")].add(segmentation.GetNthSegment(n).GetName())
    assert shown == {
        "LiverMarginAll": {"Reference", "U-Net", "Detectron2"},
        "LiverMargin1": {"Reference", "U-Net"},
        "LiverMargin2": {"Reference", "Detectron2"},
    }


def test_the_table_and_the_plot_show_the_scores_by_slice(stage, found):
    import slicer

    plot = stage.import_panel_module("compare_plot").ComparePlot(stage.scene)
    plot.fill(found, SCORES[0])
    table = plot.table
    assert [table.GetColumnName(n) for n in range(4)] == ["Slice", "Position (mm)", "U-Net", "Detectron2"]
    assert slicer.util.arrayFromTableColumn(table, "Slice").tolist() == [2, 3, 4, 5, 6]
    scores = slicer.util.arrayFromTableColumn(table, "Detectron2")
    assert scores[:3].tolist() == [1, 1, 1] and scores[3:].tolist() == [0, 0]
    assert table.GetUseColumnTitleAsColumnHeader() and table.GetLocked()
    series = [plot.chart.GetNthPlotSeriesNode(n) for n in range(plot.chart.GetNumberOfPlotSeriesNodes())]
    assert [each.GetName() for each in series] == ["1  U-Net", "2  Detectron2"]
    assert len({each.GetLineStyle() for each in series}) == 2  # told apart without colours too
    assert [tuple(round(255 * part) for part in each.GetColor()) for each in series] == [
        tuple(bytes.fromhex(colour[1:])) for colour in COLOURS.values()
    ]
    assert plot.slice_of_row(1) == 3 and plot.slice_of_row(5) is None
    plot.fill(found, SCORES[3])
    assert plot.table is table and plot.chart.GetYAxisTitle() == "HD95 (mm)"
    assert slicer.util.arrayFromTableColumn(table, "Detectron2")[:2].tolist() == [0, 0]


def test_clicks_in_slicers_table_and_plot_lead_to_the_slice(stage, found):
    chosen = []
    view = stage.view(chosen.append)
    view.show(found, SCORES[0])
    stage.manager.table.emit("clicked(QModelIndex)", 8)  # row 1 of the table node
    stage.manager.table.model.emit("currentRowChanged(QModelIndex,QModelIndex)", 6, 8)
    assert chosen == [3, 5]
    chosen.clear()
    for row in (4, 0):
        stage.manager.plot.click_point(row)
        stage.clock.pass_by(0.1)
    assert chosen == [6, 2]
    view.hide()
    assert not any(stage.manager.table.slots.values()) and not any(stage.manager.plot.slots.values())


def test_a_click_beside_the_points_goes_nowhere(stage):
    chosen = []
    clicks = PlotClicks(stage.clock.later, chosen.append)
    clicks.begin(stage.manager.plot)
    stage.manager.plot.click_beside()
    stage.clock.pass_by(1)
    assert not chosen


def test_the_surface_of_one_model_is_coloured_in_3d_and_all_are_cut_by_their_own_slice_view(stage, found):
    import slicer

    view = stage.view()
    view.show(found, SCORES[0])
    view.colour("U-Net", False)
    (node,) = _surfaces(stage)
    assert _views(node.GetDisplayNode()) == ["vtkMRMLViewNodeLiverMargin3D"]
    display = node.GetDisplayNode()
    assert display.GetActiveScalarName() == "MarginError" and display.GetScalarVisibility()
    low, high = display.GetScalarRange()
    assert low == -high and high >= 3
    table = display.GetColorNode()
    colours = [np.zeros(4) for _ in range(3)]
    for n, colour in zip((0, table.GetNumberOfColors() // 2, table.GetNumberOfColors() - 1), colours, strict=True):
        table.GetColor(n, colour)
    assert colours[0][0] > colours[0][2] and colours[2][2] > colours[2][0]  # orange is short, purple beyond
    assert colours[1][:3].min() > 0.95
    (legend,) = slicer.util.getNodesByClass("vtkMRMLColorLegendDisplayNode", stage.scene)
    assert _views(legend) == ["vtkMRMLViewNodeLiverMargin3D"] and legend.GetVisibility()

    view.colour("Detectron2", True)
    seen = {
        _name(node): (_views(node.GetDisplayNode()), node.GetDisplayNode().GetVisibility2D())
        for node in _surfaces(stage)
    }
    assert seen == {
        "U-Net": (["vtkMRMLSliceNodeLiverMargin1"], 1),
        "Detectron2": (["vtkMRMLViewNodeLiverMargin3D", "vtkMRMLSliceNodeLiverMargin2"], 1),
    }
    view.colour(None, False)
    assert not any(node.GetDisplayNode().GetVisibility() for node in _surfaces(stage))


def _surfaces(stage: CompareStage) -> list:
    import slicer

    nodes = slicer.util.getNodesByClass("vtkMRMLModelNode", stage.scene)
    return [node for node in nodes if node.GetName().endswith("margin error")]


def _name(node) -> str:
    return node.GetName().removesuffix(" margin error")


def test_a_surface_that_is_gone_is_said_in_one_sentence(stage, tmp_path):
    kind = stage.import_panel_module("surface_colouring").MarginSurfaces
    surfaces = kind(Furniture(stage.scene), {"m": tmp_path / "no.vtp"})
    with pytest.raises(ResourceError, match="compare again"):
        surfaces.show("m", "view", {})


def test_the_3d_view_looks_at_the_organ_from_the_front(stage, found):
    import slicer

    stage.view().show(found, SCORES[0])
    cameras = slicer.util.getNodesByClass("vtkMRMLCameraNode", stage.scene)
    (camera,) = [camera for camera in cameras if camera.GetLayoutName() == "LiverMargin3D"]
    np.testing.assert_allclose(camera.GetFocalPoint(), found.places.middle())
    assert camera.GetPosition()[1] > found.places.middle()[1]
    assert not camera.GetSaveWithScene()


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_cutting_a_label_map_to_its_labels_leaves_them_in_their_place(orientation):
    labels = block(geometry(orientation, SHAPE))
    part = cropped(labels)
    assert part.array.all()
    where = np.argwhere(labels.array)[0]
    assert part.geometry.spacing == pytest.approx(labels.geometry.spacing)
    np.testing.assert_allclose(
        part.geometry.ijk_to_ras @ (0, 0, 0, 1), labels.geometry.ijk_to_ras @ (*where[::-1], 1), atol=1e-9
    )


def test_an_empty_prediction_can_be_cut_and_drawn(stage, found):
    nothing = cropped(LabelMap(np.zeros(SHAPE, np.uint8), geometry("LPS", SHAPE)))
    assert nothing.geometry.shape == SHAPE
    outlines = stage.import_panel_module("compare_outlines").CompareOutlines
    CompareLayout(stage.manager).show(VIEWS)
    drawn = outlines(Furniture(stage.scene), found.reference, {"U-Net": nothing}, COLOURS, "Reference")
    drawn.show(stage.slice_node(VIEWS[0]).GetID(), ("U-Net",))


def scored(model: str, index: int, value: float | None, two_regions: bool = False) -> SliceScore:
    return SliceScore(model, index, float(index), "both", two_regions, {} if value is None else {SCORES[0].key: value})


def test_the_worst_slices_come_first_and_those_without_a_score_last():
    rows = [scored("a", 1, 0.9), scored("a", 2, None), scored("a", 3, 0.2, True), scored("b", 1, 0.5)]
    comparison = types.SimpleNamespace(slices=rows)
    order = [(row.model, row.index) for row in listed_slices(comparison, Listed.ALL, SCORES[0])]
    assert order == [("a", 3), ("b", 1), ("a", 1), ("a", 2)]
    assert [row.index for row in listed_slices(comparison, Listed.TWO_REGIONS, SCORES[0])] == [3]
    assert [row.model for row in listed_slices(comparison, Listed.ALL, SCORES[0], "b")] == ["b"]


def test_the_list_of_the_worst_holds_the_worst_of_every_model():
    rows = [scored(model, n, n / 100) for model in ("a", "b") for n in range(30)]
    worst = listed_slices(types.SimpleNamespace(slices=rows), Listed.WORST, SCORES[0])
    assert len(worst) == 2 * WORST and {row.index for row in worst} == set(range(WORST))
