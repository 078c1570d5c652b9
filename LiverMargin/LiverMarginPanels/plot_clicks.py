"""Clicks on the points of Slicer's plot view."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from LiverMarginPanels.connections import Connections
from LiverMarginPanels.worker_client import Later


class PlotClicks:
    """Tells which point was chosen.

    Each click tells of the selection before and then of the new one, so that the last that is heard counts.

    Parameters
    ----------
    later : callable
        As for `WorkerClient`.
    chosen : callable
        Called with the row of the table node that the point was drawn from.
    """

    def __init__(self, later: Later, chosen: Callable[[int], None]) -> None:
        self._later = later
        self._chosen = chosen
        self._connections = Connections()
        self._row: int | None = None
        self._waits = False

    def begin(self, widget: Any) -> None:
        """Listen to a qMRMLPlotWidget."""
        self._connections.add(widget.plotView(), "dataSelected(vtkStringArray*,vtkCollection*)", self._selected)

    def end(self) -> None:
        """Stop listening."""
        self._connections.end()
        self._row = None

    def _selected(self, _series: Any, rows: Any) -> None:
        found = [rows.GetItemAsObject(n) for n in range(rows.GetNumberOfItems())]
        values = [array.GetValue(0) for array in found if array.GetNumberOfValues()]
        self._row = int(values[0]) if values else None
        if not self._waits:
            self._waits = True
            self._later(0, self._act)

    def _act(self) -> None:
        self._waits = False
        if self._row is not None:
            self._chosen(self._row)
