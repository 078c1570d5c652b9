"""3MF packages (3D Manufacturing Format, core specification 1.3): a zip by the Open Packaging Conventions.

Unlike STL the format states its unit, and one file holds several named and coloured objects. Vertices are patient
millimetres; patient coordinates are mostly negative and a print bed's are not, so the build items carry the shift, the
same for all, that puts them on the bed.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

import numpy as np
import numpy.typing as npt

_CORE = "http://schemas.microsoft.com/3dmanufacturing/core/2015/02"
_MODEL_PATH = "3D/3dmodel.model"
_PROLOGUE = '<?xml version="1.0" encoding="UTF-8"?>\n'
_CONTENT_TYPES = (
    '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
    '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
    '<Default Extension="model" ContentType="application/vnd.ms-package.3dmanufacturing-3dmodel+xml"/>'
    "</Types>"
)
_RELATIONSHIPS = (
    '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
    f'<Relationship Target="/{_MODEL_PATH}" Id="rel0" '
    'Type="http://schemas.microsoft.com/3dmanufacturing/2013/01/3dmodel"/>'
    "</Relationships>"
)
_MATERIALS = 1


@dataclass(frozen=True)
class Part:
    """One object of a package.

    Parameters
    ----------
    name : str
    colour : tuple of int
        Red, green, blue, 0 to 255.
    points : ndarray of float32, shape (n, 3)
        In mm.
    faces : ndarray of int64, shape (m, 3)
        Point indices, counter-clockwise seen from outside.
    """

    name: str
    colour: tuple[int, int, int]
    points: npt.NDArray[np.float32]
    faces: npt.NDArray[np.int64]


def encode_3mf(parts: Sequence[Part], description: str) -> bytes:
    """Return the bytes of a package; the same parts always give the same bytes.

    Parameters
    ----------
    parts : sequence of Part
        At least one.
    description : str
        Of the whole, such as the coordinate system; stands in the model's metadata.
    """
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED, compresslevel=4) as package:
        for name, text in (
            ("[Content_Types].xml", _CONTENT_TYPES),
            ("_rels/.rels", _RELATIONSHIPS),
            (_MODEL_PATH, _model(parts, description)),
        ):
            entry = zipfile.ZipInfo(name)  # dated 1980, so that equal parts are equal files
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            package.writestr(entry, _PROLOGUE + text)
    return data.getvalue()


def _model(parts: Sequence[Part], description: str) -> str:
    shift = " ".join(f"{-low:.9g}" for low in np.minimum.reduce([part.points.min(axis=0) for part in parts]).tolist())
    lines = [
        f'<model unit="millimeter" xml:lang="en" xmlns="{_CORE}">',
        '<metadata name="Application">LiverMargin</metadata>',
        f'<metadata name="Description">{escape(description)}</metadata>',
        "<resources>",
        f'<basematerials id="{_MATERIALS}">',
        *(
            f'<base name={_attribute(part.name)} displaycolor="#{"".join(f"{c:02X}" for c in part.colour)}"/>'
            for part in parts
        ),
        "</basematerials>",
    ]
    objects = range(_MATERIALS + 1, _MATERIALS + 1 + len(parts))
    for index, (number, part) in enumerate(zip(objects, parts, strict=True)):
        name = _attribute(part.name)
        lines.append(f'<object id="{number}" type="model" name={name} pid="{_MATERIALS}" pindex="{index}">')
        lines.append("<mesh><vertices>")
        lines += [f'<vertex x="{x:.9g}" y="{y:.9g}" z="{z:.9g}"/>' for x, y, z in part.points.tolist()]
        lines.append("</vertices><triangles>")
        lines += [f'<triangle v1="{a}" v2="{b}" v3="{c}"/>' for a, b, c in part.faces.tolist()]
        lines.append("</triangles></mesh></object>")
    lines.append("</resources><build>")
    lines += [f'<item objectid="{number}" transform="1 0 0 0 1 0 0 0 1 {shift}"/>' for number in objects]
    lines.append("</build></model>")
    return "\n".join(lines)


def _attribute(text: str) -> str:
    """Quote a name; control characters, which XML cannot hold, become spaces."""
    return quoteattr("".join(c if c.isprintable() else " " for c in text))
