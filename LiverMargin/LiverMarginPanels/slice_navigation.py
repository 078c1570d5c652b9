"""From an axial slice of a comparison to the place in the views, whatever the volume's axes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import slicer

from LiverMarginLib.volume import LabelMap, axial_view
from LiverMarginPanels.label_box import label_box

FloatMatrix = npt.NDArray[np.float64]
Place = tuple[float, float, float]

# How much of its size is shown around the organ.
_MARGIN = 0.12


class SlicePlaces:
    """Where the axial slices of a reference lie.

    Parameters
    ----------
    reference : LabelMap
        With one organ, as label 1.
    """

    def __init__(self, reference: LabelMap) -> None:
        view = axial_view(reference.geometry)
        array = view.to_view(reference.array)
        self._grid = view.geometry
        self._box = label_box(array)
        self._mask = array[self._box].astype(bool)

    def __len__(self) -> int:
        return self._grid.shape[0]

    def place(self, index: int) -> Place:
        """RAS mm of the middle of the reference in a slice, or of its box where the slice does not show it.

        Parameters
        ----------
        index : int
            Counted along the first axis of the axial view, as in the tables.
        """
        slices, lines, columns = self._box
        if slices.start <= index < slices.stop:
            j, i = np.nonzero(self._mask[index - slices.start])
            if len(j):
                return self._ras(i.mean() + columns.start, j.mean() + lines.start, index)
        return self._ras(_middle(columns), _middle(lines), index)

    def middle(self) -> Place:
        """RAS mm of the middle of the reference's box."""
        slices, lines, columns = self._box
        return self._ras(_middle(columns), _middle(lines), _middle(slices))

    def orient(self, slice_node: Any) -> None:
        """Turn a slice view to the planes of the slices, patient's right on its left and anterior up.

        On an oblique volume these are not Slicer's axial planes, which would cut through many slices at once.

        Parameters
        ----------
        slice_node : vtkMRMLSliceNode
        """
        directions = self._grid.directions
        across, up = directions[:, 0], -directions[:, 1]
        up = up - across * (across @ up)  # axes of a sheared volume are not at right angles, a view's are
        normal = np.cross(up, across)  # superior, as in Slicer's own axial view, which is left-handed
        matrix = slice_node.GetSliceToRAS()
        for column, axis in enumerate((across, up / np.linalg.norm(up), normal / np.linalg.norm(normal))):
            for row in range(3):
                matrix.SetElement(row, column, float(axis[row]))
        for row, value in enumerate(self.middle()):
            matrix.SetElement(row, 3, value)
        slice_node.UpdateMatrices()

    def zoom(self, slice_node: Any) -> None:
        """Fill a slice view with the reference, and with a little of what is around it.

        Parameters
        ----------
        slice_node : vtkMRMLSliceNode
            Turned by `orient`, and as large as it is on the screen.
        """
        size = [n * step for n, step in zip(self._mask.shape, self._grid.spacing, strict=True)]
        _slices, high, wide = ((1 + 2 * _MARGIN) * side for side in size)
        columns, rows, _one = slice_node.GetDimensions()
        step = max(wide / max(columns, 1), high / max(rows, 1))  # mm a pixel
        slice_node.SetFieldOfView(step * columns, step * rows, slice_node.GetFieldOfView()[2])

    def aim(self, camera_node: Any) -> None:
        """Let a 3-D view look at the whole reference from in front of the patient.

        Parameters
        ----------
        camera_node : vtkMRMLCameraNode
        """
        r, a, s = self.middle()
        size = max(n * step for n, step in zip(self._mask.shape, self._grid.spacing, strict=True))
        half_angle = math.radians(camera_node.GetCamera().GetViewAngle() / 2)
        distance = (1 + 2 * _MARGIN) * size / 2 / math.sin(half_angle)
        was_modifying = camera_node.StartModify()
        camera_node.SetFocalPoint(r, a, s)
        camera_node.SetPosition(r, a + distance, s)
        camera_node.SetViewUp(0, 0, 1)
        camera_node.ResetClippingRange()
        camera_node.EndModify(was_modifying)

    def _ras(self, i: float, j: float, k: float) -> Place:
        r, a, s, _one = self._grid.ijk_to_ras @ (i, j, k, 1.0)
        return float(r), float(a), float(s)


def _middle(side: slice) -> float:
    return (side.start + side.stop - 1) / 2


def jump(scene: Any, place: Place, group: int | None = None) -> None:
    """Move slice views to a place, keeping what they show of the plane.

    Parameters
    ----------
    scene : vtkMRMLScene
    place : tuple of float
        RAS mm.
    group : int, optional
        Only the views of this group; None moves all.
    """
    kind = slicer.vtkMRMLSliceNode
    kind.JumpAllSlices(scene, *place, kind.OffsetJumpSlice, -1 if group is None else group)
