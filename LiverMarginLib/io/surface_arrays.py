"""Triangle surfaces as VTK holds them and as numpy arrays, and the volumes and normals that follow from them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from vtkmodules.util.numpy_support import numpy_to_vtk, numpy_to_vtkIdTypeArray, vtk_to_numpy
from vtkmodules.vtkCommonCore import vtkPoints
from vtkmodules.vtkCommonDataModel import vtkCellArray, vtkPolyData

from LiverMarginLib.volume import FloatMatrix

Faces = npt.NDArray[np.int64]


def polydata(points: FloatMatrix, faces: Faces) -> vtkPolyData:
    """Make a vtkPolyData of points, shape (n, 3), mm, and triangles, shape (m, 3), of point indices."""
    vtk_points = vtkPoints()
    vtk_points.SetDataTypeToDouble()
    vtk_points.SetData(numpy_to_vtk(np.ascontiguousarray(points, dtype=np.float64), deep=True))
    cells = vtkCellArray()
    offsets = numpy_to_vtkIdTypeArray(np.arange(0, 3 * len(faces) + 1, 3, dtype=np.int64), deep=True)
    cells.SetData(offsets, numpy_to_vtkIdTypeArray(np.ascontiguousarray(faces, dtype=np.int64).ravel(), deep=True))
    surface = vtkPolyData()
    surface.SetPoints(vtk_points)
    surface.SetPolys(cells)
    return surface


def triangle_arrays(surface: vtkPolyData) -> tuple[FloatMatrix, Faces]:
    """Return the points, shape (n, 3), and the triangles, shape (m, 3), of point indices."""
    points = vtk_to_numpy(surface.GetPoints().GetData()).astype(np.float64)
    faces = vtk_to_numpy(surface.GetPolys().GetConnectivityArray()).astype(np.int64).reshape(-1, 3)
    return points, faces


def face_normals(points: FloatMatrix, faces: Faces) -> FloatMatrix:
    """Outward normals, twice as long as the face's area in mm², shape (m, 3)."""
    a, b, c = (points[faces[:, corner]] for corner in range(3))
    return np.cross(b - a, c - a)


def tetrahedra(points: FloatMatrix, faces: Faces) -> FloatMatrix:
    """Signed volume in mm³ between each face and the surface's centre; their sum is what the surface encloses."""
    a, b, c = (points[faces[:, corner]] - points.mean(axis=0) for corner in range(3))
    return np.asarray(np.einsum("ij,ij->i", a, np.cross(b, c)) / 6.0)


def enclosed_volume(points: FloatMatrix, faces: Faces) -> float:
    """Volume in mm³ inside of closed triangles; negative where their normals point inwards."""
    return float(tetrahedra(points, faces).sum())
