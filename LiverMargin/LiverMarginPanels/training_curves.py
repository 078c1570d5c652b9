"""The curves of a training in Slicer's own plots: a table that grows, and a chart each for loss and score."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import slicer
import vtk
from slicer.i18n import tr as _

from LiverMarginLib.events import Metric

_LAYOUT = 58705
_VIEWS = ("LiverMarginLoss", "LiverMarginScore")
_XML = (
    '<layout type="vertical" split="true">'
    + "".join(
        f'<item><view class="vtkMRMLPlotViewNode" singletontag="{tag}">'
        f'<property name="viewlabel" action="default">{tag.removeprefix("LiverMargin")}</property></view></item>'
        for tag in _VIEWS
    )
    + "</layout>"
)
_EPOCH = "Epoch"
_FEWEST_EPOCHS = 3
_HEADROOM = 1.25  # for the legend, which stands where good scores end
# Okabe and Ito's orange and blue, which colour-blind people tell apart as well.
_COLOURS = {"train": (0.902, 0.624, 0.0), "validation": (0.0, 0.447, 0.698)}


@dataclass(frozen=True)
class _Curve:
    """A column of the table: where it is shown, and which metrics it is made of."""

    column: str
    chart: int
    series: str
    metrics: tuple[str, ...]


_CURVES = (
    _Curve("Training loss", 0, "train", ("loss",)),
    _Curve("Validation loss", 0, "validation", ("loss",)),
    _Curve("Training score", 1, "train", ("mask_iou", "dice", "psnr")),
    _Curve("Validation score", 1, "validation", ("mask_iou", "dice", "psnr_body")),
)


class TrainingCurves:
    """Nodes of one training in a scene.

    Parameters
    ----------
    scene : vtkMRMLScene
    score : str
        Name of the score, with its unit.
    """

    def __init__(self, scene: Any, score: str) -> None:
        self.table = scene.AddNewNodeByClass("vtkMRMLTableNode", scene.GenerateUniqueName("Training"))
        self.table.SetUseColumnTitleAsColumnHeader(True)
        for name in (_EPOCH, *(curve.column for curve in _CURVES)):
            column = vtk.vtkDoubleArray()
            column.SetName(name)
            self.table.AddColumn(column)
        self.charts = tuple(_chart(scene, title) for title in (_("Loss"), score))
        for curve in _CURVES:
            series = scene.AddNewNodeByClass("vtkMRMLPlotSeriesNode", curve.column)
            series.SetAndObserveTableNodeID(self.table.GetID())
            series.SetXColumnName(_EPOCH)
            series.SetYColumnName(curve.column)
            series.SetPlotType(slicer.vtkMRMLPlotSeriesNode.PlotTypeScatter)
            series.SetMarkerStyle(slicer.vtkMRMLPlotSeriesNode.MarkerStyleCircle)  # a single epoch makes no line
            series.SetColor(*_COLOURS[curve.series])
            self.charts[curve.chart].AddAndObservePlotSeriesNodeID(series.GetID())

    @property
    def in_scene(self) -> bool:
        """Whether the nodes are still there; closing the scene takes them away."""
        return all(node.GetScene() is not None for node in (self.table, *self.charts))

    def add(self, point: Metric) -> None:
        """Draw a point; metrics that have no curve are dropped."""
        curve = next((c for c in _CURVES if c.series == point.series and point.metric in c.metrics), None)
        if curve is None or not self.in_scene:
            return
        table = self.table.GetTable()
        epochs = table.GetColumnByName(_EPOCH)
        row = epochs.GetNumberOfValues() - 1
        while row >= 0 and epochs.GetValue(row) != point.step:
            row -= 1
        if row < 0:
            epochs.InsertNextValue(point.step)
            for each in _CURVES:
                table.GetColumnByName(each.column).InsertNextValue(math.nan)
            row = epochs.GetNumberOfValues() - 1
        table.GetColumnByName(curve.column).SetValue(row, point.value)
        table.Modified()  # redraws are collected by the view
        self._fit(curve.chart)

    def _fit(self, chart: int) -> None:
        """Let the axes of a chart hold its points; by itself it keeps those that it was shown with."""
        table = self.table.GetTable()
        epochs = table.GetColumnByName(_EPOCH)
        columns = [table.GetColumnByName(curve.column) for curve in _CURVES if curve.chart == chart]
        rows = range(epochs.GetNumberOfValues())
        values = [column.GetValue(row) for column in columns for row in rows if math.isfinite(column.GetValue(row))]
        node = self.charts[chart]
        was_modifying = node.StartModify()
        node.SetXAxisRange(0, 1.02 * max(_FEWEST_EPOCHS, *(epochs.GetValue(row) for row in rows)))
        # Scores are shares of one, but for the decibels of a network that cleans images.
        node.SetYAxisRange(min(0.0, *values), max(1.0 if chart == 1 else 0.0, *values) * _HEADROOM)
        node.EndModify(was_modifying)

    def show(self) -> int:
        """Show both charts in a layout of their own; return the layout that was there before."""
        manager = slicer.app.layoutManager()
        layout = manager.layoutLogic().GetLayoutNode()
        before = layout.GetViewArrangement()
        layout.AddLayoutDescription(_LAYOUT, _XML)  # says False when it knows it already
        manager.setLayout(_LAYOUT)
        for tag, chart in zip(_VIEWS, self.charts, strict=True):
            slicer.mrmlScene.GetSingletonNode(tag, "vtkMRMLPlotViewNode").SetPlotChartNodeID(chart.GetID())
        return int(before)


def hide(before: int) -> None:
    """Go back to the layout `before`, unless the user has chosen another meanwhile."""
    manager = slicer.app.layoutManager()
    if manager.layoutLogic().GetLayoutNode().GetViewArrangement() == _LAYOUT:
        manager.setLayout(before)


def _chart(scene: Any, title: str) -> Any:
    chart = scene.AddNewNodeByClass("vtkMRMLPlotChartNode", scene.GenerateUniqueName(title))
    chart.SetTitle(title)
    chart.SetXAxisTitle(_("Epoch"))
    chart.SetYAxisTitle(title)
    chart.SetXAxisRangeAuto(False)
    chart.SetYAxisRangeAuto(False)
    chart.SetXAxisRange(0, _FEWEST_EPOCHS)
    chart.SetYAxisRange(0, _HEADROOM)
    return chart
