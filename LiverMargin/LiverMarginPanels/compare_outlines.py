"""The outlines of a comparison in its slice views: exactly what was measured, whatever is edited afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from LiverMarginLib import mrml
from LiverMarginLib.report.colours import REFERENCE
from LiverMarginLib.terminology import Segment
from LiverMarginLib.volume import LabelMap
from LiverMarginPanels.scene_furniture import Furniture

_REFERENCE_PX, _MODEL_PX = 3, 2


class CompareOutlines:
    """A segmentation of our own that holds the compared masks, with a display for each view.

    The user's segmentations and how they are displayed are not touched.

    Parameters
    ----------
    furniture : Furniture
        Receives the nodes.
    reference : LabelMap
        The organ as label 1, cropped.
    predictions : mapping of str to LabelMap
        The same by model.
    colours : mapping of str to str
        ``#rrggbb`` by model.
    name : str
        Of the reference.
    """

    def __init__(
        self,
        furniture: Furniture,
        reference: LabelMap,
        predictions: Mapping[str, LabelMap],
        colours: Mapping[str, str],
        name: str,
    ) -> None:
        self._furniture = furniture
        self._reference = _Masks(furniture, name)
        self._reference.add(reference, name, REFERENCE)
        self._models = _Masks(furniture, "models")
        self._segments = {
            model: self._models.add(labels, model, colours[model]) for model, labels in predictions.items()
        }

    def show(self, view: str, models: tuple[str, ...]) -> None:
        """Draw the reference and some models in a slice view.

        Parameters
        ----------
        view : str
            ID of the slice node.
        models : tuple of str
        """
        display = self._models.display(view, _MODEL_PX)
        for model, segment in self._segments.items():
            display.SetSegmentVisibility(segment, model in models)
        self._reference.display(view, _REFERENCE_PX)


class _Masks:
    """A segmentation node that nobody else shows."""

    def __init__(self, furniture: Furniture, name: str) -> None:
        self._furniture = furniture
        self._node = furniture.add("vtkMRMLSegmentationNode", name)
        self._displays: dict[str, Any] = {}

    def add(self, labels: LabelMap, name: str, colour: str) -> str:
        """Add a mask as a segment; returns its ID."""
        red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
        layers = mrml.SegmentLayers(self._node, labels.geometry, (Segment(1, name, (red, green, blue)),))
        layers.finish(labels)
        return layers.segment_ids[0]

    def display(self, view: str, width: int) -> Any:
        """The display in one slice view."""
        if view not in self._displays:
            display = self._furniture.add("vtkMRMLSegmentationDisplayNode")
            display.AddViewNodeID(view)
            display.SetVisibility3D(False)
            display.SetVisibility2DFill(False)
            display.SetVisibility2DOutline(True)
            display.SetSliceIntersectionThickness(width)
            self._node.AddAndObserveDisplayNodeID(display.GetID())
            self._displays[view] = display
        return self._displays[view]
