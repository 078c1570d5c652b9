"""The table of what is compared: each prediction, and which of its segments."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import qt
from slicer.i18n import tr as _

from LiverMarginLib.errors import LiverMarginError
from LiverMarginPanels.compare_logic import Compared
from LiverMarginPanels.organ_choice import Organ, counterpart, organs_of
from LiverMarginPanels.qt_process import connect


class PredictionTable:
    """Rows of a QTableWidget with a box for the segment in each.

    Parameters
    ----------
    table : QTableWidget
    chosen : callable
        Called with the node and the key of its organ when the user chooses one.
    """

    def __init__(self, table: Any, chosen: Callable[[Any, str], None]) -> None:
        self._table = table
        self._chosen = chosen
        self._nodes: list[Any] = []
        self._organs: list[list[Organ]] = []
        self._boxes: list[Any] = []
        self.problem = ""
        """Why a node cannot be compared; empty if all can."""

    def show(self, nodes: Sequence[Any], keys: Mapping[str, str], name: str) -> None:
        """List nodes.

        Parameters
        ----------
        nodes : sequence of MRML nodes
        keys : mapping of str to str
            Key of the organ that was chosen before, by node ID.
        name : str
            Of the reference's organ, whose `counterpart` is offered otherwise.
        """
        self._nodes, self._organs, self._boxes, self.problem = list(nodes), [], [], ""
        self._table.setRowCount(0)
        self._table.setColumnCount(2)
        self._table.setHorizontalHeaderLabels([_("Segmentation"), _("Segment")])
        self._table.setRowCount(len(nodes))
        for row, node in enumerate(nodes):
            item = qt.QTableWidgetItem()
            item.setData(qt.Qt.DisplayRole, node.GetName())
            self._table.setItem(row, 0, item)
            organs = self._read(node)
            box = qt.QComboBox()
            for organ in organs:
                box.addItem(organ.name)
            box.setCurrentIndex(_index(organs, keys.get(node.GetID()), name))
            connect(box, "currentIndexChanged(int)", partial(self._box_changed, row))
            self._table.setCellWidget(row, 1, box)
            self._organs.append(organs)
            self._boxes.append(box)
        self._table.resizeColumnsToContents()
        self._table.visible = bool(nodes)

    def compared(self) -> list[Compared]:
        """What is chosen; without the nodes of which no segment is."""
        return [
            Compared(node, organs[box.currentIndex])
            for node, organs, box in zip(self._nodes, self._organs, self._boxes, strict=True)
            if 0 <= box.currentIndex < len(organs)
        ]

    def has_lost_a_node(self) -> bool:
        """Whether a node that is listed has left the scene."""
        return any(node.GetScene() is None for node in self._nodes)

    def undecided(self) -> list[str]:
        """Names of the nodes of which no segment is chosen."""
        decided = [compared.node for compared in self.compared()]
        return [node.GetName() for node in self._nodes if node not in decided]

    def _read(self, node: Any) -> list[Organ]:
        try:
            return organs_of(node)
        except LiverMarginError as error:
            self.problem = error.message
            return []

    def _box_changed(self, row: int, index: int) -> None:
        if 0 <= index < len(self._organs[row]):
            self._chosen(self._nodes[row], self._organs[row][index].key)


def _index(organs: Sequence[Organ], key: str | None, name: str) -> int:
    keys = [organ.key for organ in organs]
    if key in keys:
        return keys.index(key)
    found = counterpart(organs, name)
    return -1 if found is None else organs.index(found)
