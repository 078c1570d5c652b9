"""A frame on which files and folders can be dropped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import qt


class DropArea(qt.QFrame):
    """Tells of what is dropped on it.

    Parameters
    ----------
    text : str
        Shown in it.
    dropped : callable
        Called with the path of the first file or folder that was dropped.
    """

    def __init__(self, text: str, dropped: Callable[[Path], None]) -> None:
        qt.QFrame.__init__(self)
        self._dropped = dropped
        self.setAcceptDrops(True)
        self.setFrameShape(qt.QFrame.StyledPanel)
        layout = qt.QVBoxLayout(self)
        label = qt.QLabel(text)
        label.setAlignment(qt.Qt.AlignCenter)
        label.setWordWrap(True)
        layout.addWidget(label)

    def dragEnterEvent(self, event: Any) -> None:
        """Accept what has a place on the disk."""
        if any(url.isLocalFile() for url in event.mimeData().urls()):
            event.acceptProposedAction()

    def dropEvent(self, event: Any) -> None:
        """Take the first of what is dropped."""
        paths = [url.toLocalFile() for url in event.mimeData().urls() if url.isLocalFile()]
        event.acceptProposedAction()
        if paths:
            self._dropped(Path(paths[0]))
