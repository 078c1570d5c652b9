"""Connections to Qt signals that are ended together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from LiverMarginPanels.qt_process import connect


class Connections:
    """Remembers what was connected: a connected method keeps its object alive and goes on being called."""

    def __init__(self) -> None:
        self._made: list[tuple[Any, str, Callable[..., object]]] = []

    def add(self, sender: Any, signal: str, slot: Callable[..., object]) -> None:
        """Connect a signal by its signature; see `connect`."""
        connect(sender, signal, slot)
        self._made.append((sender, signal, slot))  # the same object must be given to disconnect

    def end(self) -> None:
        """Disconnect everything."""
        for sender, signal, slot in self._made:
            sender.disconnect(signal, slot)
        self._made.clear()
