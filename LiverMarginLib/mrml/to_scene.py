"""Into 3D Slicer's scene: images and segmentations as nodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from LiverMarginLib.errors import GeometryError
from LiverMarginLib.mrml.from_scene import BINARY, MODALITY
from LiverMarginLib.mrml.grids import (
    check_not_moved,
    empty_image,
    geometry_of,
    grid_text,
    matrix_from_array,
    segmentation_geometry,
)
from LiverMarginLib.terminology import Segment
from LiverMarginLib.volume import Geometry, IntensityKind, LabelMap, Modality, Volume, axial_view


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
    node.SetIJKToRASMatrix(matrix_from_array(volume.geometry.ijk_to_ras))
    if volume.modality is not Modality.UNKNOWN:
        node.SetAttribute(MODALITY, volume.modality.value)
    node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    if display is not None and volume.intensity is IntensityKind.HU:
        display.SetAutoWindowLevel(False)
        display.SetWindowLevel(400, 40)
    return node


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
    check_not_moved(node)
    grid = geometry_of(volume)
    text = grid_text(node)
    if not text:
        node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
        node.SetNodeReferenceID(node.GetReferenceImageGeometryReferenceRole(), volume.GetID())
    elif not segmentation_geometry(node).agrees_with(grid):
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
        check_not_moved(node)
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
        self.image = empty_image(geometry)
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
        new.AddRepresentation(BINARY, self.image)
        self.name: str = segmentation.GenerateUniqueSegmentID(segment.name)
        segmentation.AddSegment(new, self.name)

    def untouched(self, segmentation: Any) -> bool:
        """Whether writing into the buffer still changes the segment; an edit may replace or crop its image."""
        segment = segmentation.GetSegment(self.name)
        return (
            segment is not None
            and segment.GetRepresentation(BINARY) is self.image
            and self.image.GetExtent() == self._extent
            and self.image.GetPointData().GetScalars() is self._scalars
        )
