"""The list of models, each with a box to tick: who ticks several gets several results to compare."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import qt

from LiverMarginPanels.model_choice import ModelChoice
from LiverMarginPanels.qt_process import connect


class ModelList:
    """Shows models in a QListWidget.

    Parameters
    ----------
    widget : QListWidget
    ticked : callable
        Called when the user has ticked or unticked a model.
    selected : callable
        Called when another line is selected.
    """

    def __init__(self, widget: Any, ticked: Callable[[], None], selected: Callable[[], None]) -> None:
        self._widget = widget
        self._choices: list[ModelChoice] = []
        connect(widget, "itemChanged(QListWidgetItem*)", lambda _item: ticked())
        connect(widget, "currentRowChanged(int)", lambda _row: selected())

    def fill(self, choices: Sequence[ModelChoice], folders: Sequence[str], proposed: ModelChoice | None) -> None:
        """Show models.

        Parameters
        ----------
        choices : sequence of ModelChoice
        folders : sequence of str
            Of the models to tick.
        proposed : ModelChoice, optional
            Is ticked where none of them is there.
        """
        self._choices = list(choices)
        ticks = [str(choice.folder) in folders for choice in choices]
        if not any(ticks):
            ticks = [choice is proposed for choice in choices]
        was_blocked = self._widget.blockSignals(True)
        self._widget.clear()
        for choice, tick in zip(choices, ticks, strict=True):
            item = qt.QListWidgetItem(choice.title)
            item.setCheckState(qt.Qt.Checked if tick else qt.Qt.Unchecked)
            item.setToolTip(choice.problem or str(choice.folder))
            self._widget.addItem(item)
        self._widget.setCurrentRow(ticks.index(True) if True in ticks else -1)
        self._widget.blockSignals(was_blocked)

    def ticked(self) -> list[ModelChoice]:
        """The models that are ticked, in the order of the list."""
        return [choice for n, choice in enumerate(self._choices) if self._widget.item(n).checkState() == qt.Qt.Checked]

    def selected(self) -> ModelChoice | None:
        """The model whose line is selected."""
        row = self._widget.currentRow
        return self._choices[row] if 0 <= row < len(self._choices) else None
