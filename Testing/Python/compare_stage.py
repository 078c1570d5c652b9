"""3D Slicer's scene, slice and layout logic without its window: what the compare view is tried on."""

from __future__ import annotations

import importlib
import types
from typing import Any

import numpy as np
from slicer_stand_ins import Table, Widget
from test_mrml import add_volume
from test_slicer_module_panels import Stage

from LiverMarginLib.volume import Geometry, LabelMap

COLOURS = {"U-Net": "#e02f2f", "Detectron2": "#25a244"}


class TableView(Widget):
    """A qMRMLTableView over a table whose rows were moved: the view's row n is row 9 - n of the table node."""

    def __init__(self) -> None:
        super().__init__("table view")
        self.model = Widget("selection model")

    def __getattr__(self, name: str) -> Any:
        if name in ("setSelectionBehavior", "setSelectionMode", "setSortingEnabled"):
            return lambda _: None
        raise AttributeError(name)

    def tableView(self) -> TableView:
        return self

    def selectionModel(self) -> Widget:
        return self.model

    def sortFilterProxyModel(self) -> TableView:
        return self

    def mapToSource(self, index: int) -> Any:
        return types.SimpleNamespace(row=lambda: 9 - index)


class PlotView(Widget):
    """A qMRMLPlotView; a click tells of the old selection first, as in the application."""

    def __init__(self) -> None:
        super().__init__("plot view")
        self._selected: int | None = None

    def plotView(self) -> PlotView:
        return self

    def click_point(self, row: int) -> None:
        for selected in (self._selected, row):
            self._tell(selected)
        self._selected = row

    def click_beside(self) -> None:
        self._tell(None)

    def _tell(self, row: int | None) -> None:
        import vtk

        rows = vtk.vtkCollection()
        if row is not None:
            array = vtk.vtkIdTypeArray()
            array.InsertNextValue(row)
            rows.AddItem(array)
        self.emit("dataSelected(vtkStringArray*,vtkCollection*)", vtk.vtkStringArray(), rows)


class LayoutManager:
    """The layout manager: the views come from Slicer's own layout logic, and each slice view gets its slice logic."""

    def __init__(self, scene) -> None:
        import slicer

        self.scene = scene
        self.application = slicer.vtkMRMLApplicationLogic()
        self.application.SetMRMLScene(scene)
        self._logic = slicer.vtkMRMLLayoutLogic()
        self._logic.SetMRMLScene(scene)
        self.slice_logics: dict[str, Any] = {}
        self.table, self.plot = TableView(), PlotView()
        self.history: list[int] = []
        self.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)

    def layoutLogic(self):
        return self._logic

    @property
    def layout(self) -> int:
        return self._logic.GetLayoutNode().GetViewArrangement()

    def setLayout(self, number: int) -> None:
        import slicer

        self.history.append(number)
        self._logic.GetLayoutNode().SetViewArrangement(number)
        for node in slicer.util.getNodesByClass("vtkMRMLSliceNode", self.scene):
            if node.GetLayoutName() not in self.slice_logics:
                logic = slicer.vtkMRMLSliceLogic()
                logic.SetMRMLApplicationLogic(self.application)
                logic.SetMRMLScene(self.scene)
                logic.SetSliceNode(node)
                self.slice_logics[node.GetLayoutName()] = logic
        for node in slicer.util.getNodesByClass("vtkMRMLViewNode", self.scene):
            cameras = slicer.util.getNodesByClass("vtkMRMLCameraNode", self.scene)
            if node.GetLayoutName() not in [camera.GetLayoutName() for camera in cameras]:
                self.scene.AddNewNodeByClass("vtkMRMLCameraNode").SetLayoutName(node.GetLayoutName())

    def viewWidget(self, node) -> Widget:
        return {"LiverMarginTable": self.table, "LiverMarginPlot": self.plot}[node.GetLayoutName()]


class CompareStage(Stage):
    """A stage with views."""

    def __init__(self, monkeypatch, tmp_path) -> None:
        import slicer

        super().__init__(monkeypatch, tmp_path)
        self.manager = LayoutManager(self.scene)
        colors = slicer.vtkSlicerColorLogic()
        colors.SetMRMLScene(self.scene)
        monkeypatch.setattr(slicer, "app", types.SimpleNamespace(layoutManager=lambda: self.manager), raising=False)
        modules = types.SimpleNamespace(colors=types.SimpleNamespace(logic=lambda: colors))
        monkeypatch.setattr(slicer, "modules", modules, raising=False)

    def import_panel_module(self, name: str):
        return importlib.import_module(f"LiverMarginPanels.{name}")

    def slice_node(self, tag: str):
        return self.scene.GetSingletonNode(tag, "vtkMRMLSliceNode")

    def view(self, chosen=lambda index: None):
        kind = self.import_panel_module("compare_view").CompareView
        return kind(self.scene, self.manager, self.clock.later, chosen)

    def volume(self, grid: Geometry, array: np.ndarray):
        """An image with the display that the application would give it."""
        grey = self.scene.AddNewNodeByClass("vtkMRMLColorTableNode")
        grey.SetTypeToGrey()
        grey.SetSaveWithScene(False)  # the application has its own
        node = add_volume(self.scene, grid, array)
        node.CreateDefaultDisplayNodes()
        display = node.GetDisplayNode()
        display.SetAndObserveColorNodeID(grey.GetID())
        display.AutoWindowLevelOff()
        display.SetWindowLevel(400, 40)
        return node


def comparison_of(reference: LabelMap, predictions: dict[str, LabelMap], folder):
    """What the worker would find, computed here by its own job."""
    from LiverMarginPanels.compare_result import Comparison, read_models, read_slices
    from LiverMarginPanels.label_box import cropped
    from LiverMarginPanels.slice_navigation import SlicePlaces

    from LiverMarginLib.io.writers import write_labelmap
    from LiverMarginLib.jobs import run
    from LiverMarginLib.jobs.compare import SURFACES, CompareJob
    from LiverMarginLib.report.pictures import surface_path

    write_labelmap(reference, folder / "reference.nrrd")
    files = {name: str(write_labelmap(p, folder / f"{n}.nrrd")[0]) for n, (name, p) in enumerate(predictions.items())}
    job = CompareJob(str(folder / "reference.nrrd"), files, str(folder / "out"), "1", "1", report=False, surfaces=True)
    values = run(job)
    return Comparison(
        slices=read_slices(folder / "out"),
        models=read_models(values),
        places=SlicePlaces(reference),
        reference=cropped(reference),
        predictions={name: cropped(labels) for name, labels in predictions.items()},
        folder=folder / "out",
        kept=False,
        surfaces={name: surface_path(folder / "out" / SURFACES, "case", name) for name in predictions},
        outputs=(),
    )


def table_rows(table: Table, column: int) -> list:
    """What a column of a table shows, row by row."""
    return [None if table.item(row, column) is None else table.item(row, column).data(0) for row in range(table.rows)]
