"""HTML put together from elements, so that whatever a name contains is text and never markup."""

from __future__ import annotations

import html
from collections.abc import Iterable

# Elements of HTML that have no end tag; those of SVG all have one.
_VOID = {"br", "img", "input", "meta"}


class Html(str):
    """Text that is markup already; every other string is escaped where it is used."""

    __slots__ = ()


def tag(name: str, /, *children: object, **attributes: object) -> Html:
    """Make an element.

    Parameters
    ----------
    name : str
        Of the element.
    children : object
        Elements (`Html`) and texts, which are escaped; None is left out.
    attributes : object
        ``class_`` and ``for_`` lose their underscore, others get hyphens for it. None and False are left out; True
        makes an attribute without a value.
    """
    written = [name]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        key = key.rstrip("_").replace("_", "-")
        written.append(key if value is True else f'{key}="{html.escape(str(value))}"')
    start = f"<{' '.join(written)}>"
    return Html(start) if name in _VOID else Html(f"{start}{together(children)}</{name}>")


def together(children: Iterable[object]) -> Html:
    """Put elements and texts one after the other."""
    return Html("".join(c if isinstance(c, Html) else html.escape(str(c)) for c in children if c is not None))
