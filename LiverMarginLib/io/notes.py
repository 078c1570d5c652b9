"""What a reader says about an image besides its voxels: repairs and assumptions, kept and told at once."""

from __future__ import annotations

import logging

from LiverMarginLib.events import Notice, OnEvent, ignore
from LiverMarginLib.plain_text import one_line

_logger = logging.getLogger(__name__)


class Notes:
    """Collects the sentences that end in `Volume.notes` and tells each to the listener as a `Notice`.

    Parameters
    ----------
    on_event : callable
        Receives one `Notice` for each sentence, when it is added.
    """

    def __init__(self, on_event: OnEvent = ignore) -> None:
        self._on_event = on_event
        self._sentences: list[str] = []

    def add(self, sentence: str) -> None:
        """Keep `sentence` and tell it; it must not carry patient identity."""
        sentence = one_line(sentence)
        self._sentences.append(sentence)
        _logger.info(sentence)
        self._on_event(Notice(sentence))

    @property
    def sentences(self) -> tuple[str, ...]:
        """All sentences so far, in the order in which they were said."""
        return tuple(self._sentences)
