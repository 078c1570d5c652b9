"""DICOM SEG through 3D Slicer's own DICOM plugin, where the application has it."""

from __future__ import annotations

import importlib.util
import tempfile
from pathlib import Path
from typing import Any

from LiverMarginLib.errors import ResourceError


def has_plugin() -> bool:
    """Whether this Slicer can write DICOM SEG itself."""
    return importlib.util.find_spec("DICOMSegmentationPlugin") is not None


def export_by_plugin(node: Any, path: Path) -> Path:
    """Write a segmentation whose volume Slicer's DICOM module has loaded.

    Parameters
    ----------
    node : vtkMRMLSegmentationNode
        Under the study of its volume in the subject hierarchy.
    path : Path
        Is replaced when the file is complete.

    Returns
    -------
    Path

    Raises
    ------
    ResourceError
        If the plugin has not written exactly one file, with what it said among the details.
    """
    import DICOMSegmentationPlugin
    import slicer

    path.parent.mkdir(parents=True, exist_ok=True)
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(node.GetScene())
    plugin = DICOMSegmentationPlugin.DICOMSegmentationPluginClass()
    exportables = plugin.examineForExport(hierarchy.GetItemByDataNode(node))
    with tempfile.TemporaryDirectory(prefix=".LiverMargin-", dir=path.parent) as folder:
        for exportable in exportables:
            exportable.directory = folder
        message = plugin.export(exportables) if exportables else "nothing to export"
        files = [file for file in Path(folder).rglob("*") if file.is_file()]
        if message or len(files) != 1:
            raise ResourceError(
                "Slicer's own plugin did not write the DICOM SEG; see the details.",
                str(message or f"{len(files)} files"),
            )
        files[0].replace(path)
    return path
