"""Closed surfaces of segments in patient millimetres, for printing, planning and 3-D views.

The surface is drawn through the midpoints between labelled and unlabelled voxels, with shape-based interpolation
between thick slices (Raya & Udupa, IEEE Trans Med Imaging 9:32, 1990), smoothed with a windowed sinc filter (Taubin
et al., ECCV 1996) and then moved along its normals, by hundredths of a millimetre for an organ, so that it encloses
the volume of the voxels.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage, sparse
from vtkmodules.util.numpy_support import numpy_to_vtk
from vtkmodules.vtkCommonDataModel import vtkImageData, vtkPolyData
from vtkmodules.vtkFiltersCore import (
    vtkDecimatePro,
    vtkFlyingEdges3D,
    vtkQuadricDecimation,
    vtkWindowedSincPolyDataFilter,
)

from LiverMarginLib.errors import InputError
from LiverMarginLib.io.surface_arrays import (
    Faces,
    enclosed_volume,
    face_normals,
    polydata,
    tetrahedra,
    triangle_arrays,
)
from LiverMarginLib.io.surface_checks import check_surface
from LiverMarginLib.io.untangling import relaxed, untangled
from LiverMarginLib.volume import FloatMatrix, Geometry

_PADDING = 2
# Interpolating between slices multiplies the voxels; above this many the surface is left coarser instead.
_LARGEST_FIELD = 64_000_000
# A part that would keep less than this share of its volume is too small to be smoothed.
_SMOOTHABLE_SHARE = 0.5
_VOLUME_TOLERANCE = 1e-4
_VOLUME_STEPS = 10


def closed_surface(
    mask: npt.NDArray[np.bool_],
    geometry: Geometry,
    *,
    smoothing: float = 0.6,
    max_triangles: int | None = None,
    untangle: bool = False,
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
    untangle : bool
        Take back what a step did where it made triangles cut through each other: smoothing where two sheets lie close
        together, above all. Takes some seconds for a large organ.

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
    surface = _smooth(_zero_level(field, spacing), smoothing, geometry.spacing, untangle)
    decimated = max_triangles is not None and surface.GetNumberOfPolys() > max_triangles
    if max_triangles is not None and decimated:
        surface = _simplify(surface, max_triangles)
    points, faces = triangle_arrays(surface)
    if untangle and decimated:
        points = relaxed(points, faces)
    restored = _restore_volume(points, faces, float(np.count_nonzero(mask) * np.prod(geometry.spacing)))
    points = untangled(points, restored, faces) if untangle else restored

    start = np.array([axis.start for axis in box[0]])[::-1]
    index = points / np.array(geometry.spacing[::-1]) + (start - _PADDING)
    world = index @ geometry.ijk_to_ras[:3, :3].T + geometry.ijk_to_ras[:3, 3]
    if np.linalg.det(geometry.ijk_to_ras[:3, :3]) < 0:
        faces = faces[:, ::-1]
    return polydata(world, faces)


def surface_volume_ml(surface: vtkPolyData) -> float:
    """Volume in millilitres that a closed surface in mm encloses; negative if its normals point inwards."""
    return enclosed_volume(*triangle_arrays(surface)) / 1000.0


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


def _smooth(surface: vtkPolyData, smoothing: float, spacing: tuple[float, float, float], untangle: bool) -> vtkPolyData:
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
    before, faces = triangle_arrays(surface)
    after, _ = triangle_arrays(sinc.GetOutput())
    # A low pass rings and rounds where the organ is cut by the volume's border; a voxel is as much as it may move.
    reach = np.array(spacing[::-1])
    after = before + np.clip(after - before, -reach, reach)
    after = _keep_small_parts(before, after, faces)
    return polydata(untangled(before, after, faces) if untangle else after, faces)


def _keep_small_parts(before: FloatMatrix, after: FloatMatrix, faces: Faces) -> FloatMatrix:
    """Undo smoothing for the separate shells that it would make vanish: a few voxels become a point."""
    size = len(before)
    ends = np.tile(faces[:, 0], 2), faces[:, 1:].T.ravel()
    edges = sparse.coo_matrix((np.ones(len(ends[0])), ends), (size, size))
    shells, shell_of = sparse.csgraph.connected_components(edges, directed=False)
    shell_of_face = shell_of[faces[:, 0]]
    old, new = (np.bincount(shell_of_face, tetrahedra(points, faces), minlength=shells) for points in (before, after))
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
        missing = target - enclosed_volume(points, faces)
        if abs(missing) <= _VOLUME_TOLERANCE * target:
            break
        outwards = face_normals(points, faces)
        area = 0.5 * np.linalg.norm(outwards, axis=1).sum()
        normals = np.stack(
            [np.bincount(faces.ravel(), np.repeat(outwards[:, axis], 3), len(points)) for axis in range(3)], axis=1
        )
        length = np.linalg.norm(normals, axis=1, keepdims=True)
        points = points + missing / area * np.divide(normals, length, out=np.zeros_like(normals), where=length > 0)
    return points
