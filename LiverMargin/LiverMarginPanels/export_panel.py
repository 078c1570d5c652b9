"""The Export panel: one folder, the formats that are wanted, and a list of what was written."""

from __future__ import annotations

import html
from collections.abc import Callable
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

from LiverMarginLib.errors import LiverMarginError
from LiverMarginLib.jobs.export import KITTI
from LiverMarginPanels.export_logic import DICOM, REPORT, ExportLogic, ExportSettings
from LiverMarginPanels.image_loading import SOURCE
from LiverMarginPanels.organ_choice import Organ, organs_of
from LiverMarginPanels.panel import RunPanel
from LiverMarginPanels.scene_results import likely_reference, model_results
from LiverMarginPanels.slicer_dicom_seg import has_plugin
from LiverMarginPanels.worker_client import Command, WorkerClient

# Field of the parameter node by suffix.
FORMATS = {
    ".seg.nrrd": "writeSegNrrd",
    ".nii.gz": "writeNifti",
    ".nrrd": "writeNrrd",
    DICOM: "writeDicom",
    ".stl": "writeStl",
    ".obj": "writeObj",
    ".ply": "writePly",
    KITTI: "writeKitti",
    REPORT: "writeReport",
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
        self.refresh()

    def refresh(self) -> None:
        """Enable what can be used now, and say why the rest cannot."""
        super().refresh()
        ui = self.ui
        ui.dicomCheck.enabled = self._from_dicom()
        ui.dicomCheck.toolTip = (
            _("A DICOM SEG that refers to the series of the volume")
            if ui.dicomCheck.enabled
            else _("A DICOM SEG refers to a DICOM series, and this segmentation's volume was not loaded from one")
        )
        ui.reportCheck.enabled = self._reference() is not None
        ui.reportCheck.toolTip = (
            _("One page with numbers and pictures of the comparison with the reference of the Compare panel")
            if ui.reportCheck.enabled
            else _("The report compares with a reference; choose one in the Compare panel")
        )

    def opened(self) -> None:
        """Propose the newest result of a model, or else the only segmentation there is."""
        if self._node is not None and self._node.exportSegmentation is None:
            results = model_results(slicer.mrmlScene)
            self._node.exportSegmentation = results[-1] if results else likely_reference(slicer.mrmlScene)

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
        usable = {DICOM: self._from_dicom(), REPORT: self._reference() is not None}
        suffixes = tuple(
            suffix for suffix, field in FORMATS.items() if getattr(self._node, field) and usable.get(suffix, True)
        )
        return ExportSettings(
            Path(self._node.exportFolder),
            self._node.exportName.strip(),
            suffixes,
            self._source(),
            self._by_slicer(),
            self._reference(),
        )

    def _why_not(self) -> str:
        node = self._node
        if node is None or node.exportSegmentation is None:
            return _("Choose the segmentation to export.")
        if str(node.exportFolder) in ("", "."):
            return _("Choose the folder to write to.")
        if not self.settings().suffixes:
            return _("Tick at least one format.")
        return ""

    def _volume(self) -> Any:
        """What was segmented."""
        node = self._node.exportSegmentation if self._node is not None else None
        return None if node is None else node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole())

    def _instances(self) -> list[str]:
        """UIDs of the volume's files in Slicer's DICOM database."""
        volume = self._volume()
        return (volume.GetAttribute("DICOM.instanceUIDs") or "").split() if volume is not None else []

    def _from_dicom(self) -> bool:
        return self._source() is not None or self._by_slicer()

    def _by_slicer(self) -> bool:
        return bool(self._instances()) and has_plugin()

    def _source(self) -> Path | None:
        """Folder of the DICOM series behind the segmentation's volume."""
        instances, database = self._instances(), getattr(slicer, "dicomDatabase", None)
        file = database.fileForInstance(instances[0]) if instances and database is not None else ""
        if file:
            return Path(file).parent
        source = self._volume().GetAttribute(SOURCE) if self._volume() is not None else None
        return Path(source) if source and Path(source).exists() else None

    def _reference(self) -> tuple[Any, Organ] | None:
        """Reference of the Compare panel, and which part of it."""
        node = self._node.compareReference if self._node is not None else None
        if node is None or node is self._node.exportSegmentation:
            return None
        try:
            organs = organs_of(node)
        except LiverMarginError:
            return None
        chosen = [organ for organ in organs if organ.key == self._node.compareOrgan]
        livers = [organ for organ in organs if organ.is_liver]
        return next(((node, organ) for organ in (*chosen, *livers, *organs)), None)

    def _show(self, paths: list[Path]) -> None:
        """List what was written: a click opens a file by the program that the system has for it."""
        folder = paths[0].parent if paths else Path(self._node.exportFolder)
        links = [_link(folder, _("Open the folder")), *(_link(path, path.name) for path in paths)]
        self.ui.writtenLabel.text = "<br>".join(links)


def _link(path: Path, text: str) -> str:
    return f'<a href="{html.escape(path.absolute().as_uri())}">{html.escape(text)}</a>'
