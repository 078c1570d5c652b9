"""Focal liver lesions: cysts, hypovascular and hypervascular masses, rims and necrosis."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from LiverMarginLib.phantom.canvas import Canvas, Organs
from LiverMarginLib.phantom.fields import ellipsoid, rotation
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
        Thickness in mm of an enhancing rim; 0 for none.
    core : float
        Necrotic part of the radius, 0 to 0.8.
    rough : float
        Irregularity of the border, mm.
    shade : float
        Difference from the tissue's mean, in standard deviations.
    """

    centre: tuple[float, float, float]
    radii: tuple[float, float, float]
    turn: float
    tissue: Tissue
    rim: float
    core: float
    rough: float
    shade: float

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

    def paint(self, canvas: Canvas) -> None:
        """Paint the mass over the liver it lies in."""
        c, r = np.array(self.centre), np.array(self.radii)
        box = canvas.box(c - r - self.rough * 2, c + r + self.rough * 2, pad=6)
        if box is None:
            return
        mass = ellipsoid(*canvas.at(box), c, r, rotation(yaw=self.turn))
        mass = mass + self.rough * canvas.noise(14, box)
        add = canvas.palette.add
        over: Organs = (Organ.LIVER, Organ.LIVER_VESSEL, Organ.LIVER_MASS)
        inside = (Organ.LIVER_MASS,)
        if self.rim:
            canvas.paint(add(Tissue.LESION_RIM, Organ.LIVER_MASS, self.shade), mass, box, over=over, solid=False)
            over = inside
        body = add(self.tissue, Organ.LIVER_MASS, self.shade)
        canvas.paint(body, mass + self.rim, box, over=over, solid=False)
        if self.core:
            depth = mass + self.rim + float(r.min()) * (1 - self.core) + 1.5 * canvas.noise(14, box)
            canvas.paint(add(Tissue.CYST, Organ.LIVER_MASS, self.shade), depth, box, over=inside, solid=False)


def draw_lesions(rng: np.random.Generator, count: int | None, places: npt.NDArray[np.float64]) -> list[Lesion]:
    """Draw lesions at random places inside the liver.

    Parameters
    ----------
    count : int, optional
        How many; None draws: none in half of the patients, seldom more than ten.
    places : ndarray, shape (n, 3)
        Standard positions well inside the liver.
    """
    if count is None:
        count = 0 if rng.random() < 0.5 else int(np.clip(rng.geometric(0.3), 1, 14))
    if not len(places) or not count:
        return []
    main = rng.choice([Tissue.LESION_DARK, Tissue.LESION_BRIGHT, Tissue.CYST], p=[0.55, 0.2, 0.25])
    lesions = []
    for _ in range(count):
        kind = main if rng.random() < 0.75 else rng.choice([Tissue.LESION_DARK, Tissue.CYST])
        lesions.append(Lesion.draw(rng, places[rng.integers(len(places))], Tissue(kind)))
    return lesions
