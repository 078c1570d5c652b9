"""Filling a QTableWidget: Slicer's own table view sorts numbers as text and is slow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import qt


def fill(
    table: Any,
    headings: Sequence[str],
    rows: Sequence[Sequence[str | float | None]],
    sort_by: int | None = None,
    *,
    descending: bool = False,
    colours: Mapping[str, str] | None = None,
) -> None:
    """Show rows in a table; numbers sort as numbers.

    Parameters
    ----------
    table : QTableWidget
        What it showed before is dropped.
    headings : sequence of str
    rows : sequence of sequence of str, float or None
        None leaves a cell empty, which sorts to the end in either direction. Each item of the first column remembers
        the number of its row here, see `row_of`.
    sort_by : int, optional
        Column by which the rows are sorted at first, and others by a click on their heading; None keeps the order of
        `rows`.
    descending : bool
        Whether the largest stands on top at first.
    colours : mapping of str to str, optional
        ``#rrggbb`` of a square before a text.
    """
    table.setSortingEnabled(False)  # otherwise rows move while they are being filled
    table.setRowCount(0)
    table.setColumnCount(len(headings))
    table.setHorizontalHeaderLabels(list(headings))
    table.setRowCount(len(rows))
    for number, row in enumerate(rows):
        for column, value in enumerate(row):
            if value is None:
                continue
            item = qt.QTableWidgetItem()
            item.setData(qt.Qt.DisplayRole, value)
            if isinstance(value, str) and value in (colours or {}):
                item.setData(qt.Qt.DecorationRole, qt.QColor((colours or {})[value]))
            if column == 0:
                item.setData(qt.Qt.UserRole, number)
            table.setItem(number, column, item)
    if sort_by is not None:
        order = qt.Qt.DescendingOrder if descending else qt.Qt.AscendingOrder
        table.horizontalHeader().setSortIndicator(sort_by, order)
        table.setSortingEnabled(True)  # sorts by the indicator at once
    table.resizeColumnsToContents()  # with the indicator, which takes room in its heading


def row_of(table: Any, shown: int) -> int:
    """Which of the rows given to `fill` now stands at position `shown`; -1 for none."""
    item = table.item(shown, 0) if shown >= 0 else None
    return -1 if item is None else int(item.data(qt.Qt.UserRole))


def step(table: Any, by: int) -> None:
    """Make the row `by` places below the current one current, as it is sorted now; stops at the ends."""
    if table.rowCount:
        row = table.currentRow() + by if table.currentRow() >= 0 else 0
        table.setCurrentCell(min(max(row, 0), table.rowCount - 1), 0)
