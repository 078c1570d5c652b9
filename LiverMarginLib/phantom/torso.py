"""The trunk: skin, subcutaneous fat, muscle wall, the cavity inside, the domes of the diaphragm and the lungs.

Standard coordinates in mm: x to the patient's left, y posterior, z superior; the origin lies at the liver's hilum, in
the middle of the trunk. The cavity's distance field is the scaffold that ribs, liver and spleen follow.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from LiverMarginLib.phantom.canvas import Box, Canvas
from LiverMarginLib.phantom.fields import FloatArray, smooth_max, smooth_min
from LiverMarginLib.phantom.organs import Organ
from LiverMarginLib.phantom.tissues import Tissue

WHOLE: Box = (slice(None), slice(None), slice(None))

# Half sizes of the cavity in mm against z, from the pelvis to the upper chest.
_LEVELS = np.array([-300.0, -220, -150, -90, -20, 40, 100, 160, 220, 280])
_HALF_WIDTH = np.array([134.0, 134, 130, 130, 137, 140, 137, 130, 116, 98])
_FRONT = np.array([66.0, 72, 74, 78, 84, 90, 94, 92, 82, 68])
_BACK = np.array([92.0, 96, 100, 100, 100, 100, 100, 98, 92, 84])


@dataclass(frozen=True)
class Torso:
    """Shape of one patient's trunk.

    Parameters
    ----------
    fat : float
        Thickness of the subcutaneous fat in mm at the flank.
    belly : float
        How far visceral fat pushes the front wall out below the ribs, mm.
    wall : float
        Muscle thickness relative to an average adult.
    roundness : float
        Exponent of the cavity's superellipse.
    depth, width : float
        Size of the cavity front to back and side to side, relative to the average.
    dome_right, dome_left, dome_middle : float
        Height of the diaphragm in mm.
    fall : float
        How steeply the domes fall to the chest wall, mm.
    effusion : float
        Depth in mm of pleural fluid behind the lungs; 0 for none.
    breast : float
        Thickness of the breasts, mm; 0 for none.
    fat_front, fat_back : float
        Subcutaneous fat at the belly and the back relative to the flank.
    marbling : float
        Fat between and within the back muscles, 0 to about 1.
    """

    fat: float
    belly: float
    wall: float
    roundness: float
    depth: float
    width: float
    dome_right: float
    dome_left: float
    dome_middle: float
    fall: float
    effusion: float
    breast: float
    fat_front: float
    fat_back: float
    marbling: float

    @classmethod
    def draw(cls, rng: np.random.Generator, fat: float | None, effusion: bool) -> Torso:
        """Draw a trunk; `fat` in mm fixes the subcutaneous thickness."""
        drawn = float(np.exp(rng.normal(np.log(14), 0.6)))
        thickness = float(np.clip(drawn if fat is None else fat, 1.5, 80))
        dome = rng.normal(95, 9)
        # Drawn whether needed or not, so that a finding changes nothing else about the patient.
        fluid, breast, female = rng.uniform(8, 45), rng.uniform(12, 40), rng.random() < 0.45
        return cls(
            fat=thickness,
            belly=float(np.clip(rng.normal(-3 + 0.8 * thickness, 12), -20, 60)),
            wall=float(rng.uniform(0.75, 1.25)),
            roundness=float(rng.uniform(2.05, 2.5)),
            depth=float(rng.uniform(0.9, 1.12)),
            width=float(rng.uniform(0.95, 1.06)),
            dome_right=float(dome),
            dome_left=float(dome - rng.uniform(2, 22)),
            dome_middle=float(dome - rng.uniform(14, 30)),
            fall=float(rng.uniform(85, 135)),
            effusion=float(fluid) if effusion else 0.0,
            breast=float(breast) if female else 0.0,
            fat_front=float(rng.uniform(0.6, 1.7)),
            fat_back=float(rng.uniform(0.5, 1.3)),
            marbling=float(rng.uniform(0.0, 1.1)),
        )

    def spine_y(self, z: npt.NDArray[np.float32]) -> FloatArray:
        """Centre of the vertebral bodies, mm: lordosis below, kyphosis above."""
        return np.interp(z, (-260, -190, -110, -20, 60, 140, 240), (66, 52, 47, 55, 62, 66, 60)).astype(np.float32)

    def measure(self, canvas: Canvas) -> None:
        """Compute the fields that other organs follow.

        ``ellipse`` is the distance to the smooth inner outline of the trunk, ``cavity`` the same with the spine and its
        muscles cut out, ``muscle`` and ``body`` the outer surfaces of muscle and skin, ``dome`` the height in mm above
        the diaphragm. ``cosine`` (-1 in front, 1 behind), ``abdomen`` (1 below the ribs) and ``thickness`` of the
        muscle describe the wall.
        """
        x, y, z = canvas.x, canvas.y, canvas.z
        level = z.mean(axis=(1, 2), keepdims=True)
        a = np.interp(level, _LEVELS, _HALF_WIDTH).astype(np.float32) * np.float32(self.width)
        belly = self.belly * np.exp(-(((level + 90) / 100) ** 2))
        front = (np.interp(level, _LEVELS, _FRONT) * self.depth + belly).astype(np.float32)
        back = np.interp(level, _LEVELS, _BACK).astype(np.float32)
        p = np.float32(self.roundness)

        reach = np.sqrt(x * x + y * y) + np.float32(1e-3)
        cosine = y / reach  # -1 at the front, 1 at the back
        u, v = np.abs(x / a), np.where(y < 0, -y / front, y / back)
        r = np.power(np.power(u, p) + np.power(v, p), 1 / p)
        np.maximum(r, np.float32(0.02), out=r)
        ellipse = reach * (1 - 1 / r)
        ellipse += 1.8 * canvas.noise(60)

        spine = self.spine_y(level)
        column = np.sqrt((x / 54) ** 2 + ((y - spine - 33) / 29) ** 2)
        column = (column - 1) * np.float32(36)
        column += 1.5 * canvas.noise(30)
        cavity = smooth_max(ellipse, -column, 14)

        abdomen = _step((self.margin(cosine) + 10 - z) / 30)
        side = 1 - cosine * cosine
        thickness = 11 + 3.0 * cosine + 7 * abdomen * side
        thickness += (1 - abdomen) * 7 * np.exp(-(((cosine - 0.35) / 0.4) ** 2)).astype(np.float32)
        chest = _step((z - 105) / 50)
        pectoral = 9 * np.exp(-(((np.abs(x) - 75) / 45) ** 2)) * (y < 0)
        thickness += chest * (pectoral + 8 * np.exp(-(((cosine - 0.6) / 0.3) ** 2)))
        gluteal = _step((-170 - z) / 70) * np.exp(-(((cosine - 0.75) / 0.35) ** 2))
        thickness += 34 * gluteal + 1.3 * canvas.noise(30)
        thickness *= np.float32(self.wall)
        muscle = smooth_min(ellipse - thickness, column - 1, 24)
        outline = smooth_min(ellipse - thickness, column - 1, 75)

        fat = np.float32(self.fat) * (
            1
            + (self.fat_front - 1) * np.clip(-cosine, 0, 1)
            + (self.fat_back - 1) * np.clip(cosine, 0, 1)
            + np.interp(level, (-250, -120, 20, 120), (0.7, 0.35, 0.0, -0.2)).astype(np.float32)
        )
        fat = fat + 0.12 * self.fat * canvas.noise(60) + 2
        flat = spine + 60 + 0.25 * self.fat + 2 * canvas.noise(60)  # the back lies flat on the table
        if self.breast:
            near = np.exp(-(((np.abs(x) - 85) / 45) ** 2) - ((z - 175) / 55) ** 2).astype(np.float32)
            fat = fat + self.breast * near * _step((-y) / 40)
        canvas.fields.update(
            abdomen=np.asarray(abdomen, dtype=np.float32),
            cavity=cavity,
            muscle=muscle,
            body=smooth_max(np.minimum(outline, muscle) - np.maximum(fat, 1.5), y - flat, 30),
            cosine=cosine,
            thickness=thickness.astype(np.float32),
            ellipse=ellipse,
        )
        canvas.fields["dome"] = z - self.dome(x, y) + 2.0 * canvas.noise(60)

    @staticmethod
    def margin(cosine: FloatArray) -> FloatArray:
        """Height in mm of the rib cage's lower edge, from the xiphoid round to the twelfth rib."""
        t = np.clip((cosine + 1) / 0.85, 0, 1)
        return (48 - 112 * t * t * (3 - 2 * t)).astype(np.float32)

    def dome(self, x: FloatArray, y: FloatArray) -> FloatArray:
        """Height of the diaphragm in mm above each place."""
        heights = []
        for top, cx, cy in ((self.dome_right, -70.0, -10.0), (self.dome_left, 68.0, -6.0)):
            rho = ((x - np.float32(cx)) / 68) ** 2 + ((y - np.float32(cy)) / 98) ** 2
            fall = np.float32(self.fall) * (1 + np.float32(0.0034) * (y - np.float32(cy)))
            heights.append(np.float32(top) - fall * (np.float32(0.3) * rho + np.float32(0.7) * rho * rho))
        middle = self.dome_middle - 26 * ((x - 8) / 45) ** 2 - 34 * (np.maximum(y + 18, 0) / 60) ** 2
        middle = middle - 20 * (np.maximum(-y - 40, 0) / 40) ** 2
        both = smooth_max(heights[0], heights[1], 20)
        return smooth_max(both, middle.astype(np.float32), 24)

    def paint(self, canvas: Canvas) -> None:
        """Paint skin, fat, muscle, the fat-filled cavity and the lungs."""
        self.measure(canvas)
        palette, fields = canvas.palette, canvas.fields
        fat = palette.add(Tissue.FAT, Organ.SUBCUTANEOUS_FAT)
        muscle = palette.add(Tissue.MUSCLE, Organ.MUSCLE)
        canvas.paint(palette.add(Tissue.SKIN, Organ.SKIN), fields["body"], WHOLE, solid=False)
        canvas.paint(fat, fields["body"] + 1.8, WHOLE, solid=False)
        if self.breast:
            self._paint_breasts(canvas)
        canvas.paint(muscle, fields["muscle"], WHOLE, solid=False)
        self._paint_fascia(canvas)
        visceral = palette.add(Tissue.VISCERAL_FAT, Organ.VISCERAL_FAT)
        canvas.paint(visceral, fields["cavity"], WHOLE, solid=False)
        self._paint_lungs(canvas, muscle)

    def _paint_breasts(self, canvas: Canvas) -> None:
        body, muscle = canvas.fields["body"], canvas.fields["muscle"]
        depth = np.maximum(3 - muscle, body + 7)
        place = np.hypot((np.abs(canvas.x) - 88) / 40, (canvas.z - 172) / 45) - 1
        gland = np.maximum(depth, 30 * place.astype(np.float32)) + 5 * canvas.noise(14) + 2
        gland = np.where(canvas.y < 0, gland, np.float32(20))
        material = canvas.palette.add(Tissue.BREAST, Organ.BREAST)
        canvas.paint(material, gland, WHOLE, over=(Organ.SUBCUTANEOUS_FAT,), solid=False)

    def _paint_fascia(self, canvas: Canvas) -> None:
        """Thin fat planes between the layers of the wall, the recti and the back muscles."""
        ellipse, thickness, cosine = (canvas.fields[n] for n in ("ellipse", "thickness", "cosine"))
        fascia = canvas.palette.add(Tissue.FAT, Organ.MUSCLE)
        over = (Organ.MUSCLE,)
        noise = canvas.noise(30)
        lateral = np.abs(cosine) < 0.8
        for part, offset in ((0.38, 0.0), (0.68, 0.3)):
            curve = part * thickness + 1.2 * canvas.noise(14)
            width = 0.3 + 0.5 * (noise + offset) - 1.2 * (1 - canvas.fields["abdomen"])
            shell = np.abs(ellipse - curve) - np.where(lateral, width, -1.0)
            canvas.paint(fascia, shell.astype(np.float32), WHOLE, over=over, solid=False)
        chest = 0.9 * noise + 0.4 * canvas.noise(14) - 3 * canvas.fields["abdomen"]
        over_ribs = np.abs(ellipse - 11 - 1.5 * canvas.noise(60)) - chest
        canvas.paint(fascia, over_ribs.astype(np.float32), WHOLE, over=over, solid=False)
        x, y, z = canvas.x, canvas.y, canvas.z
        box = canvas.box((-110, -180, -300), (110, -20, 60))
        if box is not None:  # linea alba and semilunaris
            wide = 0.7 + 0.8 * noise[box]
            lean = 0.6 * (ellipse[box] - 5)
            edge = np.minimum(
                np.abs(x[box] + lean) - wide, np.abs(np.abs(x[box]) - 70 - lean - 5 * canvas.noise(60, box)) - wide
            )
            edge = np.maximum(edge, z[box] - 40)
            edge = np.maximum(edge, y[box] + 30)
            canvas.paint(fascia, edge.astype(np.float32), box, over=over, solid=False)
        box = canvas.box((-60, 50, -300), (60, 150, 300))
        if box is not None:  # septa of the back muscles
            streaks = 0.8 * canvas.noise(14, box) + 0.6 * noise[box] - 0.02 * np.abs(np.abs(x[box]) - 14)
            septum = (2.2 - self.marbling - streaks) * 5
            canvas.paint(fascia, septum.astype(np.float32), box, over=over, solid=False)

    def _paint_lungs(self, canvas: Canvas, muscle: int) -> None:
        dome, cavity = canvas.fields["dome"], canvas.fields["cavity"]
        box = canvas.box((-170, -130, -80), (170, 130, 400), pad=12)
        if box is None:
            return
        lung = smooth_max(cavity[box] + 1.5, -dome[box], 6)
        canvas.paint(muscle, lung - 2.2, box, over=(Organ.VISCERAL_FAT,), solid=False)
        over = (Organ.VISCERAL_FAT, Organ.MUSCLE)
        for organ, side in ((Organ.RIGHT_LUNG, 1.0), (Organ.LEFT_LUNG, -1.0)):
            half = np.maximum(lung, np.float32(side) * canvas.x[box])
            canvas.paint(canvas.palette.add(Tissue.LUNG, organ), half, box, over=over, solid=False)
        if self.effusion:
            level = 98 - self.effusion - canvas.y[box]  # fluid lies at the back of a supine patient
            fluid = np.maximum(lung, level.astype(np.float32))
            lungs = (Organ.RIGHT_LUNG, Organ.LEFT_LUNG)
            canvas.paint(canvas.palette.add(Tissue.EFFUSION, Organ.PLEURAL_EFFUSION), fluid, box, lungs, solid=False)


def _step(t: npt.NDArray[np.floating]) -> FloatArray:
    """Smooth step from 0 at ``t = 0`` to 1 at ``t = 1``."""
    t = np.clip(t, 0, 1)
    return np.asarray(t * t * (3 - 2 * t), dtype=np.float32)
