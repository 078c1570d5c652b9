"""The liver: lobes, fissures, fossae and the impressions of its neighbours; gallbladder and vessels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from LiverMarginLib.phantom.canvas import Box, Canvas, Organs
from LiverMarginLib.phantom.fields import FloatArray, ellipsoid, rotation, smooth_max, smooth_min
from LiverMarginLib.phantom.organs import Organ
from LiverMarginLib.phantom.tissues import Tissue
from LiverMarginLib.phantom.tubes import Tube, grow_tree, paint_tubes

_AVERAGE = 0.88  # size of an average liver in terms of the lengths below


@dataclass(frozen=True)
class LiverShape:
    """Parameters of one liver: lengths in mm, and factors of the lobes.

    The visceral surface is a plane that rises by `tilt` degrees from the right lower tip to the hilum, moved by `lift`
    and turned by `turn`; the left lobe is a flattened ellipsoid cut by a plane that faces the stomach at `facing`
    degrees and is `hollow` to it. `edge` is the roundness of the margins where these meet the other surfaces.
    """

    scale: float
    right: float
    left: float
    left_reach: float
    left_drop: float
    left_thick: float
    caudate: float
    lift: float
    tilt: float
    fissure: float
    slant: float
    turn: float
    edge: float
    facing: float
    hollow: float
    tongue: float
    nodules: float
    wall_gap: float
    waviness: float
    cut: str
    cut_at: float
    collection: bool
    wraps: bool

    @classmethod
    def draw(
        cls,
        rng: np.random.Generator,
        *,
        scale: float | None,
        cirrhosis: bool,
        riedel: bool,
        resected: bool,
        wraps: bool,
        ascites: bool,
    ) -> LiverShape:
        """Draw a liver with the given variants."""
        size = float(np.clip(rng.normal(_AVERAGE, 0.07), 0.7, 1.1))
        # Drawn whether needed or not, so that a finding changes nothing else about the patient.
        tongue, nodules, gap = rng.uniform(50, 105), rng.uniform(1.2, 2.8), rng.uniform(0, 1)
        reach, side = rng.uniform(0, 1), "right" if rng.random() < 0.6 else "left"
        shrink = 0.9 if cirrhosis else 1.0
        return cls(
            scale=size if scale is None else _AVERAGE * scale,
            right=float(rng.uniform(0.74, 1.06)) * shrink,
            left=float(rng.uniform(0.8, 1.2)) * (1.12 if cirrhosis else 1.0),
            left_reach=float(105 + 30 * reach if wraps else 60 + 58 * reach),
            left_drop=float(rng.uniform(-32, 26)),
            left_thick=float(rng.uniform(32, 52)),
            caudate=float(rng.uniform(0.8, 1.2)) * (1.3 if cirrhosis else 1.0),
            lift=float(rng.normal(0, 9)),
            tilt=float(rng.uniform(26, 46)),
            fissure=float(rng.uniform(0.6, 3.0) * (2.0 if cirrhosis else 1.0)),
            turn=float(rng.uniform(-0.12, 0.2)),
            edge=float(rng.uniform(4, 16)),
            facing=float(rng.uniform(38, 62)),
            hollow=float(rng.uniform(-0.001, 0.004)),
            slant=float(rng.uniform(-0.15, 0.45)),
            tongue=float(tongue) if riedel else 0.0,
            nodules=float(nodules) if cirrhosis else 0.25,
            wall_gap=float(6 + 14 * gap if ascites else 0.8 + 1.7 * gap),
            waviness=float(rng.uniform(2.5, 6.0)),
            cut=side if resected else "",
            cut_at=float(rng.uniform(0, 35)),
            collection=bool(rng.random() < 0.7),
            wraps=wraps,
        )

    @property
    def relative_size(self) -> float:
        """Size relative to an average liver, as the options count it."""
        return self.scale / _AVERAGE


@dataclass(frozen=True)
class Liver:
    """The liver with its vessels and the gallbladder, under a diaphragm whose right dome lies at `dome` mm."""

    shape: LiverShape
    gallbladder: Tube | None
    stones: tuple[tuple[float, float, float, float], ...]
    trunk: Tube
    portal: list[Tube]
    veins: list[Tube]
    dome: float

    @classmethod
    def draw(cls, rng: np.random.Generator, shape: LiverShape, dome: float) -> Liver:
        """Draw vessels and gallbladder that fit a liver."""
        s = shape.scale
        gallbladder = None
        stones: tuple[tuple[float, float, float, float], ...] = ()
        if rng.random() < 0.85:
            width = rng.uniform(7, 17)
            neck = np.array([-32, -6, -6]) * s + rng.normal(0, 4, 3)
            fundus = neck + np.array([-22, -46, -34]) * rng.uniform(0.7, 1.15, 3)
            middle = (neck + fundus) / 2 + rng.normal(0, 5, 3)
            gallbladder = Tube.through([neck, middle, fundus], [width * 0.4, width * 0.85, width])
            if rng.random() < 0.15:
                bed = gallbladder.points[-2] + np.array([0, 0.4 * width, 0])  # stones sink to the back
                stones = tuple(
                    (*(bed + rng.normal(0, width * 0.35, 3)), rng.uniform(2, 6)) for _ in range(rng.integers(1, 5))
                )
        portal, trunk = _draw_portal(rng, s)
        return cls(shape, gallbladder, stones, trunk, portal, _draw_veins(rng, s), dome)

    def field(self, canvas: Canvas, box: Box) -> FloatArray:
        """Distance to the liver before its neighbours press on it."""
        p = self.shape
        s = p.scale
        x, y, z = canvas.at(box)
        rough = canvas.noise(60, box)
        fine = canvas.noise(30, box)
        wave = p.waviness * rough + 0.3 * p.waviness * fine

        # Upwards the right lobe always reaches the dome of the diaphragm, which then cuts it.
        height = np.where(z > 0, z * np.float32(112 * p.right * s / (self.dome + 32)), z)
        right = ellipsoid(x, y, height, np.array([-78, 4, 0]) * s, np.array([80, 100, 112 * p.right]) * s)
        a = np.radians(p.tilt)
        lower = np.float32(np.cos(a)) * (x + 30 * s) - np.float32(np.sin(a)) * (z + p.lift)
        # Concave below: the anterior edge hangs lower than the middle of the visceral surface.
        lower = lower - 10 * np.exp(-(((y + 62) / 34) ** 2)).astype(np.float32) - 6 * np.clip(y / 60, 0, 1)
        right = smooth_max(right, (lower + p.turn * y).astype(np.float32) + 0.7 * wave, p.edge)

        centre = np.array([8, -46, 36 + 0.3 * p.left_drop]) * s
        axes = rotation(yaw=-8, roll=-12)
        radii = np.array([p.left_reach, 56, p.left_thick - 0.35 * p.left_drop]) * s * p.left**0.33
        left = ellipsoid(x, y, z, centre, radii, axes)
        a = np.radians(p.facing)
        behind = np.float32(np.cos(a)) * (x - 4) + np.float32(np.sin(a)) * (y - 12 * s) - 0.42 * (z - 30)
        behind = behind + p.hollow * np.square(np.clip(x - 20, 0, 100))
        if p.wraps:
            behind = behind - 0.75 * np.clip(x - 20, 0, 120)
        left = smooth_max(left, behind.astype(np.float32) + 0.6 * wave, 0.7 * p.edge)
        distance = smooth_min(right, left, 22)
        if p.wraps:  # round the front of the stomach to the spleen
            beyond = ellipsoid(x, y, z, np.array([80, -18, 62]) * s, np.array([50, 66, 26]) * s, rotation(yaw=-25))
            distance = smooth_min(distance, beyond, 20)
        if p.tongue:
            tongue = ellipsoid(x, y, z, (-104 * s, -8, -70), (24, 46, p.tongue))
            distance = smooth_min(distance, tongue, 18)
        distance = distance + wave

        caudate = ellipsoid(
            x, y, z, np.array([-10, 6, 24]) * s, np.array([17, 20, 30]) * s * p.caudate, rotation(yaw=25)
        )
        cleft_side = 0.5 * (x + 2) + 0.86 * (y + 6 * s) + 0.1 * z + 2.5 * fine + 1.2 * canvas.noise(14, box)
        distance = smooth_min(distance, caudate, 8)

        # Fissure of the ligamentum venosum: between caudate and left lateral section.
        cleft = np.abs(cleft_side) - np.float32(0.1 + 0.4 * p.fissure) - 0.6 * rough
        cleft = np.maximum(cleft, ellipsoid(x, y, z, np.array([2, -4, 18]) * s, np.array([26, 16, 34]) * s))
        distance = smooth_max(distance, -cleft, 3)
        # Fissure of the ligamentum teres, opening downwards: this is what parts the lobes in some slices.
        bend = 4 * fine + 1.5 * canvas.noise(14, box)
        plane = np.abs(x + 8 * s + p.slant * (y + 40) + bend) - p.fissure * (
            0.2 + 0.4 * rough + np.maximum(12 - z, 0) / 11
        )
        teres = np.maximum(np.maximum(plane, (z - 22 * s) * 0.8), (y + 22) * 0.7)
        distance = smooth_max(distance, -teres.astype(np.float32), 4)
        hilum = ellipsoid(x, y, z, np.array([-24, 2, -4]) * s, (22, 9, 9), rotation(yaw=-20, roll=15))
        distance = smooth_max(distance, -hilum, 5)

        distance += p.nodules * (canvas.noise(14, box) if p.nodules > 1 else fine)
        return np.asarray(distance, dtype=np.float32)

    def cut(self, canvas: Canvas, box: Box, distance: FloatArray) -> FloatArray:
        """What a resection has left of the field `distance`."""
        p = self.shape
        x, y, _ = canvas.at(box)
        right, left = -(x + 66 * p.scale + p.cut_at - 0.3 * y), x + 12 * p.scale + p.cut_at + 0.2 * y
        plane = right if p.cut == "right" else left
        return smooth_max(distance, plane + 2 * canvas.noise(30, box), 10)

    def paint(self, canvas: Canvas) -> None:
        """Paint gallbladder, portal trunk, liver and its vessels, in this order of precedence."""
        palette = canvas.palette
        over = (Organ.VISCERAL_FAT, Organ.MUSCLE)
        self._paint_gallbladder(canvas, over)
        trunk = palette.add(Tissue.PORTAL_BLOOD, Organ.PORTAL_VEIN)
        paint_tubes(canvas, [self.trunk], trunk, over=over, solid=True)

        s = self.shape.scale
        low = np.array([-165, -140, -140 * s - self.shape.tongue])
        box = canvas.box(low, (max(120, self.shape.left_reach * 1.3) + 10, 130, 130), pad=12)
        if box is None:
            return
        distance = self.field(canvas, box)
        distance = smooth_max(distance, canvas.fields["cavity"][box] + self.shape.wall_gap, 8)
        distance = smooth_max(distance, canvas.fields["dome"][box] + 2.0, 8)
        distance = canvas.avoid(distance, box, gap=0.1, width=3)
        if self.shape.cut:
            whole, distance = distance, self.cut(canvas, box, distance)
            if self.shape.collection:
                fluid = np.maximum(whole + 5, 5 - distance) + 3 * canvas.noise(30, box)
                canvas.paint(palette.add(Tissue.ASCITES, Organ.ASCITES), fluid, box, over=over)
        canvas.fields["liver"] = np.full(canvas.shape, 60, dtype=np.float32)
        canvas.fields["liver"][box] = distance
        canvas.paint(palette.add(Tissue.LIVER, Organ.LIVER), distance, box, over=over)
        inside = (Organ.LIVER,)
        paint_tubes(canvas, self.portal, palette.add(Tissue.LIVER_PORTAL, Organ.LIVER_VESSEL), over=inside)
        paint_tubes(canvas, self.veins, palette.add(Tissue.LIVER_VEIN, Organ.LIVER_VESSEL), over=inside)

    def _paint_gallbladder(self, canvas: Canvas, over: Organs) -> None:
        if self.gallbladder is None:
            return
        found = self.gallbladder.field(canvas, blend=6)
        if found is None:
            return
        box, distance = found
        distance = smooth_max(distance, canvas.fields["cavity"][box] + 6, 6)
        distance = canvas.avoid(distance, box, gap=0.5)
        palette = canvas.palette
        canvas.paint(palette.add(Tissue.BOWEL_WALL, Organ.GALLBLADDER), distance, box, over=over)
        inside = (Organ.GALLBLADDER,)
        canvas.paint(palette.add(Tissue.BILE, Organ.GALLBLADDER), distance + 1.6, box, over=inside, solid=False)
        for x, y, z, radius in self.stones:
            part = canvas.box((x - radius, y - radius, z - radius), (x + radius, y + radius, z + radius))
            if part is not None:
                stone = ellipsoid(*canvas.at(part), (x, y, z), (radius,) * 3)
                material = palette.add(Tissue.GALLSTONE, Organ.GALLBLADDER)
                canvas.paint(material, stone, part, over=inside, solid=False)


def _draw_portal(rng: np.random.Generator, s: float) -> tuple[list[Tube], Tube]:
    """Portal branches inside the liver, and the trunk from the confluence to the hilum."""
    fork = np.array([-30, -2, 2]) * s
    trunk = Tube.through(np.array([(2, 6, -38), (-10, 4, -20), tuple(fork)]), [7.5, 7.5, 7.0])
    tubes: list[Tube] = []
    right = Tube.through([fork, fork + np.array([-24, 4, 4]) * s], [6.5, 5.8])
    left = Tube.through([fork, np.array([-14, -18, 12]) * s, np.array([-4, -36, 10]) * s], [5.5, 5.0, 4.6])
    tubes += [right, left]
    heads = [
        (right.points[-1], (-0.5, -0.7, 0.3), 5.6),
        (right.points[-1], (-0.6, 0.7, 0.1), 5.6),
        (right.points[-1], (-0.5, 0.2, -0.8), 5.2),
        (left.points[-1], (0.8, -0.4, 0.2), 4.4),
        (left.points[-1], (0.7, 0.2, 0.5), 4.0),
        (left.points[-1], (-0.6, -0.6, -0.2), 4.2),
    ]
    for start, heading, radius in heads:
        tubes += grow_tree(rng, start, heading, radius, thinnest=1.0, length=27 * s, wander=0.16, limit=60)
    return tubes, trunk


def _draw_veins(rng: np.random.Generator, s: float) -> list[Tube]:
    """Right, middle and left hepatic veins with their tributaries."""
    tubes: list[Tube] = []
    courses: tuple[tuple[tuple[float, float, float], float, float], ...] = (
        ((-0.85, 0.15, -0.35), 6.2, 42),
        ((-0.45, -0.75, -0.45), 5.8, 40),
        ((0.45, -0.85, -0.2), 5.2, 32),
    )
    for heading, radius, length in courses:
        start = np.array([-27, 10, 66]) * s + rng.normal(0, 3, 3)
        heading_drawn = np.array(heading) + rng.normal(0, 0.12, 3)
        tubes += grow_tree(rng, start, heading_drawn, radius, thinnest=1.1, length=length * s, wander=0.12, limit=56)
    return tubes
