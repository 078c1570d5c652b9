"""Surface files: STL, PLY, OBJ and 3MF, which state the coordinate system and the unit where the format has a place.

The files are written here: VTK's PLY and OBJ writers report success on a full disk (seen with VTK 9.6), and its OBJ
writer has no comment to hold the coordinate system.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path

import numpy as np
import numpy.typing as npt
from vtkmodules.vtkCommonDataModel import vtkPolyData

from LiverMarginLib.errors import InputError
from LiverMarginLib.io.atomic import atomic_path
from LiverMarginLib.io.surface_arrays import Faces, triangle_arrays
from LiverMarginLib.io.threemf import Part, encode_3mf
from LiverMarginLib.terminology import Segment

Points32 = npt.NDArray[np.float32]

SUFFIXES = (".stl", ".obj", ".ply", ".3mf")
_GREY = (200, 200, 200)


class Space(StrEnum):
    """Axes of a surface file's coordinates."""

    LPS = "LPS"
    RAS = "RAS"


def write_surface(
    surface: vtkPolyData, path: Path, *, space: Space = Space.LPS, name: str = "Segment", overwrite: bool = True
) -> None:
    """Write a triangle surface as binary STL, binary PLY, OBJ or 3MF, by the suffix of `path`.

    Parameters
    ----------
    surface : vtkPolyData
        Triangles in RAS mm.
    path : Path
        Ends in ``.stl``, ``.ply``, ``.obj`` or ``.3mf``.
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
    if suffix.lower() == ".3mf":
        return encode_scene([(Segment(1, name, _GREY), surface)], space=space)
    encode = _ENCODERS.get(suffix.lower())
    if encode is None:
        raise InputError(
            f"A surface cannot be written as {suffix or 'a file without an ending'}; use .stl, .ply, .obj or .3mf."
        )
    points, faces = _in_space(surface, space)
    title = f"LiverMargin {name.encode('ascii', 'replace').decode()} SPACE={space.value} UNIT=mm"
    return encode(points, faces, " ".join(title.split()))


def encode_scene(surfaces: Sequence[tuple[Segment, vtkPolyData]], *, space: Space = Space.LPS) -> bytes:
    """Return the bytes of a 3MF file with one named and coloured object a segment, in place to each other."""
    parts = []
    for segment, surface in surfaces:
        points, faces = _in_space(surface, space)
        parts.append(Part(segment.name, segment.colour, points, faces))
    return encode_3mf(parts, f"LiverMargin SPACE={space.value} UNIT=mm")


def surface_paths(path: Path, segments: Sequence[Segment], *, several: bool) -> list[Path]:
    """Name the file of each segment's surface.

    Parameters
    ----------
    path : Path
        As the user named it.
    segments : sequence of Segment
    several : bool
        Whether the label map has more than one segment; the names then carry theirs, ``<name>_<segment>``. A 3MF
        file holds them all.
    """
    if not several or path.suffix.lower() == ".3mf":
        return [path] * len(segments)
    names = [re.sub(r"\W+", "_", segment.name).strip("_") for segment in segments]
    endings = [
        name if name and names.count(name) == 1 else f"{name}_{segment.label}"
        for name, segment in zip(names, segments, strict=True)
    ]
    return [path.with_name(f"{path.stem}_{ending}{path.suffix}") for ending in endings]


def _in_space(surface: vtkPolyData, space: Space) -> tuple[Points32, Faces]:
    points, faces = triangle_arrays(surface)
    if space is Space.LPS:
        points = points * (-1.0, -1.0, 1.0)  # half a turn, so outside stays outside
    return points.astype("<f4"), faces


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
