"""Text from outside (names of files, cases and segments) made harmless where people read it."""

from __future__ import annotations

import re

_LONGEST = 1500
_WITH_PATH = re.compile(r"[^\n:'\"(<]*(?:[A-Za-z]:)?[\\/][^\n]*")


def one_line(text: str, longest: int = _LONGEST) -> str:
    """Text as one line of characters that a terminal only shows.

    Parameters
    ----------
    text : str
    longest : int
        Number of characters that are kept.

    Returns
    -------
    str
        Line ends and other spaces are blanks; control characters, escape sequences, changes of the writing direction
        and bytes that are no text are question marks. Letters of every script stay.
    """
    shown = text if len(text) <= longest else f"{text[: longest - 4]} ..."
    if shown.isprintable():
        return shown
    return "".join(c if c.isprintable() else " " if c.isspace() else "?" for c in shown)


def without_paths(text: str) -> str:
    """Text of a library in which whatever of a line may be a path, blanks included, is left out."""
    return _WITH_PATH.sub("[path]", text)
