"""Closed surfaces of segments in patient millimetres, for printing, planning and 3-D views.

The surface is drawn through the midpoints between labelled and unlabelled voxels, with shape-based interpolation
between thick slices (Raya & Udupa, IEEE Trans Med Imaging 9:32, 1990), smoothed with a windowed sinc filter (Taubin
et al., ECCV 1996) and then moved along its normals, by hundredths of a millimetre for an organ, so that it encloses
the volume of the voxels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage, sparse
from vtkmodules.util.numpy_support import numpy_to_vtk, numpy_to_vtkIdTypeArray, vtk_to_numpy
from vtkmodules.vtkCommonCore import vtkPoints
from vtkmodules.vtkCommonDataModel import vtkCellArray, vtkImageData, vtkPolyData
from vtkmodules.vtkFiltersCore import (
    vtkDecimatePro,
    vtkFlyingEdges3D,
    vtkQuadricDecimation,
    vtkWindowedSincPolyDataFilter,
)

from LiverMarginLib.errors import InputError
from LiverMarginLib.io.atomic import atomic_path
from LiverMarginLib.volume import FloatMatrix, Geometry

Faces = npt.NDArray[np.int64]
Points32 = npt.NDArray[np.float32]

_PADDING = 2
# Interpolating between slices multiplies the voxels; above this many the surface is left coarser instead.
_LARGEST_FIELD = 64_000_000
# A part that would keep less than this share of its volume is too small to be smoothed.
_SMOOTHABLE_SHARE = 0.5
_VOLUME_TOLERANCE = 1e-4
_VOLUME_STEPS = 10


class Space(StrEnum):
    """Axes of a surface file's coordinates."""

    LPS = "LPS"
    RAS = "RAS"


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


def closed_surface(
    mask: npt.NDArray[np.bool_], geometry: Geometry, *, smoothing: float = 0.6, max_triangles: int | None = None
) -> vtkPolyData:
    """Build the closed surface of a mask.

    Parameters
    ----------
    mask : ndarray of bool, shape (k, j, i)
        With at least one voxel. Where it touches the border of the volume the surface is closed half a voxel outside
        the last voxel's centre.
    geometry : Geometry
        Any axis order, handedness, oblique and sheared axes.
    smoothing : float
        0 (none) to 1 (strong): pass band 10^(-4 smoothing), as in 3D Slicer's Segment Editor, with more iterations,
        which a finer mesh needs to lose the terraces of thick slices. Smoothing moves no point by more than a voxel
        along any axis of the image.
    max_triangles : int, optional
        Simplify to about this number.

    Returns
    -------
    vtkPolyData
        Triangles in RAS mm, normals outwards; one or more closed shells that enclose the volume of the mask's voxels.

    Raises
    ------
    InputError
        If the mask is empty or not of the geometry's shape, or an option is out of range.
    """
    if mask.shape != geometry.shape:
        raise InputError(f"The mask has {mask.shape} voxels but its geometry says {geometry.shape}; load it again.")
    if not 0 <= smoothing <= 1:
        raise InputError("Surface smoothing must lie between 0 and 1; choose 0.6 for an organ.")
    if max_triangles is not None and max_triangles < 4:
        raise InputError("A closed surface needs at least 4 triangles; raise the number of triangles.")
    box = ndimage.find_objects(mask.astype(np.uint8))
    if not box:
        raise InputError("The segment has no voxels, so it has no surface; leave it out or segment it first.")

    field, spacing = _level_field(mask[box[0]], geometry.spacing)
    surface = _smooth(_zero_level(field, spacing), smoothing, geometry.spacing)
    if max_triangles is not None and surface.GetNumberOfPolys() > max_triangles:
        surface = _simplify(surface, max_triangles)
    points, faces = _arrays(surface)
    points = _restore_volume(points, faces, float(np.count_nonzero(mask) * np.prod(geometry.spacing)))

    start = np.array([axis.start for axis in box[0]])[::-1]
    index = points / np.array(geometry.spacing[::-1]) + (start - _PADDING)
    world = index @ geometry.ijk_to_ras[:3, :3].T + geometry.ijk_to_ras[:3, 3]
    if np.linalg.det(geometry.ijk_to_ras[:3, :3]) < 0:
        faces = faces[:, ::-1]
    return polydata(world, faces)


def surface_volume_ml(surface: vtkPolyData) -> float:
    """Volume in millilitres that a closed surface in mm encloses; negative if its normals point inwards."""
    return _volume(*_arrays(surface)) / 1000.0


def check_surface(surface: vtkPolyData) -> SurfaceCheck:
    """Count what would keep a triangle surface from being closed and consistently oriented."""
    points, faces = _arrays(surface)
    start, end = np.concatenate([faces[:, (0, 1)], faces[:, (1, 2)], faces[:, (2, 0)]]).T
    count = np.int64(len(points))
    _, members = np.unique(np.minimum(start, end) * count + np.maximum(start, end), return_counts=True)
    _, same_way = np.unique(start * count + end, return_counts=True)
    return SurfaceCheck(
        triangles=len(faces),
        open_edges=int((members == 1).sum()),
        crowded_edges=int((members > 2).sum()),
        inconsistent_edges=int((same_way > 1).sum()),
        degenerate_faces=int((np.linalg.norm(_face_normals(points, faces), axis=1) == 0).sum()),
    )


def write_surface(
    surface: vtkPolyData, path: Path, *, space: Space = Space.LPS, name: str = "Segment", overwrite: bool = True
) -> None:
    """Write a triangle surface as binary STL, binary PLY or OBJ, by the suffix of `path`.

    The files are written here: VTK's PLY and OBJ writers report success on a full disk (seen with VTK 9.6), and its
    OBJ writer has no comment to hold the coordinate system.

    Parameters
    ----------
    surface : vtkPolyData
        Triangles in RAS mm.
    path : Path
        Ends in ``.stl``, ``.ply`` or ``.obj``.
    space : Space
        Coordinate system of the file, which its header states as ``SPACE=LPS`` or ``SPACE=RAS``; 3D Slicer reads it.
    name : str
        Of the segment, for the header.
    overwrite : bool

    Raises
    ------
    InputError, ResourceError
        See `atomic_path`; InputError also for another suffix.
    """
    data = encode_surface(surface, path.suffix, space=space, name=name)
    with atomic_path(path, overwrite=overwrite) as temporary:
        temporary.write_bytes(data)


def encode_surface(surface: vtkPolyData, suffix: str, *, space: Space = Space.LPS, name: str = "Segment") -> bytes:
    """Return the bytes of a surface file; see `write_surface`."""
    encode = _ENCODERS.get(suffix.lower())
    if encode is None:
        raise InputError(
            f"A surface cannot be written as {suffix or 'a file without an ending'}; use .stl, .ply or .obj."
        )
    points, faces = _arrays(surface)
    if space is Space.LPS:
        points = points * (-1.0, -1.0, 1.0)  # half a turn, so outside stays outside
    title = f"LiverMargin {name.encode('ascii', 'replace').decode()} SPACE={space.value} UNIT=mm"
    return encode(points.astype("<f4"), faces, " ".join(title.split()))


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


def _arrays(surface: vtkPolyData) -> tuple[FloatMatrix, Faces]:
    points = vtk_to_numpy(surface.GetPoints().GetData()).astype(np.float64)
    faces = vtk_to_numpy(surface.GetPolys().GetConnectivityArray()).astype(np.int64).reshape(-1, 3)
    return points, faces


def _level_field(
    mask: npt.NDArray[np.bool_], spacing: tuple[float, float, float]
) -> tuple[npt.NDArray[np.float32], tuple[float, ...]]:
    """Return a field that is positive inside and begins `_PADDING` voxels before `mask`, and its spacing (k, j, i).

    Where one axis is much coarser than the finest, distances to the boundary are interpolated along it.
    """
    padded = np.pad(mask, _PADDING)
    refinement = _refinement(padded.shape, spacing)
    if max(refinement) == 1:
        return padded.astype(np.float32) - np.float32(0.5), spacing
    # Neighbours across the boundary have equal distances to each other, so zero lies midway, as in the plain mask.
    field = ndimage.distance_transform_edt(padded, sampling=spacing).astype(np.float32)
    field -= ndimage.distance_transform_edt(~padded, sampling=spacing).astype(np.float32)
    for axis, parts in enumerate(refinement):
        field = _interpolated(field, axis, parts)
    return field, tuple(s / parts for s, parts in zip(spacing, refinement, strict=True))


def _refinement(shape: tuple[int, ...], spacing: tuple[float, float, float]) -> list[int]:
    """Into how many parts to divide the step along each axis.

    Odd numbers have no sample midway between two voxels, where the field of a straight edge is exactly zero and the
    triangles would have no area.
    """
    finest = min(spacing)
    parts = [2 * int((s / finest - 1) / 2) + 1 for s in spacing]
    while max(parts) > 1 and np.prod([float(n * p) for n, p in zip(shape, parts, strict=True)]) > _LARGEST_FIELD:
        parts[parts.index(max(parts))] -= 2
    return parts


def _interpolated(field: npt.NDArray[np.float32], axis: int, parts: int) -> npt.NDArray[np.float32]:
    if parts == 1:
        return field
    position = np.arange((field.shape[axis] - 1) * parts + 1)
    lower = position // parts
    upper = np.minimum(lower + 1, field.shape[axis] - 1)
    weight = np.expand_dims((position % parts / parts).astype(np.float32), [a for a in range(3) if a != axis])
    return np.take(field, lower, axis) * (1 - weight) + np.take(field, upper, axis) * weight


def _zero_level(field: npt.NDArray[np.float32], spacing: tuple[float, ...]) -> vtkPolyData:
    """Triangulate where `field` is zero, in mm from the field's first voxel."""
    image = vtkImageData()
    image.SetDimensions(*field.shape[::-1])
    image.SetSpacing(*spacing[::-1])
    values = numpy_to_vtk(np.ascontiguousarray(field).ravel())
    image.GetPointData().SetScalars(values)
    contour = vtkFlyingEdges3D()
    contour.SetInputData(image)
    # A hair off zero: where the field is exactly zero at a voxel, triangles would collapse to a point.
    contour.SetValue(0, 1e-4 * min(spacing))
    contour.ComputeNormalsOff()
    contour.ComputeGradientsOff()
    contour.ComputeScalarsOff()
    contour.Update()
    return contour.GetOutput()


def _smooth(surface: vtkPolyData, smoothing: float, spacing: tuple[float, float, float]) -> vtkPolyData:
    if smoothing == 0:
        return surface
    sinc = vtkWindowedSincPolyDataFilter()
    sinc.SetInputData(surface)
    sinc.SetPassBand(10.0 ** (-4.0 * smoothing))
    sinc.SetNumberOfIterations(20 + round(100 * smoothing))
    sinc.NormalizeCoordinatesOn()
    sinc.FeatureEdgeSmoothingOff()
    sinc.BoundarySmoothingOff()
    sinc.NonManifoldSmoothingOn()
    sinc.Update()
    before, faces = _arrays(surface)
    after, _ = _arrays(sinc.GetOutput())
    # A low pass rings and rounds where the organ is cut by the volume's border; a voxel is as much as it may move.
    reach = np.array(spacing[::-1])
    after = before + np.clip(after - before, -reach, reach)
    return polydata(_keep_small_parts(before, after, faces), faces)


def _keep_small_parts(before: FloatMatrix, after: FloatMatrix, faces: Faces) -> FloatMatrix:
    """Undo smoothing for the separate shells that it would make vanish: a few voxels become a point."""
    size = len(before)
    ends = np.tile(faces[:, 0], 2), faces[:, 1:].T.ravel()
    edges = sparse.coo_matrix((np.ones(len(ends[0])), ends), (size, size))
    shells, shell_of = sparse.csgraph.connected_components(edges, directed=False)
    shell_of_face = shell_of[faces[:, 0]]
    old, new = (np.bincount(shell_of_face, _tetrahedra(points, faces), minlength=shells) for points in (before, after))
    vanishing = np.abs(new) < _SMOOTHABLE_SHARE * np.abs(old)
    return np.where(vanishing[shell_of][:, None], before, after)


def _simplify(surface: vtkPolyData, max_triangles: int) -> vtkPolyData:
    reduction = 1.0 - max_triangles / surface.GetNumberOfPolys()
    quadric = vtkQuadricDecimation()
    quadric.SetInputData(surface)
    quadric.SetTargetReduction(reduction)
    quadric.VolumePreservationOn()
    quadric.Update()
    if check_surface(quadric.GetOutput()).closed:
        return quadric.GetOutput()
    # Quadrics keep the shape best but may tear or fold thin parts; this keeps the topology whatever it costs.
    careful = vtkDecimatePro()
    careful.SetInputData(surface)
    careful.SetTargetReduction(reduction)
    careful.PreserveTopologyOn()
    careful.SplittingOff()
    careful.BoundaryVertexDeletionOff()
    careful.Update()
    return careful.GetOutput()


def _restore_volume(points: FloatMatrix, faces: Faces, target: float) -> FloatMatrix:
    """Move every point by the same distance along its normal until the surface encloses `target` mm³."""
    for _ in range(_VOLUME_STEPS):
        missing = target - _volume(points, faces)
        if abs(missing) <= _VOLUME_TOLERANCE * target:
            break
        face_normals = _face_normals(points, faces)
        area = 0.5 * np.linalg.norm(face_normals, axis=1).sum()
        normals = np.stack(
            [np.bincount(faces.ravel(), np.repeat(face_normals[:, axis], 3), len(points)) for axis in range(3)], axis=1
        )
        length = np.linalg.norm(normals, axis=1, keepdims=True)
        points = points + missing / area * np.divide(normals, length, out=np.zeros_like(normals), where=length > 0)
    return points


def _face_normals(points: FloatMatrix, faces: Faces) -> FloatMatrix:
    """Outward normals, twice as long as the face's area in mm², shape (m, 3)."""
    a, b, c = (points[faces[:, corner]] for corner in range(3))
    return np.cross(b - a, c - a)


def _tetrahedra(points: FloatMatrix, faces: Faces) -> FloatMatrix:
    """Signed volume in mm³ between each face and the surface's centre; their sum is what the surface encloses."""
    a, b, c = (points[faces[:, corner]] - points.mean(axis=0) for corner in range(3))
    return np.asarray(np.einsum("ij,ij->i", a, np.cross(b, c)) / 6.0)


def _volume(points: FloatMatrix, faces: Faces) -> float:
    return float(_tetrahedra(points, faces).sum())


def _stl(points: Points32, faces: Faces, title: str) -> bytes:
    corners = points[faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    records = np.zeros(len(faces), dtype=[("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
    records["normal"] = np.divide(normals, length, out=np.zeros_like(normals), where=length > 0)
    records["corners"] = corners
    return title.encode()[:80].ljust(80) + len(faces).to_bytes(4, "little") + records.tobytes()


def _ply(points: Points32, faces: Faces, title: str) -> bytes:
    header = (
        f"ply\nformat binary_little_endian 1.0\ncomment {title}\n"
        f"element vertex {len(points)}\nproperty float x\nproperty float y\nproperty float z\n"
        f"element face {len(faces)}\nproperty list uchar int vertex_indices\nend_header\n"
    )
    records = np.zeros(len(faces), dtype=[("size", "u1"), ("corners", "<i4", 3)])
    records["size"] = 3
    records["corners"] = faces
    return header.encode() + points.tobytes() + records.tobytes()


def _obj(points: Points32, faces: Faces, title: str) -> bytes:
    lines = [f"# {title}"]
    lines += [f"v {x:.9g} {y:.9g} {z:.9g}" for x, y, z in points.tolist()]
    lines += [f"f {a} {b} {c}" for a, b, c in (faces + 1).tolist()]
    return ("\n".join(lines) + "\n").encode()


_ENCODERS: Mapping[str, Callable[[Points32, Faces, str], bytes]] = {".stl": _stl, ".ply": _ply, ".obj": _obj}
