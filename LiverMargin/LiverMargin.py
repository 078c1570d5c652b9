"""The LiverMargin module of 3D Slicer: a thin scripted module over `LiverMarginLib`.

Only the standard library, slicer, qt, vtk and numpy are imported at load time, so that the module opens in a 3D
Slicer without torch, or with a broken one. Each panel is a file of `LiverMarginPanels`.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import slicer
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

# From a source tree 3D Slicer puts only this file's folder on the path; the library lies beside it.
if importlib.util.find_spec("LiverMarginLib") is None:
    sys.path.append(str(Path(__file__).resolve().parents[1]))

from LiverMarginPanels.environment_panel import EnvironmentPanel
from LiverMarginPanels.export_panel import ExportPanel
from LiverMarginPanels.parameter_node import LiverMarginParameterNode
from LiverMarginPanels.qt_process import QtProcess, later
from LiverMarginPanels.segment_panel import SegmentPanel
from LiverMarginPanels.segmentation_logic import SegmentationLogic
from LiverMarginPanels.worker_client import Command, WorkerClient
from LiverMarginPanels.worker_command import SETTING, worker_command

_PACKAGES = ("LiverMarginLib", "LiverMarginPanels")


class LiverMargin(ScriptedLoadableModule):
    """Name, category and help text."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("LiverMargin")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        self.parent.dependencies = ["Segmentations", "Volumes"]
        self.parent.contributors = ["The LiverMargin contributors"]
        self.parent.helpText = _(
            "LiverMargin segments the liver in CT and MR and shows, slice by slice and in millimetres, how good the "
            "boundary of the segmented liver is against a reference. It does not plan resection or ablation margins. "
            "Not a medical device; for research use."
        )
        self.parent.acknowledgementText = _("Licensed under Apache-2.0.")


class LiverMarginWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """Puts the panels together and hands them the parameter node of the scene."""

    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = None
        self.panels = []

    def setup(self):
        """Build the panels."""
        ScriptedLoadableModuleWidget.setup(self)
        widget = self._load("LiverMargin", self.layout)
        self.ui = slicer.util.childWidgetVariables(widget)
        self.logic = LiverMarginLogic()
        self.environment_panel = EnvironmentPanel(
            self._load("EnvironmentPanel", self.ui.environmentPage.layout()),
            self.logic.new_client(),
            self.logic.command,
            self.resourcePath("requirements.txt"),
            self._environment_changed,
        )
        self.segment_panel = SegmentPanel(
            self._load("SegmentPanel", self.ui.segmentPage.layout()),
            SegmentationLogic(self.logic.new_client(), later),
            self.logic.command,
            self.logic.other_python,
            self._show_environment,
        )
        self.export_panel = ExportPanel(
            self._load("ExportPanel", self.ui.exportPage.layout()), self.logic.new_client(), self.logic.command
        )
        self.panels = [self.segment_panel, self.export_panel, self.environment_panel]
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose)
        self._take_parameter_node()  # `enter` is not called after a reload

    def enter(self):
        """The module is shown."""
        self._take_parameter_node()

    def exit(self):
        """The module is hidden; a run goes on."""

    def cleanup(self):
        """The module is closed or reloaded: end the workers and let go of the scene."""
        self.removeObservers()
        for panel in self.panels:
            panel.cleanup()
        self.panels = []

    def onSceneStartClose(self, caller, event):
        """Let go of the nodes before they go."""
        for panel in self.panels:
            panel.set_parameter_node(None)

    def onSceneEndClose(self, caller, event):
        """Start with the new scene."""
        if self.parent.isEntered:
            self._take_parameter_node()

    def onReload(self):
        """Drop the packages too: the stock reload knows this file only."""
        for name in [name for name in sys.modules if name.partition(".")[0] in _PACKAGES]:
            del sys.modules[name]
        ScriptedLoadableModuleWidget.onReload(self)

    def _take_parameter_node(self):
        node = self.logic.getParameterNode()
        for panel in self.panels:
            panel.set_parameter_node(node)

    def _load(self, name, layout):
        widget = slicer.util.loadUI(self.resourcePath(f"UI/{name}.ui"))
        layout.addWidget(widget)
        widget.setMRMLScene(slicer.mrmlScene)  # a parent's scene does not reach panels that are added in code
        return widget

    def _show_environment(self):
        self.ui.tabs.setCurrentWidget(self.ui.environmentPage)

    def _environment_changed(self):
        self.segment_panel.list_models()


class LiverMarginLogic(ScriptedLoadableModuleLogic):
    """What the panels share, usable without a window."""

    def getParameterNode(self):
        """Return the state of the module in the present scene."""
        return LiverMarginParameterNode(super().getParameterNode())

    def new_client(self) -> WorkerClient:
        """Make a client that runs jobs in a process of its own."""
        return WorkerClient(QtProcess, later)

    def other_python(self) -> str:
        """Return the path of the Python that the user named for the worker; empty for Slicer's own."""
        return slicer.util.settingsValue(SETTING, "")

    def command(self) -> Command:
        """How the worker is started; raises `LiverMarginError` where it cannot be."""
        return worker_command(self.other_python())
