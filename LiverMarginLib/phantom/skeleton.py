"""Spine, ribs, costal cartilage, sternum and pelvis, with a cortical shell round trabecular bone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from LiverMarginLib.phantom.canvas import Box, Canvas
from LiverMarginLib.phantom.fields import FloatArray, capsule, ellipsoid, rotation, rounded_box, smooth_min
from LiverMarginLib.phantom.organs import Organ
from LiverMarginLib.phantom.tissues import Tissue
from LiverMarginLib.phantom.torso import WHOLE, Torso

_CORTEX = 1.0  # mm


@dataclass(frozen=True)
class Skeleton:
    """One patient's bones.

    Parameters
    ----------
    levels : ndarray
        Heights in mm of the lower ends of the vertebrae, ascending.
    rib_pitch, rib_offset, rib_fall : float
        Vertical distance of ribs, height of one of them at the spine, and how far they fall on their way round, mm.
    lean : float
        Sideways bend of the spine, mm.
    size : float
        Vertebrae relative to average.
    """

    levels: npt.NDArray[np.float64]
    rib_pitch: float
    rib_offset: float
    rib_fall: float
    lean: float
    size: float
    torso: Torso

    @classmethod
    def draw(cls, rng: np.random.Generator, torso: Torso) -> Skeleton:
        """Draw the bones of a trunk."""
        start = rng.uniform(-30, 6)
        up = start + np.cumsum(np.concatenate([[0.0], np.linspace(29, 24, 14)]))
        down = start - np.cumsum(np.linspace(33, 38, 9))
        return cls(
            levels=np.concatenate([down[::-1], up]),
            rib_pitch=float(rng.uniform(25, 30)),
            rib_offset=float(rng.uniform(0, 28)),
            rib_fall=float(rng.uniform(95, 150)),
            lean=float(rng.normal(0, 3)),
            size=float(rng.uniform(0.9, 1.12)),
            torso=torso,
        )

    def paint(self, canvas: Canvas) -> None:
        """Paint all bones."""
        self._paint_ribs(canvas)
        self._paint_sternum(canvas)
        self._paint_spine(canvas)
        self._paint_pelvis(canvas)

    def _shell(self, canvas: Canvas, distance: FloatArray, box: Box, organ: Organ, solid: bool = True) -> None:
        cortical = canvas.palette.add(Tissue.CORTICAL_BONE, organ)
        marrow = Tissue.RIB_MARROW if organ is Organ.RIB else Tissue.TRABECULAR_BONE
        trabecular = canvas.palette.add(marrow, organ)
        canvas.paint(cortical, distance, box, solid=solid)
        canvas.paint(trabecular, distance + _CORTEX, box, over=(organ,), solid=False)

    def _paint_ribs(self, canvas: Canvas) -> None:
        ellipse, cosine = canvas.fields["ellipse"], canvas.fields["cosine"]
        cavity = canvas.fields["cavity"]
        ribs = np.full(canvas.shape, 8, dtype=np.float32)
        band = np.nonzero((cavity > -3) & (ellipse < 15) & (np.abs(canvas.x) > 15) & (cavity < 17))
        if not band[0].size:
            return
        c, depth, z = cosine[band], cavity[band], canvas.z[band]
        angle = np.arccos(np.clip(-c, -1, 1)) / np.float32(np.pi)  # 0 at the front, 1 at the back
        round_back = 1 - angle
        fall = self.rib_fall * np.clip(round_back / 0.72, 0, 1) ** 0.88
        rise = 70 * np.clip((round_back - 0.72) / 0.28, 0, 1) ** 1.4
        neck_fall = 0.5 * np.clip(np.abs(canvas.x[band]) - 18, 0, 45)
        t = (z + fall - rise + neck_fall - self.rib_offset) / self.rib_pitch
        off = (t - np.round(t)) * self.rib_pitch
        above = z - self.torso.margin(c)
        neck = np.clip((np.abs(canvas.x[band]) - 20) / 40, 0.55, 1)
        u, v = (depth - 5.6) / 4.3, off / (5.8 * neck)
        d = (np.sqrt(u * u + v * v) - 1) * 4.3
        d = np.maximum(d, -above / 6)
        gristle = np.minimum((c + 0.42) * 30, (above - 42) / 4)
        gristle = np.maximum(gristle, (c + 0.08) * 30)  # only in front of the flank
        gristle = np.where(c < -0.93, -3, gristle)  # true ribs meet the sternum by cartilage
        ribs[band] = np.minimum(np.maximum(d, -gristle), 8)
        self._shell(canvas, ribs, WHOLE, Organ.RIB, solid=False)  # they lie in the wall, out of every organ's way
        ribs[band] = np.minimum(np.maximum(d - 0.8, gristle), 8)
        cartilage = canvas.palette.add(Tissue.CARTILAGE, Organ.CARTILAGE)
        canvas.paint(cartilage, ribs, WHOLE, over=(Organ.MUSCLE,), solid=False)

    def _paint_sternum(self, canvas: Canvas) -> None:
        box = canvas.box((-32, -160, 35), (32, -50, 260))
        if box is None:
            return
        ellipse = canvas.fields["ellipse"][box]
        x, _, z = canvas.at(box)
        width = np.interp(z, (40, 70, 120, 190), (5, 15, 19, 26)).astype(np.float32)
        depth = np.abs(ellipse - 6) - 5
        d = np.maximum(np.maximum(depth, np.abs(x) - width), 45 - z)
        d = np.where(canvas.y[box] < 0, d, np.float32(20))
        self._shell(canvas, d.astype(np.float32), box, Organ.BONE)

    def _paint_spine(self, canvas: Canvas) -> None:
        box = canvas.box((-55, 20, -215), (55, 150, 300), pad=2)
        if box is None:
            return
        _, y, z = canvas.at(box)
        x = canvas.x[box] - np.float32(self.lean) * np.sin(z / 70)
        spine_y = self.torso.spine_y(z)
        index = np.interp(z, self.levels, np.arange(len(self.levels))).astype(np.float32)
        part = index - np.floor(index)  # 0 at a vertebra's lower end plate
        pitch = np.interp(z, self.levels[1:], np.diff(self.levels)).astype(np.float32)
        lumbar = np.clip((20 - z) / 120, 0, 1)
        rx = np.float32(self.size) * (17.5 + 6 * lumbar)
        ry = np.float32(self.size) * (14.5 + 3 * lumbar)
        waist = 1 - 0.09 * np.cos((part - 0.41) * 3.6) ** 2
        v = y - spine_y
        radial = np.sqrt((x / rx) ** 2 + (v / ry) ** 2)
        flat = np.maximum(radial, (v / ry + 0.12) * 1.08)  # the back of the body is flat
        d_disc = (radial - 0.98) * ry
        d_body = (flat / waist - 1) * ry
        plate = (np.abs(part - 0.41) - 0.40) * pitch
        d_body = np.maximum(d_body, plate)

        canal_v = v - ry - 9
        canal = (np.sqrt((x / 11) ** 2 + (canal_v / 8.5) ** 2) - 1) * 9
        arch = np.maximum(np.abs(canal - 2.6) - 2.4, (np.abs(part - 0.42) - 0.36) * pitch)
        arch = np.maximum(arch, -canal_v - 12)
        lateral = np.maximum((np.abs(part - 0.62) - 0.2) * pitch, np.abs(canal_v + 4) - 6)
        pedicle = np.maximum(np.abs(np.abs(x) - 13) - 3.8, lateral)
        pedicle = np.maximum(pedicle, -v - 2)
        lumbar_reach = 24 + 16 * lumbar
        process_y = canal_v - 1 - 0.28 * (1 - lumbar) * (np.abs(x) - 12)
        process = np.maximum(np.abs(x) - lumbar_reach, np.sqrt(process_y**2 + ((part - 0.6) * pitch * 0.8) ** 2) - 4)
        process = np.maximum(process, 11 - np.abs(x))
        slope = (1 - lumbar) * 0.5
        height = (part - 0.42) * pitch + slope * (canal_v - 10)
        spinous = np.maximum(np.abs(x) - 2.6 - 1.2 * (canal_v > 24), np.abs(height) - 8)
        spinous = np.maximum(spinous, np.maximum(9 - canal_v, canal_v - 24 - 8 * lumbar))
        facet = np.sqrt((np.abs(x) - 15) ** 2 + (canal_v - 6) ** 2 + ((part - 0.97) * pitch) ** 2) - 7.5
        facet = np.minimum(
            facet, np.sqrt((np.abs(x) - 15) ** 2 + (canal_v - 6) ** 2 + ((part + 0.03) * pitch) ** 2) - 7.5
        )
        back = smooth_min(smooth_min(arch, pedicle, 4), smooth_min(process, spinous, 4), 4)
        back = smooth_min(back, facet, 3)
        back = np.maximum(back, 0.6 - canal)

        soft = canvas.palette.add(Tissue.MUSCLE, Organ.MUSCLE)
        canvas.paint(soft, (radial - 1).astype(np.float32) * 16 - 2.5, box, solid=False)
        canvas.paint(canvas.palette.add(Tissue.DISC, Organ.DISC), d_disc.astype(np.float32), box)
        self._shell(canvas, d_body.astype(np.float32), box, Organ.VERTEBRA)
        self._shell(canvas, back.astype(np.float32), box, Organ.VERTEBRA)
        canvas.paint(canvas.palette.add(Tissue.FAT, Organ.VISCERAL_FAT), canal.astype(np.float32), box)
        canvas.paint(canvas.palette.add(Tissue.CORD, Organ.SPINAL_CORD), canal.astype(np.float32) + 1.0, box)

    def _paint_pelvis(self, canvas: Canvas) -> None:
        for side in (-1.0, 1.0):
            box = canvas.box((min(0, side * 150), -70, -330), (max(0, side * 150), 110, -120))
            if box is None:
                continue
            x, y, z = canvas.at(box)
            axes = rotation(yaw=40 * side, roll=14 * side)
            wing = ellipsoid(x, y, z, (side * 88, 34, -200), (8, 62, 58), axes)
            socket = ellipsoid(x, y, z, (side * 80, 5, -272), (30, 30, 32))
            hip = smooth_min(wing, np.maximum(socket, 24 - np.sqrt((x - side * 84) ** 2 + y**2 + (z + 275) ** 2)), 8)
            self._shell(canvas, hip, box, Organ.BONE)
            head = ellipsoid(x, y, z, (side * 84, 0, -275), (21, 21, 21))
            neck = capsule(x, y, z, (side * 84, 0, -275), (side * 122, 8, -292), 14, 19)
            self._shell(canvas, smooth_min(head, neck, 5), box, Organ.BONE)
        box = canvas.box((-60, 30, -300), (60, 120, -150))
        if box is not None:
            x, y, z = canvas.at(box)
            sacrum = rounded_box(x, y - 0.35 * (z + 200), z, (0, 78, -215), (44, 16, 50), 12)
            narrow = sacrum + 0.25 * (np.abs(x) - 20)
            self._shell(canvas, narrow.astype(np.float32), box, Organ.BONE)
