"""Keeps the user's segmentations out of views that show something else, without changing how they look elsewhere."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import slicer

_KIND = "vtkMRMLSegmentationDisplayNode"
_VIEWS = ("vtkMRMLSliceNode", "vtkMRMLViewNode")


class DisplayIsolation:
    """Confines segmentations that are shown everywhere to the user's own views, until `end`."""

    def __init__(self) -> None:
        self._confined: list[tuple[Any, frozenset[str]]] = []

    def begin(self, scene: Any, views: Collection[str]) -> None:
        """Keep every segmentation that is not confined to certain views out of these.

        Parameters
        ----------
        scene : vtkMRMLScene
        views : collection of str
            IDs of the view nodes to be kept clear.
        """
        others = [node.GetID() for kind in _VIEWS for node in slicer.util.getNodesByClass(kind, scene)]
        others = [view for view in others if view not in views]
        for display in slicer.util.getNodesByClass(_KIND, scene):
            if display.GetNumberOfViewNodeIDs() == 0:
                was_modifying = display.StartModify()
                for view in others:
                    display.AddViewNodeID(view)
                display.EndModify(was_modifying)
                self._confined.append((display, frozenset(others)))

    def end(self) -> None:
        """Let them be shown everywhere again, but for those whose views the user has chosen meanwhile."""
        for display, views in self._confined:
            present = {display.GetNthViewNodeID(n) for n in range(display.GetNumberOfViewNodeIDs())}
            if display.GetScene() is not None and present == views:
                display.RemoveAllViewNodeIDs()
        self._confined.clear()
