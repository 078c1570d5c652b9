"""Stopping well: a signal asks the training to save itself instead of killing it."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from LiverMarginLib.events import CancelToken

_LOG = logging.getLogger(__name__)
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stopping_on_signals(token: CancelToken) -> Iterator[None]:
    """Raise `token` on SIGINT or SIGTERM; a second signal acts as it would have without us.

    Python delivers signals to its main thread alone, so in another thread this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def stop(number: int, frame: FrameType | None) -> None:
        _LOG.info("signal %d: stopping after this step", number)
        token.cancel()
        restore()

    for number in _SIGNALS:
        signal.signal(number, stop)
    try:
        yield
    finally:
        restore()


def ignore_interrupts(*_: object) -> None:
    """Leave Ctrl+C, which a terminal sends to the whole family, to the process that trains."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
