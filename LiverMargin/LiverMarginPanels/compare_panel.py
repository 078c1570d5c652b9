"""The Compare panel: a reference, any number of segmentations, and a table whose rows lead to the slices."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

from LiverMarginLib.errors import LiverMarginError
from LiverMarginPanels import tables
from LiverMarginPanels.compare_logic import PATIENT_SCORES, SCORES, CompareLogic, Comparison, Organ, organs_of
from LiverMarginPanels.panel import RunPanel
from LiverMarginPanels.qt_process import connect
from LiverMarginPanels.worker_client import Command, WorkerClient

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
    """

    def __init__(
        self, widget: Any, client: WorkerClient, command: Callable[[], Command], other_python: Callable[[], str]
    ) -> None:
        super().__init__(widget, CompareLogic(client), command, _("Compare"))
        self._other_python = other_python
        self._organs: list[Organ] = []
        self._reference: Any = None
        self._comparison: Comparison | None = None
        ui = self.ui
        connect(ui.organBox, "currentIndexChanged(int)", self._organ_chosen)
        connect(ui.predictionsBox, "checkedNodesChanged()", self.refresh)
        connect(ui.slicesTable, "currentCellChanged(int,int,int,int)", self._row_chosen)
        connect(ui.slicesTable, "cellClicked(int,int)", self._row_chosen)
        self.refresh()

    def _node_changed(self) -> None:
        self._reference = None
        if self._node is not None:
            self._list_organs()

    def refresh(self) -> None:
        """Enable what can be used now, and say why the rest cannot."""
        if self._node is not None and self._node.compareReference is not self._reference:
            self._list_organs()
        super().refresh()

    def _start(self) -> None:
        keep = Path(self._node.compareFolder)
        self.logic.start(
            self._node.compareReference,
            self._organs[self.ui.organBox.currentIndex],
            self._predictions(),
            self._command(),
            None if str(keep) in ("", ".") else keep,
        )

    def _why_not(self) -> str:
        node = self._node
        if node is None or node.compareReference is None:
            return _("Choose the reference.")
        if not 0 <= self.ui.organBox.currentIndex < len(self._organs):
            return _("The reference holds no segment.")
        if not self._predictions():
            return _("Tick the segmentations to compare with the reference.")
        if not self._other_python() and any(importlib.util.find_spec(name) is None for name in _NEEDED):
            return _("Packages are missing; install them in the Environment panel.")
        return ""

    def _predictions(self) -> list[Any]:
        """What is ticked, without the reference itself; a node that has left the scene is None there."""
        checked = [node for node in self.ui.predictionsBox.checkedNodes() if node is not None]
        return [node for node in checked if node is not self._node.compareReference]

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

    def _organ_chosen(self, index: int) -> None:
        if self._node is not None and 0 <= index < len(self._organs):
            self._node.compareOrgan = self._organs[index].key

    def _show(self, comparison: Comparison) -> None:
        self._comparison = comparison
        tables.fill(
            self.ui.modelsTable,
            (_("Segmentation"), _("Dice"), _("Boundary IoU"), _("HD95 (mm)"), _("ASSD (mm)"), _("RVD")),
            [(name, *(_cell(scores[key]) for key in PATIENT_SCORES)) for name, scores in comparison.models.items()],
        )
        headings = (_("Dice"), _("IoU"), _("Boundary IoU"), _("Mean error (mm)"), _("Beyond (mm)"), _("Short (mm)"))
        tables.fill(
            self.ui.slicesTable,
            (_("Slice"), _("Segmentation"), _("Status"), *headings),
            [
                (row.index, row.model, row.status, *(_cell(row.scores.get(key)) for key in SCORES))
                for row in comparison.slices
            ],
            sort_by=3 + SCORES.index("boundary_iou"),
        )
        if comparison.files:
            self._say(
                _("{count} files were written to {folder}").format(
                    count=len(comparison.files), folder=comparison.files[0].parent
                )
            )

    def _row_chosen(self, row: int, *_others: int) -> None:
        number = tables.row_of(self.ui.slicesTable, row)
        if self._comparison is None or not 0 <= number < len(self._comparison.slices):
            return
        place = self.logic.place_of(self._comparison.slices[number].index)
        slicer.vtkMRMLSliceNode.JumpAllSlices(slicer.mrmlScene, *place, slicer.vtkMRMLSliceNode.OffsetJumpSlice)


def _cell(value: float | None) -> float | str:
    """A number that sorts as one; nothing where the score is not defined."""
    return "" if value is None else round(value, 3)
