"""One colour and one kind of line per model, the same in every picture, plot, report and Slicer view."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

REFERENCE = "#2f7fe0"  # blue
_DETECTRON2 = "#25a244"  # green
_UNET = "#e02f2f"  # red

# Okabe and Ito's colour-blind-safe set without its blue, green and red-orange, which are taken.
_OTHERS = ("#e69f00", "#cc79a7", "#f0e442", "#56b4e9", "#999999")

# Lengths of dashes and gaps in line widths. Green and red look alike to one man in twelve.
_DASHES: tuple[tuple[float, ...], ...] = ((), (4.0, 1.6), (1.2, 1.4), (6.0, 1.6, 1.2, 1.6), (8.0, 3.0))
_MARKERS = ("o", "s", "^", "D", "v")


def model_colours(names: Iterable[str]) -> dict[str, str]:
    """Choose a colour for each model.

    Parameters
    ----------
    names : iterable of str
        Models in the order of the comparison.

    Returns
    -------
    dict of str to str
        ``#rrggbb`` by name: the first Mask R-CNN green, the first U-Net red, others by a colour-blind-safe cycle.
    """
    colours: dict[str, str] = {}
    free = list(_OTHERS)
    for name in names:
        wanted = None
        lowered = name.lower()
        if any(word in lowered for word in ("detectron", "maskrcnn", "mask-rcnn", "mask_rcnn", "mask r-cnn")):
            wanted = _DETECTRON2
        elif "unet" in lowered or "u-net" in lowered:
            wanted = _UNET
        if wanted is None or wanted in colours.values():
            wanted = free.pop(0)
            free.append(wanted)
        colours[name] = wanted
    return colours


@dataclass(frozen=True)
class ModelStyle:
    """How a model is drawn, so that it is told apart without its colour too.

    Parameters
    ----------
    colour : str
        ``#rrggbb``.
    dashes : tuple of float
        Lengths of dashes and gaps in line widths; empty for a solid line.
    marker : str
        matplotlib's sign for it.
    """

    colour: str
    dashes: tuple[float, ...]
    marker: str

    @property
    def line(self) -> Literal["-"] | tuple[float, tuple[float, ...]]:
        """The dashes as matplotlib's ``linestyle``."""
        return (0.0, self.dashes) if self.dashes else "-"


def model_styles(names: Iterable[str]) -> dict[str, ModelStyle]:
    """Choose a style for each model, by name; colours as in `model_colours`."""
    return {
        name: ModelStyle(colour, _DASHES[n % len(_DASHES)], _MARKERS[n % len(_MARKERS)])
        for n, (name, colour) in enumerate(model_colours(names).items())
    }
