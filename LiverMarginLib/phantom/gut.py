"""Stomach, duodenum, colon and small bowel: walls, contents, gas that rises to the front."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from LiverMarginLib.phantom.canvas import Canvas
from LiverMarginLib.phantom.fields import smooth_max
from LiverMarginLib.phantom.organs import Organ
from LiverMarginLib.phantom.tissues import Tissue
from LiverMarginLib.phantom.tubes import Tube


@dataclass(frozen=True)
class Hollow:
    """A hollow organ along a centreline.

    Parameters
    ----------
    organ : Organ
    course : Tube
        Outer surface.
    wall : float
        Wall thickness in mm.
    wall_tissue, content : Tissue
    gas_level : float
        y in mm before which the lumen holds gas (the patient lies supine); very low for none.
    folds : float
        Height of mucosal folds or haustra in mm.
    shade : float
        Difference of the content from its kind, in standard deviations.
    gap : float
        Distance kept to other organs, mm.
    """

    organ: Organ
    course: Tube
    wall: float
    wall_tissue: Tissue
    content: Tissue
    gas_level: float
    folds: float
    shade: float
    gap: float = 0.8

    def paint(self, canvas: Canvas) -> None:
        """Paint wall, content and gas over the fat that is left."""
        found = self.course.field(canvas, blend=5)
        if found is None:
            return
        box, distance = found
        distance = distance + 0.35 * self.folds * canvas.noise(30, box)
        distance = smooth_max(distance, canvas.fields["cavity"][box] + 2.5, 5)
        distance = smooth_max(distance, canvas.fields["dome"][box] + 3, 6)
        distance = canvas.avoid(distance, box, gap=self.gap, width=5)
        palette = canvas.palette
        over = (Organ.VISCERAL_FAT,)
        canvas.paint(palette.add(self.wall_tissue, self.organ), distance, box, over=over)
        inside = (self.organ,)
        lumen = distance + self.wall + self.folds * np.clip(canvas.noise(14, box), -0.4, 1.6)
        canvas.paint(palette.add(self.content, self.organ, self.shade), lumen, box, over=inside, solid=False)
        if self.gas_level > -150:
            level = canvas.y[box] - np.float32(self.gas_level)
            if self.content in (Tissue.STOOL, Tissue.FOOD):
                level = level + 5 * canvas.noise(14, box)
            gas = np.maximum(lumen, level)
            canvas.paint(palette.add(Tissue.GAS, self.organ), gas, box, over=inside, solid=False)


def draw_stomach(rng: np.random.Generator, front: float) -> list[Hollow]:
    """Draw stomach and duodenum; `front` is the depth of the front wall in mm, negative."""
    full = rng.uniform(0.6, 1.12)
    low = rng.uniform(-70, -15)
    course = np.array(
        [
            (52, 24, 70),
            (64, 12, 52),
            (66, -14, 24),
            (54, -42, -6),
            (24, -56, low * 0.7 - 10),
            (-8, -44, low * 0.6 - 8),
            (-28, -28, -18),
        ],
        dtype=float,
    ) + rng.normal(0, 5, (7, 3))
    radii = np.array([30, 38, 34, 28, 22, 16, 10]) * full * rng.uniform(0.85, 1.15, 7)
    content = rng.choice([Tissue.FLUID, Tissue.FOOD, Tissue.ORAL_CONTRAST], p=[0.5, 0.4, 0.1])
    gas = max(front + 6, float((course[:, 1] - radii).min())) + rng.uniform(4, 55) if rng.random() < 0.8 else -999.0
    stomach = Hollow(
        Organ.STOMACH,
        Tube.through(course, np.maximum(radii, 9)),
        float(rng.uniform(3, 6.5)),
        Tissue.STOMACH_WALL,
        Tissue(content),
        float(gas),
        float(rng.uniform(0.8, 3.5)),
        float(np.clip(rng.normal(), -2, 2)),
    )
    duodenum_course = np.array(
        [(-30, -26, -18), (-42, -14, -26), (-46, 4, -48), (-42, 12, -74), (-20, 12, -86), (10, 10, -82), (26, 0, -62)],
        dtype=float,
    ) + rng.normal(0, 3, (7, 3))
    duodenum = Hollow(
        Organ.DUODENUM,
        Tube.through(duodenum_course, rng.uniform(8, 13)),
        2.5,
        Tissue.BOWEL_WALL,
        Tissue(rng.choice([Tissue.FLUID, Tissue.FOOD, Tissue.ORAL_CONTRAST], p=[0.55, 0.25, 0.2])),
        float(rng.uniform(-40, 0)) if rng.random() < 0.3 else -999.0,
        1.2,
        float(rng.normal()),
    )
    return [stomach, duodenum]


def draw_colon(rng: np.random.Generator, front: float) -> list[Hollow]:
    """Draw ascending, transverse and descending colon as one course in pieces with contents of their own.

    `front` is the depth of the front wall in mm, negative.
    """
    sag = rng.uniform(-110, -40)
    course = np.array(
        [
            (-92, 32, -205),
            (-98, 38, -160),
            (-98, 34, -110),
            (-88, 10, -82),
            (-66, front + 40, -70),
            (-30, front + 24, 0.6 * sag - 20),
            (10, front + 22, sag),
            (50, front + 26, 0.6 * sag),
            (84, front + 55, -14),
            (102, 6, 26),
            (108, 40, -30),
            (110, 48, -90),
            (106, 44, -150),
            (92, 30, -205),
        ],
        dtype=float,
    ) + rng.normal(0, (6, 6, 8), (14, 3))
    line = Tube.through(course, rng.uniform(13, 24), step=9)
    n = len(line.points)
    haustra = 1 + 0.16 * np.sin(np.arange(n) * 9 / 26 * 2 * np.pi) + 0.1 * rng.standard_normal(n)
    swell = 1 + 0.25 * np.sin(np.linspace(0, rng.uniform(2, 9), n) + rng.uniform(0, 6))
    radii = np.clip(line.radii * haustra * swell, 8, 34)
    positive = rng.random() < 0.25
    pieces = []
    size = max(6, n // 9)
    for start in range(0, n - 1, size):
        stop = min(n, start + size + 1)
        if stop - start < 2:
            continue
        middle = line.points[start:stop].mean(axis=0)
        content = Tissue.ORAL_CONTRAST if positive and rng.random() < 0.6 else Tissue.STOOL
        gas = middle[1] + rng.uniform(-30, 26) if rng.random() < 0.85 else -999.0
        pieces.append(
            Hollow(
                Organ.COLON,
                Tube(line.points[start:stop], radii[start:stop]),
                float(rng.uniform(1.5, 3)),
                Tissue.BOWEL_WALL,
                content,
                float(gas),
                1.6,
                float(np.clip(rng.normal(), -2, 2)),
                gap=0.4,
            )
        )
    return pieces


def draw_more_bowel(rng: np.random.Generator, front: float) -> list[Hollow]:
    """Draw further loops into the flanks and the rest of the abdomen, which in most patients holds little free fat."""
    count = int(rng.choice([0, 20, 60, 110], p=[0.2, 0.25, 0.3, 0.25]))
    return draw_small_bowel(rng, front - 6, count, flank=25)


def draw_small_bowel(rng: np.random.Generator, front: float, count: int = 46, flank: float = 0.0) -> list[Hollow]:
    """Draw loops of small bowel that fill the middle and lower abdomen, and reach `flank` mm further to its sides."""
    loops = []
    positive = rng.random() < 0.3
    for _ in range(count):
        x = rng.uniform(-75 - flank, 85 + flank)
        centre = np.array([x, rng.uniform(front + 25, 15 + flank), rng.uniform(-235, -45)])
        if rng.random() < 0.25:
            centre = np.array([rng.uniform(15, 90), rng.uniform(front + 30, 20), rng.uniform(-60, 0)])
        n = int(rng.integers(3, 7))
        turns = np.cumsum(rng.normal(0, (17, 13, 12), (n, 3)), axis=0)
        radius = rng.uniform(7, 13.5)
        kind = rng.random()
        content = Tissue.FLUID if kind < 0.65 else Tissue.FOOD
        if positive and kind < 0.6:
            content = Tissue.ORAL_CONTRAST
        gas = centre[1] + rng.uniform(-14, 4) if rng.random() < 0.2 else -999.0
        loops.append(
            Hollow(
                Organ.SMALL_BOWEL,
                Tube.through(centre + turns, radius * rng.uniform(0.8, 1.15, n), step=7),
                float(rng.uniform(1.6, 4.5)),
                Tissue.BOWEL_WALL,
                content,
                float(gas),
                float(rng.uniform(0.5, 1.5)),
                float(np.clip(rng.normal(), -2, 2)),
                gap=0.3,
            )
        )
    return loops
