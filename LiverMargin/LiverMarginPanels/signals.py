"""A signal without Qt, so that logic can tell panels and tests alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, ParamSpec

Arguments = ParamSpec("Arguments")


class Signal(Generic[Arguments]):
    """Calls everybody who connected, in the order of connecting."""

    def __init__(self) -> None:
        self._slots: list[Callable[Arguments, object]] = []

    def connect(self, slot: Callable[Arguments, object]) -> None:
        """Let `slot` be called with every `emit` from now on."""
        self._slots.append(slot)

    def disconnect_all(self) -> None:
        """Forget everybody; a panel that is torn down must not be called any more."""
        self._slots.clear()

    def emit(self, *args: Arguments.args, **kwargs: Arguments.kwargs) -> None:
        """Call everybody."""
        for slot in tuple(self._slots):
            slot(*args, **kwargs)
