"""Whether triangles bound a solid that can be printed, and how true that solid is to the voxels it was made from."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse
from vtkmodules.util.numpy_support import numpy_to_vtk
from vtkmodules.vtkCommonDataModel import vtkImageData, vtkPolyData
from vtkmodules.vtkFiltersCore import vtkFlyingEdges3D, vtkImplicitPolyDataDistance

from LiverMarginLib.io.self_intersections import self_intersecting_faces
from LiverMarginLib.io.surface_arrays import (
    Faces,
    enclosed_volume,
    face_normals,
    polydata,
    tetrahedra,
    triangle_arrays,
)
from LiverMarginLib.volume import FloatMatrix, Geometry

LARGEST_VOLUME_ERROR = 0.01
LARGEST_DEVIATION_VOXELS = 0.5
_SAMPLES = 10_000


@dataclass(frozen=True)
class SurfaceCheck:
    """Whether triangles form closed surfaces.

    Parameters
    ----------
    triangles : int
    open_edges : int
        Edges with one face, the rim of a hole.
    crowded_edges : int
        Edges with more than two faces.
    inconsistent_edges : int
        Edges whose two faces do not agree on which side is outside.
    degenerate_faces : int
        Faces without an area.
    """

    triangles: int
    open_edges: int
    crowded_edges: int
    inconsistent_edges: int
    degenerate_faces: int

    @property
    def closed(self) -> bool:
        """Whether every edge joins exactly two faces that agree on the outside."""
        return self.triangles > 0 and not (self.open_edges or self.crowded_edges or self.inconsistent_edges)


@dataclass(frozen=True)
class PrintCheck:
    """What a person wants to know of a surface before it is printed.

    Parameters
    ----------
    mesh : SurfaceCheck
        Of the points as the file holds them: 32 bits, and points at one place taken as one.
    self_intersecting_faces : int
        Triangles that cross or touch one which is not their neighbour.
    shells : int
        Separate closed surfaces with their inside inside.
    cavities : int
        Closed surfaces around an enclosed hollow; powder or resin stays in it.
    largest_shell_share : float
        Share in [0, 1] of the largest shell in the volume of all.
    volume_ml, voxel_volume_ml : float
        Enclosed by the surface, and by the voxels.
    mean_deviation_mm, max_deviation_mm : float
        Distance between this surface and the one through the midpoints between inside and outside voxels, before
        interpolation, smoothing and simplifying: sampled over both areas, both ways together.
    mean_deviation_voxels : float
        The same in units of the voxels' spacing along each axis, so that a thick slice counts as one.
    size_mm : tuple of float
        Extent along the patient's right-left, anterior-posterior and superior-inferior axes.
    """

    mesh: SurfaceCheck
    self_intersecting_faces: int
    shells: int
    cavities: int
    largest_shell_share: float
    volume_ml: float
    voxel_volume_ml: float
    mean_deviation_mm: float
    max_deviation_mm: float
    mean_deviation_voxels: float
    size_mm: tuple[float, float, float]

    @property
    def volume_error(self) -> float:
        """Relative difference of the surface's volume from the voxels'; positive where the surface is larger."""
        return self.volume_ml / self.voxel_volume_ml - 1.0

    def faults(self) -> tuple[str, ...]:
        """What keeps the surface from being printed true to the voxels, as parts of a sentence; empty if nothing."""
        counted = (
            (self.mesh.open_edges, "open edges"),
            (self.mesh.crowded_edges, "edges with more than two triangles"),
            (self.mesh.inconsistent_edges, "edges whose triangles disagree on the outside"),
            (self.mesh.degenerate_faces, "triangles without an area"),
            (self.self_intersecting_faces, "triangles that cut through others"),
        )
        found = [f"{count} {what}" for count, what in counted if count]
        if not abs(self.volume_error) < LARGEST_VOLUME_ERROR:
            found.append(f"a volume {100 * self.volume_error:+.1f} % off the voxels'")
        if not self.mean_deviation_voxels < LARGEST_DEVIATION_VOXELS:
            found.append(f"a mean deviation of {self.mean_deviation_voxels:.2f} voxels")
        return tuple(found)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a report: watertight, every count and measure, and the faults."""
        values = asdict(self)
        return {
            "watertight": self.mesh.closed,
            **values.pop("mesh"),
            **values,
            "volume_error": self.volume_error,
            "faults": list(self.faults()),
        }


def check_surface(surface: vtkPolyData) -> SurfaceCheck:
    """Count what would keep a triangle surface from being closed and consistently oriented."""
    points, faces = triangle_arrays(surface)
    start, end = np.concatenate([faces[:, (0, 1)], faces[:, (1, 2)], faces[:, (2, 0)]]).T
    count = np.int64(len(points))
    _, members = np.unique(np.minimum(start, end) * count + np.maximum(start, end), return_counts=True)
    _, same_way = np.unique(start * count + end, return_counts=True)
    return SurfaceCheck(
        triangles=len(faces),
        open_edges=int((members == 1).sum()),
        crowded_edges=int((members > 2).sum()),
        inconsistent_edges=int((same_way > 1).sum()),
        degenerate_faces=int((np.linalg.norm(face_normals(points, faces), axis=1) == 0).sum()),
    )


def weld(points: FloatMatrix, faces: Faces) -> tuple[FloatMatrix, Faces]:
    """Round points to the 32 bits that files hold and take those at one place as one, as printing programs do.

    Parameters
    ----------
    points : ndarray of float64, shape (n, 3)
    faces : ndarray of int64, shape (m, 3)

    Returns
    -------
    points : ndarray of float64, shape (k, 3)
    faces : ndarray of int64, shape (m, 3)
    """
    rounded = points.astype(np.float32) + np.float32(0)  # no negative zeros
    _, first, number = np.unique(
        np.ascontiguousarray(rounded).view("V12").ravel(), return_index=True, return_inverse=True
    )
    return rounded[first].astype(np.float64), number.ravel()[faces]


def check_for_printing(surface: vtkPolyData, mask: npt.NDArray[np.bool_], geometry: Geometry) -> PrintCheck:
    """Check a surface as its file will hold it, against the voxels that it was made from.

    Parameters
    ----------
    surface : vtkPolyData
        Triangles in RAS mm.
    mask : ndarray of bool, shape (k, j, i)
        With at least one voxel.
    geometry : Geometry
        Of the mask.

    Returns
    -------
    PrintCheck
    """
    points, faces = weld(*triangle_arrays(surface))
    volumes = _shell_volumes(points, faces)
    mean_mm, max_mm, mean_voxels = _deviation(points, faces, mask, geometry)
    return PrintCheck(
        mesh=check_surface(polydata(points, faces)),
        self_intersecting_faces=len(self_intersecting_faces(points, faces)),
        shells=int((volumes > 0).sum()),
        cavities=int((volumes <= 0).sum()),
        largest_shell_share=float(volumes.max() / volumes[volumes > 0].sum()) if (volumes > 0).any() else 0.0,
        volume_ml=enclosed_volume(points, faces) / 1000.0,
        voxel_volume_ml=float(np.count_nonzero(mask)) * geometry.voxel_volume / 1000.0,
        mean_deviation_mm=mean_mm,
        max_deviation_mm=max_mm,
        mean_deviation_voxels=mean_voxels,
        size_mm=tuple(float(extent) for extent in np.ptp(points, axis=0)),  # type: ignore[arg-type]
    )


def _shell_volumes(points: FloatMatrix, faces: Faces) -> FloatMatrix:
    """Signed volume in mm³ of each separate closed surface."""
    ends = np.tile(faces[:, 0], 2), faces[:, 1:].T.ravel()
    edges = sparse.coo_matrix((np.ones(len(ends[0]), dtype=np.int8), ends), (len(points), len(points)))
    count, shell_of = sparse.csgraph.connected_components(edges, directed=False)
    return np.bincount(shell_of[faces[:, 0]], tetrahedra(points, faces), minlength=count).astype(np.float64)


def _deviation(
    points: FloatMatrix, faces: Faces, mask: npt.NDArray[np.bool_], geometry: Geometry
) -> tuple[float, float, float]:
    """Mean and largest distance in mm, and mean distance in voxels, from and to the surface of the voxels."""
    stepped, stepped_faces = _voxel_surface(mask)
    to_ras, start = geometry.ijk_to_ras[:3, :3], geometry.ijk_to_ras[:3, 3]
    in_mm = ((points, faces), (stepped @ to_ras.T + start, stepped_faces))
    in_voxels = (((points - start) @ np.linalg.inv(to_ras).T, faces), (stepped, stepped_faces))
    rng = np.random.default_rng(0)
    millimetres: list[FloatMatrix] = []
    voxels: list[FloatMatrix] = []
    for own, other in ((0, 1), (1, 0)):
        face, weights = _samples(*in_mm[own], rng)
        for found, shapes in ((millimetres, in_mm), (voxels, in_voxels)):
            at = np.einsum("nc,ncd->nd", weights, shapes[own][0][shapes[own][1][face]])
            found.append(_distances(at, *shapes[other]))
    return float(np.mean(millimetres)), float(np.max(millimetres)), float(np.mean(voxels))


def _voxel_surface(mask: npt.NDArray[np.bool_]) -> tuple[FloatMatrix, Faces]:
    """Surface through the midpoints between inside and outside voxels, in (i, j, k) indices."""
    field = np.pad(mask, 1).astype(np.float32)
    image = vtkImageData()
    image.SetDimensions(*field.shape[::-1])
    image.SetOrigin(-1, -1, -1)
    values = numpy_to_vtk(field.ravel())
    image.GetPointData().SetScalars(values)
    contour = vtkFlyingEdges3D()
    contour.SetInputData(image)
    contour.SetValue(0, 0.5)
    contour.ComputeNormalsOff()
    contour.ComputeScalarsOff()
    contour.Update()
    return triangle_arrays(contour.GetOutput())


def _samples(points: FloatMatrix, faces: Faces, rng: np.random.Generator) -> tuple[npt.NDArray[np.int64], FloatMatrix]:
    """Draw places evenly over the area: their faces, shape (n,), and the weights of the corners, shape (n, 3)."""
    area = np.cumsum(np.linalg.norm(face_normals(points, faces), axis=1))
    face = np.searchsorted(area, rng.random(_SAMPLES) * area[-1], side="right").clip(max=len(faces) - 1)
    one, two = np.sort(rng.random((2, _SAMPLES)), axis=0)
    return face, np.stack((one, two - one, 1 - two), axis=1)


def _distances(at: FloatMatrix, points: FloatMatrix, faces: Faces) -> FloatMatrix:
    distance = vtkImplicitPolyDataDistance()
    distance.SetInput(polydata(points, faces))
    return np.abs([distance.EvaluateFunction(place) for place in at.tolist()])
