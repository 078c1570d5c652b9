"""A PNG of surfaces: seen from the front, from the patient's right and from below, on one scale.

VTK ends the whole process where it finds no way to render, so the picture is made in a child process: without a
graphics driver there is no picture, and a reason instead.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from vtkmodules.vtkCommonDataModel import vtkPolyData

from LiverMarginLib.errors import ResourceError
from LiverMarginLib.io.atomic import atomic_path
from LiverMarginLib.io.surface_arrays import polydata, triangle_arrays
from LiverMarginLib.terminology import Segment
from LiverMarginLib.volume import FloatMatrix

_SECONDS = 120
_TILE = 560  # pixels
_BACKGROUND = (1.0, 1.0, 1.0)
_INK = (0.15, 0.15, 0.15)
# Name, towards the viewer, up (RAS).
_VIEWS = (
    ("from the front", (0, 1, 0), (0, 0, 1)),
    ("from the right", (1, 0, 0), (0, 0, 1)),
    ("from below", (0, 0, -1), (0, 1, 0)),
)


def write_surface_picture(surfaces: Sequence[tuple[Segment, vtkPolyData]], path: Path) -> None:
    """Write a PNG of surfaces in RAS mm, each in its segment's colour.

    Parameters
    ----------
    surfaces : sequence of (Segment, vtkPolyData)
    path : Path

    Raises
    ------
    ResourceError
        Where nothing can be rendered.
    InputError, ResourceError
        See `atomic_path`.
    """
    with atomic_path(path) as temporary, tempfile.TemporaryDirectory() as folder:
        arrays: dict[str, Any] = {}
        for number, (segment, surface) in enumerate(surfaces):
            arrays[f"points{number}"], arrays[f"faces{number}"] = triangle_arrays(surface)
            arrays[f"colour{number}"] = np.array(segment.colour)
        np.savez(Path(folder) / "surfaces.npz", **arrays)
        package = str(Path(__file__).resolve().parents[2])
        search = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH", ""))))
        try:
            done = subprocess.run(
                [sys.executable, "-m", __name__, str(Path(folder) / "surfaces.npz"), str(Path(folder) / "picture.png")],
                env={**os.environ, "PYTHONPATH": search},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_SECONDS,
                check=False,
            )
            details = done.stderr.decode(errors="replace")[-2000:]
        except subprocess.TimeoutExpired:
            details = f"no picture after {_SECONDS} s"
        picture = Path(folder) / "picture.png"
        if not picture.exists() or not picture.stat().st_size:
            raise ResourceError(
                "No picture of the surface could be rendered on this machine; install a graphics driver or Mesa's "
                "software renderer (libEGL or libOSMesa).",
                details,
            )
        temporary.write_bytes(picture.read_bytes())


def _main(source: str, target: str) -> None:
    with np.load(source) as arrays:
        count = len(arrays.files) // 3
        surfaces = [
            (polydata(arrays[f"points{n}"], arrays[f"faces{n}"]), tuple(arrays[f"colour{n}"] / 255.0))
            for n in range(count)
        ]
    _render(surfaces, target)


def _render(surfaces: Sequence[tuple[vtkPolyData, tuple[float, ...]]], target: str) -> None:
    # Loading these finds the machine's renderer, so it is left to the child process.
    import vtkmodules.vtkRenderingFreeType
    import vtkmodules.vtkRenderingOpenGL2  # noqa: F401
    from vtkmodules.vtkFiltersCore import vtkPolyDataNormals
    from vtkmodules.vtkIOImage import vtkPNGWriter
    from vtkmodules.vtkRenderingCore import (
        vtkActor,
        vtkPolyDataMapper,
        vtkRenderer,
        vtkRenderWindow,
        vtkWindowToImageFilter,
    )

    bounds = np.array([surface.GetBounds() for surface, _ in surfaces]).reshape(-1, 3, 2)
    low, high = bounds[..., 0].min(axis=0), bounds[..., 1].max(axis=0)
    window = vtkRenderWindow()
    window.SetOffScreenRendering(True)
    window.SetMultiSamples(8)
    window.SetSize(_TILE * len(_VIEWS), _TILE)
    actors = []
    for surface, colour in surfaces:
        normals = vtkPolyDataNormals()
        normals.SetInputData(surface)
        normals.SetFeatureAngle(50)
        mapper = vtkPolyDataMapper()
        mapper.SetInputConnection(normals.GetOutputPort())
        actor = vtkActor()
        actor.SetMapper(mapper)
        actor.GetProperty().SetColor(*colour)
        actor.GetProperty().SetAmbient(0.15)
        actor.GetProperty().SetSpecular(0.15)
        actor.GetProperty().SetSpecularPower(20)
        actors.append(actor)
    for number, (name, towards, up) in enumerate(_VIEWS):
        renderer = vtkRenderer()
        renderer.SetBackground(*_BACKGROUND)
        renderer.SetViewport(number / len(_VIEWS), 0, (number + 1) / len(_VIEWS), 1)
        for actor in actors:
            renderer.AddActor(actor)
        _aim(renderer, low, high, np.array(towards, dtype=float), up)
        _describe(renderer, name, high - low)
        window.AddRenderer(renderer)
    window.Render()
    shot = vtkWindowToImageFilter()
    shot.SetInput(window)
    shot.ReadFrontBufferOff()
    writer = vtkPNGWriter()
    writer.SetFileName(target)
    writer.SetInputConnection(shot.GetOutputPort())
    writer.Write()


def _aim(renderer: Any, low: FloatMatrix, high: FloatMatrix, towards: FloatMatrix, up: tuple[int, int, int]) -> None:
    """Look at the middle from afar in parallel, all views on one scale."""
    camera = renderer.GetActiveCamera()
    middle, extent = (low + high) / 2, high - low
    camera.ParallelProjectionOn()
    camera.SetFocalPoint(*middle)
    camera.SetPosition(*(middle + towards * 4 * extent.max()))
    camera.SetViewUp(*up)
    camera.SetParallelScale(0.62 * extent.max())
    renderer.ResetCameraClippingRange()


def _describe(renderer: Any, name: str, extent: FloatMatrix) -> None:
    """Write what is seen, and draw a bar of known length."""
    from vtkmodules.vtkCommonCore import vtkPoints
    from vtkmodules.vtkCommonDataModel import vtkCellArray
    from vtkmodules.vtkRenderingCore import vtkActor2D, vtkPolyDataMapper2D, vtkTextActor

    length = max(step for step in (1, 2, 5, 10, 20, 50, 100, 200) if step <= max(extent.max() / 2, 1))
    pixels = length / (2 * 0.62 * extent.max()) * _TILE
    for text, x, y in ((name, 16, _TILE - 34), (f"{length} mm", 16 + pixels + 10, 18)):
        label = vtkTextActor()
        label.SetInput(text)
        label.SetPosition(x, y)
        label.GetTextProperty().SetFontSize(18)
        label.GetTextProperty().SetColor(*_INK)
        renderer.AddViewProp(label)
    points = vtkPoints()
    for end in (16.0, 16.0 + pixels):
        points.InsertNextPoint(end, 26.0, 0.0)
    lines = vtkCellArray()
    lines.InsertNextCell(2, (0, 1))
    bar = vtkPolyData()
    bar.SetPoints(points)
    bar.SetLines(lines)
    mapper = vtkPolyDataMapper2D()
    mapper.SetInputData(bar)
    actor = vtkActor2D()
    actor.SetMapper(mapper)
    actor.GetProperty().SetColor(*_INK)
    actor.GetProperty().SetLineWidth(3)
    renderer.AddViewProp(actor)


if __name__ == "__main__":
    _main(*sys.argv[1:])
