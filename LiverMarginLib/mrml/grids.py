"""Where the nodes of a scene lie, and their voxels."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from LiverMarginLib.errors import GeometryError, InputError
from LiverMarginLib.volume import Geometry


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

    check_not_moved(node)
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return Geometry(voxels_of(node).shape, array_from_matrix(matrix))


def segmentation_geometry(node: Any) -> Geometry:
    """The reference geometry of a segmentation node, or the smallest grid that holds all of it.

    Raises
    ------
    InputError
        If it has neither.
    """
    import slicer
    import vtk

    text = grid_text(node)
    image = slicer.vtkOrientedImageData()
    if not text or not slicer.vtkSegmentationConverter.DeserializeImageGeometry(text, image, False):
        raise InputError(f"The segmentation {node.GetName()!r} has no voxels; choose another.")
    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    i, i_end, j, j_end, k, k_end = image.GetExtent()
    to_first = np.eye(4)
    to_first[:3, 3] = i, j, k
    return Geometry((k_end - k + 1, j_end - j + 1, i_end - i + 1), array_from_matrix(matrix) @ to_first)


def grid_text(node: Any) -> str:
    """Slicer's description of a segmentation's grid; empty if it has none."""
    import slicer

    segmentation = node.GetSegmentation()
    text: str = segmentation.GetConversionParameter(
        slicer.vtkSegmentationConverter.GetReferenceImageGeometryParameterName()
    ) or segmentation.DetermineCommonLabelmapGeometry(slicer.vtkSegmentation.EXTENT_UNION_OF_SEGMENTS, None)
    return text


def voxels_of(node: Any) -> npt.NDArray[Any]:
    """View of a volume node's voxels, shape (k, j, i).

    Raises
    ------
    InputError
        If the node holds none, or colours.
    """
    from vtk.util.numpy_support import vtk_to_numpy

    image = node.GetImageData()
    if image is None or image.GetPointData().GetScalars() is None:
        raise InputError(f"The volume {node.GetName()!r} holds no voxels; choose another.")
    if image.GetNumberOfScalarComponents() != 1:
        raise InputError(f"The volume {node.GetName()!r} is a colour image; choose a CT or MR.")
    return np.asarray(vtk_to_numpy(image.GetPointData().GetScalars()).reshape(image.GetDimensions()[::-1]))


def check_not_moved(node: Any) -> None:
    """Refuse a node that a transform moves, with a `GeometryError`."""
    if node.GetParentTransformNode() is not None:
        raise GeometryError(
            f"A transform moves {node.GetName()!r}; harden the transform or remove it in the Transforms module first."
        )


def empty_image(geometry: Geometry) -> Any:
    """An image on a grid, without voxels."""
    import slicer

    k, j, i = geometry.shape
    image = slicer.vtkOrientedImageData()
    image.SetExtent(0, i - 1, 0, j - 1, 0, k - 1)
    image.SetGeometryFromImageToWorldMatrix(matrix_from_array(geometry.ijk_to_ras))
    return image


def matrix_from_array(array: npt.NDArray[np.float64]) -> Any:
    """A vtkMatrix4x4 of an array, shape (4, 4)."""
    import vtk

    matrix = vtk.vtkMatrix4x4()
    matrix.DeepCopy(array.ravel().tolist())
    return matrix


def array_from_matrix(matrix: Any) -> npt.NDArray[np.float64]:
    """The array, shape (4, 4), of a vtkMatrix4x4."""
    return np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])
