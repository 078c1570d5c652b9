"""Bring a label map onto its image's grid, in patient space; array order decides nothing."""

from __future__ import annotations

from LiverMarginLib.errors import GeometryError
from LiverMarginLib.resampling import resample_labels
from LiverMarginLib.volume import Geometry, LabelMap, axial_view

_LEAST_OVERLAP = 0.05


def labels_on_grid(labels: LabelMap, geometry: Geometry) -> tuple[LabelMap, str]:
    """Move a label map to another grid.

    Parameters
    ----------
    labels : LabelMap
    geometry : Geometry
        Grid of the image.

    Returns
    -------
    LabelMap
        On `geometry`. A label map with other axis order or flips is reordered exactly; any other is resampled by
        the nearest neighbour.
    str
        What was done, one sentence; empty if nothing.

    Raises
    ------
    GeometryError
        If the two hardly overlap.
    """
    if labels.geometry.agrees_with(geometry):
        return LabelMap(labels.array, geometry, labels.segments, labels.provenance), ""
    source, target = axial_view(labels.geometry), axial_view(geometry)
    if source.geometry.agrees_with(target.geometry):
        array = target.from_view(source.to_view(labels.array))
        note = "The label map has another axis order than the image; it was reordered by its position in the patient."
        return LabelMap(array, geometry, labels.segments, labels.provenance), note
    if labels.geometry.overlap_fraction(geometry) < _LEAST_OVERLAP:
        raise GeometryError("The label map lies outside its image; check that the two belong together.")
    note = "The label map has another grid than the image; it was resampled to it by the nearest neighbour."
    return resample_labels(labels, geometry), note
