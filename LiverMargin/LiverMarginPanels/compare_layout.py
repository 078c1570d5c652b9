"""The layout of a comparison: a slice view with everything, one a model, 3-D, plot and table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from LiverMarginLib.report.colours import REFERENCE

VIEW_3D = ("vtkMRMLViewNode", "LiverMargin3D")
VIEW_PLOT = ("vtkMRMLPlotViewNode", "LiverMarginPlot")
VIEW_TABLE = ("vtkMRMLTableViewNode", "LiverMarginTable")

VIEW_GROUP = 587
"""Of our slice views: what is linked in it does not move the user's own views."""

MOST_MODELS = 7
"""Models beyond these have no slice view of their own; the view with everything shows them."""

# Slicer's own layouts end far below; each number of slice views has its own description, because one that is shown
# does not change.
_FIRST_LAYOUT = 58700
_LONGEST_ROW = 4


@dataclass(frozen=True)
class SliceView:
    """What one slice view shows.

    Parameters
    ----------
    tag : str
        Its singleton tag, which is its layout name too.
    title : str
        What its bar says.
    colour : str
        ``#rrggbb`` of its bar.
    models : tuple of str
        Whose outlines it shows beside the reference's.
    """

    tag: str
    title: str
    colour: str
    models: tuple[str, ...]


def slice_views(colours: Mapping[str, str], everything: str) -> list[SliceView]:
    """Plan the slice views of a comparison.

    Parameters
    ----------
    colours : mapping of str to str
        ``#rrggbb`` by model, in the order of the views.
    everything : str
        Title of the view that shows all models.

    Returns
    -------
    list of SliceView
        With several models the view of all of them first; a single model needs no second view of the same.
    """
    models = tuple(colours)
    own = [
        SliceView(f"LiverMargin{number}", model, colours[model], (model,))
        for number, model in enumerate(models[:MOST_MODELS], start=1)
    ]
    return own if len(models) == 1 else [SliceView("LiverMarginAll", everything, REFERENCE, models), *own]


def layout_xml(tags: Sequence[str]) -> str:
    """Describe the layout in Slicer's XML: slice views above, 3-D, plot and table below.

    Parameters
    ----------
    tags : sequence of str
        Singleton tags of the slice views, row by row.
    """
    root = ElementTree.Element("layout", type="vertical", split="true")
    rows = math.ceil(len(tags) / _LONGEST_ROW)
    length = math.ceil(len(tags) / rows)
    for row in range(rows):
        line = _row(root, 600 // rows)
        for tag in tags[row * length : (row + 1) * length]:
            _view(line, "vtkMRMLSliceNode", tag, orientation="Axial", viewlabel=tag, viewgroup=str(VIEW_GROUP))
    line = _row(root, 400)
    _view(line, *VIEW_3D, size=300, viewlabel="3D", viewgroup=str(VIEW_GROUP))
    _view(line, *VIEW_PLOT, size=450, viewlabel="P")  # the plot shrinks to nothing if it is not given its share
    _view(line, *VIEW_TABLE, size=250, viewlabel="T")
    return ElementTree.tostring(root, encoding="unicode")


def _row(parent: ElementTree.Element, size: int) -> ElementTree.Element:
    item = ElementTree.SubElement(parent, "item", splitSize=str(size))
    return ElementTree.SubElement(item, "layout", type="horizontal", split="true")


def _view(parent: ElementTree.Element, kind: str, tag: str, size: int | None = None, **properties: str) -> None:
    item = ElementTree.SubElement(parent, "item", {} if size is None else {"splitSize": str(size)})
    view = ElementTree.SubElement(item, "view", {"class": kind, "singletontag": tag})
    for name, value in properties.items():
        ElementTree.SubElement(view, "property", name=name, action="default").text = value


class CompareLayout:
    """Goes to the layout of a comparison, and back to the user's own.

    Parameters
    ----------
    manager : qSlicerLayoutManager
    """

    def __init__(self, manager: Any) -> None:
        self._manager = manager
        self._before: tuple[int, bool] | None = None

    @property
    def shown(self) -> bool:
        """Whether the layout is there because of `show`."""
        return self._before is not None

    def show(self, tags: Sequence[str]) -> None:
        """Show slice views of these tags.

        While they are shown the layout is not saved with the scene: without the module nobody knows its number.
        """
        node = self._manager.layoutLogic().GetLayoutNode()
        if self._before is None:
            self._before = node.GetViewArrangement(), bool(node.GetSaveWithScene())
        number = _FIRST_LAYOUT + len(tags)
        if not node.IsLayoutDescription(number):
            node.AddLayoutDescription(number, layout_xml(tags))
        node.SetSaveWithScene(False)
        self._manager.setLayout(number)

    def hide(self) -> None:
        """Go back to the layout that was there before, unless the user has gone to another one already."""
        if self._before is None:
            return
        (arrangement, saved), self._before = self._before, None
        node = self._manager.layoutLogic().GetLayoutNode()
        node.SetSaveWithScene(saved)
        if _FIRST_LAYOUT <= node.GetViewArrangement() <= _FIRST_LAYOUT + MOST_MODELS + 1:
            self._manager.setLayout(arrangement)
