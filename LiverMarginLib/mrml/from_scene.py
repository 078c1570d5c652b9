"""Out of 3D Slicer's scene: images and segmentations as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from LiverMarginLib.errors import InputError
from LiverMarginLib.mrml.grids import check_not_moved, empty_image, geometry_of, segmentation_geometry, voxels_of
from LiverMarginLib.terminology import Segment, Terminology
from LiverMarginLib.volume import Geometry, IntensityKind, LabelMap, Modality, Volume

BINARY = "Binary labelmap"
MODALITY = "DICOM.Modality"  # the attribute that Slicer's DICOM reader sets
_HOUNSFIELD = "[hnsf'U]"  # UCUM code that Slicer's DICOM reader gives to the voxels of a CT


def volume_from_node(node: Any, modality: Modality | None = None) -> Volume:
    """Take an image out of the scene.

    Parameters
    ----------
    node : vtkMRMLScalarVolumeNode
    modality : Modality, optional
        What the user says it is; None asks the node (see `modality_of`).

    Returns
    -------
    Volume
        Its array is a view of the node's voxels, shape (k, j, i), not a copy.

    Raises
    ------
    InputError
        If the node holds no voxels, or colours.
    GeometryError
        If a transform moves the volume.
    """
    array = voxels_of(node)
    modality = modality_of(node) if modality is None else modality
    intensity = IntensityKind.HU if modality is Modality.CT else IntensityKind.ARBITRARY
    return Volume(array, geometry_of(node), modality, intensity)


def modality_of(node: Any) -> Modality:
    """Return what the DICOM headers said of a volume: its own attribute, its units, or the subject hierarchy's."""
    import slicer

    units = node.GetVoxelValueUnits()
    if units is not None and units.GetCodeValue() == _HOUNSFIELD:
        return Modality.CT
    named = [node.GetAttribute(MODALITY)]
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(node.GetScene())
    if hierarchy is not None and (item := hierarchy.GetItemByDataNode(node)):
        named.append(hierarchy.GetItemAttribute(item, MODALITY))
    for name in named:
        if name in (Modality.CT, Modality.MR):
            return Modality(name)
    return Modality.UNKNOWN


def labels_from_node(node: Any, segments: Sequence[str] | None = None, reference: Any = None) -> LabelMap:
    """Take a segmentation out of the scene, whatever kind of node holds it.

    Parameters
    ----------
    node : vtkMRMLSegmentationNode, vtkMRMLLabelMapVolumeNode or vtkMRMLScalarVolumeNode
        Label values of a volume are kept. Those of a segmentation are given anew, 1, 2, ... in the order of
        `segments`, because the node's own ones change whenever its layers are joined.
    segments : sequence of str, optional
        Segment IDs of a segmentation; None takes all. Where segments overlap the later one wins, and a sentence
        under ``notes`` of the provenance says so.
    reference : vtkMRMLScalarVolumeNode, optional
        The volume on whose grid a segmentation is wanted; by default the segmentation's own reference geometry.

    Returns
    -------
    LabelMap

    Raises
    ------
    InputError
        If there are no voxels or no such segment, or the voxels are not labels.
    GeometryError
        If a transform moves the node.
    """
    if node.IsA("vtkMRMLSegmentationNode"):
        return _labels_from_segmentation(node, segments, reference)
    from LiverMarginLib.io.label_readers import as_labels

    array = as_labels(voxels_of(node))
    named = _named_values(node, array) if node.IsA("vtkMRMLLabelMapVolumeNode") else ()
    return LabelMap(array, geometry_of(node), named)


def describe_segment(segment: Any, label: int) -> Segment:
    """Read name, colour and terminology of a vtkSegment; `label` is the value that it shall have."""
    import slicer
    import vtk

    entry = vtk.mutable("")
    segment.GetTag(slicer.vtkSegment.GetTerminologyEntryTagName(), entry)
    return Segment(label, segment.GetName(), _as_bytes(segment.GetColor()), Terminology.from_slicer(str(entry)))


def _labels_from_segmentation(node: Any, segments: Sequence[str] | None, reference: Any) -> LabelMap:
    check_not_moved(node)
    segmentation = node.GetSegmentation()
    names = [segmentation.GetNthSegmentID(n) for n in range(segmentation.GetNumberOfSegments())]
    chosen = names if segments is None else list(segments)
    missing = [name for name in chosen if name not in names]
    if missing or not chosen:
        raise InputError(
            f"The segmentation {node.GetName()!r} has no segment {', '.join(missing)}; choose another."
            if missing
            else f"The segmentation {node.GetName()!r} is empty; choose another."
        )
    geometry = geometry_of(reference) if reference is not None else segmentation_geometry(node)
    labels = np.zeros(geometry.shape, np.uint8 if len(chosen) < 256 else np.uint16)
    described, overlapping = [], 0
    for label, name in enumerate(chosen, start=1):
        mask = _segment_mask(node, name, geometry)
        overlapping += int(np.count_nonzero(labels[mask]))
        labels[mask] = label
        described.append(describe_segment(segmentation.GetSegment(name), label))
    notes = [f"{overlapping} voxels belong to several segments; the last of them was kept."] if overlapping else []
    return LabelMap(labels, geometry, tuple(described), {"notes": notes} if notes else {})


def _segment_mask(node: Any, name: str, geometry: Geometry) -> npt.NDArray[np.bool_]:
    """Voxels of a segment on a grid, nearest neighbour where its own grid is another."""
    import slicer
    from vtk.util.numpy_support import vtk_to_numpy

    image = slicer.vtkOrientedImageData()
    # Every segment that was drawn or computed has voxels; making them for one that has not would change the scene.
    if not node.GetSegmentation().GetSegment(name).GetRepresentation(BINARY):
        raise InputError(
            f"A segment of {node.GetName()!r} is a surface without voxels; create its binary labelmap in the "
            "Segmentations module first."
        )
    node.GetBinaryLabelmapRepresentation(name, image)
    if image.IsEmpty():
        return np.zeros(geometry.shape, np.bool_)
    resampled = slicer.vtkOrientedImageData()
    slicer.vtkOrientedImageDataResample.ResampleOrientedImageToReferenceOrientedImage(
        image, empty_image(geometry), resampled, False, False
    )
    return np.asarray(vtk_to_numpy(resampled.GetPointData().GetScalars()).reshape(geometry.shape) != 0)


def _named_values(node: Any, array: npt.NDArray[Any]) -> tuple[Segment, ...]:
    """What the colour table of a label map says of the values that occur in it."""
    display = node.GetDisplayNode()
    table = display.GetColorNode() if display is not None else None
    if table is None:
        return ()
    segments = []
    for value in (int(value) for value in np.unique(array) if 0 < value < table.GetNumberOfColors()):
        colour = [0.0, 0.0, 0.0, 0.0]
        table.GetColor(value, colour)
        segments.append(Segment(value, table.GetColorName(value) or str(value), _as_bytes(colour)))
    return tuple(segments)


def _as_bytes(colour: Sequence[float]) -> tuple[int, int, int]:
    red, green, blue = (round(255 * part) for part in colour[:3])
    return red, green, blue
