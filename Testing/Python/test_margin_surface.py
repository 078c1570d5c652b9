"""The surface of a prediction with its margin errors: the values, the places, and the file."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from vtkmodules.util.numpy_support import vtk_to_numpy
from vtkmodules.vtkIOXML import vtkXMLPolyDataReader

from LiverMarginLib.cli import main
from LiverMarginLib.comparison import compare_case
from LiverMarginLib.io.writers import write_labelmap
from LiverMarginLib.report.margin_colours import LIMIT, MARGIN_ERROR
from LiverMarginLib.report.margin_surface import margin_surface, write_margin_surface
from LiverMarginLib.terminology import LIVER
from LiverMarginLib.volume import Geometry, LabelMap, axial_view

SHAPE = (40, 48, 48)
SPACING = (2.0, 1.5, 1.5)


def grid() -> Geometry:
    """An oblique grid whose axes are flipped against the axial view's."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", (15, -10, 20), degrees=True).as_matrix() @ np.diag(SPACING[::-1])
    matrix[:3, 3] = 30, -70, 400
    return Geometry(SHAPE, matrix)


def ball(radius: float, shift=(0.0, 0.0, 0.0)) -> LabelMap:
    """A ball around the middle of the grid, moved by a shift along (k, j, i) in mm."""
    axes = [(np.arange(n) - (n - 1) / 2) * s - d for n, s, d in zip(SHAPE, SPACING, shift, strict=True)]
    k, j, i = np.meshgrid(*axes, indexing="ij")
    return LabelMap((k * k + j * j + i * i < radius * radius).astype(np.uint8), grid(), (LIVER,))


def surface_of(reference: LabelMap, prediction: LabelMap):
    case = compare_case(reference, {"m": prediction})
    mask = axial_view(prediction.geometry).to_view(prediction.array) > 0
    surface = margin_surface(case.predictions["m"].margin, mask, case.geometry, 4.0)
    points = vtk_to_numpy(surface.GetPoints().GetData())
    return surface, points, vtk_to_numpy(surface.GetPointData().GetArray(MARGIN_ERROR))


def middle() -> np.ndarray:
    return (grid().ijk_to_ras @ [*((n - 1) / 2 for n in SHAPE[::-1]), 1.0])[:3]


@pytest.mark.parametrize(("radius", "expected"), [(28.0, 5.0), (18.0, -5.0), (23.0, 0.0)])
def test_a_ball_that_is_too_large_or_too_small_has_its_error_all_over(radius, expected):
    _surface, points, error = surface_of(ball(23), ball(radius))
    assert np.linalg.norm(points - middle(), axis=1).mean() == pytest.approx(radius, abs=1)
    assert error.mean() == pytest.approx(expected, abs=0.5)
    assert error.std() < 0.8


def test_a_ball_that_is_moved_reaches_beyond_on_one_side_and_falls_short_on_the_other():
    _surface, points, error = surface_of(ball(20), ball(20, (0, 0, 6)))
    along_i = (points - middle()) @ grid().directions[:, 0] - 6
    assert error[along_i > 17].mean() == pytest.approx(6, abs=1)
    assert error[along_i < -17].mean() == pytest.approx(-6, abs=1)


def test_the_file_says_where_it_lies_and_keeps_the_errors(tmp_path):
    surface, points, error = surface_of(ball(20), ball(22))
    write_margin_surface(surface, tmp_path / "m.vtp")
    np.testing.assert_array_equal(vtk_to_numpy(surface.GetPoints().GetData()), points)
    reader = vtkXMLPolyDataReader()
    reader.SetFileName(str(tmp_path / "m.vtp"))
    reader.Update()
    read = reader.GetOutput()
    assert read.GetFieldData().GetAbstractArray("SPACE").GetValue(0) == "LPS"
    np.testing.assert_allclose(vtk_to_numpy(read.GetPoints().GetData()), points * (-1, -1, 1), atol=1e-4)
    np.testing.assert_array_equal(vtk_to_numpy(read.GetPointData().GetArray(MARGIN_ERROR)), error)


@pytest.mark.slicer
def test_slicer_reads_the_file_in_its_place(tmp_path):
    import slicer

    surface, points, _error = surface_of(ball(20), ball(22))
    write_margin_surface(surface, tmp_path / "m.vtp")
    node = slicer.vtkMRMLScene().AddNewNodeByClass("vtkMRMLModelNode")
    storage = slicer.vtkMRMLModelStorageNode()
    storage.SetFileName(str(tmp_path / "m.vtp"))
    assert storage.ReadData(node)
    np.testing.assert_allclose(vtk_to_numpy(node.GetPolyData().GetPoints().GetData()), points, atol=1e-4)
    assert node.GetPolyData().GetFieldData().GetArray(LIMIT).GetValue(0) == 4


def test_the_command_line_writes_a_surface_for_each_model_that_found_something(tmp_path, capsys):
    reference = write_labelmap(ball(20), tmp_path / "reference.nii.gz")[0]
    good = write_labelmap(ball(21), tmp_path / "good.nii.gz")[0]
    empty = ball(20)
    empty.array[:] = 0
    nothing = write_labelmap(empty, tmp_path / "nothing.nii.gz")[0]
    words = ["compare", str(reference), str(good), str(nothing), "-o", str(tmp_path / "out"), "--no-report"]
    assert main([*words, "--surfaces", "--json"]) == 0
    assert [path.name for path in (tmp_path / "out" / "surfaces").iterdir()] == ["case_good.vtp"]
    assert "case_good.vtp" in capsys.readouterr().out
    assert main([*words[:4], "-o", str(tmp_path / "plain"), "--no-report"]) == 0
    assert not (tmp_path / "plain" / "surfaces").exists()
