"""Nodes that only dress views: seen in no list, saved with no scene, and gone when the views are left."""

from __future__ import annotations

from typing import Any


class Furniture:
    """What was put into a scene, to be taken out again.

    Parameters
    ----------
    scene : vtkMRMLScene
    """

    def __init__(self, scene: Any) -> None:
        self.scene = scene
        self._nodes: list[Any] = []

    def add(self, kind: str, name: str = "") -> Any:
        """Add a new node.

        Parameters
        ----------
        kind : str
            Its class.
        name : str
        """
        node = self.scene.CreateNodeByClass(kind)
        node.UnRegister(None)  # the scene's factory leaves that to the caller
        node.SetName(name or kind.removeprefix("vtkMRML"))
        node.SetHideFromEditors(True)  # before it is in the scene, or the subject hierarchy lists it
        self.scene.AddNode(node)
        self.adopt(node)
        return node

    def adopt(self, node: Any) -> None:
        """Take over a node that someone else has added for us."""
        node.SetHideFromEditors(True)
        node.SetSaveWithScene(False)
        self._nodes.append(node)

    def remove(self) -> None:
        """Take everything out of the scene, last in first out, what is displayed before what displays it.

        A segmentation that outlives its display node takes 3D Slicer 5.13 down with it.
        """
        last_first = self._nodes[::-1]
        nodes = sorted(last_first, key=lambda node: not node.IsA("vtkMRMLDisplayableNode"))
        self._nodes.clear()
        for node in nodes:
            if node.GetScene() is self.scene:
                self.scene.RemoveNode(node)
