"""The compare view: a comparison in its own layout, and everything put back when it is left."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import slicer
from slicer.i18n import tr as _

from LiverMarginLib.report.colours import model_colours
from LiverMarginPanels.compare_layout import (
    VIEW_3D,
    VIEW_GROUP,
    VIEW_PLOT,
    VIEW_TABLE,
    CompareLayout,
    SliceView,
    slice_views,
)
from LiverMarginPanels.compare_outlines import CompareOutlines
from LiverMarginPanels.compare_plot import ComparePlot, rgb
from LiverMarginPanels.compare_result import Comparison, Score
from LiverMarginPanels.display_isolation import DisplayIsolation
from LiverMarginPanels.plot_clicks import PlotClicks
from LiverMarginPanels.scene_furniture import Furniture
from LiverMarginPanels.slice_navigation import jump
from LiverMarginPanels.surface_colouring import MarginSurfaces
from LiverMarginPanels.table_clicks import TableClicks
from LiverMarginPanels.worker_client import Later


class CompareView:
    """Shows one comparison at a time.

    Parameters
    ----------
    scene : vtkMRMLScene
    layout_manager : qSlicerLayoutManager
    later : callable
        As for `WorkerClient`.
    chosen : callable
        Called with the axial slice whose row or point the user has clicked in Slicer's table or plot.
    """

    def __init__(self, scene: Any, layout_manager: Any, later: Later, chosen: Callable[[int], None]) -> None:
        self._scene = scene
        self._manager = layout_manager
        self._later = later
        self._layout = CompareLayout(layout_manager)
        self._isolation = DisplayIsolation()
        self._plot = ComparePlot(scene)
        self._table_clicks = TableClicks(lambda row: self._row_clicked(row, chosen))
        self._plot_clicks = PlotClicks(later, lambda row: self._row_clicked(row, chosen))
        self._furniture: Furniture | None = None
        self._surfaces: MarginSurfaces | None = None
        self._comparison: Comparison | None = None
        self._views: list[SliceView] = []

    @property
    def shown(self) -> bool:
        """Whether the layout of the comparison is there."""
        return self._layout.shown

    def show(self, comparison: Comparison, score: Score, image: Any = None) -> None:
        """Go to the compare layout.

        Parameters
        ----------
        comparison : Comparison
        score : Score
            Of the plot and of Slicer's table.
        image : vtkMRMLScalarVolumeNode, optional
            What the outlines are drawn on.
        """
        self.hide()
        self._comparison = comparison
        colours = model_colours(comparison.predictions)
        self._views = slice_views(colours, _("All"))
        self._layout.show([view.tag for view in self._views])
        self._furniture = Furniture(self._scene)
        self._surfaces = MarginSurfaces(self._furniture, comparison.surfaces)
        for view in self._views:
            self._dress(view, image)
        self._isolation.begin(self._scene, self._own_views())
        outlines = CompareOutlines(
            self._furniture, comparison.reference, comparison.predictions, colours, _("Reference")
        )
        for view in self._views:
            outlines.show(self._node(view).GetID(), view.models)
        space, plot, table = (self._scene.GetSingletonNode(tag, kind) for kind, tag in (VIEW_3D, VIEW_PLOT, VIEW_TABLE))
        for each in (space, plot, table):
            each.SetSaveWithScene(False)
        space.SetBoxVisible(False)
        space.SetAxisLabelsVisible(False)
        space.SetOrientationMarkerType(space.OrientationMarkerTypeAxes)
        for camera in slicer.util.getNodesByClass("vtkMRMLCameraNode", self._scene):
            if camera.GetLayoutName() == space.GetLayoutName():
                camera.SetSaveWithScene(False)
                comparison.places.aim(camera)
        self.set_score(score)
        plot.SetPlotChartNodeID(self._plot.chart.GetID())
        table.SetTableNodeID(self._plot.shown_table.GetID())
        self._table_clicks.begin(self._manager.viewWidget(table))
        self._plot_clicks.begin(self._manager.viewWidget(plot))
        self.zoom()
        self._later(0.1, self.zoom)  # the views have their size once the window has laid them out

    def hide(self) -> None:
        """Go back to the user's layout; the table and the plot stay in the scene."""
        self._table_clicks.end()
        self._plot_clicks.end()
        self._isolation.end()
        if self._furniture is not None:
            self._furniture.remove()
        self._furniture = self._surfaces = self._comparison = None
        self._layout.hide()

    def scene_closes(self) -> None:
        """Let go of nodes that are about to go; the layout comes back when they are gone."""
        self._later(0, self.hide)

    def set_score(self, score: Score) -> None:
        """Show another score in the plot and in Slicer's table."""
        if self._comparison is not None:
            self._plot.fill(self._comparison, score)

    def colour(self, model: str | None, in_slices: bool) -> None:
        """Show the margin error in colours.

        Parameters
        ----------
        model : str, optional
            Whose surface is shown in 3-D; None shows none.
        in_slices : bool
            Whether every model's own slice view shows the cut through its surface.

        Raises
        ------
        ResourceError
            If a surface cannot be read any more.
        """
        if self._surfaces is None:
            return
        own = {view.models[0]: self._node(view).GetID() for view in self._views if len(view.models) == 1}
        view = self._scene.GetSingletonNode(*reversed(VIEW_3D))
        self._surfaces.show(model, view.GetID(), own if in_slices else {})

    def go_to(self, comparison: Comparison, index: int) -> None:
        """Show an axial slice in all slice views: ours if they are there, else the user's."""
        jump(self._scene, comparison.places.place(index), VIEW_GROUP if self.shown else None)

    def zoom(self) -> None:
        """Fill the slice views with the organ."""
        if self._comparison is not None:
            for view in self._views:
                self._comparison.places.zoom(self._node(view))

    def _dress(self, view: SliceView, image: Any) -> None:
        """Give a slice view its name, its colour, its planes and its background, and link it with the others."""
        node = self._node(view)
        composite = slicer.vtkMRMLSliceLogic.GetSliceCompositeNode(node)
        for each in (node, composite):
            each.SetSaveWithScene(False)
        node.SetViewGroup(VIEW_GROUP)
        node.SetLayoutLabel(view.tag.removeprefix("LiverMargin"))  # the bar has room for three letters
        node.SetLayoutColor(*rgb(view.colour))
        self._comparison.places.orient(node)  # type: ignore[union-attr]
        composite.SetLinkedControl(True)
        composite.SetHotLinkedControl(True)
        composite.SetBackgroundVolumeID(None if image is None else image.GetID())
        composite.SetForegroundVolumeID(None)
        composite.SetLabelVolumeID(None)

    def _node(self, view: SliceView) -> Any:
        return self._scene.GetSingletonNode(view.tag, "vtkMRMLSliceNode")

    def _own_views(self) -> set[str]:
        """IDs of all views that any comparison has made."""
        nodes = slicer.util.getNodesByClass("vtkMRMLAbstractViewNode", self._scene)
        return {node.GetID() for node in nodes if (node.GetLayoutName() or "").startswith("LiverMargin")}

    def _row_clicked(self, row: int, chosen: Callable[[int], None]) -> None:
        index = self._plot.slice_of_row(row)
        if index is not None:
            chosen(index)
