"""Which segmentations of a scene come from models, and which one is likely the reference. Needs no window."""

from __future__ import annotations

from typing import Any

import slicer
import vtk

from LiverMarginLib.io.segment_table import PROVENANCE_KEY, read_provenance


def model_results(scene: Any) -> list[Any]:
    """Segmentations with a segment that a model has made, the newest last.

    Parameters
    ----------
    scene : vtkMRMLScene
    """
    return [node for node in _segmentations(scene) if _is_result(node)]


def likely_reference(scene: Any) -> Any:
    """The only segmentation that no model has made; None if there are several, or none.

    Parameters
    ----------
    scene : vtkMRMLScene
    """
    others = [node for node in _segmentations(scene) if not _is_result(node)]
    return others[0] if len(others) == 1 else None


def _segmentations(scene: Any) -> list[Any]:
    nodes = slicer.util.getNodesByClass("vtkMRMLSegmentationNode", scene)
    return [node for node in nodes if not node.GetHideFromEditors()]


def _is_result(node: Any) -> bool:
    segmentation = node.GetSegmentation()
    for n in range(segmentation.GetNumberOfSegments()):
        text = vtk.mutable("")
        if segmentation.GetNthSegment(n).GetTag(PROVENANCE_KEY, text):
            return "model" in read_provenance({PROVENANCE_KEY: str(text)})
    return False
