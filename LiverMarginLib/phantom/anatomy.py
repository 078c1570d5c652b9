"""One patient's anatomy on a grid: everything drawn from the seed, painted slab by slab, appearance left open."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from LiverMarginLib.phantom.canvas import Canvas, Material, Palette, Placement
from LiverMarginLib.phantom.circulation import GreatVessels, Heart, draw_mesentery
from LiverMarginLib.phantom.fields import rotation
from LiverMarginLib.phantom.gut import draw_colon, draw_more_bowel, draw_small_bowel, draw_stomach
from LiverMarginLib.phantom.lesions import draw_lesions
from LiverMarginLib.phantom.liver import Liver, LiverShape
from LiverMarginLib.phantom.options import Arms, PhantomOptions, Region, check_seed
from LiverMarginLib.phantom.organs import ORGANS, Organ
from LiverMarginLib.phantom.skeleton import Skeleton
from LiverMarginLib.phantom.splines import SplineField
from LiverMarginLib.phantom.surroundings import ArmsDown, Table
from LiverMarginLib.phantom.tissues import Tissue
from LiverMarginLib.phantom.torso import WHOLE, Torso
from LiverMarginLib.phantom.tubes import Tube, paint_tubes
from LiverMarginLib.phantom.viscera import Bladder, Kidney, Pancreas, Retroperitoneum, Spleen
from LiverMarginLib.volume import Geometry, LabelMap

_SLAB_VOXELS = 6_000_000
_NOISE_SIZES = (60, 30, 14)
_REACH = (400.0, 280.0, 280.0)  # mm from the grid's centre (z, y, x) within which shapes are uneven
_PROBE = 8.0  # mm; grid of the first look at a patient


class Part(Protocol):
    """Something that can paint itself."""

    def paint(self, canvas: Canvas) -> None:
        """Paint on the canvas, in front of or behind what is there already."""


Graft = Callable[[list[Part], list[Part], Canvas], tuple[list[Part], list[Part]]]
"""Exchanges parts of a patient: gets those painted first, those painted after the lesions, and a first coarse look."""


@dataclass(frozen=True, eq=False)
class Anatomy:
    """Materials of every voxel of one patient.

    Parameters
    ----------
    first, second : ndarray of uint8, shape (k, j, i)
        Numbers of the material at the voxel's centre, and of the other one in it.
    share : ndarray of uint8, shape (k, j, i)
        Part of the voxel that `first` fills, times 255.
    materials : tuple of Material
        By number.
    geometry : Geometry
    seed : int
    description : mapping
        What was drawn, JSON-serialisable.
    """

    first: npt.NDArray[np.uint8]
    second: npt.NDArray[np.uint8]
    share: npt.NDArray[np.uint8]
    materials: tuple[Material, ...]
    geometry: Geometry
    seed: int
    description: Mapping[str, Any]

    def labels(self) -> LabelMap:
        """Label of the organ at every voxel's centre (uint8, values of `Organ`)."""
        table = np.zeros(256, dtype=np.uint8)
        table[: len(self.materials)] = [material.organ for material in self.materials]
        return LabelMap(table[self.first], self.geometry, ORGANS, {"phantom": dict(self.description)})


def make_anatomy(seed: int, options: PhantomOptions, graft: Graft | None = None) -> Anatomy:
    """Draw and paint one patient.

    Parameters
    ----------
    seed : int
        Same seed and options, same anatomy.
    options : PhantomOptions
    graft : callable, optional
        Exchanges organs of the patient for others before he is painted.

    Returns
    -------
    Anatomy
    """
    check_seed(seed)
    rng = np.random.default_rng([seed, 1])
    findings = _draw_findings(rng, options)
    torso = Torso.draw(rng, options.fat_mm, findings["effusion"])
    shape = LiverShape.draw(
        rng,
        scale=options.liver_scale,
        cirrhosis=findings["cirrhosis"],
        riedel=findings["riedel"],
        resected=findings["resected"],
        wraps=findings["wrapping_left_lobe"],
        ascites=findings["ascites"],
    )
    front = -(82 * torso.depth + 0.8 * torso.belly)
    liver = Liver.draw(rng, shape, torso.dome_right)
    vessels = GreatVessels.draw(rng)
    parts: list[Part] = [torso, Skeleton.draw(rng, torso), Retroperitoneum.draw(rng, torso), vessels]
    parts += [Kidney.draw(rng, -1.0), Kidney.draw(rng, 1.0), Heart.draw(rng, torso.dome_middle), liver]
    rest: list[Part] = [
        _ChestVessels(vessels),
        Bladder.draw(rng),
        Spleen.draw(rng, findings["cirrhosis"]),
        *draw_stomach(rng, front),
        Pancreas.draw(rng),
    ]
    rest += [*draw_colon(rng, front), *draw_small_bowel(rng, front), _Mesentery(draw_mesentery(rng))]
    # From random numbers of its own, so that all else about the patients stays as it was before.
    rest += draw_more_bowel(rng.spawn(1)[0], front)
    ascites = _Ascites(float(rng.uniform(6, 30)))
    if findings["ascites"]:
        rest.append(ascites)

    placement, noise = _place(rng, options, findings["situs_inversus"])
    probe, palette = _probe(options, placement, noise, parts), Palette()
    if graft is not None:
        parts, rest = graft(parts, rest, probe)
        probe = _probe(options, placement, noise, parts)
    extent = _extent(probe)
    arms = ArmsDown.draw(rng, extent["half_width"])
    table = Table.draw(rng, extent["back"], extent["middle"])
    rest += [part for part, name in ((arms, "arms_down"), (table, "table")) if findings[name]]
    lesions = draw_lesions(rng, options, _places_in_liver(probe, -4.0), _places_in_liver(probe, 0.0, -3.0))
    everything = [*parts, *lesions, *rest]

    axes = _axes(options.shape, options.spacing)
    first, second, share = (np.empty(options.shape, dtype=np.uint8) for _ in range(3))
    thickness = max(4, _SLAB_VOXELS // (options.shape[1] * options.shape[2]))
    for start in range(0, options.shape[0], thickness):
        # One more slice on either side, so that partial volume at a slab's edge knows its neighbours.
        before = min(start, 1)
        part_axes = (axes[0][start - before : start + thickness + 1], axes[1], axes[2])
        canvas = Canvas(part_axes, placement, noise, palette)
        for part in everything:
            part.paint(canvas)
        here = slice(start, min(start + thickness, options.shape[0]))
        kept = slice(before, before + here.stop - here.start)
        first[here], second[here] = canvas.first[kept], canvas.second[kept]
        share[here] = np.rint(canvas.share[kept] * 255)
    description = {
        "seed": int(seed),
        "findings": findings,
        "lesions": len(lesions),
        "fat_mm": round(torso.fat, 1),
        "liver_scale": round(shape.relative_size, 3),
    }
    geometry = Geometry(options.shape, _ijk_to_ras(options))
    return Anatomy(first, second, share, tuple(palette.materials), geometry, int(seed), description)


@dataclass(frozen=True)
class _ChestVessels:
    vessels: GreatVessels

    def paint(self, canvas: Canvas) -> None:
        self.vessels.paint_chest(canvas)


@dataclass(frozen=True)
class _Mesentery:
    tubes: list[Tube]

    def paint(self, canvas: Canvas) -> None:
        material = canvas.palette.add(Tissue.VEIN, Organ.VESSEL)
        paint_tubes(canvas, self.tubes, material, over=(Organ.VISCERAL_FAT,))


@dataclass(frozen=True)
class _Ascites:
    """Free fluid between the organs and the abdominal wall, `depth` mm deep."""

    depth: float

    def paint(self, canvas: Canvas) -> None:
        wall = -canvas.fields["cavity"] - self.depth - 3 * canvas.noise(30)
        fluid = np.maximum(wall, canvas.fields["dome"] + 1)
        fluid = np.maximum(fluid, (canvas.y - 62) * 0.5).astype(np.float32)
        material = canvas.palette.add(Tissue.ASCITES, Organ.ASCITES)
        canvas.paint(material, fluid, WHOLE, over=(Organ.VISCERAL_FAT,), solid=False)


def _draw_findings(rng: np.random.Generator, options: PhantomOptions) -> dict[str, bool]:
    """Findings and variants, each with its prevalence unless the options say."""
    findings: dict[str, bool] = {}
    for name, prevalence in (
        ("steatosis", 0.2),
        ("cirrhosis", 0.1),
        ("riedel", 0.1),
        ("resected", 0.05),
        ("wrapping_left_lobe", 0.08),
        ("ascites", 0.08),
        ("effusion", 0.1),
        ("situs_inversus", 0.003),
        ("table", 0.85),
        ("arms_down", 0.2),
    ):
        drawn = bool(rng.random() < prevalence)
        asked = getattr(options, name, None)
        if name == "arms_down" and options.arms is not None:
            asked = options.arms is Arms.DOWN
        findings[name] = drawn if asked is None else bool(asked)
    return findings


def _axes(
    shape: tuple[int, int, int], spacing: tuple[float, float, float]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    k, j, i = (np.asarray((np.arange(n) - (n - 1) / 2) * s) for n, s in zip(shape, spacing, strict=True))
    return k, j, i


def _ijk_to_ras(options: PhantomOptions) -> npt.NDArray[np.float64]:
    """Axial, patient's right at i = 0, anterior at j = 0; RAS origin at the grid's centre."""
    sk, sj, si = options.spacing
    matrix = np.diag([-si, -sj, sk, 1.0])
    matrix[:3, 3] = [si * (options.shape[2] - 1) / 2, sj * (options.shape[1] - 1) / 2, -sk * (options.shape[0] - 1) / 2]
    return matrix


def _place(
    rng: np.random.Generator, options: PhantomOptions, mirrored: bool
) -> tuple[Placement, dict[int, SplineField]]:
    """Draw size, turn, position and warp of the patient in the grid."""
    drawn_scale = float(np.clip(rng.normal(1.0, 0.07), 0.82, 1.2))
    scale = drawn_scale if options.body_scale is None else options.body_scale
    stretch = scale * np.array([rng.uniform(0.95, 1.05), rng.uniform(0.95, 1.05), rng.uniform(0.93, 1.07)])
    turn = rotation(yaw=rng.normal(0, 4), pitch=rng.normal(0, 2), roll=rng.normal(0, 2))
    matrix = np.diag(1 / stretch) @ turn
    if mirrored:
        matrix = np.diag([-1.0, 1, 1]) @ matrix
    extent = options.shape[0] * options.spacing[0] / float(stretch[2])
    jitter = rng.uniform(-1, 1)
    if options.region is Region.CHEST:
        height = 124 + extent / 2 + 10 * (1 + jitter)
    elif options.region is Region.PELVIS:
        height = -150 - extent / 2
    else:
        # The liver spans about -95 to 95 mm; a thin volume lies anywhere within it, a thick one about it.
        height = jitter * (12 + max(0.0, (170 - extent) / 2))
    origin = np.array([rng.normal(0, 6), 14 + rng.normal(0, 8), height])
    # The fields' extent does not follow the grid's: one seed is one patient at every resolution.
    low, high = (-_REACH[0], -_REACH[1], -_REACH[2]), _REACH
    warp = tuple(SplineField.draw(rng, low, high, 75.0) for _ in range(3))
    noise = {size: SplineField.draw(rng, low, high, float(size)) for size in _NOISE_SIZES}
    return Placement(matrix, origin, warp, np.array([3.5, 3.5, 4.0])), noise  # type: ignore[arg-type]


def _probe(options: PhantomOptions, placement: Placement, noise: dict[int, SplineField], parts: list[Part]) -> Canvas:
    """A coarse picture of these parts over the same field of view."""
    axes = tuple(
        np.linspace(a[0], a[-1], max(2, int((a[-1] - a[0]) / _PROBE) + 1)) if len(a) > 1 else a
        for a in _axes(options.shape, options.spacing)
    )
    canvas = Canvas(axes, placement, noise, Palette(), detail=False)  # type: ignore[arg-type]
    for part in parts:
        part.paint(canvas)
    return canvas


def _places_in_liver(probe: Canvas, depth: float, deepest: float = -np.inf) -> npt.NDArray[np.float64]:
    """Standard positions inside the liver of a probe, from `deepest` to `depth` mm (negative inside), shape (n, 3)."""
    if "liver" not in probe.fields:
        return np.zeros((0, 3))
    where = (probe.fields["liver"] < depth) & (probe.fields["liver"] >= deepest)
    return np.stack([probe.x[where], probe.y[where], probe.z[where]], axis=1).astype(np.float64)


def _extent(probe: Canvas) -> dict[str, float]:
    """Where the trunk lies: half width in standard mm, back and middle in grid mm."""
    inside = probe.fields["body"] < 0
    rows, columns = np.nonzero(inside.any(axis=(0, 2)))[0], np.nonzero(inside.any(axis=(0, 1)))[0]
    if not rows.size:
        return {"half_width": 170.0, "back": 130.0, "middle": 0.0}
    return {
        "half_width": float(np.abs(probe.x[inside]).max()),
        "back": float(probe.axes[1][rows[-1]] + 0.5 * _PROBE),
        "middle": float((probe.axes[2][columns[0]] + probe.axes[2][columns[-1]]) / 2),
    }
