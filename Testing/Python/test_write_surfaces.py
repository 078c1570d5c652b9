"""Closed surfaces: volume, place, orientation, and files that VTK and 3D Slicer read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from example_labels import affine, axis_orders, example, reorder
from scipy import ndimage
from vtkmodules.util.numpy_support import vtk_to_numpy
from vtkmodules.vtkFiltersCore import vtkFeatureEdges, vtkMassProperties
from vtkmodules.vtkIOGeometry import vtkOBJReader, vtkSTLReader
from vtkmodules.vtkIOPLY import vtkPLYReader

from LiverMarginLib.errors import InputError
from LiverMarginLib.io.surface_arrays import polydata
from LiverMarginLib.io.surface_checks import check_surface
from LiverMarginLib.io.surface_files import Space, encode_surface, write_surface
from LiverMarginLib.io.surfaces import closed_surface, surface_volume_ml
from LiverMarginLib.io.writers import write_labelmap
from LiverMarginLib.terminology import LIVER, Segment
from LiverMarginLib.volume import Geometry, LabelMap


def ball(shape: tuple[int, int, int], spacing: tuple[float, float, float], radii: tuple[float, float, float]) -> Any:
    """Mask and geometry of an ellipsoid in the middle of the grid; spacing and radii along (k, j, i) in mm."""
    grid = np.meshgrid(*((np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, spacing, strict=True)), indexing="ij")
    mask = sum((axis / radius) ** 2 for axis, radius in zip(grid, radii, strict=True)) <= 1
    return mask, Geometry(shape, np.diag([*spacing[::-1], 1.0]))


def points(surface: Any) -> np.ndarray:
    return vtk_to_numpy(surface.GetPoints().GetData())


def assert_closed(surface: Any) -> None:
    check = check_surface(surface)
    assert check.closed and check.degenerate_faces == 0, check
    edges = vtkFeatureEdges()  # VTK's own view of the same
    edges.SetInputData(surface)
    edges.FeatureEdgesOff()
    edges.BoundaryEdgesOn()
    edges.NonManifoldEdgesOn()
    edges.Update()
    assert edges.GetOutput().GetNumberOfCells() == 0


OBJECTS = {
    "sphere": ball((50, 50, 50), (1, 1, 1), (20, 20, 20)),
    "ellipsoid": ball((40, 60, 50), (1, 1, 1), (15, 28, 21)),
    "thick slices": ball((14, 90, 90), (5, 0.8, 0.8), (26, 30, 24)),
    "thick slices along a row": ball((60, 60, 14), (1, 1, 4), (26, 24, 22)),
    "touching every border": ball((20, 40, 40), (2, 1, 1), (25, 25, 25)),
    "whole volume": (np.ones((10, 30, 20), bool), Geometry((10, 30, 20), np.diag((1.0, 1.0, 3.0, 1.0)))),
}


@pytest.mark.parametrize("name", OBJECTS)
@pytest.mark.parametrize("max_triangles", [None, 1500])
def test_the_surface_is_closed_and_encloses_the_volume_of_the_voxels(name, max_triangles):
    mask, geometry = OBJECTS[name]
    surface = closed_surface(mask, geometry, max_triangles=max_triangles)
    assert_closed(surface)
    voxels = mask.sum() * geometry.voxel_volume / 1000
    assert surface_volume_ml(surface) == pytest.approx(voxels, rel=1e-3)
    vtk_mass = vtkMassProperties()
    vtk_mass.SetInputData(surface)
    assert vtk_mass.GetVolume() / 1000 == pytest.approx(voxels, rel=1e-2)
    if max_triangles:
        assert surface.GetNumberOfPolys() <= 1.02 * max_triangles


@pytest.mark.parametrize("name", ["sphere", "ellipsoid", "thick slices", "thick slices along a row"])
def test_smoothing_keeps_the_surface_within_a_fraction_of_a_voxel_of_the_true_shape(name):
    radii = {"sphere": 20, "ellipsoid": (15, 28, 21), "thick slices": (26, 30, 24)}.get(name, (26, 24, 22))
    mask, geometry = OBJECTS[name]
    surface = closed_surface(mask, geometry)
    centre = np.array([(n - 1) / 2 * s for n, s in zip(geometry.shape, geometry.spacing, strict=True)])[::-1]
    relative = np.linalg.norm((points(surface) - centre) / np.broadcast_to(radii, 3)[::-1], axis=1)
    error = (relative - 1) * np.mean(radii)
    assert abs(error.mean()) < 0.1 * max(geometry.spacing)
    assert np.abs(error).max() < max(geometry.spacing)
    blocky = closed_surface(mask, geometry, smoothing=0)
    assert surface_area(surface) < surface_area(blocky)


def surface_area(surface: Any) -> float:
    mass = vtkMassProperties()
    mass.SetInputData(surface)
    return mass.GetSurfaceArea()


@pytest.mark.parametrize(("smoothing", "for_the_volume"), [(0.6, 0.3), (1, 1)])
def test_smoothing_moves_no_point_by_more_than_a_voxel(smoothing, for_the_volume):
    mask = np.ones((6, 30, 40), dtype=bool)  # cut off sharply by the border, where a low pass rounds and rings most
    mask[:, :10, :15] = False
    geometry = Geometry(mask.shape, np.diag((0.8, 0.8, 5.0, 1.0)))
    sharp = points(closed_surface(mask, geometry, smoothing=0))
    smooth = points(closed_surface(mask, geometry, smoothing=smoothing))
    moved = np.abs(smooth - sharp)
    assert moved.max() > 0.5
    assert (moved <= np.array((0.8, 0.8, 5.0)) + for_the_volume).all()


def test_normals_point_outwards_and_the_place_is_the_same_for_every_axis_order():
    reference = None
    for axes, flips in axis_orders():
        labels = reorder(example(), axes, flips)
        surface = closed_surface(labels.mask(1), labels.geometry, smoothing=0)
        assert_closed(surface)
        assert surface_volume_ml(surface) == pytest.approx(labels.volume_ml(1), rel=1e-2)  # negative if inside out
        if reference is None:
            reference = points(surface)
        np.testing.assert_allclose(points(surface).min(axis=0), reference.min(axis=0), atol=0.02)
        np.testing.assert_allclose(points(surface).max(axis=0), reference.max(axis=0), atol=0.02)


def test_sheared_axes_keep_volume_and_place():
    shear = np.eye(3) + np.array([[0, 0, 0], [0, 0, 0.3], [0, 0, 0]])
    mask, _ = OBJECTS["sphere"]
    geometry = Geometry(mask.shape, affine(shear))
    surface = closed_surface(mask, geometry)
    assert_closed(surface)
    assert surface_volume_ml(surface) == pytest.approx(mask.sum() * geometry.voxel_volume / 1000, rel=1e-3)
    centre = (geometry.ijk_to_ras @ (24.5, 24.5, 24.5, 1))[:3]
    np.testing.assert_allclose(points(surface).mean(axis=0), centre, atol=0.2)


def _small(*voxels: tuple[int, int, int]) -> np.ndarray:
    mask = np.zeros((6, 7, 8), dtype=bool)
    mask[tuple(np.array(voxels).T)] = True
    return mask


@pytest.mark.parametrize(
    "mask",
    [
        _small((0, 0, 0)),
        _small((3, 3, 3), (3, 3, 4)),
        _small((2, 2, 2), (3, 3, 3)),  # touching at a corner
        _small((2, 2, 2), (2, 3, 3)),  # touching along an edge
        _small((0, 0, 0), (5, 6, 7)),
        np.ones((6, 7, 8), bool) & (np.arange(6) == 3)[:, None, None],  # a plate one slice thick
        np.ones((6, 7, 8), bool) ^ _small((3, 3, 3)),  # a hole inside
        np.indices((6, 7, 8)).sum(axis=0) % 2 == 0,  # a chessboard
    ],
    ids=["voxel", "pair", "corner", "edge", "two", "plate", "hole", "chessboard"],
)
@pytest.mark.parametrize("spacing", [(1, 1, 1), (5, 0.8, 0.8)])
@pytest.mark.parametrize("smoothing", [0, 0.6, 1])
def test_the_smallest_and_thinnest_objects_have_closed_surfaces_too(mask, spacing, smoothing):
    geometry = Geometry(mask.shape, np.diag([*spacing[::-1], 1.0]))
    surface = closed_surface(mask, geometry, smoothing=smoothing)
    assert check_surface(surface).closed
    assert np.isfinite(points(surface)).all()
    assert surface_volume_ml(surface) == pytest.approx(mask.sum() * geometry.voxel_volume / 1000, rel=0.01)


def test_a_speck_beside_a_large_organ_is_not_smoothed_away():
    mask, geometry = ball((50, 50, 50), (1, 1, 1), (15, 15, 15))
    mask[2, 2, 2] = True
    surface = closed_surface(mask, geometry)
    near = np.linalg.norm(points(surface) - 2, axis=1) < 3
    assert near.any() and np.ptp(points(surface)[near], axis=0).min() > 0.5


def test_what_cannot_have_a_surface_is_refused(tmp_path):
    mask, geometry = OBJECTS["sphere"]
    with pytest.raises(InputError, match="no voxels"):
        closed_surface(np.zeros_like(mask), geometry)
    with pytest.raises(InputError, match="geometry says"):
        closed_surface(mask[:3], geometry)
    with pytest.raises(InputError, match="between 0 and 1"):
        closed_surface(mask, geometry, smoothing=2)
    with pytest.raises(InputError, match="at least 4"):
        closed_surface(mask, geometry, max_triangles=0)
    surface = closed_surface(mask, geometry)
    with pytest.raises(InputError, match=r"\.stl, \.ply, \.obj or \.3mf"):
        write_surface(surface, tmp_path / "a.vtk")
    with pytest.raises(InputError, match="No voxel is labelled"):
        write_labelmap(LabelMap(np.zeros(mask.shape, int), geometry, (LIVER,)), tmp_path / "a.stl")
    assert list(tmp_path.iterdir()) == []


def test_the_check_finds_holes_crowds_flips_and_slivers():
    corners = np.array([(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (2, 0, 0)], float)
    faces = np.array([(0, 2, 1), (0, 1, 3), (0, 3, 2), (1, 2, 3)])
    assert check_surface(polydata(corners, faces)).closed
    assert surface_volume_ml(polydata(corners, faces)) == pytest.approx(1 / 6000)
    assert check_surface(polydata(corners, faces[1:])).open_edges == 3
    assert check_surface(polydata(corners, np.vstack([faces, (0, 1, 2)]))).crowded_edges == 3
    flipped = np.vstack([faces[:3], (3, 2, 1)])
    assert check_surface(polydata(corners, flipped)).inconsistent_edges == 3
    assert check_surface(polydata(corners, np.vstack([faces, (0, 1, 4)]))).degenerate_faces == 1


READERS = {".stl": vtkSTLReader, ".ply": vtkPLYReader, ".obj": vtkOBJReader}


@pytest.mark.parametrize("suffix", READERS)
@pytest.mark.parametrize("space", list(Space))
def test_vtk_reads_the_same_surface_from_every_format(tmp_path, suffix, space):
    labels = example()
    surface = closed_surface(labels.mask(1), labels.geometry)
    path = tmp_path / f"a{suffix}"
    write_surface(surface, path, space=space, name="Läsion\n1")
    assert f"SPACE={space}".encode() in path.read_bytes()[:400]
    reader = READERS[suffix]()
    reader.SetFileName(str(path))
    reader.Update()
    found = reader.GetOutput()
    assert found.GetNumberOfPolys() == surface.GetNumberOfPolys()
    assert_closed(found)
    assert surface_volume_ml(found) == pytest.approx(surface_volume_ml(surface), rel=1e-4)
    sign = (-1, -1, 1) if space is Space.LPS else (1, 1, 1)
    for end in (np.min, np.max):
        np.testing.assert_allclose(end(points(found), axis=0), end(points(surface) * sign, axis=0), atol=1e-4)


@pytest.mark.slicer
@pytest.mark.parametrize("suffix", READERS)
@pytest.mark.parametrize("space", list(Space))
def test_slicer_puts_the_model_where_the_segment_is(tmp_path, suffix, space):
    import slicer

    labels = example()
    surface = closed_surface(labels.mask(1), labels.geometry)
    (tmp_path / f"a{suffix}").write_bytes(encode_surface(surface, suffix, space=space))
    scene = slicer.vtkMRMLScene()
    model, storage = slicer.vtkMRMLModelNode(), slicer.vtkMRMLModelStorageNode()
    scene.AddNode(model)
    scene.AddNode(storage)
    storage.SetFileName(str(tmp_path / f"a{suffix}"))
    assert storage.ReadData(model) == 1
    bounds = np.array(model.GetPolyData().GetBounds()).reshape(3, 2)
    np.testing.assert_allclose(bounds, np.array(surface.GetBounds()).reshape(3, 2), atol=1e-3)


def test_each_surface_file_holds_its_own_segment_in_patient_space(tmp_path):
    segments = (Segment(1, "Lobe a/b", (1, 2, 3)), Segment(2, "Lobe a:b", (1, 2, 3)), Segment(3, "Empty", (1, 2, 3)))
    labels = example(segments=segments)
    written = write_labelmap(labels, tmp_path / "case.stl")
    assert [path.name for path in written] == ["case_Lobe_a_b_1.stl", "case_Lobe_a_b_2.stl", "case_Segment_7.stl"]
    for path, label in zip(written, (1, 2, 7), strict=True):
        surface = read_stl(path)
        assert surface_volume_ml(surface) == pytest.approx(labels.volume_ml(label), rel=0.01)
        k, j, i = ndimage.center_of_mass(labels.mask(label))
        centre = (labels.geometry.ijk_to_ras @ (i, j, k, 1))[:3] * (-1, -1, 1)
        # The liver of the example has a separate voxel, so its points' mean is not its voxels'.
        np.testing.assert_allclose(points(surface).mean(axis=0), centre, atol=2 if label == 1 else 0.3)


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("folder", "label"),
    [
        ("ct_portal_slab", 5),
        ("mr_slab", 5),
        ("mr_amos_0540", 6),
        ("labels_amos_0013", 6),
        ("labels_amos_0013", 5),
        ("mr_amos_0540", 4),
    ],
)
def test_real_organs_have_closed_surfaces_of_their_voxels_volume(tmp_path, real_data, folder, label):
    image = nibabel.load(real_data / folder / "labels.nii.gz")
    mask = np.equal(np.asarray(image.dataobj).T, label)
    labels = LabelMap(mask, Geometry(mask.shape, image.affine), (Segment(1, "Organ", (1, 2, 3)),))
    (path,) = write_labelmap(labels, tmp_path / "organ.stl")
    surface = read_stl(path)
    check = check_surface(surface)
    assert check.open_edges == 0 and check.inconsistent_edges == 0
    assert surface_volume_ml(surface) == pytest.approx(labels.volume_ml(1), rel=0.001)
    k, j, i = np.nonzero(mask)
    world = (np.stack([i, j, k, np.ones_like(i)]).T @ image.affine.T)[:, :3] * (-1, -1, 1)
    reach = np.abs(image.affine[:3, :3]).sum(axis=1)  # a voxel's extent along the patient's axes
    # Half a voxel beyond the outermost centres, and one voxel of smoothing on either side.
    assert (points(surface).min(axis=0) > world.min(axis=0) - 1.6 * reach).all()
    assert (points(surface).min(axis=0) < world.min(axis=0) + 0.6 * reach).all()
    assert (points(surface).max(axis=0) < world.max(axis=0) + 1.6 * reach).all()
    assert (points(surface).max(axis=0) > world.max(axis=0) - 0.6 * reach).all()


def read_stl(path: Path) -> Any:
    reader = vtkSTLReader()
    reader.SetFileName(str(path))
    reader.Update()
    return reader.GetOutput()
