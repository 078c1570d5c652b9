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
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

# From a source tree 3D Slicer puts only this file's folder on the path; the library lies beside it.
if importlib.util.find_spec("LiverMarginLib") is None:
    sys.path.append(str(Path(__file__).resolve().parents[1]))

from LiverMarginPanels.compare_panel import ComparePanel
from LiverMarginPanels.detectron_install import DetectronInstall
from LiverMarginPanels.environment_panel import EnvironmentPanel
from LiverMarginPanels.export_panel import ExportPanel
from LiverMarginPanels.model_choice import own_model
from LiverMarginPanels.parameter_node import LiverMarginParameterNode
from LiverMarginPanels.qt_process import QtProcess, connect, later
from LiverMarginPanels.sample_data import register
from LiverMarginPanels.segment_panel import SegmentPanel
from LiverMarginPanels.segmentation_logic import SegmentationLogic
from LiverMarginPanels.segmentation_queue import SegmentationQueue
from LiverMarginPanels.train_panel import TrainPanel
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
        connect(slicer.app, "startupCompleted()", register)  # Sample Data is not there before


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
            DetectronInstall(QtProcess),
            self._environment_changed,
        )
        self.segment_panel = SegmentPanel(
            self._load("SegmentPanel", self.ui.segmentPage.layout()),
            SegmentationQueue(SegmentationLogic(self.logic.new_client(), later)),
            self.logic.command,
            self.logic.other_python,
            self._show_environment,
        )
        self.compare_panel = ComparePanel(
            self._load("ComparePanel", self.ui.comparePage.layout()),
            self.logic.new_client(),
            self.logic.command,
            self.logic.other_python,
            later,
        )
        self.export_panel = ExportPanel(
            self._load("ExportPanel", self.ui.exportPage.layout()), self.logic.new_client(), self.logic.command
        )
        self.train_panel = TrainPanel(
            self._load("TrainPanel", self.ui.trainPage.layout()),
            self.logic.new_client,
            self.logic.command,
            self.logic.other_python,
            self._model_trained,
        )
        self.panels = [
            self.segment_panel,
            self.compare_panel,
            self.export_panel,
            self.train_panel,
            self.environment_panel,
        ]
        connect(self.ui.tabs, "currentChanged(int)", self._open_panel)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartImportEvent, self.onSceneStartImport)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndImportEvent, self.onSceneEndImport)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.NodeRemovedEvent, self.onNodeRemoved)
        self._take_parameter_node()
        if self.parent.isEntered:  # `enter` is not called after a reload
            self._enter_panels()

    def enter(self):
        """The module is shown."""
        self._take_parameter_node()
        self._enter_panels()

    def exit(self):
        """The module is hidden; a run goes on."""
        for panel in self.panels:
            panel.exit()

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

    def onSceneStartImport(self, caller, event):
        """A scene is being loaded, or added to this one."""
        self.compare_panel.set_loading(True)

    def onSceneEndImport(self, caller, event):
        """Show the state that was loaded, once the selectors list the nodes that it names."""
        later(0, self._show_loaded_state)

    def _show_loaded_state(self):
        if not self.panels:  # reloaded meanwhile
            return
        self.compare_panel.set_loading(False)
        if self.parent.isEntered:
            self._take_parameter_node()

    def onNodeRemoved(self, caller, event):
        """Let the Compare panel look at what it lists."""
        self.compare_panel.node_removed()

    def onReload(self):
        """Drop the packages too: the stock reload knows this file only."""
        for name in [name for name in sys.modules if name.partition(".")[0] in _PACKAGES]:
            del sys.modules[name]
        ScriptedLoadableModuleWidget.onReload(self)

    def _enter_panels(self):
        for panel in self.panels:
            panel.enter()
        self._open_panel(self.ui.tabs.currentIndex)

    def _open_panel(self, index):
        self.panels[index].opened()

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

    def _model_trained(self, folder):
        if own_model(folder).manifest is None:  # it cleans images, and is found in the model folder
            self.segment_panel.list_models()
        else:
            self.segment_panel.add_model(folder)
        self.environment_panel.list_models()


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


class LiverMarginTest(ScriptedLoadableModuleTest):
    """Self test, run by ctest, from the module's Reload and Test button, or by ``Testing/Slicer/run_all.py``.

    Needs neither a network nor a model nor torch: what a worker does to models is tried outside of the application.
    """

    def setUp(self):
        """Start with an empty scene that shows a small volume."""
        slicer.mrmlScene.Clear(0)
        self.volume = _small_volume()

    def runTest(self):
        """Run every test of this class."""
        for name in sorted(name for name in dir(self) if name.startswith("test_")):
            self.setUp()
            getattr(self, name)()

    def test_the_panels_open_with_the_state_of_the_scene(self):
        """Every panel loads its .ui file, and the parameter node reaches the selectors."""
        slicer.util.selectModule("LiverMargin")
        widget = slicer.modules.LiverMarginWidget
        widget.enter()
        parameters = widget.logic.getParameterNode()
        parameters.inputVolume = self.volume
        self.assertEqual(widget.segment_panel.ui.inputSelector.currentNode(), self.volume)
        self.assertEqual(parameters.device, "auto")

    def test_what_is_trained_on_is_saved_with_the_scene_and_offered_where_it_applies(self):
        """The Train panel's boxes, both ways, and in a scene that was closed and loaded."""
        import tempfile

        slicer.util.selectModule("LiverMargin")
        widget = slicer.modules.LiverMarginWidget
        widget.enter()
        boxes = widget.train_panel.ui
        self.assertFalse(boxes.withPhantomsCheck.enabled or boxes.dataWeightBox.enabled)
        with tempfile.TemporaryDirectory() as folder:
            widget.logic.getParameterNode().trainData = Path(folder)
            self.assertTrue(boxes.withPhantomsCheck.enabled and boxes.dataWeightBox.enabled)
            boxes.withPhantomsCheck.checked = True
            boxes.dataWeightBox.value = 0.25
            scene = str(Path(folder) / "scene.mrml")
            slicer.util.saveScene(scene)
            slicer.mrmlScene.Clear(0)
            self.assertFalse(boxes.withPhantomsCheck.checked)
            slicer.util.loadScene(scene)
            _wait_for(lambda: boxes.withPhantomsCheck.checked)
        parameters = widget.logic.getParameterNode()
        self.assertEqual((parameters.trainWithPhantoms, parameters.trainDataWeight), (True, 0.25))
        self.assertEqual(boxes.dataWeightBox.value, 0.25)

    def test_labels_go_into_the_scene_and_come_back_unchanged(self):
        """The bridge, with the application's own scene."""
        import numpy as np

        from LiverMarginLib import mrml
        from LiverMarginLib.terminology import LIVER
        from LiverMarginLib.volume import LabelMap

        grid = mrml.geometry_of(self.volume)
        array = np.zeros(grid.shape, np.uint8)
        array[2:5, 3:9, 4:10] = 1
        node = mrml.labels_to_node(LabelMap(array, grid, (LIVER,)), self.volume, "labels")
        np.testing.assert_array_equal(mrml.labels_from_node(node).array, array)
        np.testing.assert_array_equal(
            slicer.util.arrayFromSegmentBinaryLabelmap(node, node.GetSegmentation().GetNthSegmentID(0), self.volume),
            array,
        )
        node.CreateClosedSurfaceRepresentation()
        self.assertTrue(node.GetSegmentation().ContainsRepresentation("Closed surface"))

    def test_the_worker_answers_in_this_application(self):
        """Slicer's Python starts the worker, and a job comes to its end."""
        from LiverMarginLib.jobs.diagnose import DiagnoseJob

        outcome = self._run(DiagnoseJob())
        self.assertEqual(outcome.name, "result", outcome)
        self.assertTrue(outcome.values["python"])

    def test_a_cancelled_worker_is_gone(self):
        """Closing the worker's input ends it, and the client says so once."""
        from LiverMarginLib.jobs.diagnose import DiagnoseJob

        outcome = self._run(DiagnoseJob(), cancel=True)
        self.assertEqual(getattr(outcome, "kind", ""), "cancelled", outcome)

    def test_a_model_that_is_not_there_leaves_the_scene_as_it_was(self):
        """The whole way from the logic to the worker and back, ending with one sentence."""
        from LiverMarginPanels.segmentation_logic import SegmentSettings

        from LiverMarginLib.terminology import LIVER
        from LiverMarginLib.volume import Modality

        logic = LiverMarginLogic()
        segmentation = SegmentationLogic(logic.new_client(), later)
        failures = []
        segmentation.failed.connect(failures.append)
        before = _shown_nodes()
        settings = SegmentSettings("no-such-model", (LIVER,), "result", "no such model", Modality.CT, "cpu")
        segmentation.start(self.volume, settings, logic.command())
        _wait_for(lambda: failures)
        self.assertEqual(failures[0].kind, "bundle", failures)
        self.assertEqual(_shown_nodes(), before)

    def test_a_segmentation_is_exported_and_read_back(self):
        """The Export panel's logic with the application's Python."""
        import tempfile

        import numpy as np
        from LiverMarginPanels.export_logic import ExportLogic, ExportSettings

        from LiverMarginLib import mrml
        from LiverMarginLib.io.readers import read_labels
        from LiverMarginLib.terminology import LIVER
        from LiverMarginLib.volume import LabelMap

        grid = mrml.geometry_of(self.volume)
        array = np.zeros(grid.shape, np.uint8)
        array[2:5, 3:9, 4:10] = 1
        node = mrml.labels_to_node(LabelMap(array, grid, (LIVER,)), self.volume, "labels")
        logic = LiverMarginLogic()
        export = ExportLogic(logic.new_client())
        ends = []
        export.succeeded.connect(ends.append)
        export.failed.connect(ends.append)
        with tempfile.TemporaryDirectory() as folder:
            suffixes = (".seg.nrrd", ".nii.gz", ".stl")
            export.start(node, ExportSettings(Path(folder), "liver", suffixes), logic.command())
            _wait_for(lambda: ends)
            self.assertIsInstance(ends[0], list, ends)
            for name in ("liver.seg.nrrd", "liver.nii.gz"):
                np.testing.assert_array_equal(read_labels(Path(folder) / name).array, array)

    def test_a_click_on_a_row_moves_every_view_of_a_comparison_and_leaving_brings_the_layout_back(self):
        """The compare view in the application's own layout, on an oblique volume."""
        slicer.util.selectModule("LiverMargin")
        panel = slicer.modules.LiverMarginWidget.compare_panel
        panel.enter()
        manager = slicer.app.layoutManager()
        before = manager.layoutLogic().GetLayoutNode().GetViewArrangement()
        comparison = _made_comparison(self.volume)
        panel.results.show(comparison, self.volume)
        table = panel.ui.slicesTable
        self.assertEqual(table.rowCount, 2 * 3)
        for row in range(table.rowCount):
            table.setCurrentCell(row, 0)
            place = comparison.places.place(int(table.item(row, 0).text()))
            for tag in ("LiverMarginAll", "LiverMargin1", "LiverMargin2"):
                node = slicer.mrmlScene.GetSingletonNode(tag, "vtkMRMLSliceNode")
                normal = [node.GetSliceToRAS().GetElement(axis, 2) for axis in range(3)]
                offset = sum(part * axis for part, axis in zip(place, normal, strict=True))
                self.assertAlmostEqual(node.GetSliceOffset(), offset, 3)
        panel.exit()
        self.assertEqual(manager.layoutLogic().GetLayoutNode().GetViewArrangement(), before)
        panel.results.drop()
        panel.enter()

    def _run(self, job, cancel=False):
        logic = LiverMarginLogic()
        client = logic.new_client()
        outcomes = []
        client.finished.connect(outcomes.append)
        client.start(logic.command(), job)
        if cancel:
            client.cancel()
        _wait_for(lambda: outcomes)
        self.assertFalse(client.running)
        return outcomes[0]


def _small_volume():
    """A CT-like volume of 8 x 16 x 16 voxels in the scene."""
    import numpy as np

    array = np.random.default_rng(0).integers(-100, 200, (8, 16, 16)).astype(np.int16)
    node = slicer.util.addVolumeFromArray(array, nodeClassName="vtkMRMLScalarVolumeNode")
    node.SetName("small CT")
    node.SetSpacing(0.8, 0.8, 2.5)
    return node


def _made_comparison(volume):
    """Two models that were compared on a volume which is turned for it; no package of the worker is needed."""
    import numpy as np
    import vtk
    from LiverMarginPanels.compare_result import Comparison, SliceScore
    from LiverMarginPanels.label_box import cropped
    from LiverMarginPanels.slice_navigation import SlicePlaces

    from LiverMarginLib import mrml
    from LiverMarginLib.terminology import LIVER
    from LiverMarginLib.volume import LabelMap

    turn = vtk.vtkTransform()
    turn.RotateX(20)
    turn.RotateY(10)
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    turn.Concatenate(matrix)
    volume.SetIJKToRASMatrix(turn.GetMatrix())
    grid = mrml.geometry_of(volume)
    array = np.zeros(grid.shape, np.uint8)
    array[2:5, 3:9, 4:10] = 1
    labels = LabelMap(array, grid, (LIVER,))
    scores = {"boundary_iou": 0.5, "mask_iou": 0.5, "dice": 0.5}
    models = {"first": scores, "second": scores}
    return Comparison(
        slices=tuple(SliceScore(model, k, 2.5 * k, "both", False, scores) for model in models for k in range(2, 5)),
        models={model: {"dice": 0.5, "boundary_iou": 0.5, "hd95_mm": 1, "assd_mm": 1, "rvd": 0} for model in models},
        places=SlicePlaces(labels),
        reference=cropped(labels),
        predictions={model: cropped(labels) for model in models},
        folder=Path(slicer.app.temporaryPath),
        kept=True,
        surfaces={},
        outputs=(),
    )


def _shown_nodes():
    """IDs of everything that can be seen, and of how it is shown."""
    kinds = ("vtkMRMLDisplayableNode", "vtkMRMLDisplayNode")
    return {node.GetID() for kind in kinds for node in slicer.util.getNodesByClass(kind)}


def _wait_for(ended, seconds=60):
    """Let the event loop run until `ended` is true."""
    import time

    deadline = time.monotonic() + seconds
    while not ended():
        if time.monotonic() > deadline:
            raise TimeoutError(f"nothing happened within {seconds} seconds")
        slicer.app.processEvents()
        time.sleep(0.01)
