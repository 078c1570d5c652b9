"""A comparison as Slicer's own table and plot: one row a slice, one column and one curve a segmentation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import slicer
from slicer.i18n import tr as _

from LiverMarginLib.report.colours import model_styles
from LiverMarginPanels.compare_result import Comparison, Score
from LiverMarginPanels.model_titles import model_titles

_HEADROOM = 1.2  # for the legend, which stands where good scores are
_ROLE = "LiverMargin.Comparison"
_DASHES = ("LineStyleSolid", "LineStyleDash", "LineStyleDot", "LineStyleDashDot", "LineStyleDashDotDot")


class ComparePlot:
    """The table node, its series and its chart. They are the user's: saved with the scene, and left when we go.

    Parameters
    ----------
    scene : vtkMRMLScene
    """

    def __init__(self, scene: Any) -> None:
        self._scene = scene
        self._slices: list[int] = []
        self.table: Any = None
        self.shown_table: Any = None
        """The table as text for Slicer's table view, which would show "nan" where a score is not defined."""

        self.chart: Any = None

    def fill(self, comparison: Comparison, score: Score) -> None:
        """Show one score of all slices; nodes of an earlier comparison are used again.

        Parameters
        ----------
        comparison : Comparison
        score : Score
        """
        import vtk

        self.table = self._node("vtkMRMLTableNode", "table", _("Comparison by slice"))
        self.chart = self._node("vtkMRMLPlotChartNode", "chart", _("Comparison by slice"))
        by_slice = {(row.model, row.index): row for row in comparison.slices}
        positions = {row.index: row.position_mm for row in comparison.slices}
        self._slices = sorted(positions)

        was_modifying = self.table.StartModify()
        self.table.RemoveAllColumns()
        number, position = vtk.vtkIntArray(), vtk.vtkDoubleArray()
        number.SetName("Slice")
        position.SetName("Position (mm)")
        for index in self._slices:
            number.InsertNextValue(index)
            position.InsertNextValue(round(positions[index], 2))
        columns = [number, position]
        for model in comparison.models:
            column = vtk.vtkDoubleArray()
            column.SetName(model)
            for index in self._slices:
                row = by_slice.get((model, index))
                column.InsertNextValue(round(row.scores.get(score.key, math.nan), 3) if row else math.nan)
            columns.append(column)
        for column in columns:
            self.table.AddColumn(column)
        self.table.SetUseColumnTitleAsColumnHeader(True)
        self.table.SetLocked(True)
        self.table.EndModify(was_modifying)
        self._show_as_text(columns, model_titles(comparison.predictions))
        self._draw(list(comparison.models), score)

    def slice_of_row(self, row: int) -> int | None:
        """Axial slice of a row of the table, which is a point of a curve as well; None if there is none."""
        return self._slices[row] if 0 <= row < len(self._slices) else None

    def _show_as_text(self, columns: list[Any], titles: Mapping[str, str]) -> None:
        import vtk

        self.shown_table = self._node("vtkMRMLTableNode", "shown table", _("Comparison by slice, as text"))
        self.shown_table.SetHideFromEditors(True)
        self.shown_table.SetSaveWithScene(False)
        was_modifying = self.shown_table.StartModify()
        self.shown_table.RemoveAllColumns()
        for column in columns:
            texts = vtk.vtkStringArray()
            texts.SetName(column.GetName())
            for row in range(column.GetNumberOfValues()):
                texts.InsertNextValue(_text(column.GetValue(row)))
            self.shown_table.AddColumn(texts)
            self.shown_table.SetColumnTitle(column.GetName(), titles.get(column.GetName(), column.GetName()))
        self.shown_table.SetUseColumnTitleAsColumnHeader(True)
        self.shown_table.SetLocked(True)
        self.shown_table.EndModify(was_modifying)

    def _draw(self, models: list[str], score: Score) -> None:
        series_type = slicer.vtkMRMLPlotSeriesNode
        self.chart.RemoveAllPlotSeriesNodeIDs()
        titles = model_titles(models)
        for number, (model, style) in enumerate(model_styles(models).items()):
            series = self._node(series_type.__name__, f"series {number}", model)
            series.SetName(titles[model])
            series.SetAndObserveTableNodeID(self.table.GetID())
            series.SetPlotType(series_type.PlotTypeScatter)  # a line over the column of x
            series.SetXColumnName("Slice")
            series.SetYColumnName(model)
            series.SetMarkerStyle(series_type.MarkerStyleCircle)
            series.SetMarkerSize(5)
            series.SetLineStyle(getattr(series_type, _DASHES[number % len(_DASHES)]))
            series.SetLineWidth(2)
            series.SetColor(*rgb(style.colour))
            self.chart.AddAndObservePlotSeriesNodeID(series.GetID())
        self.chart.SetTitle("")
        self.chart.SetXAxisTitle(_("Slice"))
        self.chart.SetYAxisTitle(score.title)
        self.chart.SetLegendVisibility(True)
        self.chart.SetYAxisRangeAuto(score.top is None)
        if score.top is not None:
            self.chart.SetYAxisRange(0.0, _HEADROOM * score.top)

    def _node(self, kind: str, role: str, name: str) -> Any:
        """The node of this role that an earlier comparison has left in the scene, or a new one."""
        for node in slicer.util.getNodesByClass(kind, self._scene):
            if node.GetAttribute(_ROLE) == role:
                return node
        node = self._scene.AddNewNodeByClass(kind, name)
        node.SetAttribute(_ROLE, role)
        return node


def _text(value: float) -> str:
    """A cell: whole numbers as they are, others with all their places, and a dash for what is not defined."""
    if isinstance(value, int):
        return str(value)
    return f"{value:.3f}" if math.isfinite(value) else "\N{EN DASH}"


def rgb(colour: str) -> tuple[float, float, float]:
    """Red, green and blue from 0 to 1 of ``#rrggbb``."""
    red, green, blue = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    return red, green, blue
