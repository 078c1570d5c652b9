"""Procedural abdominal CT and MR with exact labels: the demo's picture, the tests' data and the first training set."""

from __future__ import annotations

from LiverMarginLib.phantom.anatomy import Anatomy, make_anatomy
from LiverMarginLib.phantom.generate import Phantom, make_phantom, render
from LiverMarginLib.phantom.options import Arms, LesionKind, MrSequence, PhantomOptions, Phase, Region
from LiverMarginLib.phantom.organs import ORGANS, Organ, liver_target
from LiverMarginLib.phantom.sheet import contact_sheet, preview_row, stack_rows

__all__ = [
    "ORGANS",
    "Anatomy",
    "Arms",
    "LesionKind",
    "MrSequence",
    "Organ",
    "Phantom",
    "PhantomOptions",
    "Phase",
    "Region",
    "contact_sheet",
    "liver_target",
    "make_anatomy",
    "make_phantom",
    "preview_row",
    "render",
    "stack_rows",
]
