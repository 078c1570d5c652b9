"""The Export panel: one folder, the formats that are wanted, and a list of what was written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from LiverMarginPanels.export_logic import ExportLogic, ExportSettings
from LiverMarginPanels.panel import RunPanel
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


class ExportPanel(RunPanel[ExportLogic]):
    """Widgets of ``ExportPanel.ui`` and what they do.

    Parameters
    ----------
    widget : qMRMLWidget
    client : WorkerClient
    command : callable
        Returns how the worker is started; raises `LiverMarginError` where it cannot be.
    """

    def __init__(self, widget: Any, client: WorkerClient, command: Callable[[], Command]) -> None:
        super().__init__(widget, ExportLogic(client), command, _("Export"))
        connect(self.ui.writtenList, "itemDoubleClicked(QListWidgetItem*)", self._open)
        self.refresh()

    def refresh(self) -> None:
        """Enable what can be used now, and say why the rest cannot."""
        super().refresh()
        ui = self.ui
        from_dicom = self._source() is not None
        ui.dicomCheck.enabled = from_dicom
        ui.dicomCheck.toolTip = (
            _("A DICOM SEG that refers to the series of the volume")
            if from_dicom
            else _("A DICOM SEG refers to a DICOM series, and this segmentation's volume was not loaded from one")
        )

    def _start(self) -> None:
        settings = self.settings()
        in_the_way = settings.in_the_way()
        if in_the_way and not slicer.util.confirmOkCancelDisplay(
            _("These files may be replaced: {names}").format(names=", ".join(path.name for path in in_the_way))
        ):
            return
        self.logic.start(self._node.exportSegmentation, settings, self._command())

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

    def _show(self, paths: list[Path]) -> None:
        self.ui.writtenList.clear()
        for path in paths:
            item = qt.QListWidgetItem(path.name)
            item.setData(qt.Qt.UserRole, str(path.parent))
            item.setToolTip(str(path))
            self.ui.writtenList.addItem(item)

    def _open(self, item: Any) -> None:
        """Show the folder of a written file in the system's file manager."""
        qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(item.data(qt.Qt.UserRole)))
