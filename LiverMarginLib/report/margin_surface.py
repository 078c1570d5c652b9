"""The surface of a prediction with its margin error at every point, for 3-D views (3D Slicer, ParaView)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree
from vtkmodules.util.numpy_support import numpy_to_vtk, vtk_to_numpy
from vtkmodules.vtkCommonCore import vtkStringArray
from vtkmodules.vtkCommonDataModel import vtkPolyData
from vtkmodules.vtkIOXML import vtkXMLPolyDataWriter

from LiverMarginLib.io.atomic import atomic_path
from LiverMarginLib.io.surface_files import Space
from LiverMarginLib.io.surfaces import closed_surface
from LiverMarginLib.metrics.suite import MarginErrors
from LiverMarginLib.report.margin_colours import LIMIT, MARGIN_ERROR
from LiverMarginLib.volume import Geometry

# A point of the smoothed surface lies between surface voxels; it gets the mean of this many, the nearer the heavier.
_NEIGHBOURS = 4


def margin_surface(
    margin: MarginErrors, mask: npt.NDArray[np.bool_], geometry: Geometry, limit_mm: float
) -> vtkPolyData:
    """Build a prediction's closed surface and put the margin errors of its surface voxels onto it.

    Parameters
    ----------
    margin : MarginErrors
        Of this prediction.
    mask : ndarray of bool, shape (k, j, i)
        The prediction; with at least one voxel.
    geometry : Geometry
        The grid of both: that of the comparison.
    limit_mm : float
        Where the colours end; see `margin_limit`.

    Returns
    -------
    vtkPolyData
        As `closed_surface`, in RAS mm, with the point array `MARGIN_ERROR`, float32: signed distance in mm to the
        reference's surface, positive where the prediction reaches beyond it. The field array `LIMIT` holds `limit_mm`.
    """
    surface = closed_surface(mask, geometry)
    to_index = np.linalg.inv(geometry.ijk_to_ras)
    points = vtk_to_numpy(surface.GetPoints().GetData()) @ to_index[:3, :3].T + to_index[:3, 3]
    spacing = np.array(geometry.spacing)
    tree = cKDTree(margin.prediction_points * spacing)
    distance, nearest = tree.query(points[:, ::-1] * spacing, k=min(_NEIGHBOURS, len(margin.prediction_points)))
    distance, nearest = distance.reshape(len(points), -1), nearest.reshape(len(points), -1)
    weight = 1.0 / np.maximum(distance, 1e-3 * spacing.min()) ** 2
    error = (margin.at_prediction[nearest] * weight).sum(axis=1) / weight.sum(axis=1)
    values = numpy_to_vtk(error.astype(np.float32), deep=True)
    values.SetName(MARGIN_ERROR)
    surface.GetPointData().SetScalars(values)
    limit = numpy_to_vtk(np.array([limit_mm]), deep=True)
    limit.SetName(LIMIT)
    surface.GetFieldData().AddArray(limit)
    return surface


def write_margin_surface(surface: vtkPolyData, path: Path) -> None:
    """Write a surface with its point arrays as VTK XML (``.vtp``), in LPS as its field data say.

    Parameters
    ----------
    surface : vtkPolyData
        In RAS mm; left as it is.
    path : Path

    Raises
    ------
    InputError, ResourceError
        See `atomic_path`.
    """
    flipped = vtkPolyData()
    flipped.DeepCopy(surface)
    points = vtk_to_numpy(surface.GetPoints().GetData()) * (-1.0, -1.0, 1.0)
    flipped.GetPoints().SetData(numpy_to_vtk(points.astype(np.float32), deep=True))
    space = vtkStringArray()
    space.SetName("SPACE")  # where 3D Slicer looks for it
    space.InsertNextValue(Space.LPS.value)
    flipped.GetFieldData().AddArray(space)
    writer = vtkXMLPolyDataWriter()
    writer.SetInputData(flipped)
    writer.SetDataModeToBinary()
    writer.WriteToOutputStringOn()  # VTK does not tell of a full disk
    writer.Write()
    with atomic_path(path) as temporary:
        temporary.write_text(writer.GetOutputString(), encoding="utf-8")
