"""What tables, lists and the legend call the segmentations of a comparison: their names are long and begin alike."""

from __future__ import annotations

from collections.abc import Iterable

LONGEST = 24
"""Letters that a table or a legend has room for."""


def model_titles(names: Iterable[str]) -> dict[str, str]:
    """Name segmentations by the number of their slice view, and by what tells them apart.

    Parameters
    ----------
    names : iterable of str
        In the order of the slice views.

    Returns
    -------
    dict of str to str
        By name. Where a name is longer than `LONGEST`, the words that all names begin with are left out, and what is
        still too long loses its beginning.
    """
    names = list(names)
    skipped = _shared_words(names) if any(len(name) > LONGEST for name in names) else 0
    titles = {}
    for number, name in enumerate(names, start=1):
        titles[name] = f"{number}  {_cut(' '.join(name.split(' ')[skipped:]))}"
    return titles


def _shared_words(names: list[str]) -> int:
    """How many words all names begin with; the last word of a name is never one of them."""
    if len(names) < 2:
        return 0
    shared = 0
    for words in zip(*(name.split(" ")[:-1] for name in names), strict=False):
        if len(set(words)) > 1:
            break
        shared += 1
    return shared


def _cut(name: str) -> str:
    """The last words of a long name: results of models end with the model's name."""
    if len(name) <= LONGEST:
        return name
    words = name.split(" ")
    while len(words) > 1 and len(" ".join(words)) > LONGEST - 4:
        del words[0]
    return f"... {' '.join(words)[-LONGEST:]}"
