"""Predictions' surfaces in the colours of their margin error, in 3-D and cut by the slice views, with a legend."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import slicer
import vtk
from slicer.i18n import tr as _

from LiverMarginLib.errors import ResourceError
from LiverMarginLib.report.margin_colours import LIMIT, MARGIN_ERROR, STEPS
from LiverMarginPanels.compare_plot import rgb
from LiverMarginPanels.scene_furniture import Furniture

_SLICE_LINE_PX = 4
# Of the view; the text grows with the size.
_LEGEND_PLACE, _LEGEND_SIZE = (0.95, 0.85), (0.12, 0.35)
# Fewer than twenty would be taken for named colours.
_TONES = 255


class MarginSurfaces:
    """The surfaces of a comparison, each read when it is shown first.

    Parameters
    ----------
    furniture : Furniture
        Receives the nodes.
    files : mapping of str to Path
        By model; see `LiverMarginLib.report.margin_surface`.
    """

    def __init__(self, furniture: Furniture, files: Mapping[str, Path]) -> None:
        self._furniture = furniture
        self._files = files
        self._nodes: dict[str, Any] = {}
        self._colours: Any = None

    @property
    def models(self) -> tuple[str, ...]:
        """Models that have a surface."""
        return tuple(self._files)

    def show(self, model: str | None, view: str, slices: Mapping[str, str]) -> None:
        """Show one surface in 3-D, and cuts through surfaces in slice views.

        Parameters
        ----------
        model : str, optional
            Whose surface is shown in 3-D; None shows none.
        view : str
            ID of the 3-D view.
        slices : mapping of str to str
            IDs of the slice views that show the cut through a model's surface, by model.

        Raises
        ------
        ResourceError
            If a file cannot be read any more.
        """
        wanted = {name for name in (model, *slices) if name in self._files}
        for name in wanted - set(self._nodes):
            self._nodes[name] = self._read(name)
        for name, node in self._nodes.items():
            views = [view] if name == model else []
            views += [slices[name]] if name in slices else []
            display = node.GetDisplayNode()
            display.RemoveAllViewNodeIDs()
            for each in views:
                display.AddViewNodeID(each)
            display.SetVisibility(bool(views))
            display.SetVisibility2D(name in slices)
        self._show_legend(model, view)

    def _read(self, model: str) -> Any:
        """Make a node of a file."""
        node = self._furniture.add("vtkMRMLModelNode", _("{model} margin error").format(model=model))
        storage = slicer.vtkMRMLModelStorageNode()
        storage.SetFileName(str(self._files[model]))
        if not self._files[model].is_file() or not storage.ReadData(node):
            raise ResourceError("The surface with the margin error is gone or damaged; compare again.")
        display = self._furniture.add("vtkMRMLModelDisplayNode")
        limit = node.GetPolyData().GetFieldData().GetArray(LIMIT).GetValue(0)
        node.SetAndObserveDisplayNodeID(display.GetID())
        display.SetActiveScalar(MARGIN_ERROR, vtk.vtkAssignAttribute.POINT_DATA)
        display.SetAndObserveColorNodeID(self._colour_node().GetID())
        display.SetScalarRangeFlag(slicer.vtkMRMLDisplayNode.UseManualScalarRange)
        display.SetScalarRange(-limit, limit)
        display.SetScalarVisibility(True)
        display.SetSliceIntersectionThickness(_SLICE_LINE_PX)
        return node

    def _colour_node(self) -> Any:
        """Orange where a prediction falls short, purple where it reaches beyond, as in the report."""
        if self._colours is None:
            function = vtk.vtkColorTransferFunction()
            for number, colour in enumerate(STEPS):
                function.AddRGBPoint(number / (len(STEPS) - 1), *rgb(colour))
            self._colours = self._furniture.add("vtkMRMLColorTableNode", _("Margin error"))
            self._colours.SetTypeToUser()
            self._colours.SetNumberOfColors(_TONES)
            for tone in range(_TONES):
                self._colours.SetColor(tone, str(tone), *function.GetColor(tone / (_TONES - 1)))
        return self._colours

    def _show_legend(self, model: str | None, view: str) -> None:
        logic = slicer.modules.colors.logic()
        for name, node in self._nodes.items():
            legend = logic.GetColorLegendDisplayNode(node)
            if legend is None and name == model:
                legend = logic.AddDefaultColorLegendDisplayNode(node)
                self._furniture.adopt(legend)
                legend.SetTitleText(_("Margin error (mm)"))
                legend.SetLabelFormat("%.1f")
                legend.SetNumberOfLabels(5)
                legend.SetPosition(*_LEGEND_PLACE)
                legend.SetSize(*_LEGEND_SIZE)
                legend.AddViewNodeID(view)
            if legend is not None:
                legend.SetVisibility(name == model)
