"""Focal liver lesions: cysts, hypovascular and hypervascular masses, rims and necrosis."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from LiverMarginLib.phantom.canvas import Canvas, Organs
from LiverMarginLib.phantom.fields import ellipsoid, rotation
from LiverMarginLib.phantom.options import LesionKind, PhantomOptions
from LiverMarginLib.phantom.organs import Organ
from LiverMarginLib.phantom.tissues import Tissue


@dataclass(frozen=True)
class Lesion:
    """One mass.

    Parameters
    ----------
    centre, radii : tuple of float
        Standard mm.
    turn : float
        Rotation about z in degrees.
    tissue : Tissue
        Of the body of the mass.
    rim : float
        Thickness in mm of an enhancing rim or capsule; 0 for none.
    core : float
        Necrotic part of the radius, 0 to 0.8.
    rough : float
        Irregularity of the border, mm.
    shade : float
        Difference from the tissue's mean, in standard deviations.
    shell : Tissue
        What the rim is made of.
    """

    centre: tuple[float, float, float]
    radii: tuple[float, float, float]
    turn: float
    tissue: Tissue
    rim: float
    core: float
    rough: float
    shade: float
    shell: Tissue = Tissue.LESION_RIM

    @classmethod
    def draw(cls, rng: np.random.Generator, centre: npt.NDArray[np.float64], kind: Tissue) -> Lesion:
        """Draw a mass of a kind at a place inside the liver."""
        radius = float(np.clip(np.exp(rng.normal(np.log(9), 0.65)), 2.5, 48))
        cyst = kind is Tissue.CYST
        return cls(
            centre=tuple(float(c) for c in centre),  # type: ignore[arg-type]
            radii=tuple(float(r) for r in radius * rng.uniform(0.75, 1.25, 3)),  # type: ignore[arg-type]
            turn=float(rng.uniform(0, 180)),
            tissue=kind,
            rim=float(rng.uniform(1, 4)) if not cyst and rng.random() < 0.4 and radius > 6 else 0.0,
            core=float(rng.uniform(0.3, 0.75)) if not cyst and radius > 14 and rng.random() < 0.5 else 0.0,
            rough=0.3 if cyst else float(rng.uniform(0.5, 0.16 * radius + 0.8)),
            shade=float(np.clip(rng.normal(), -2, 2)),
        )

    @classmethod
    def of_kind(
        cls, rng: np.random.Generator, centre: npt.NDArray[np.float64], kind: LesionKind, radius: float
    ) -> Lesion:
        """Draw a mass of a named kind and size."""
        tissue, rim, core, rough = Tissue.LESION_DARK, 0.0, 0.0, float(rng.uniform(0.3, 0.12 * radius + 0.6))
        shell = Tissue.LESION_RIM
        match kind:
            case LesionKind.HYPERVASCULAR:
                tissue = Tissue.LESION_BRIGHT
            case LesionKind.RIM:
                rim = float(np.clip(rng.uniform(0.15, 0.35) * radius, 1, 6))
                core = float(rng.uniform(0.3, 0.7)) if radius > 8 else 0.0
            case LesionKind.CAPSULE:
                tissue, shell, rough = Tissue.LESION_BRIGHT, Tissue.LESION_CAPSULE, min(rough, 1.0)
                rim = float(rng.uniform(1.0, 2.0))
            case LesionKind.CYST:
                tissue, rough = Tissue.CYST, 0.3
        return cls(
            centre=tuple(float(c) for c in centre),  # type: ignore[arg-type]
            radii=tuple(float(r) for r in radius * rng.uniform(0.8, 1.2, 3)),  # type: ignore[arg-type]
            turn=float(rng.uniform(0, 180)),
            tissue=tissue,
            rim=rim,
            core=core,
            rough=rough,
            shade=float(np.clip(rng.normal(), -2, 2)),
            shell=shell,
        )

    def paint(self, canvas: Canvas) -> None:
        """Paint the mass over the liver it lies in."""
        c, r, axes = np.array(self.centre), np.array(self.radii), rotation(yaw=self.turn)
        reach = np.sqrt(r**2 @ axes**2) + 2 * self.rough  # half the box of the turned ellipsoid
        box = canvas.box(c - reach, c + reach, pad=6)
        if box is None:
            return
        mass = ellipsoid(*canvas.at(box), c, r, axes)
        mass = mass + self.rough * canvas.noise(14, box)
        add = canvas.palette.add
        over: Organs = (Organ.LIVER, Organ.LIVER_VESSEL, Organ.LIVER_MASS)
        inside = (Organ.LIVER_MASS,)
        if self.rim:
            canvas.paint(add(self.shell, Organ.LIVER_MASS, self.shade), mass, box, over=over, solid=False)
            over = inside
        body = add(self.tissue, Organ.LIVER_MASS, self.shade)
        canvas.paint(body, mass + self.rim, box, over=over, solid=False)
        if self.core:
            depth = mass + self.rim + float(r.min()) * (1 - self.core) + 1.5 * canvas.noise(14, box)
            canvas.paint(add(Tissue.CYST, Organ.LIVER_MASS, self.shade), depth, box, over=inside, solid=False)


def draw_lesions(
    rng: np.random.Generator,
    options: PhantomOptions,
    places: npt.NDArray[np.float64],
    border: npt.NDArray[np.float64],
) -> list[Lesion]:
    """Draw lesions at random places inside the liver.

    Parameters
    ----------
    options : PhantomOptions
        How many and of what kind; what it leaves open is drawn: no lesions in half of the patients, seldom more than
        ten.
    places, border : ndarray, shape (n, 3)
        Standard positions well inside the liver, and at its surface.
    """
    count = options.lesions
    if count is None:
        count = 0 if rng.random() < 0.5 else int(np.clip(rng.geometric(0.3), 1, 14))
    if not len(places) or not count:
        return []
    if options.lesion_kinds is None and options.lesion_mm is None and not options.lesions_at_border:
        return _draw_usual(rng, count, places)
    kinds = [LesionKind(kind) for kind in options.lesion_kinds or LesionKind]
    low, high = options.lesion_mm or (2.5, 40.0)
    lesions = []
    for _ in range(count):
        kind = kinds[int(rng.integers(len(kinds)))]
        # Small lesions are many and large ones few: sizes are drawn evenly on a logarithmic scale.
        radius = float(np.exp(rng.uniform(np.log(low), np.log(high))))
        here = border if len(border) and rng.random() < options.lesions_at_border else places
        lesions.append(Lesion.of_kind(rng, here[rng.integers(len(here))], kind, radius))
    return lesions


def _draw_usual(rng: np.random.Generator, count: int, places: npt.NDArray[np.float64]) -> list[Lesion]:
    """Mostly one kind a patient; sizes, rims and cores by chance."""
    main = rng.choice([Tissue.LESION_DARK, Tissue.LESION_BRIGHT, Tissue.CYST], p=[0.55, 0.2, 0.25])
    lesions = []
    for _ in range(count):
        kind = main if rng.random() < 0.75 else rng.choice([Tissue.LESION_DARK, Tissue.CYST])
        lesions.append(Lesion.draw(rng, places[rng.integers(len(places))], Tissue(kind)))
    return lesions
