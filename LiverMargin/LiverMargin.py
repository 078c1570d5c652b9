"""The LiverMargin module of 3D Slicer: a thin scripted module over `LiverMarginLib`.

Only the standard library, slicer, vtk and numpy are imported at load time, so that the module opens in a 3D Slicer
without torch, or with a broken one.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)

# From a source tree 3D Slicer puts only this file's folder on the path; the library lies beside it.
if importlib.util.find_spec("LiverMarginLib") is None:
    sys.path.append(str(Path(__file__).resolve().parents[1]))

import LiverMarginLib


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


class LiverMarginWidget(ScriptedLoadableModuleWidget):
    """The panel."""

    def setup(self):
        """Build the panel."""
        import slicer

        ScriptedLoadableModuleWidget.setup(self)
        widget = slicer.util.loadUI(self.resourcePath("UI/LiverMargin.ui"))
        self.layout.addWidget(widget)
        self.ui = slicer.util.childWidgetVariables(widget)
        widget.setMRMLScene(slicer.mrmlScene)
        self.ui.statusLabel.text = self.logic_status()

    def logic_status(self):
        """Return what the panel says while its parts are not there yet."""
        return _("LiverMargin {version}: use the command line `livermargin` until the panels arrive.").format(
            version=LiverMarginLib.__version__
        )

    def onReload(self):
        """Drop the library too: the stock reload knows this file only."""
        for name in [name for name in sys.modules if name.partition(".")[0] == "LiverMarginLib"]:
            del sys.modules[name]
        ScriptedLoadableModuleWidget.onReload(self)


class LiverMarginLogic(ScriptedLoadableModuleLogic):
    """What the panel does, usable without a window."""


class LiverMarginTest(ScriptedLoadableModuleTest):
    """Self test, run by ctest or from the module's Reload and Test button."""

    def runTest(self):
        """Run every test of this class."""
        self.setUp()
        self.test_the_library_is_found()

    def test_the_library_is_found(self):
        """The source-tree bootstrap or the installed package makes the library importable."""
        self.assertTrue(LiverMarginLib.__version__)
