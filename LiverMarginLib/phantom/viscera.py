"""Solid organs other than the liver: kidneys, adrenals, spleen, pancreas; psoas and crura."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from LiverMarginLib.phantom.canvas import Canvas
from LiverMarginLib.phantom.fields import ellipsoid, rotation, smooth_max
from LiverMarginLib.phantom.organs import Organ
from LiverMarginLib.phantom.tissues import Tissue
from LiverMarginLib.phantom.torso import Torso
from LiverMarginLib.phantom.tubes import Tube, paint_tubes


@dataclass(frozen=True)
class Retroperitoneum:
    """Psoas, quadratus lumborum and crura: muscles before the spine."""

    torso: Torso
    bulk: float

    @classmethod
    def draw(cls, rng: np.random.Generator, torso: Torso) -> Retroperitoneum:
        """Draw the muscles of a trunk."""
        return cls(torso, float(torso.wall * rng.uniform(0.75, 1.0)))

    def paint(self, canvas: Canvas) -> None:
        """Paint the muscles over the fat of the cavity."""
        muscle = canvas.palette.add(Tissue.MUSCLE, Organ.MUSCLE)
        over = (Organ.VISCERAL_FAT,)
        box = canvas.box((-95, 15, -300), (95, 115, 0))
        if box is not None:
            x, y, z = canvas.at(box)
            spine = self.torso.spine_y(z)
            low = np.clip((-5 - z) / 150, 0, 1)
            radius = self.bulk * (5 + 17 * np.sqrt(low))
            psoas = np.sqrt((np.abs(x) - 27 - 14 * low) ** 2 + ((y - spine - 4) * 0.85) ** 2) - radius
            canvas.paint(muscle, (psoas + canvas.noise(30, box)).astype(np.float32), box, over=over)
            quadratus = np.sqrt(((np.abs(x) - 62) / 24) ** 2 + ((y - spine - 36) / (8 * self.bulk)) ** 2) - 1
            quadratus = np.maximum(quadratus * 9, z + 25)
            canvas.paint(muscle, quadratus.astype(np.float32), box, over=over)
        for side in (-1.0, 1.0):
            crus = Tube.through(
                [(5 + side * 13, 42, -62), (6 + side * 16, 40, -25), (7 + side * 17, 36, 8), (9 + side * 10, 20, 36)],
                np.array([2.0, 3.8, 4.4, 2.6]) * self.bulk,
            )
            found = crus.field(canvas, blend=4)
            if found is not None:
                canvas.paint(muscle, canvas.avoid(found[1], found[0], 1.0), found[0], over=over)


@dataclass(frozen=True)
class Kidney:
    """One kidney with cortex, pyramids, sinus fat and pelvis, and the adrenal gland above it."""

    side: float
    centre: tuple[float, float, float]
    radii: tuple[float, float, float]
    yaw: float
    lobes: int
    cyst: tuple[float, float, float, float] | None
    pelvis: float
    adrenal: float
    capsule: float

    @classmethod
    def draw(cls, rng: np.random.Generator, side: float) -> Kidney:
        """Draw the right (`side` -1) or left (+1) kidney."""
        centre = np.array([side * 62, 58, -52 if side < 0 else -38]) + rng.normal(0, (5, 3, 10))
        size = rng.uniform(0.88, 1.14)
        radii = np.array([30, 27, 56]) * size * rng.uniform(0.92, 1.08, 3)
        cyst = None
        if rng.random() < 0.2:
            offset = rng.normal(size=3) * (0.7, 0.5, 0.6)
            cyst = (*(centre + offset * radii + (side * 14, 0, 0)), float(rng.uniform(5, 26)))
        return cls(
            side=side,
            centre=tuple(centre),
            radii=tuple(radii),
            yaw=float(side * rng.uniform(15, 45)),
            lobes=int(rng.integers(6, 9)),
            cyst=cyst,  # type: ignore[arg-type]
            pelvis=float(rng.uniform(3, 7)),
            adrenal=float(rng.uniform(3.0, 5.0)),
            capsule=float(rng.gamma(1.5, 2.5)),
        )

    def paint(self, canvas: Canvas) -> None:
        """Paint the kidney and its adrenal."""
        organ = Organ.RIGHT_KIDNEY if self.side < 0 else Organ.LEFT_KIDNEY
        palette = canvas.palette
        c, r = (np.array(v, dtype=np.float32) for v in (self.centre, self.radii))
        box = canvas.box(c - r.max() - 6, c + r.max() + 6)
        over = (Organ.VISCERAL_FAT,)
        if box is not None:
            x, y, z = canvas.at(box)
            axes = rotation(yaw=self.yaw, roll=-self.side * 9).astype(np.float32)
            u, v, w = x - c[0], y - c[1], z - c[2]
            u, v, w = (axes[n, 0] * u + axes[n, 1] * v + axes[n, 2] * w for n in range(3))
            kidney = ellipsoid(u, v, w, (0, 0, 0), r) + 1.2 * canvas.noise(30, box)
            medial = -self.side
            hilum = ellipsoid(u, v, w, (medial * r[0] * 0.72, 0, 0), (r[0] * 0.78, r[1] * 0.34, r[2] * 0.48))
            kidney = smooth_max(kidney, -hilum - 1.5 * canvas.noise(14, box), 4)
            kidney = canvas.avoid(kidney, box, gap=2)
            cortex = palette.add(Tissue.KIDNEY_CORTEX, organ)
            canvas.paint(cortex, kidney, box, over=over, margin=self.capsule)
            inside = (organ,)
            angle = np.arctan2(w / r[2], -medial * u / r[0])
            ripple = np.cos(self.lobes * angle) + 0.7 * canvas.noise(14, box)
            medulla = np.maximum(kidney + 6.5, 2.2 - hilum)
            medulla = np.maximum(medulla, 3.5 * (-0.25 - ripple))
            canvas.paint(palette.add(Tissue.KIDNEY_MEDULLA, organ), medulla, box, over=inside, solid=False)
            pelvis = ellipsoid(u, v, w, (medial * r[0] * 0.75, 0, -4), (r[0] * 0.62, self.pelvis, r[2] * 0.24))
            pelvis = np.maximum(pelvis, hilum + 1)
            canvas.paint(palette.add(Tissue.URINE, organ), pelvis, box, over=over + inside, solid=False)
        if self.cyst is not None:
            *at, radius = self.cyst
            box = canvas.box(np.array(at) - radius, np.array(at) + radius)
            if box is not None:
                cyst = ellipsoid(*canvas.at(box), at, (radius,) * 3)
                cyst = smooth_max(cyst, canvas.fields["cavity"][box] + 3, 3)
                canvas.paint(palette.add(Tissue.CYST, organ), cyst, box, over=(*over, organ))
        self._paint_adrenal(canvas)

    def _paint_adrenal(self, canvas: Canvas) -> None:
        organ = Organ.RIGHT_ADRENAL if self.side < 0 else Organ.LEFT_ADRENAL
        s = self.side
        x = -36.0 if s < 0 else 30.0
        top = (x, 38.0 if s < 0 else 30.0, 6.0)
        limbs = [
            Tube.through([top, (x + 2 * s, 46, 4), (x + 5 * s, 56, -2)], [self.adrenal, self.adrenal * 0.8, 1.4]),
            Tube.through([top, (x - 3 * s, 46, 4), (x - 6 * s, 54, -4)], [self.adrenal, self.adrenal * 0.7, 1.3]),
            Tube.through([top, (x, 40, 16)], [self.adrenal, 1.6]),
        ]
        over = (Organ.VISCERAL_FAT,)
        paint_tubes(canvas, limbs, canvas.palette.add(Tissue.ADRENAL, organ), over=over, solid=True)


@dataclass(frozen=True)
class Spleen:
    """The spleen, a crescent along the left wall behind the stomach."""

    centre: tuple[float, float, float]
    radii: tuple[float, float, float]
    hollow: tuple[float, float, float]

    @classmethod
    def draw(cls, rng: np.random.Generator, big: bool) -> Spleen:
        """Draw a spleen; `big` for splenomegaly."""
        size = rng.uniform(1.2, 1.5) if big else rng.uniform(0.85, 1.2)
        centre = np.array([92, 46, 36]) + rng.normal(0, (4, 5, 8))
        return cls(
            centre=tuple(centre),
            radii=tuple(np.array([52, 55, 58]) * size * rng.uniform(0.9, 1.1, 3)),
            hollow=tuple(centre + np.array([-66, -36, 2]) + rng.normal(0, 5, 3)),
        )

    def paint(self, canvas: Canvas) -> None:
        """Paint the spleen between wall, diaphragm and what is there already."""
        c, r = np.array(self.centre), np.array(self.radii)
        box = canvas.box(c - r, c + r, pad=12)
        if box is None:
            return
        x, y, z = canvas.at(box)
        spleen = ellipsoid(x, y, z, c, r, rotation(yaw=25, roll=10)) + 3 * canvas.noise(30, box)
        hollow = ellipsoid(x, y, z, self.hollow, (58, 52, 70)) + 4 * canvas.noise(30, box)
        spleen = smooth_max(spleen, -hollow, 10)
        spleen = smooth_max(spleen, canvas.fields["cavity"][box] + 1.8, 6)
        spleen = smooth_max(spleen, canvas.fields["dome"][box] + 2.5, 6)
        spleen = canvas.avoid(spleen, box, gap=1.5)
        over = (Organ.VISCERAL_FAT, Organ.MUSCLE)
        canvas.paint(canvas.palette.add(Tissue.SPLEEN, Organ.SPLEEN), spleen, box, over=over)


@dataclass(frozen=True)
class Bladder:
    """The urinary bladder, more or less full, behind the pubic bones."""

    centre: tuple[float, float, float]
    radii: tuple[float, float, float]
    wall: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Bladder:
        """Draw a bladder."""
        full = rng.uniform(0.6, 1.3)
        return cls(
            centre=tuple(np.array([0, -12, -262]) + rng.normal(0, 4, 3)),
            radii=tuple(np.array([40, 30, 30]) * full * rng.uniform(0.85, 1.15, 3)),
            wall=float(rng.uniform(2.5, 5)),
        )

    def paint(self, canvas: Canvas) -> None:
        """Paint wall and urine."""
        c, r = np.array(self.centre), np.array(self.radii)
        box = canvas.box(c - r, c + r)
        if box is None:
            return
        bladder = ellipsoid(*canvas.at(box), c, r) + 2 * canvas.noise(30, box)
        bladder = smooth_max(bladder, canvas.fields["cavity"][box] + 8, 8)
        bladder = canvas.avoid(bladder, box, gap=2)
        palette = canvas.palette
        wall = palette.add(Tissue.BOWEL_WALL, Organ.BLADDER)
        canvas.paint(wall, bladder, box, over=(Organ.VISCERAL_FAT,))
        urine = palette.add(Tissue.BLADDER_URINE, Organ.BLADDER)
        canvas.paint(urine, bladder + self.wall, box, over=(Organ.BLADDER,), solid=False)


@dataclass(frozen=True)
class Pancreas:
    """Pancreas with a lobulated surface, and the splenic vein behind it."""

    body: Tube
    vein: Tube

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Pancreas:
        """Draw a pancreas from head to tail."""
        shift = rng.normal(0, (3, 4, 6))
        course = np.array(
            [(-28, 6, -52), (-20, -4, -36), (0, -14, -26), (26, -12, -18), (52, 10, -8), (78, 28, 4)], dtype=float
        )
        course += shift + rng.normal(0, 3, course.shape)
        width = rng.uniform(0.75, 1.2)
        body = Tube.through(course, np.array([13, 12, 8, 9, 9, 7.5]) * width)
        behind = course[2:] + np.array([0, 13, 2])
        vein = Tube.through(
            np.vstack([(-2, 4, -34), behind[1:], behind[-1] + np.array([10, 4, 6])]), [5.5, 4.8, 4.5, 4.2, 3.5]
        )
        return cls(body, vein)

    def paint(self, canvas: Canvas) -> None:
        """Paint the vein, then the gland round it."""
        over = (Organ.VISCERAL_FAT,)
        vein = canvas.palette.add(Tissue.PORTAL_BLOOD, Organ.PORTAL_VEIN)
        paint_tubes(canvas, [self.vein], vein, over=over, solid=True)
        found = self.body.field(canvas, blend=6)
        if found is None:
            return
        box, distance = found
        lobules = distance + np.float32(2.0) * canvas.noise(14, box) + np.float32(0.8)
        distance = canvas.avoid(lobules, box, gap=1.0, width=3)
        canvas.paint(canvas.palette.add(Tissue.PANCREAS, Organ.PANCREAS), distance, box, over=over)
