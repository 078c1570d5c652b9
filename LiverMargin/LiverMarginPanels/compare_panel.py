"""The Compare panel: a reference, any number of segmentations of it, and what the comparison found."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from LiverMarginLib.errors import LiverMarginError
from LiverMarginPanels.compare_logic import Compared, CompareLogic
from LiverMarginPanels.compare_result import Comparison
from LiverMarginPanels.compare_results import CompareResults
from LiverMarginPanels.organ_choice import Organ, organs_of
from LiverMarginPanels.panel import RunPanel
from LiverMarginPanels.prediction_table import PredictionTable
from LiverMarginPanels.qt_process import connect
from LiverMarginPanels.scene_results import likely_reference, model_results
from LiverMarginPanels.worker_client import Command, Later, WorkerClient

_NEEDED = ("skimage", "matplotlib")


class ComparePanel(RunPanel[CompareLogic]):
    """Widgets of ``ComparePanel.ui`` and what they do.

    Parameters
    ----------
    widget : qMRMLWidget
    client : WorkerClient
    command : callable
        Returns how the worker is started; raises `LiverMarginError` where it cannot be.
    other_python : callable
        Returns the path of the Python that runs the worker in place of Slicer's own, or nothing.
    later : callable
        As for `WorkerClient`.
    """

    def __init__(
        self,
        widget: Any,
        client: WorkerClient,
        command: Callable[[], Command],
        other_python: Callable[[], str],
        later: Later,
    ) -> None:
        super().__init__(widget, CompareLogic(client), command, _("Compare"))
        self._other_python = other_python
        self._organs: list[Organ] = []
        self._reference: Any = None
        self._offered: set[str] = set()
        self._loading = False
        self._predictions = PredictionTable(self.ui.predictionsTable, self._prediction_organ_chosen)
        self.results = CompareResults(self.ui, later, self._say)
        connect(self.ui.organBox, "currentIndexChanged(int)", self._organ_chosen)
        connect(self.ui.predictionsBox, "checkedNodesChanged()", self._ticked)
        self.refresh()

    def enter(self) -> None:
        """The module is shown: the compare layout comes back if it was there."""
        self.results.enter()

    def exit(self) -> None:
        """The module is hidden: keys and layout belong to others."""
        self.results.leave()

    def cleanup(self) -> None:
        """Let go of everything; the panel is not used any more."""
        self.results.cleanup()
        super().cleanup()

    def opened(self) -> None:
        """Propose the reference, and tick what models have made since the panel was opened last."""
        if self._node is None or self.logic.running:
            return
        results = model_results(slicer.mrmlScene)
        if self._node.compareReference is None:
            self._node.compareReference = likely_reference(slicer.mrmlScene)
        for node in results:
            if node.GetID() not in self._offered and node is not self._node.compareReference:
                self.ui.predictionsBox.setCheckState(node, qt.Qt.Checked)
        self._offered = {node.GetID() for node in results}

    def set_loading(self, loading: bool) -> None:
        """Whether a scene is being loaded: the box of segmentations then forgets its ticks, which nobody wanted."""
        self._loading = loading

    def node_removed(self) -> None:
        """A node has left the scene; the box does not tell that it was ticked."""
        if self._node is not None and self._predictions.has_lost_a_node():
            self._ticked()

    def refresh(self) -> None:
        """Enable what can be used now, and say why the rest cannot."""
        if self._node is not None and self._node.compareReference is not self._reference:
            self._list_organs()
            self._list_predictions()
        super().refresh()

    def _node_changed(self) -> None:
        self._reference, self._offered = None, set()
        if self._node is None:  # the scene is being closed, and what is compared goes with it
            self.results.scene_closes()
            self.logic.abandon()
            self._idle()
            return
        was_blocked = self.ui.predictionsBox.blockSignals(True)
        for node in self._node.comparePredictions:
            if node is not None:  # it has left the scene
                self.ui.predictionsBox.setCheckState(node, qt.Qt.Checked)
        self.ui.predictionsBox.blockSignals(was_blocked)
        if self._ticked_nodes():  # a scene that was saved: what is not ticked was not wanted
            self._offered = {node.GetID() for node in model_results(slicer.mrmlScene)}
        self._list_organs()
        self._list_predictions()

    def _start(self) -> None:
        self.results.drop()
        keep = Path(self._node.compareFolder)
        self.logic.start(
            Compared(self._node.compareReference, self._organs[self.ui.organBox.currentIndex]),
            self._predictions.compared(),
            self._command(),
            self._node.compareImage,
            None if str(keep) in ("", ".") else keep,
        )

    def _why_not(self) -> str:
        node, predictions = self._node, self._predictions
        if node is None or node.compareReference is None:
            return _("Choose the reference.")
        if not 0 <= self.ui.organBox.currentIndex < len(self._organs):
            return _("The reference holds no segment.")
        if not self._ticked_nodes():
            return _("Tick the segmentations to compare with the reference.")
        if predictions.problem:
            return predictions.problem
        if predictions.undecided():
            return _("Choose the segment of {name}.").format(name=predictions.undecided()[0])
        if not self._other_python() and any(importlib.util.find_spec(name) is None for name in _NEEDED):
            return _("Packages are missing; install them in the Environment panel.")
        return ""

    def _show(self, comparison: Comparison) -> None:
        self.results.show(comparison, self._node.compareImage if self._node is not None else None)

    def _ticked_nodes(self) -> list[Any]:
        """What is ticked, without the reference itself; a node that has left the scene is None there."""
        checked = [node for node in self.ui.predictionsBox.checkedNodes() if node is not None]
        return [node for node in checked if node is not self._reference]

    def _ticked(self) -> None:
        if self._node is not None and not self._loading:
            self._node.comparePredictions = self._ticked_nodes()
            self._list_predictions()
            self.refresh()

    def _list_predictions(self) -> None:
        index = self.ui.organBox.currentIndex
        name = self._organs[index].name if 0 <= index < len(self._organs) else ""
        self._predictions.show(self._ticked_nodes(), self._node.comparePredictionOrgans, name)

    def _prediction_organ_chosen(self, node: Any, key: str) -> None:
        self._node.comparePredictionOrgans = {**self._node.comparePredictionOrgans, node.GetID(): key}
        self.refresh()

    def _list_organs(self) -> None:
        self._reference = self._node.compareReference
        self._organs = []
        if self._reference is not None:
            try:
                self._organs = organs_of(self._reference)
            except LiverMarginError as error:
                self._say(error.message)
        box = self.ui.organBox
        was_blocked = box.blockSignals(True)
        box.clear()
        for organ in self._organs:
            box.addItem(organ.name)
        keys = [organ.key for organ in self._organs]
        liver = next((n for n, organ in enumerate(self._organs) if organ.is_liver), 0)
        box.setCurrentIndex(keys.index(self._node.compareOrgan) if self._node.compareOrgan in keys else liver)
        box.blockSignals(was_blocked)
        if self._reference is not None and self._node.compareImage is None:
            self._node.compareImage = _image_of(self._reference)

    def _organ_chosen(self, index: int) -> None:
        if self._node is not None and 0 <= index < len(self._organs):
            self._node.compareOrgan = self._organs[index].key
            self._list_predictions()
            self.refresh()


def _image_of(node: Any) -> Any:
    """The image that a segmentation was made on, if it knows."""
    if not node.IsA("vtkMRMLSegmentationNode"):
        return None
    return node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole())
