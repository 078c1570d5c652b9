"""Figures as parts of a page that needs no other file."""

from __future__ import annotations

import base64
import html
import io
import re
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from LiverMarginLib.report.markup import Html

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# matplotlib writes creator and date into every file; without them the same figures are the same bytes.
_NO_METADATA = {"Creator": None, "Date": None, "Format": None, "Type": None}


def figure_svg(figure: Figure, prefix: str, label: str) -> Html:
    """A figure as a part of an HTML page.

    Parameters
    ----------
    figure : matplotlib Figure
    prefix : str
        Letters, digits and hyphens, different for each figure of a page: what its identifiers begin with.
    label : str
        What it shows, for those who cannot see it.

    Returns
    -------
    Html
        An ``<svg>`` element without prologue. Its text is drawn as shapes, so that it looks alike everywhere.
    """
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata=_NO_METADATA)
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = text.replace("<svg", f'<svg role="img" aria-label="{html.escape(label)}"', 1)
    # matplotlib's identifiers are random or counted from one in each figure: neither may meet another figure's.
    names: dict[str, str] = {}
    for match in re.finditer(r'\bid="([^"]+)"', text):
        names.setdefault(match.group(1), f"{prefix}-{len(names)}")

    def renamed(match: re.Match[str]) -> str:
        return f"{match.group(1)}{names.get(match.group(2), match.group(2))}{match.group(3)}"

    text = re.sub(r'(\bid=")([^"]+)(")', renamed, text)
    text = re.sub(r'(href="#)([^"]+)(")', renamed, text)
    return Html(re.sub(r"(url\(#)([^)]+)(\))", renamed, text))


def figure_png(figure: Figure, dpi: int = 130) -> str:
    """A figure as a ``data:`` address of a PNG with a palette, which is a third of the size."""
    from PIL import Image

    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=dpi, metadata={"Software": None})
    image = Image.open(stream).convert("RGB").quantize(colors=256, dither=Image.Dither.NONE)
    small = io.BytesIO()
    image.save(small, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(small.getvalue()).decode('ascii')}"


def grey_jpeg(grey: npt.NDArray[np.uint8]) -> str:
    """Grey values of shape (rows, columns) as a ``data:`` address of a JPEG without metadata."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(grey).save(stream, format="JPEG", quality=82, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"
