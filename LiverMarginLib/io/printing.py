"""Surfaces that can be printed: built, checked, and built again more carefully where the check finds a fault.

What the check still finds then is for the caller to refuse or to say; see docs/printing.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from vtkmodules.vtkCommonDataModel import vtkPolyData

from LiverMarginLib.errors import InputError
from LiverMarginLib.events import CancelToken
from LiverMarginLib.io.surface_arrays import polydata, triangle_arrays
from LiverMarginLib.io.surface_checks import PrintCheck, check_for_printing, weld
from LiverMarginLib.io.surfaces import closed_surface
from LiverMarginLib.terminology import Segment
from LiverMarginLib.volume import Geometry, LabelMap

Mask = npt.NDArray[np.bool_]

DEFAULT_TRIANGLES = 200_000
DEFAULT_SMOOTHING = 0.6
# Names of the patient's directions along +R, +A, +S and against them.
_SIDES = (("right", "anterior", "superior"), ("left", "posterior", "inferior"))


@dataclass(frozen=True)
class PrintOptions:
    """How a surface is made.

    Parameters
    ----------
    max_triangles : int
        Budget of a segment's surface.
    smoothing : float
        0 (none) to 1 (strong), as for `closed_surface`; taken as the most: less is used where more would break the
        limits on volume and deviation, or make the surface cut through itself.
    largest_piece : bool
        Keep only the largest piece of face-connected voxels.
    fill_cavities : bool
        Fill what is enclosed on all sides.
    """

    max_triangles: int = DEFAULT_TRIANGLES
    smoothing: float = DEFAULT_SMOOTHING
    largest_piece: bool = False
    fill_cavities: bool = False


@dataclass(frozen=True)
class PrintSurface:
    """A segment's surface and what is known of it.

    Parameters
    ----------
    segment : Segment
    surface : vtkPolyData
        Triangles in RAS mm, the points rounded and joined as the file will hold them.
    check : PrintCheck
    smoothing : float
        That was used.
    capped : tuple of str
        Sides on which the segment touches the border of the image, such as "superior": the surface is closed there,
        where the organ may go on.
    notes : tuple of str
        One sentence each on what a person should know though it is no fault.
    faults : tuple of str
        What keeps the surface from being printed, as parts of a sentence; empty if nothing does.
    """

    segment: Segment
    surface: vtkPolyData
    check: PrintCheck
    smoothing: float
    capped: tuple[str, ...]
    notes: tuple[str, ...]
    faults: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a report."""
        return {
            "label": self.segment.label,
            "name": self.segment.name,
            "printable": not self.faults,
            **self.check.to_dict(),
            "faults": list(self.faults),
            "smoothing": self.smoothing,
            "capped": list(self.capped),
            "notes": list(self.notes),
        }


def print_surface(
    labels: LabelMap, segment: Segment, options: PrintOptions, cancel: CancelToken | None = None
) -> PrintSurface:
    """Build the surface of a segment and check it against the voxels.

    The first try is the surface as asked for. Where it has faults, the steps that made triangles cross are taken back
    locally, and then the smoothing is lowered; the first surface without a fault is returned, or else that with the
    fewest.

    Parameters
    ----------
    labels : LabelMap
    segment : Segment
        One of its labels, with or without a meaning.
    options : PrintOptions
    cancel : CancelToken, optional

    Returns
    -------
    PrintSurface

    Raises
    ------
    InputError
        If the segment has no voxels, or an option is out of range.
    """
    mask = _chosen_voxels(labels.mask(segment.label), options)
    limit = options.smoothing
    best: tuple[vtkPolyData, PrintCheck, float] | None = None
    for smoothing, untangle in dict.fromkeys(((limit, False), (limit, True), (limit / 2, True), (0.0, True))):
        if cancel is not None:
            cancel.check()
        surface = closed_surface(
            mask, labels.geometry, smoothing=smoothing, max_triangles=options.max_triangles, untangle=untangle
        )
        check = check_for_printing(surface, mask, labels.geometry)
        if best is None or len(check.faults()) < len(best[1].faults()):
            best = surface, check, smoothing
        if not check.faults():
            break
    assert best is not None
    surface, check, smoothing = best
    capped = _touched_sides(mask, labels.geometry)
    faults = check.faults()
    if labels.provenance.get("spacing_known") is False:
        faults += ("an unknown voxel spacing, so that its size means nothing",)
    notes = tuple(_notes(segment.name, check, capped, smoothing, options))
    return PrintSurface(segment, polydata(*weld(*triangle_arrays(surface))), check, smoothing, capped, notes, faults)


def refuse_faults(surfaces: list[PrintSurface]) -> None:
    """Refuse surfaces that cannot be printed as they are.

    Raises
    ------
    InputError
        If any has a fault; the sentence says which.
    """
    for found in surfaces:
        if found.faults:
            raise InputError(
                f"The surface of {found.segment.name} is not fit for printing: it has {', '.join(found.faults)}; mend "
                "the segmentation there, choose another triangle budget or smoothing, or allow faults.",
                details=f"label {found.segment.label}",
            )


def _chosen_voxels(mask: Mask, options: PrintOptions) -> Mask:
    """Return `mask`, or a copy with what the options leave out or fill in."""
    boxes = ndimage.find_objects(mask.astype(np.uint8))
    if not boxes or not (options.largest_piece or options.fill_cavities):
        return mask
    part = mask[boxes[0]]
    if options.largest_piece:
        pieces, count = ndimage.label(part)
        if count > 1:
            part = pieces == 1 + np.argmax(np.bincount(pieces.ravel())[1:])
    if options.fill_cavities:
        part = ndimage.binary_fill_holes(part)
    chosen = np.zeros_like(mask)
    chosen[boxes[0]] = part
    return chosen


def _touched_sides(mask: Mask, geometry: Geometry) -> tuple[str, ...]:
    """Name the borders of the image, by the patient's nearest direction, on which the mask has voxels."""
    sides = []
    for axis in range(3):
        direction = geometry.directions[:, 2 - axis]
        nearest = int(np.argmax(np.abs(direction)))
        for end in (0, -1):
            if mask.take(end, axis=axis).any():
                outwards = direction[nearest] * (1 if end else -1)
                sides.append(_SIDES[0 if outwards > 0 else 1][nearest])
    return tuple(sides)


def _notes(name: str, check: PrintCheck, capped: tuple[str, ...], smoothing: float, options: PrintOptions) -> list[str]:
    notes = []
    if capped:
        notes.append(
            f"{name} touches the {', '.join(capped)} border of the image; its surface is closed there with a flat cap, "
            "and the organ may go on."
        )
    if smoothing < options.smoothing:
        notes.append(
            f"The smoothing of {name} was lowered from {options.smoothing:g} to {smoothing:g}, because more of it "
            "broke a limit."
        )
    if check.mesh.triangles > options.max_triangles:
        notes.append(
            f"{name} keeps {check.mesh.triangles} triangles; fewer, as the budget of {options.max_triangles} asks, "
            "would change its topology."
        )
    if check.shells > 1:
        notes.append(
            f"{name} has {check.shells} separate shells; the largest holds {check.largest_shell_share:.2%} of the "
            "volume."
        )
    if check.cavities:
        notes.append(f"{name} encloses {check.cavities} hollow(s), in which resin or powder stays when printed.")
    return notes
