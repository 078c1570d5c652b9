"""The Export panel: one folder, the formats that are wanted, and a list of what was written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from LiverMarginLib.errors import LiverMarginError
from LiverMarginLib.events import Failure, Progress
from LiverMarginPanels.export_logic import ExportLogic, ExportSettings
from LiverMarginPanels.qt_process import connect
from LiverMarginPanels.worker_client import Command, WorkerClient

# Field of the parameter node by suffix.
FORMATS = {
    ".seg.nrrd": "writeSegNrrd",
    ".nii.gz": "writeNifti",
    ".nrrd": "writeNrrd",
    ".dcm": "writeDicom",
    ".stl": "writeStl",
    ".obj": "writeObj",
    ".ply": "writePly",
}


class ExportPanel:
    """Widgets of ``ExportPanel.ui`` and what they do.

    Parameters
    ----------
    widget : qMRMLWidget
    client : WorkerClient
    command : callable
        Returns how the worker is started; raises `LiverMarginError` where it cannot be.
    """

    def __init__(self, widget: Any, client: WorkerClient, command: Callable[[], Command]) -> None:
        self.ui = slicer.util.childWidgetVariables(widget)
        self.logic = ExportLogic(client)
        self._command = command
        self._node: Any = None
        self._connection: Any = None
        self._observer: Any = None
        ui = self.ui
        connect(ui.exportButton, "clicked()", self.export_or_cancel)
        connect(ui.writtenList, "itemDoubleClicked(QListWidgetItem*)", self._open)
        self.logic.progressed.connect(self._progressed)
        self.logic.noticed.connect(self._add_message)
        self.logic.written.connect(self._written)
        self.logic.failed.connect(self._failed)
        for hidden in (ui.progressBar, ui.messageLabel, ui.writtenBox):
            hidden.visible = False
        self.refresh()

    def set_parameter_node(self, node: Any) -> None:
        """Show the state that `node` holds, and write changes to it; None lets go of it."""
        if self._node is not None:
            self._node.disconnectGui(self._connection)
            self._node.RemoveObserver(self._observer)
        self._node = node
        if node is not None:
            self._connection = node.connectGui(self.ui)
            self._observer = node.AddObserver("ModifiedEvent", lambda *_: self.refresh())
            self.refresh()

    def cleanup(self) -> None:
        """Let go of everything; the panel is not used any more."""
        self.set_parameter_node(None)
        self.logic.abandon()

    def refresh(self) -> None:
        """Enable what can be used now, and say why the rest cannot."""
        ui, running = self.ui, self.logic.running
        reason = "" if running else self._why_not()
        ui.settingsBox.enabled = not running
        ui.exportButton.text = _("Cancel") if running else _("Export")
        ui.exportButton.enabled = not reason
        ui.exportButton.toolTip = reason
        from_dicom = self._source() is not None
        ui.dicomCheck.enabled = from_dicom
        ui.dicomCheck.toolTip = (
            _("A DICOM SEG that refers to the series of the volume")
            if from_dicom
            else _("A DICOM SEG refers to a DICOM series, and this segmentation's volume was not loaded from one")
        )

    def export_or_cancel(self) -> None:
        """What the big button does."""
        if self.logic.running:
            self.logic.cancel()
            return
        self.ui.messageLabel.text = ""
        self.ui.messageLabel.visible = False
        self.ui.writtenBox.visible = False
        settings = self.settings()
        try:
            in_the_way = settings.in_the_way()
            if in_the_way and not slicer.util.confirmOkCancelDisplay(
                _("These files may be replaced: {names}").format(names=", ".join(path.name for path in in_the_way))
            ):
                return
            self.logic.start(self._node.exportSegmentation, settings, self._command())
        except LiverMarginError as error:
            self._add_message(error.message)
        self.refresh()

    def settings(self) -> ExportSettings:
        """What is ticked and named now."""
        source = self._source()
        suffixes = tuple(
            suffix
            for suffix, field in FORMATS.items()
            if getattr(self._node, field) and (suffix != ".dcm" or source is not None)
        )
        return ExportSettings(Path(self._node.exportFolder), self._node.exportName.strip(), suffixes, source)

    def _why_not(self) -> str:
        node = self._node
        if node is None or node.exportSegmentation is None:
            return _("Choose the segmentation to export.")
        if str(node.exportFolder) in ("", "."):
            return _("Choose the folder to write to.")
        if not self.settings().suffixes:
            return _("Tick at least one format.")
        return ""

    def _source(self) -> Path | None:
        """Folder of the DICOM series behind the segmentation's volume."""
        node = self._node.exportSegmentation if self._node is not None else None
        if node is None or getattr(slicer, "dicomDatabase", None) is None:
            return None
        volume = node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole())
        instances = (volume.GetAttribute("DICOM.instanceUIDs") or "").split() if volume is not None else []
        file = slicer.dicomDatabase.fileForInstance(instances[0]) if instances else ""
        return Path(file).parent if file else None

    def _progressed(self, progress: Progress) -> None:
        bar = self.ui.progressBar
        bar.visible = True
        bar.setRange(0, progress.total)
        bar.setValue(progress.done)

    def _written(self, paths: list[Path]) -> None:
        self.ui.writtenList.clear()
        for path in paths:
            item = qt.QListWidgetItem(path.name)
            item.setData(qt.Qt.UserRole, str(path.parent))
            item.setToolTip(str(path))
            self.ui.writtenList.addItem(item)
        self.ui.writtenBox.visible = True
        self._idle()

    def _failed(self, failure: Failure) -> None:
        self._add_message(failure.message)
        self._idle()

    def _idle(self) -> None:
        self.ui.progressBar.visible = False
        self.refresh()

    def _add_message(self, message: str) -> None:
        lines = [*self.ui.messageLabel.text.splitlines(), message]
        self.ui.messageLabel.text = "\n".join(dict.fromkeys(lines))
        self.ui.messageLabel.visible = True

    def _open(self, item: Any) -> None:
        """Show the folder of a written file in the system's file manager."""
        qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(item.data(qt.Qt.UserRole)))
