"""Keys that work while the module is shown, wherever the keyboard's focus is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import qt
import slicer

from LiverMarginPanels.qt_process import connect

# A key that something else in the main window has as well would do nothing at all, without a word.
NEXT = "Alt+Down"
PREVIOUS = "Alt+Up"


class Shortcuts:
    """Keys and what they do; off at first.

    Parameters
    ----------
    actions : mapping of str to callable
        By key sequence.
    """

    def __init__(self, actions: Mapping[str, Callable[[], None]]) -> None:
        self._shortcuts: list[Any] = []
        for keys, action in actions.items():
            shortcut = qt.QShortcut(qt.QKeySequence(keys), slicer.util.mainWindow())
            shortcut.setEnabled(False)
            connect(shortcut, "activated()", action)
            self._shortcuts.append(shortcut)

    def set_enabled(self, enabled: bool) -> None:
        """Let the keys work, or leave them to others."""
        for shortcut in self._shortcuts:
            shortcut.setEnabled(enabled)

    def remove(self) -> None:
        """Take the keys away; they belong to the main window and would outlive the module."""
        for shortcut in self._shortcuts:
            shortcut.setEnabled(False)
            shortcut.deleteLater()
        self._shortcuts.clear()
