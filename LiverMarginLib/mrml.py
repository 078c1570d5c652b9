"""Between 3D Slicer's scene and our arrays: the only file of the library that touches `slicer`.

`slicer` is imported inside functions, so that this file loads in any Python. Nothing here needs Slicer's window:
it works with PyPI's slicer-core as well, which is how it is tested.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from LiverMarginLib.errors import GeometryError, InputError
from LiverMarginLib.terminology import Segment, Terminology
from LiverMarginLib.volume import Geometry, IntensityKind, LabelMap, Modality, Volume, axial_view

_BINARY = "Binary labelmap"
_MODALITY = "DICOM.Modality"  # the attribute that Slicer's DICOM reader sets
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
    array = _voxels(node)
    modality = modality_of(node) if modality is None else modality
    intensity = IntensityKind.HU if modality is Modality.CT else IntensityKind.ARBITRARY
    return Volume(array, geometry_of(node), modality, intensity)


def volume_to_node(volume: Volume, scene: Any, name: str) -> Any:
    """Put an image into the scene.

    Parameters
    ----------
    volume : Volume
    scene : vtkMRMLScene
    name : str

    Returns
    -------
    vtkMRMLScalarVolumeNode
        It holds a copy of the voxels. A CT is shown with the window of soft tissue (400 HU at 40 HU).
    """
    import vtk
    from vtk.util.numpy_support import numpy_to_vtk

    # VTK has no boolean, and no floating point numbers of half precision.
    array = volume.array.astype({"b": np.uint8, "f": np.float32}.get(volume.array.dtype.kind, volume.array.dtype))
    image = vtk.vtkImageData()
    image.SetDimensions(*array.shape[::-1])
    image.GetPointData().SetScalars(numpy_to_vtk(np.ascontiguousarray(array).ravel(), deep=True))
    node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    node.SetAndObserveImageData(image)
    node.SetIJKToRASMatrix(_matrix_from_array(volume.geometry.ijk_to_ras))
    if volume.modality is not Modality.UNKNOWN:
        node.SetAttribute(_MODALITY, volume.modality.value)
    node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    if display is not None and volume.intensity is IntensityKind.HU:
        display.SetAutoWindowLevel(False)
        display.SetWindowLevel(400, 40)
    return node


def modality_of(node: Any) -> Modality:
    """Return what the DICOM headers said of a volume: its own attribute, its units, or the subject hierarchy's."""
    import slicer

    units = node.GetVoxelValueUnits()
    if units is not None and units.GetCodeValue() == _HOUNSFIELD:
        return Modality.CT
    named = [node.GetAttribute(_MODALITY)]
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(node.GetScene())
    if hierarchy is not None and (item := hierarchy.GetItemByDataNode(node)):
        named.append(hierarchy.GetItemAttribute(item, _MODALITY))
    for name in named:
        if name in (Modality.CT, Modality.MR):
            return Modality(name)
    return Modality.UNKNOWN


def geometry_of(node: Any) -> Geometry:
    """Return the grid of a volume node.

    Raises
    ------
    GeometryError
        If a transform moves the volume: whether its result belongs to the moved or to the stored place cannot be
        guessed.
    InputError
        If the node holds no voxels.
    """
    import vtk

    _check_not_moved(node)
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return Geometry(_voxels(node).shape, _array_from_matrix(matrix))


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

    array = as_labels(_voxels(node))
    named = _named_values(node, array) if node.IsA("vtkMRMLLabelMapVolumeNode") else ()
    return LabelMap(array, geometry_of(node), named)


def describe_segment(segment: Any, label: int) -> Segment:
    """Read name, colour and terminology of a vtkSegment; `label` is the value that it shall have."""
    import slicer
    import vtk

    entry = vtk.mutable("")
    segment.GetTag(slicer.vtkSegment.GetTerminologyEntryTagName(), entry)
    return Segment(label, segment.GetName(), _as_bytes(segment.GetColor()), Terminology.from_slicer(str(entry)))


def new_segmentation(volume: Any, name: str) -> Any:
    """Add an empty segmentation to the scene of a volume, on its grid and beside it in the subject hierarchy.

    Parameters
    ----------
    volume : vtkMRMLScalarVolumeNode
    name : str

    Returns
    -------
    vtkMRMLSegmentationNode
        With what 3D Slicer's DICOM SEG export wants: the reference volume, and a place under the same study.
    """
    import slicer

    scene = volume.GetScene()
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    node.SetNodeReferenceID(node.GetReferenceImageGeometryReferenceRole(), volume.GetID())
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    if hierarchy is not None and (item := hierarchy.GetItemByDataNode(volume)):
        hierarchy.SetItemParent(hierarchy.GetItemByDataNode(node), hierarchy.GetItemParent(item))
    return node


def check_output(node: Any, volume: Any) -> None:
    """Make sure that segments on the grid of a volume can be added to a segmentation.

    An empty segmentation without a grid is given that of the volume.

    Parameters
    ----------
    node : vtkMRMLSegmentationNode
    volume : vtkMRMLScalarVolumeNode

    Raises
    ------
    GeometryError
        If a transform moves one of them, or the segmentation lies on another grid.
    """
    _check_not_moved(node)
    grid = geometry_of(volume)
    text = _grid_text(node)
    if not text:
        node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
        node.SetNodeReferenceID(node.GetReferenceImageGeometryReferenceRole(), volume.GetID())
    elif not _own_geometry(node).agrees_with(grid):
        raise GeometryError(
            f"The segmentation {node.GetName()!r} lies on another grid than the volume {volume.GetName()!r}; "
            "choose a new segmentation as output."
        )


def discard(node: Any) -> None:
    """Take a segmentation out of its scene together with its display and storage, which stay behind otherwise."""
    scene = node.GetScene()
    companions = [node.GetNthDisplayNode(n) for n in range(node.GetNumberOfDisplayNodes())]
    companions += [node.GetNthStorageNode(n) for n in range(node.GetNumberOfStorageNodes())]
    for each in (node, *companions):
        if each is not None and each.GetScene() is scene:
            scene.RemoveNode(each)


def labels_to_node(labels: LabelMap, volume: Any, name: str, node: Any = None) -> Any:
    """Put a segmentation into the scene.

    Parameters
    ----------
    labels : LabelMap
    volume : vtkMRMLScalarVolumeNode
        The image that was segmented.
    name : str
        Of the new segmentation node.
    node : vtkMRMLSegmentationNode, optional
        An existing one to which the segments are added.

    Returns
    -------
    vtkMRMLSegmentationNode
    """
    node = new_segmentation(volume, name) if node is None else node
    SegmentLayers(node, labels.geometry, labels.segments).finish(labels)
    return node


class SegmentLayers:
    """New segments of a segmentation node, filled slice by slice or as a whole.

    Each segment has a layer and a buffer of its own: writing a slice is then a copy of one slice (0.2 ms of 512 x 512
    voxels, where setting the whole segment takes 263 ms), and overlapping segments cannot overwrite each other.

    Parameters
    ----------
    node : vtkMRMLSegmentationNode
    geometry : Geometry
        Grid of the labels that will come.
    segments : sequence of Segment
        What to add. Existing segments of the node are never touched, not even those of the same name.

    Raises
    ------
    GeometryError
        If a transform moves the segmentation.
    """

    def __init__(self, node: Any, geometry: Geometry, segments: Sequence[Segment]) -> None:
        _check_not_moved(node)
        self.node = node
        self.geometry = geometry
        self.segments = tuple(segments)
        self._view = axial_view(geometry)
        self._layers = [_Layer(segment, geometry, node.GetSegmentation()) for segment in self.segments]

    @property
    def segment_ids(self) -> tuple[str, ...]:
        """IDs of the segments in the node, in the order of `segments`."""
        return tuple(layer.name for layer in self._layers)

    def show_slice(self, index: int, labels: npt.NDArray[Any]) -> None:
        """Copy one axial slice of `labels` into the segments; `redraw` shows it.

        Parameters
        ----------
        index : int
            Counted along the first axis of the axial view, as `SliceReady` does.
        labels : ndarray of integers, shape (k, j, i)
            The whole label array on the grid of the segments, of which one slice is read.
        """
        plane = self._view.to_view(labels)[index]
        for layer in self._layers:
            if layer.untouched(self.node.GetSegmentation()):
                self._view.to_view(layer.buffer)[index] = plane == layer.segment.label
                layer.image.Modified()

    def redraw(self) -> None:
        """Let the views show what was written; nothing else makes them notice a changed buffer."""
        if self.node.GetDisplayNode() is not None:
            self.node.GetDisplayNode().Modified()

    def finish(self, labels: LabelMap) -> None:
        """Set the segments to their final voxels, and tag them with the provenance.

        A segment that the user has edited or removed meanwhile is replaced by the result.
        """
        from LiverMarginLib.io.segment_table import PROVENANCE_KEY, provenance_text

        segmentation = self.node.GetSegmentation()
        for number, layer in enumerate(self._layers):
            if not layer.untouched(segmentation):
                segmentation.RemoveSegment(layer.name)
                layer = self._layers[number] = _Layer(layer.segment, self.geometry, segmentation)
            layer.buffer[...] = labels.array == layer.segment.label
            if labels.provenance:
                segmentation.GetSegment(layer.name).SetTag(PROVENANCE_KEY, provenance_text(labels.provenance))
            layer.image.Modified()
        self.redraw()

    def remove(self) -> None:
        """Take the segments out of the node again."""
        for layer in self._layers:
            self.node.GetSegmentation().RemoveSegment(layer.name)


class _Layer:
    """One segment with a voxel buffer of its own, and whether the node still shows that buffer."""

    def __init__(self, segment: Segment, geometry: Geometry, segmentation: Any) -> None:
        import slicer
        import vtk
        from vtk.util.numpy_support import vtk_to_numpy

        self.segment = segment
        self.image = _grid(geometry)
        self.image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
        self._extent = self.image.GetExtent()
        self._scalars = self.image.GetPointData().GetScalars()
        self.buffer = vtk_to_numpy(self._scalars).reshape(geometry.shape)
        self.buffer[...] = 0

        new = slicer.vtkSegment()
        new.SetName(segment.name)
        new.SetColor(*(part / 255 for part in segment.colour))
        if segment.terminology is not None:
            new.SetTag(slicer.vtkSegment.GetTerminologyEntryTagName(), segment.terminology.to_slicer())
        # With another label value than the one that the buffer holds, the segment would be read back empty.
        new.SetLabelValue(1)
        new.AddRepresentation(_BINARY, self.image)
        self.name: str = segmentation.GenerateUniqueSegmentID(segment.name)
        segmentation.AddSegment(new, self.name)

    def untouched(self, segmentation: Any) -> bool:
        """Whether writing into the buffer still changes the segment; an edit may replace or crop its image."""
        segment = segmentation.GetSegment(self.name)
        return (
            segment is not None
            and segment.GetRepresentation(_BINARY) is self.image
            and self.image.GetExtent() == self._extent
            and self.image.GetPointData().GetScalars() is self._scalars
        )


def _labels_from_segmentation(node: Any, segments: Sequence[str] | None, reference: Any) -> LabelMap:
    _check_not_moved(node)
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
    geometry = geometry_of(reference) if reference is not None else _own_geometry(node)
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
    if not node.GetSegmentation().GetSegment(name).GetRepresentation(_BINARY):
        raise InputError(
            f"A segment of {node.GetName()!r} is a surface without voxels; create its binary labelmap in the "
            "Segmentations module first."
        )
    node.GetBinaryLabelmapRepresentation(name, image)
    if image.IsEmpty():
        return np.zeros(geometry.shape, np.bool_)
    resampled = slicer.vtkOrientedImageData()
    slicer.vtkOrientedImageDataResample.ResampleOrientedImageToReferenceOrientedImage(
        image, _grid(geometry), resampled, False, False
    )
    return np.asarray(vtk_to_numpy(resampled.GetPointData().GetScalars()).reshape(geometry.shape) != 0)


def _own_geometry(node: Any) -> Geometry:
    """The reference geometry of a segmentation, or the smallest grid that holds all of it."""
    import slicer
    import vtk

    text = _grid_text(node)
    image = slicer.vtkOrientedImageData()
    if not text or not slicer.vtkSegmentationConverter.DeserializeImageGeometry(text, image, False):
        raise InputError(f"The segmentation {node.GetName()!r} has no voxels; choose another.")
    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    i, i_end, j, j_end, k, k_end = image.GetExtent()
    to_first = np.eye(4)
    to_first[:3, 3] = i, j, k
    return Geometry((k_end - k + 1, j_end - j + 1, i_end - i + 1), _array_from_matrix(matrix) @ to_first)


def _grid_text(node: Any) -> str:
    """Slicer's description of a segmentation's grid; empty if it has none."""
    import slicer

    segmentation = node.GetSegmentation()
    text: str = segmentation.GetConversionParameter(
        slicer.vtkSegmentationConverter.GetReferenceImageGeometryParameterName()
    ) or segmentation.DetermineCommonLabelmapGeometry(slicer.vtkSegmentation.EXTENT_UNION_OF_SEGMENTS, None)
    return text


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


def _voxels(node: Any) -> npt.NDArray[Any]:
    from vtk.util.numpy_support import vtk_to_numpy

    image = node.GetImageData()
    if image is None or image.GetPointData().GetScalars() is None:
        raise InputError(f"The volume {node.GetName()!r} holds no voxels; choose another.")
    if image.GetNumberOfScalarComponents() != 1:
        raise InputError(f"The volume {node.GetName()!r} is a colour image; choose a CT or MR.")
    return np.asarray(vtk_to_numpy(image.GetPointData().GetScalars()).reshape(image.GetDimensions()[::-1]))


def _check_not_moved(node: Any) -> None:
    if node.GetParentTransformNode() is not None:
        raise GeometryError(
            f"A transform moves {node.GetName()!r}; harden the transform or remove it in the Transforms module first."
        )


def _grid(geometry: Geometry) -> Any:
    """An image on a grid, without voxels."""
    import slicer

    k, j, i = geometry.shape
    image = slicer.vtkOrientedImageData()
    image.SetExtent(0, i - 1, 0, j - 1, 0, k - 1)
    image.SetGeometryFromImageToWorldMatrix(_matrix_from_array(geometry.ijk_to_ras))
    return image


def _matrix_from_array(array: npt.NDArray[np.float64]) -> Any:
    import vtk

    matrix = vtk.vtkMatrix4x4()
    matrix.DeepCopy(array.ravel().tolist())
    return matrix


def _array_from_matrix(matrix: Any) -> npt.NDArray[np.float64]:
    return np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])
