"""3D Slicer's own views without its window: slice views and 3-D views of a scene as arrays of pixels.

Needs slicer-core and an OpenGL that draws without a display (EGL or OSMesa). A missing one ends the process at the
first picture, so that it is looked for in a process of its own.
"""

from __future__ import annotations

import functools
import subprocess
import sys

import numpy as np

SLICE_MANAGERS = ("vtkMRMLSegmentationsDisplayableManager2D", "vtkMRMLModelSliceDisplayableManager")
SPACE_MANAGERS = (
    "vtkMRMLCameraDisplayableManager",
    "vtkMRMLViewDisplayableManager",
    "vtkMRMLModelDisplayableManager",
    "vtkMRMLSegmentationsDisplayableManager3D",
    "vtkMRMLColorLegendDisplayableManager",
    "vtkMRMLOrientationMarkerDisplayableManager",
)

_PROBE = """
import vtk
window = vtk.vtkRenderWindow()
window.SetOffScreenRendering(1)
window.AddRenderer(vtk.vtkRenderer())
window.Render()
"""


@functools.cache
def why_no_pictures() -> str:
    """Why this machine cannot draw; empty if it can."""
    done = subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, timeout=120)
    return "" if done.returncode == 0 else "no OpenGL without a display (Debian: libegl1 libegl-mesa0, or libosmesa6)"


class _View:
    """A view node, drawn by the displayable managers that the application uses."""

    def __init__(self, application, factory, managers, node, size, layers=1) -> None:
        import vtk

        self.node = node
        self._window = vtk.vtkRenderWindow()
        self._window.SetOffScreenRendering(1)
        self._window.SetMultiSamples(0)
        self._window.SetSize(*size)
        self._renderer = vtk.vtkRenderer()
        self._window.AddRenderer(self._renderer)
        interactor = vtk.vtkGenericRenderWindowInteractor()
        interactor.SetRenderWindow(self._window)
        self._interactor = interactor
        factory.SetMRMLApplicationLogic(application)
        for manager in managers:
            if not factory.IsDisplayableManagerRegistered(manager):
                factory.RegisterDisplayableManager(manager)
        self._group = factory.InstantiateDisplayableManagers(self._renderer)
        self._group.SetMRMLDisplayableNode(node)

    def pixels(self) -> np.ndarray:
        """Draw; returns uint8, shape (rows, columns, 3), the first row on top."""
        return _grabbed(self._window)


def _grabbed(window) -> np.ndarray:
    import vtk
    from vtk.util.numpy_support import vtk_to_numpy

    window.Render()
    grabber = vtk.vtkWindowToImageFilter()
    grabber.SetInput(window)
    grabber.SetInputBufferTypeToRGB()
    grabber.ReadFrontBufferOff()
    grabber.Update()
    image = grabber.GetOutput()
    columns, rows, _one = image.GetDimensions()
    return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(rows, columns, 3)[::-1].copy()


class SlicePicture(_View):
    """A slice view.

    Parameters
    ----------
    application : vtkMRMLApplicationLogic
    logic : vtkMRMLSliceLogic
        Of the slice node.
    size : tuple of int
        Columns and rows.
    """

    def __init__(self, application, logic, size) -> None:
        import slicer
        import vtk

        node = logic.GetSliceNode()
        logic.ResizeSliceNode(*size)
        factory = slicer.vtkMRMLSliceViewDisplayableManagerFactory.GetInstance()
        super().__init__(application, factory, SLICE_MANAGERS, node, size)
        self._logic = logic
        self._mapper = vtk.vtkImageMapper()
        self._mapper.SetColorWindow(255)
        self._mapper.SetColorLevel(127.5)
        self._actor = vtk.vtkActor2D()
        self._actor.SetMapper(self._mapper)
        self._actor.GetProperty().SetDisplayLocationToBackground()

    def pixels(self) -> np.ndarray:
        connection = self._logic.GetImageDataConnection()
        self._mapper.SetInputConnection(connection)
        if connection is not None and not self._renderer.HasViewProp(self._actor):
            self._renderer.AddViewProp(self._actor)
        return super().pixels()


class SpacePicture(_View):
    """A 3-D view."""

    def __init__(self, application, node, size) -> None:
        import slicer

        factory = slicer.vtkMRMLThreeDViewDisplayableManagerFactory.GetInstance()
        super().__init__(application, factory, SPACE_MANAGERS, node, size)


class PlotPicture:
    """A plot chart node, drawn by VTK's own charts as Slicer's plot view does.

    Parameters
    ----------
    chart : vtkMRMLPlotChartNode
    size : tuple of int
        Columns and rows.
    """

    def __init__(self, chart, size) -> None:
        import vtk

        self._view = vtk.vtkContextView()
        self._view.GetRenderer().SetBackground(1, 1, 1)
        self._window = self._view.GetRenderWindow()
        self._window.SetOffScreenRendering(1)
        self._window.SetMultiSamples(4)
        self._window.SetSize(*size)
        drawn = vtk.vtkChartXY()
        drawn.SetShowLegend(chart.GetLegendVisibility())
        drawn.GetLegend().SetVerticalAlignment(vtk.vtkChartLegend.BOTTOM)
        drawn.GetLegend().SetHorizontalAlignment(vtk.vtkChartLegend.LEFT)
        drawn.GetAxis(vtk.vtkAxis.BOTTOM).SetTitle(chart.GetXAxisTitle())
        drawn.GetAxis(vtk.vtkAxis.LEFT).SetTitle(chart.GetYAxisTitle())
        if not chart.GetYAxisRangeAuto():
            drawn.GetAxis(vtk.vtkAxis.LEFT).SetBehavior(vtk.vtkAxis.FIXED)
            drawn.GetAxis(vtk.vtkAxis.LEFT).SetRange(*chart.GetYAxisRange())
        for n in range(chart.GetNumberOfPlotSeriesNodes()):
            series = chart.GetNthPlotSeriesNode(n)
            line = drawn.AddPlot(vtk.vtkChart.LINE)
            line.SetInputData(series.GetTableNode().GetTable(), series.GetXColumnName(), series.GetYColumnName())
            line.SetColorF(*series.GetColor())
            line.SetWidth(series.GetLineWidth())
            line.GetPen().SetLineType(series.GetLineStyle())
            line.SetMarkerStyle(vtk.vtkPlotPoints.CIRCLE)
            line.SetMarkerSize(series.GetMarkerSize())
        self._view.GetScene().AddItem(drawn)

    def pixels(self) -> np.ndarray:
        """Draw; returns uint8, shape (rows, columns, 3), the first row on top."""
        return _grabbed(self._window)
