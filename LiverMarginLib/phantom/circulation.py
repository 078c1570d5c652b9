"""Heart, great vessels, the vessels of the lungs and of the mesentery, and the oesophagus beside them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from LiverMarginLib.phantom.canvas import Canvas, Organs
from LiverMarginLib.phantom.fields import ellipsoid, rotation, smooth_max, smooth_min
from LiverMarginLib.phantom.organs import Organ
from LiverMarginLib.phantom.tissues import Tissue
from LiverMarginLib.phantom.tubes import Tube, grow_tree, paint_tubes


@dataclass(frozen=True)
class GreatVessels:
    """Aorta with plaques, vena cava, their larger branches, oesophagus, and the vessels and airway above the heart."""

    aorta: Tube
    cava: Tube
    cava_change: float
    arteries: list[Tube]
    veins: list[Tube]
    plaques: list[tuple[float, float, float, float]]
    oesophagus: Tube
    oesophagus_gas: bool
    chest: list[tuple[Tissue, Tube]]
    airway: list[Tube]

    @classmethod
    def draw(cls, rng: np.random.Generator) -> GreatVessels:
        """Draw the vessels along the spine."""
        wide = rng.uniform(8.5, 13.5)
        sway = rng.normal(0, 3)
        course = np.array(
            [
                (22, 50, 260),
                (20, 48, 150),
                (16, 44, 95),
                (9, 37, 45),
                (4 + sway, 32, 0),
                (3 + sway, 27, -60),
                (1, 27, -112),
            ],
            dtype=float,
        )
        aorta = Tube.through(course, wide * np.array([1.15, 1.12, 1.1, 1.05, 1, 0.88, 0.8]))
        left_iliac = Tube.through([course[-1], (28, 34, -160), (60, 10, -260)], wide * 0.5)
        right_iliac = Tube.through([course[-1], (-26, 34, -160), (-60, 10, -260)], wide * 0.5)
        broad = rng.uniform(8, 12.5)
        cava_course = np.array(
            [
                (-20, -2, 118),
                (-23, 10, 88),
                (-27, 20, 60),
                (-27, 25, 20),
                (-25, 27, -20),
                (-23, 29, -70),
                (-19, 32, -116),
            ],
            dtype=float,
        ) + rng.normal(0, 2, 3)
        cava = Tube.through(cava_course, broad * np.array([1.15, 1.1, 1.05, 1, 1, 0.9, 0.85]))
        arteries = [left_iliac, right_iliac]
        arteries.append(Tube.through([(5, 24, 6), (6, 8, 4), (-12, -4, 2), (-22, -6, 0)], [4, 3.5, 2.6, 2.2]))
        arteries.append(Tube.through([(6, 8, 4), (30, 4, 0), (52, 22, 8), (74, 30, 14)], [3.2, 2.8, 2.4, 2]))
        arteries.append(Tube.through([(4, 20, -10), (4, 4, -28), (2, -4, -60), (-4, -12, -100)], [4, 3.8, 3.4, 2.6]))
        for side in (-1, 1):
            arteries.append(Tube.through([(4 + 8 * side, 32, -24), (side * 34, 46, -34), (side * 48, 52, -40)], 2.6))
        veins = [
            Tube.through([(-24, 28, -26), (-40, 42, -38), (-52, 50, -44)], [5, 4.6, 4]),
            Tube.through([(-20, 26, -22), (2, 14, -22), (30, 34, -30), (50, 48, -36)], [4.6, 4, 4.4, 4]),
            Tube.through([(3, 6, -38), (-6, -2, -62), (-10, -10, -110)], [5.6, 5, 3.6]),
            Tube.through([cava_course[-1], (-30, 38, -160), (-62, 14, -260)], [8, 7, 6]),
            Tube.through([cava_course[-1], (22, 40, -160), (58, 16, -260)], [8, 7, 6]),
        ]
        plaques = []
        if rng.random() < 0.5:
            for _ in range(rng.integers(2, 18)):
                n = rng.integers(0, len(aorta.points))
                angle = rng.uniform(0, 2 * np.pi)
                reach = aorta.radii[n] * 0.95
                place = aorta.points[n] + (reach * np.cos(angle), reach * np.sin(angle), rng.uniform(-4, 4))
                plaques.append((*place, float(rng.uniform(1.2, 3.4))))
        oesophagus = Tube.through(
            [(2, 34, 260), (4, 30, 150), (8, 26, 105), (14, 18, 78), (26, 8, 62)], rng.uniform(6, 9)
        )
        lift = np.array([0, 0, rng.normal(0, 8)])
        arch = np.array([(6, -26, 150), (2, -36, 185), (2, -32, 212), (12, -6, 226), (22, 34, 216), (22, 48, 190)])
        trunk = np.array([(18, -44, 155), (22, -34, 182), (20, -16, 196)])
        right, left = np.array([(20, -16, 196), (-8, -4, 190), (-42, 6, 184)]), np.array([(20, -16, 196), (46, 8, 190)])
        chest = [
            (Tissue.ARTERY, Tube.through(arch + lift, wide * 1.25)),
            (Tissue.HEART_RIGHT, Tube.through(trunk + lift, 13)),
            (Tissue.HEART_RIGHT, Tube.through(right + lift, 10)),
            (Tissue.HEART_RIGHT, Tube.through(left + lift, 9)),
            (Tissue.HEART_RIGHT, Tube.through([(-26, -12, 130), (-28, -20, 190), (-26, -26, 260)], 9)),
        ]
        airway = [
            Tube.through(np.array([(0, 2, 320), (0, 8, 250), (2, 14, 196)]) + lift, 8.5),
            Tube.through(np.array([(2, 14, 196), (-26, 16, 180), (-44, 18, 166)]) + lift, [7, 6, 5]),
            Tube.through(np.array([(2, 14, 196), (30, 18, 178), (48, 20, 166)]) + lift, [6, 5.5, 4.5]),
        ]
        return cls(
            aorta=aorta,
            cava=cava,
            cava_change=float(rng.uniform(-30, -10)),
            arteries=arteries,
            veins=veins,
            plaques=plaques,
            oesophagus=oesophagus,
            oesophagus_gas=bool(rng.random() < 0.4),
            chest=chest,
            airway=airway,
        )

    def paint(self, canvas: Canvas) -> None:
        """Paint aorta, cava, branches and oesophagus."""
        add = canvas.palette.add
        over = (Organ.VISCERAL_FAT, Organ.MUSCLE, Organ.RIGHT_LUNG, Organ.LEFT_LUNG)
        found = self.aorta.field(canvas, blend=3)
        if found is not None:
            box, distance = found
            lungs = (Organ.RIGHT_LUNG, Organ.LEFT_LUNG)
            fat = add(Tissue.VISCERAL_FAT, Organ.VISCERAL_FAT)
            canvas.paint(fat, distance - 1.5, box, over=lungs, solid=False)
            canvas.paint(add(Tissue.ARTERY, Organ.AORTA), distance, box, over=over)
        calcium = add(Tissue.CALCIUM, Organ.AORTA)
        for *at, radius in self.plaques:
            part = canvas.box(np.array(at) - radius, np.array(at) + radius, pad=4)
            if part is not None:
                plaque = ellipsoid(*canvas.at(part), at, (radius, radius, 1.8 * radius))
                canvas.paint(calcium, plaque, part, over=(Organ.AORTA, *over), solid=False)
        found = self.cava.field(canvas, blend=3)
        if found is not None:
            box, distance = found
            distance = canvas.avoid(distance + 1.3 * canvas.noise(30, box), box, gap=0.8)
            level = canvas.z[box] - np.float32(self.cava_change)
            upper = add(Tissue.CAVA_UPPER, Organ.VENA_CAVA)
            lower = add(Tissue.CAVA_LOWER, Organ.VENA_CAVA)
            canvas.paint(upper, distance, box, over=over)
            below = np.maximum(distance, level)
            canvas.paint(lower, below, box, over=(Organ.VENA_CAVA,), solid=False)
        fat_only = (Organ.VISCERAL_FAT,)
        paint_tubes(canvas, self.arteries, add(Tissue.ARTERY, Organ.VESSEL), over=fat_only, solid=True)
        veins = add(Tissue.VEIN, Organ.VESSEL)
        paint_tubes(canvas, self.veins, veins, over=fat_only, solid=True)
        self._paint_oesophagus(canvas, over)

    def paint_chest(self, canvas: Canvas) -> None:
        """Paint arch, pulmonary arteries, upper vena cava and airway over mediastinum and lungs."""
        over = (Organ.VISCERAL_FAT, Organ.RIGHT_LUNG, Organ.LEFT_LUNG, Organ.VESSEL)
        add = canvas.palette.add
        gas = add(Tissue.GAS, Organ.AIRWAY)
        wall = add(Tissue.MUSCLE, Organ.AIRWAY)
        for tube in self.airway:
            found = tube.field(canvas)
            if found is not None:
                box, distance = found
                canvas.paint(wall, distance - 1.5, box, over=over)
                canvas.paint(gas, distance, box, over=(*over, Organ.AIRWAY), solid=False)
        for tissue, tube in self.chest:
            found = tube.field(canvas, blend=3)
            if found is not None:
                box, distance = found
                organ = Organ.AORTA if tissue is Tissue.ARTERY else Organ.VESSEL
                canvas.paint(add(tissue, organ), canvas.avoid(distance, box, gap=0.5), box, over=over)

    def _paint_oesophagus(self, canvas: Canvas, over: Organs) -> None:
        found = self.oesophagus.field(canvas)
        if found is None:
            return
        box, distance = found
        distance = canvas.avoid(distance, box, gap=1)
        fat = canvas.palette.add(Tissue.VISCERAL_FAT, Organ.VISCERAL_FAT)
        lungs = (Organ.RIGHT_LUNG, Organ.LEFT_LUNG)
        canvas.paint(fat, distance - 2, box, over=lungs, solid=False)
        canvas.paint(canvas.palette.add(Tissue.STOMACH_WALL, Organ.OESOPHAGUS), distance, box, over=over)
        if self.oesophagus_gas:
            gas = canvas.palette.add(Tissue.GAS, Organ.OESOPHAGUS)
            inside = distance + 4.2 + canvas.noise(14, box)
            canvas.paint(gas, inside, box, over=(Organ.OESOPHAGUS,), solid=False)


@dataclass(frozen=True)
class Heart:
    """Heart with its chambers in a fatty mediastinum, and the vessels of the lungs."""

    centre: tuple[float, float, float]
    size: float
    fat: float
    yaw: float
    lung_vessels: list[Tube]

    @classmethod
    def draw(cls, rng: np.random.Generator, dome_middle: float) -> Heart:
        """Draw a heart that rests on the diaphragm at `dome_middle` mm."""
        centre = np.array([24, -34, dome_middle + 40]) + rng.normal(0, (5, 4, 5))
        vessels: list[Tube] = []
        for side in (-1, 1):
            for _ in range(3):
                heading = np.array([side * rng.uniform(0.2, 0.9), rng.uniform(-0.3, 0.9), rng.uniform(-1, 0.1)])
                start = (side * 38, rng.uniform(0, 30), rng.uniform(105, 150))
                vessels += grow_tree(rng, start, heading, 5.0, thinnest=0.7, length=34, wander=0.14, limit=46)
        return cls(
            centre=tuple(centre),
            size=float(rng.uniform(0.88, 1.15)),
            fat=float(rng.uniform(2, 9)),
            yaw=float(rng.uniform(-30, 15)),
            lung_vessels=vessels,
        )

    def paint(self, canvas: Canvas) -> None:
        """Paint lung vessels, mediastinal fat, heart muscle and the blood in the chambers."""
        add = canvas.palette.add
        lungs = (Organ.RIGHT_LUNG, Organ.LEFT_LUNG)
        lung_vessel = add(Tissue.LUNG_VESSEL, Organ.VESSEL)
        paint_tubes(canvas, self.lung_vessels, lung_vessel, over=lungs)
        box = canvas.box((-70, -130, 10), (110, 75, 400))
        if box is None:
            return
        x, y, z = canvas.at(box)
        c = np.array(self.centre)
        r = np.array([60, 46, 54]) * self.size
        axes = rotation(yaw=self.yaw, pitch=-10, roll=18)
        heart = ellipsoid(x, y, z, c, r, axes) + 1.5 * canvas.noise(30, box)
        above = -(canvas.fields["dome"][box] - 3.5)
        heart = smooth_max(heart, above, 14)
        heart = canvas.avoid(heart, box, gap=0.2)
        cavity = canvas.fields["cavity"][box]
        heart = smooth_max(heart, cavity + 5, 8)
        slab = np.abs(x - 4 - 0.12 * np.clip(-y, 0, 90)) - (13 + 10 * np.exp(-(((z - 190) / 40) ** 2)) + 5 * (y < -60))
        slab = slab + 3 * canvas.noise(30, box)
        slab = np.maximum(slab, np.maximum(cavity + 1, -canvas.fields["dome"][box]))
        mediastinum = smooth_min(slab.astype(np.float32), heart - self.fat - canvas.noise(30, box), 14)
        over = (*lungs, Organ.MUSCLE, Organ.VISCERAL_FAT)
        mediastinum = np.maximum(mediastinum, cavity)
        mediastinum = np.minimum(mediastinum, np.maximum(canvas.clearance[box] - 2, heart - 14))
        canvas.paint(add(Tissue.VISCERAL_FAT, Organ.VISCERAL_FAT), mediastinum, box, over=lungs, solid=False)
        canvas.paint(add(Tissue.HEART_MUSCLE, Organ.HEART), heart, box, over=over)
        inside = (Organ.HEART,)
        for tissue, at, radii in (
            (Tissue.HEART_RIGHT, (-30, 0, 14), (25, 30, 34)),
            (Tissue.HEART_RIGHT, (4, -22, 4), (40, 17, 38)),
            (Tissue.HEART_LEFT, (27, 8, -2), (26, 22, 40)),
            (Tissue.HEART_LEFT, (-8, 30, 26), (30, 16, 22)),
        ):
            chamber = ellipsoid(x, y, z, c + np.array(at) * self.size, np.array(radii) * self.size, axes)
            rim = 8 if tissue is Tissue.HEART_LEFT else 3
            chamber = np.maximum(chamber + 2 * canvas.noise(14, box), heart + rim)
            canvas.paint(add(tissue, Organ.HEART), chamber, box, over=inside, solid=False)


def draw_mesentery(rng: np.random.Generator) -> list[Tube]:
    """Vessels that fan out in the visceral fat from the roots of the mesenteries."""
    tubes: list[Tube] = []
    roots = (
        ((0, -4, -50), (0.1, -0.9, -0.4)),
        ((-6, -8, -80), (-0.5, -0.7, -0.4)),
        ((4, -6, -80), (0.6, -0.7, -0.3)),
        ((20, -10, -40), (0.8, -0.6, 0.0)),
        ((0, -8, -110), (0.0, -0.7, -0.7)),
        ((-20, -20, -50), (-0.8, -0.4, 0.0)),
        ((30, 0, 10), (0.8, -0.4, 0.4)),
        ((60, 20, 20), (0.6, -0.6, 0.5)),
        ((10, -50, -20), (0.7, -0.4, -0.4)),
        ((72, 32, 14), (0.4, -0.5, 0.6)),
        ((60, 24, 4), (-0.3, -0.8, 0.2)),
        ((80, 10, 10), (0.2, -0.8, -0.4)),
        ((22, -8, 24), (0.6, 0.2, 0.6)),
        ((40, -60, 0), (0.8, 0.0, 0.3)),
        ((-40, -40, -60), (-0.5, -0.5, -0.5)),
    )
    for start, heading in roots:
        place = np.array(start) + rng.normal(0, 6, 3)
        tubes += grow_tree(
            rng, place, heading, rng.uniform(2.6, 3.6), thinnest=0.7, length=34, wander=rng.uniform(0.2, 0.5), limit=40
        )
    return tubes
