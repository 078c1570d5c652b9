"""Clicks on the rows of Slicer's table view."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from LiverMarginPanels.connections import Connections


class TableClicks:
    """Tells which row of the table node was chosen, by mouse or keyboard.

    Parameters
    ----------
    chosen : callable
        Called with the row.
    """

    def __init__(self, chosen: Callable[[int], None]) -> None:
        self._chosen = chosen
        self._connections = Connections()
        self._view: Any = None

    def begin(self, widget: Any) -> None:
        """Listen to a qMRMLTableWidget."""
        import qt

        view = self._view = widget.tableView()
        view.setSelectionBehavior(qt.QAbstractItemView.SelectRows)
        view.setSelectionMode(qt.QAbstractItemView.SingleSelection)
        view.setSortingEnabled(False)  # it would sort numbers as text; the panel's table sorts
        # A click on the row that is current already is no change of the current row.
        self._connections.add(view, "clicked(QModelIndex)", self._clicked)
        self._connections.add(
            view.selectionModel(), "currentRowChanged(QModelIndex,QModelIndex)", lambda new, _old: self._clicked(new)
        )

    def end(self) -> None:
        """Stop listening."""
        self._connections.end()
        self._view = None

    def _clicked(self, index: Any) -> None:
        if self._view is not None:
            row = self._view.sortFilterProxyModel().mapToSource(index).row()
            if row >= 0:
                self._chosen(row)
