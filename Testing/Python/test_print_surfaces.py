"""Surfaces for printing: what the checks find, how faults are mended, and that none is written silently."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from example_labels import OBLIQUE, affine, axis_orders, example, reorder

from LiverMarginLib.cli import main
from LiverMarginLib.errors import InputError, ResourceError
from LiverMarginLib.events import Notice
from LiverMarginLib.io import surface_picture
from LiverMarginLib.io.printing import PrintOptions, print_surface, refuse_faults
from LiverMarginLib.io.self_intersections import self_intersecting_faces
from LiverMarginLib.io.surface_arrays import polydata, triangle_arrays
from LiverMarginLib.io.surface_checks import check_for_printing, check_surface, weld
from LiverMarginLib.io.surface_files import Space, encode_scene
from LiverMarginLib.io.surfaces import closed_surface
from LiverMarginLib.io.untangling import untangled
from LiverMarginLib.io.writers import write_labelmap
from LiverMarginLib.jobs import job_from_dict, run
from LiverMarginLib.phantom import PhantomOptions, liver_target, make_phantom
from LiverMarginLib.terminology import LIVER, LIVER_MASS, Segment
from LiverMarginLib.volume import Geometry, LabelMap

THICK = (8.0, 0.8, 0.8)  # ten to one


def needs(package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=f"{package} is not installed")


def labelled(mask: np.ndarray, spacing: tuple[float, float, float] = (1.0, 1.0, 1.0), **provenance: Any) -> LabelMap:
    geometry = Geometry(mask.shape, np.diag([*spacing[::-1], 1.0]))
    return LabelMap(mask.astype(np.uint8), geometry, (LIVER,), provenance)


def grid(shape: tuple[int, int, int], spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> list[np.ndarray]:
    """Coordinates in mm along (k, j, i) from the middle of a volume."""
    steps = ((np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, spacing, strict=True))
    return np.meshgrid(*steps, indexing="ij")


def sphere(radius: float, shape: tuple[int, int, int], spacing: tuple[float, float, float] = (1, 1, 1)) -> np.ndarray:
    return sum(axis**2 for axis in grid(shape, spacing)) <= radius**2


def torus() -> np.ndarray:
    z, y, x = grid((20, 44, 44))
    return (np.hypot(x, y) - 14) ** 2 + z**2 <= 25


def nested() -> np.ndarray:
    shape = (44, 44, 44)
    return (sphere(20, shape) & ~sphere(14, shape)) | sphere(8, shape)


def sheet() -> np.ndarray:
    return np.isin(np.arange(6), 3)[:, None, None] & (np.hypot(*grid((6, 40, 40))[1:]) < 15)


def edge_touch() -> np.ndarray:
    mask = np.zeros((6, 6, 6), dtype=bool)
    mask[2, 2, 2] = mask[2, 3, 3] = True
    return mask


SHAPES = {
    "sphere": (labelled(sphere(18, (44, 44, 44))), 1, 0),
    "torus": (labelled(torus()), 1, 0),
    "nested shells": (labelled(nested()), 2, 1),
    "two voxels that touch at an edge": (labelled(edge_touch()), 2, 0),
    "sheet one voxel thick": (labelled(sheet()), 1, 0),
    "thick slices": (labelled(sphere(26, (10, 80, 80), THICK), THICK), 1, 0),
}


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("triangles", [200_000, 1200])
def test_every_shape_is_fit_for_printing_with_its_shells_counted(name, triangles):
    labels, shells, cavities = SHAPES[name]
    found = print_surface(labels, LIVER, PrintOptions(max_triangles=triangles))
    assert found.faults == () and found.check.mesh.closed
    assert (found.check.shells, found.check.cavities) == (shells, cavities)
    assert abs(found.check.volume_error) < 0.01 and found.check.mean_deviation_voxels < 0.5
    assert found.check.voxel_volume_ml == pytest.approx(labels.volume_ml(1))
    assert found.capped == ()


@needs("trimesh")
@pytest.mark.parametrize("name", SHAPES)
def test_trimesh_agrees_on_watertightness_volume_and_shells(name):
    import trimesh

    labels, shells, cavities = SHAPES[name]
    found = print_surface(labels, LIVER, PrintOptions())
    points, faces = triangle_arrays(found.surface)
    mesh = trimesh.Trimesh(points, faces, process=False)
    assert mesh.is_watertight and mesh.is_winding_consistent
    assert mesh.volume / 1000 == pytest.approx(found.check.volume_ml, rel=1e-6)
    assert len(mesh.split(only_watertight=False)) == shells + cavities


def test_the_surface_of_a_sphere_deviates_from_its_voxels_as_little_as_the_sphere_itself():
    labels, *_ = SHAPES["sphere"]
    check = print_surface(labels, LIVER, PrintOptions()).check
    radius = (3 * labels.volume_ml(1) * 1000 / (4 * np.pi)) ** (1 / 3)
    assert check.mean_deviation_mm == pytest.approx(check.mean_deviation_voxels)
    assert 0.05 < check.mean_deviation_mm < 0.3  # steps of one voxel around a smooth shape: about a sixth of a voxel
    assert check.max_deviation_mm < 1
    assert check.size_mm == pytest.approx((2 * radius,) * 3, abs=0.5)


def test_a_shifted_surface_is_found_by_its_deviation_and_an_inflated_one_by_its_volume():
    labels, *_ = SHAPES["sphere"]
    points, faces = triangle_arrays(closed_surface(labels.mask(1), labels.geometry))
    shifted = check_for_printing(polydata(points + np.array((0, 0, 3)), faces), labels.mask(1), labels.geometry)
    assert len(shifted.faults()) == 1 and "mean deviation of 1." in shifted.faults()[0]
    centre = points.mean(axis=0)
    inflated = check_for_printing(polydata(centre + 1.01 * (points - centre), faces), labels.mask(1), labels.geometry)
    assert inflated.volume_error == pytest.approx(1.01**3 - 1, abs=2e-4)
    assert inflated.faults() == ("a volume +3.0 % off the voxels'",)


def test_the_check_sees_the_points_as_the_file_holds_them():
    corners = np.array([(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1e-9, 0, 0)]) + 300
    faces = np.array([(0, 2, 1), (4, 1, 3), (0, 3, 2), (1, 2, 3)])
    assert check_surface(polydata(corners, faces)).open_edges
    assert check_surface(polydata(*weld(corners, faces))).closed


def box(low: tuple[float, float, float], high: tuple[float, float, float]) -> tuple[np.ndarray, np.ndarray]:
    corners = np.array([[(low, high)[b][axis] for axis, b in enumerate(bits)] for bits in np.ndindex(2, 2, 2)], float)
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    return corners, np.array([face for a, b, c, d in quads for face in ((a, b, c), (a, c, d))])


def together(*solids: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    starts = np.cumsum([0, *(len(points) for points, _ in solids)])
    faces = np.vstack([faces + start for (_, faces), start in zip(solids, starts[:-1], strict=True)])
    return np.vstack([points for points, _ in solids]), faces


@pytest.mark.parametrize(
    ("second", "touched"),
    [
        (((0.5, 0.5, 0.5), (1.5, 1.5, 1.5)), True),
        (((0.2, 0.2, -1), (0.8, 0.8, 2)), True),  # a bar right through two sides
        (((1.1, 0, 0), (2, 1, 1)), False),
        (((0.2, 0.2, 0.2), (0.8, 0.8, 0.8)), False),  # inside, touching nothing
        (((0.2, 0.2, 1), (0.8, 0.8, 2)), True),  # standing on it: contact
        (((-9, -9, 1.001), (9, 9, 30)), False),  # much larger and close
    ],
)
def test_boxes_that_cross_or_touch_are_found_and_others_are_not(second, touched):
    points, faces = together(box((0, 0, 0), (1, 1, 1)), box(*second))
    assert bool(len(self_intersecting_faces(points, faces))) is touched
    turned = points @ OBLIQUE.T * 37 - 200  # contact is exact along the axes only
    if second[0][2] != 1:
        assert bool(len(self_intersecting_faces(turned, faces))) is touched


def test_a_triangle_folded_back_on_its_neighbour_is_found():
    corners = np.array([(0, 0, 0), (1, 0, 0), (0.4, 1, 0), (0.5, 0.7, 0)])
    assert list(self_intersecting_faces(corners, np.array([(0, 1, 2), (1, 0, 3)]))) == [0, 1]
    corners[3, 1] *= -1
    assert not len(self_intersecting_faces(corners, np.array([(0, 1, 2), (1, 0, 3)])))


def crumpled(noise: float) -> tuple[np.ndarray, np.ndarray]:
    labels, *_ = SHAPES["sphere"]
    points, faces = triangle_arrays(closed_surface(labels.mask(1), labels.geometry, max_triangles=3000))
    return points + np.random.default_rng(7).normal(0, noise, points.shape), faces


@needs("pymeshlab")
@pytest.mark.parametrize("noise", [0.0, 0.2, 0.6, 2.0])
def test_meshlab_finds_the_same_triangles(noise):
    import pymeshlab

    points, faces = crumpled(noise)
    meshes = pymeshlab.MeshSet()
    meshes.add_mesh(pymeshlab.Mesh(points, faces))
    meshes.compute_selection_by_self_intersections_per_face()
    theirs = np.flatnonzero(meshes.current_mesh().face_selection_array())
    np.testing.assert_array_equal(self_intersecting_faces(points, faces), theirs)
    assert bool(len(theirs)) is (noise > 0.4)


def test_untangling_takes_back_only_what_crosses():
    start, faces = crumpled(0)
    end = start.copy()
    low = start[:, 2].argmin()
    end[low] += (0, 0, 45)  # one point pulled right through the other side
    assert len(self_intersecting_faces(end, faces))
    result = untangled(start, end, faces)
    assert not len(self_intersecting_faces(result, faces))
    far = np.linalg.norm(start - start[low], axis=1) > 20
    np.testing.assert_array_equal(result[far], end[far])


def nearly_touching() -> LabelMap:
    """Two lobes with a cleft of one voxel, which smoothing closes up."""
    mask = sphere(18, (44, 44, 44))
    z, _, x = grid(mask.shape)
    return labelled(mask & ~((np.abs(x + 0.5) < 0.6) & (z > -6)))


def test_sheets_that_smoothing_would_push_through_each_other_are_kept_apart():
    labels = nearly_touching()
    found = print_surface(labels, LIVER, PrintOptions(smoothing=1.0, max_triangles=2500))
    assert found.faults == () and found.check.self_intersecting_faces == 0


@pytest.mark.parametrize("order", [0, 13, 29, 47])
def test_oblique_volumes_give_the_same_shape_in_every_axis_order(order):
    axes, flips = list(axis_orders())[order]
    mask = sphere(9, (16, 30, 30), (2.5, 0.8, 0.75))
    labels = reorder(LabelMap(mask.astype(np.uint8), Geometry(mask.shape, affine()), (LIVER,)), axes, flips)
    found = print_surface(labels, LIVER, PrintOptions())
    assert found.faults == ()
    middle = (labels.geometry.ijk_to_ras @ [*((n - 1) / 2 for n in labels.array.shape[::-1]), 1])[:3]
    points, _ = triangle_arrays(found.surface)
    np.testing.assert_allclose((points.min(axis=0) + points.max(axis=0)) / 2, middle, atol=0.3)
    assert found.check.size_mm == pytest.approx((18, 18, 18), abs=1.6)


def test_a_cut_organ_is_capped_and_the_sides_are_named():
    mask = sphere(18, (44, 44, 44))[10:, :, :-12]
    found = print_surface(labelled(mask), LIVER, PrintOptions())
    assert found.faults == () and found.check.mesh.closed
    assert set(found.capped) == {"inferior", "right"}  # k runs to superior, i to the patient's right here
    assert "may go on" in found.notes[0]


def test_the_largest_piece_and_filled_cavities_are_made_on_request():
    labels, *_ = SHAPES["nested shells"]
    one = print_surface(labels, LIVER, PrintOptions(largest_piece=True))
    assert (one.check.shells, one.check.cavities) == (1, 1)
    solid = print_surface(labels, LIVER, PrintOptions(largest_piece=True, fill_cavities=True))
    assert (solid.check.shells, solid.check.cavities) == (1, 0)
    assert solid.check.volume_ml == pytest.approx(sphere(20, (44, 44, 44)).sum() / 1000, rel=1e-3)


def broken() -> Any:
    """A found surface with a hole and a crossing."""
    labels, *_ = SHAPES["sphere"]
    points, faces = crumpled(0.6)
    check = check_for_printing(polydata(points, faces[1:]), labels.mask(1), labels.geometry)
    return check


def test_an_open_and_self_intersecting_surface_is_reported():
    check = broken()
    assert not check.mesh.closed and check.mesh.open_edges == 3 and check.self_intersecting_faces > 10
    assert "3 open edges" in check.faults() and not check.to_dict()["watertight"]
    assert any("cut through" in fault for fault in check.faults())


def test_faults_are_refused_unless_allowed_and_nothing_is_written(tmp_path, monkeypatch, capsys):
    from LiverMarginLib.io import printing

    monkeypatch.setattr(printing, "check_for_printing", lambda *_: broken())
    write_labelmap(SHAPES["sphere"][0], tmp_path / "l.nii.gz")
    words = ["export", str(tmp_path / "l.nii.gz"), "-o", str(tmp_path / "a.stl"), "--print"]
    assert main(words) == 2
    assert "not fit for printing: it has 3 open edges" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["l.nii.gz"]
    assert main([*words, "--allow-faults", "--json"]) == 0
    output = capsys.readouterr()
    assert "3 open edges" in output.err and json.loads(output.out)["segments"][0]["printable"] is False


def test_a_size_that_nobody_knows_is_a_fault():
    found = print_surface(labelled(edge_touch(), spacing_known=False), LIVER, PrintOptions())
    with pytest.raises(InputError, match="unknown voxel spacing"):
        refuse_faults([found])


@pytest.fixture
def organs(tmp_path: Path) -> Path:
    array = np.where(sphere(14, (36, 40, 44)), 1, 0)
    array[14:20, 16:22, 18:24] = 2
    labels = LabelMap(array, Geometry(array.shape, affine()), (LIVER, LIVER_MASS), {})
    write_labelmap(labels, tmp_path / "organs.seg.nrrd")
    return tmp_path / "organs.seg.nrrd"


def test_export_for_printing_writes_files_a_report_and_says_space_and_unit(organs, tmp_path, capsys):
    outputs = [tmp_path / f"out.{suffix}" for suffix in ("stl", "ply", "3mf")]
    words = ["export", str(organs), "--print", "--triangles", "2000", "--space", "RAS", "--json"]
    assert main(words + [word for path in outputs for word in ("-o", str(path))]) == 0
    result = json.loads(capsys.readouterr().out)
    names = {"out_Liver.stl", "out_Mass_in_Liver.stl", "out_Liver.ply", "out_Mass_in_Liver.ply", "out.3mf"}
    assert {Path(path).name for path in result["outputs"]} == names
    report = json.loads((tmp_path / "out.print.json").read_text())
    assert (report["units"], report["space"], set(report["files"])) == ("mm", "RAS", names)
    liver, mass = report["segments"]
    assert liver["cavities"] == 1 and mass["name"] == "Mass in Liver" and liver["printable"] and mass["printable"]
    assert liver["triangles"] <= 2000 and liver["watertight"] and liver["self_intersecting_faces"] == 0
    assert b"SPACE=RAS UNIT=mm" in (tmp_path / "out_Liver.stl").read_bytes()[:80]


def test_the_job_makes_the_round_trip_through_json_and_chooses_a_label_by_name(organs, tmp_path):
    job = job_from_dict({"job": "print", "input": str(organs), "outputs": [str(tmp_path / "m.obj")], "labels": ["2"]})
    result = run(job_from_dict(json.loads(json.dumps(job.to_dict()))))
    assert [Path(path).name for path in result["outputs"]] == ["m.obj"]
    assert result["segments"][0]["name"] == "Mass in Liver"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-o", "a.nii.gz", "--print"], "no surface file"),
        (["-o", "a.stl", "--triangles", "9"], "add --print"),
        (["-o", "a.stl", "--print", "--smoothing", "7"], "between 0 and 1"),
        (["-o", "a.stl", "--print", "--triangles", "2"], "at least 4"),
        (["-o", "a.stl", "--print", "--label", "9"], "no label 9"),
        (["-o", "a.stl", "--print", "--picture", "a.gif"], "end in .png"),
    ],
)
def test_what_cannot_be_printed_is_refused_with_one_sentence(organs, tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.chdir(tmp_path)
    assert main(["export", str(organs), *options]) == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [organs.name]


def scene() -> tuple[bytes, list[Any]]:
    labels = example()
    surfaces = [(s, closed_surface(labels.mask(s.label), labels.geometry)) for s in (LIVER, LIVER_MASS)]
    surfaces[0] = (Segment(1, 'Läsion <"1">\x07', LIVER.colour), surfaces[0][1])
    return encode_scene(surfaces, space=Space.LPS), surfaces


def test_equal_surfaces_are_equal_3mf_files():
    assert scene()[0] == scene()[0]


@needs("lib3mf")
def test_lib3mf_reads_unit_names_colours_and_places_without_a_warning(tmp_path):
    from lib3mf import get_wrapper

    data, surfaces = scene()
    (tmp_path / "a.3mf").write_bytes(data)
    wrapper = get_wrapper()
    model = wrapper.CreateModel()
    reader = model.QueryReader("3mf")
    reader.SetStrictModeActive(True)
    reader.ReadFromFile(str(tmp_path / "a.3mf"))
    assert reader.GetWarningCount() == 0
    assert model.GetUnit() == type(model.GetUnit()).MilliMeter
    assert "SPACE=LPS" in model.GetMetaDataGroup().GetMetaDataByKey("", "Description").GetValue()
    objects = model.GetMeshObjects()
    for segment, surface in surfaces:
        assert objects.MoveNext()
        found = objects.GetCurrentMeshObject()
        assert found.GetName() == segment.name.replace("\x07", " ") and found.IsManifoldAndOriented()
        vertices = np.array([list(vertex.Coordinates) for vertex in found.GetVertices()])
        triangles = np.array([list(triangle.Indices) for triangle in found.GetTriangleIndices()])
        points, faces = triangle_arrays(surface)
        np.testing.assert_allclose(vertices, points * (-1, -1, 1), rtol=1e-6, atol=1e-5)
        np.testing.assert_array_equal(triangles, faces)
    materials = model.GetBaseMaterialGroups()
    assert materials.MoveNext()
    group = materials.GetCurrentBaseMaterialGroup()
    colour = group.GetDisplayColor(group.GetAllPropertyIDs()[0])
    assert (colour.Red, colour.Green, colour.Blue) == LIVER.colour
    low = np.array(list(model.GetOutbox().MinCoordinate))
    np.testing.assert_allclose(low, 0, atol=1e-3)  # on the print bed


def test_a_3mf_is_a_zip_by_the_packaging_conventions():
    import io

    with zipfile.ZipFile(io.BytesIO(scene()[0])) as package:
        assert package.namelist() == ["[Content_Types].xml", "_rels/.rels", "3D/3dmodel.model"]
        assert b'unit="millimeter"' in package.read("3D/3dmodel.model")


def _can_render() -> bool:
    labels, *_ = SHAPES["two voxels that touch at an edge"]
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        try:
            surface_picture.write_surface_picture(
                [(LIVER, closed_surface(labels.mask(1), labels.geometry))], Path(folder) / "a.png"
            )
        except ResourceError:
            return False
    return True


def test_the_picture_shows_the_segments_in_their_colours(organs, tmp_path):
    from PIL import Image

    if not _can_render():
        pytest.skip("nothing can be rendered on this machine")
    words = ["export", str(organs), "-o", str(tmp_path / "a.stl"), "--print", "--picture", str(tmp_path / "a.png")]
    assert main(words) == 0
    picture = np.asarray(Image.open(tmp_path / "a.png").convert("RGB")).astype(int)
    third = picture.shape[1] // 3
    for part in (picture[:, :third], picture[:, third : 2 * third], picture[:, 2 * third :]):
        drawn = (part[..., 0] - part[..., 2]) > 20  # the liver's colour is reddish, paper and ink are grey
        assert 0.05 < drawn.mean() < 0.6


def test_without_a_renderer_the_picture_is_left_out_and_said(organs, tmp_path, monkeypatch):
    crashed = subprocess.CompletedProcess([], -6, b"", b"no display")
    monkeypatch.setattr(surface_picture.subprocess, "run", lambda *_, **__: crashed)
    events: list[Any] = []
    job = {"job": "print", "input": str(organs), "outputs": [str(tmp_path / "a.stl")], "labels": ["1"]}
    result = run(job_from_dict({**job, "picture": str(tmp_path / "a.png")}), events.append)
    assert result["picture"] is None and not (tmp_path / "a.png").exists() and (tmp_path / "a.stl").exists()
    assert any(isinstance(event, Notice) and "graphics driver" in event.message for event in events)


def test_the_phantoms_liver_passes_every_check():
    phantom = make_phantom(3, PhantomOptions(shape=(40, 112, 112), spacing=(5.0, 3.2, 3.2)))
    found = print_surface(liver_target(phantom.labels), LIVER, PrintOptions(max_triangles=20_000))
    assert found.faults == () and found.smoothing > 0 and found.check.largest_shell_share > 0.99


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("folder", "labels"),
    [
        ("mr_amos_0540", (4, 6, 10, 13)),
        ("mr_slab", (5, 7, 23)),
        ("ct_portal_slab", (5, 32, 117)),
        ("labels_amos_0013", (3, 10, 11)),
    ],
)
def test_real_organs_pass_every_check(real_data, folder, labels):
    image = nibabel.load(real_data / folder / "labels.nii.gz")
    array = np.asarray(image.dataobj).T.astype(np.uint8)
    label_map = LabelMap(array, Geometry(array.shape, image.affine))
    for label in labels:
        found = print_surface(label_map, Segment(label, "Organ", (1, 2, 3)), PrintOptions(max_triangles=20_000))
        assert found.faults == (), (folder, label, found.faults)
