"""One colour per model, the same in every picture, plot, report and Slicer view."""

from __future__ import annotations

from collections.abc import Iterable

REFERENCE = "#2f7fe0"  # blue
_DETECTRON2 = "#25a244"  # green
_UNET = "#e02f2f"  # red

# Okabe and Ito's colour-blind-safe set without its blue, green and red-orange, which are taken.
_OTHERS = ("#e69f00", "#cc79a7", "#f0e442", "#56b4e9", "#999999")


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
        if any(word in lowered for word in ("detectron", "maskrcnn", "mask-rcnn", "mask_rcnn")):
            wanted = _DETECTRON2
        elif "unet" in lowered or "u-net" in lowered:
            wanted = _UNET
        if wanted is None or wanted in colours.values():
            wanted = free.pop(0)
            free.append(wanted)
        colours[name] = wanted
    return colours
