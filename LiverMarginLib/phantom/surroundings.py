"""What lies beside the trunk: the patient table and the arms."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from LiverMarginLib.phantom.canvas import Canvas, Organs
from LiverMarginLib.phantom.fields import FloatArray, capsule
from LiverMarginLib.phantom.organs import Organ
from LiverMarginLib.phantom.tissues import Tissue
from LiverMarginLib.phantom.torso import WHOLE


@dataclass(frozen=True)
class Table:
    """A table of thin shells; it does not turn with the patient, so it lives in grid millimetres.

    Parameters
    ----------
    top : float
        Height (y) of its lowest upper surface, grid mm.
    middle : float
        x of its middle, grid mm.
    half_width, sag, depth : float
        mm.
    shell : float
        Thickness of the shell, mm.
    style : str
        "cradle" (one arc), "double" (two arcs), "trough" (arc over a trapezoid), "slab" (flat, foam inside).
    mattress : float
        Thickness of a mattress of foam on it, mm.
    """

    top: float
    middle: float
    half_width: float
    sag: float
    depth: float
    shell: float
    style: str
    mattress: float

    @classmethod
    def draw(cls, rng: np.random.Generator, back: float, middle: float) -> Table:
        """Draw a table under a patient whose back lies at `back` mm."""
        return cls(
            top=float(back + rng.uniform(0, 14)),
            middle=float(middle + rng.normal(0, 12)),
            half_width=float(rng.uniform(180, 265)),
            sag=float(rng.uniform(5, 60)),
            depth=float(rng.uniform(22, 80)),
            shell=float(rng.uniform(1.2, 3.2)),
            style=str(rng.choice(["cradle", "double", "trough", "slab"])),
            mattress=float(rng.uniform(4, 16)) if rng.random() < 0.3 else 0.0,
        )

    def paint(self, canvas: Canvas) -> None:
        """Paint the table where there is only air."""
        _, y_axis, x_axis = canvas.axes
        y = y_axis.astype(np.float32)[:, None]
        x = (x_axis.astype(np.float32) - np.float32(self.middle))[None, :]
        u = np.clip(np.abs(x) / self.half_width, 0, 1.05)
        surface = self.top - self.sag * u**2
        outside = np.abs(x) - self.half_width
        shells = [np.abs(y - surface - self.shell) - self.shell / 2]
        core = np.maximum(np.maximum(surface - y, y - surface - self.depth), outside)
        if self.style == "double":
            shells.append(np.maximum(np.abs(y - surface - self.depth + 12 * (1 - u**2)) - self.shell / 2, outside + 60))
        elif self.style == "trough":
            low = self.top + self.depth * np.clip((1.0 - u) / 0.3, 0, 1) - 0.5 * self.sag * (u > 0.7)
            shells.append(np.maximum(np.abs(y - low - 12) - self.shell * 0.8, outside + 8))
        elif self.style == "slab":
            shells.append(np.abs(y - surface - self.depth * 0.6) - self.shell / 2)
            core = np.maximum(np.maximum(surface - y, y - surface - 0.6 * self.depth), outside)
        air = (0,)
        add = canvas.palette.add
        if self.style == "slab":
            self._paint(canvas, add(Tissue.TABLE_CORE, Organ.TABLE), core, air)
        if self.mattress:
            foam = np.maximum(np.maximum(y - surface, surface - self.mattress - y), outside + 30)
            self._paint(canvas, add(Tissue.TABLE_CORE, Organ.TABLE), foam, air)
        over = (*air, Organ.TABLE)
        for shell in shells:
            self._paint(canvas, add(Tissue.TABLE_SHELL, Organ.TABLE), np.maximum(shell, outside), over)

    @staticmethod
    def _paint(canvas: Canvas, material: int, field: FloatArray, over: Organs) -> None:
        whole = np.broadcast_to(field.astype(np.float32), canvas.shape)
        canvas.paint(material, whole, WHOLE, over=over, solid=False)


@dataclass(frozen=True)
class ArmsDown:
    """Both arms beside the body: skin, fat, muscle and one or two bones."""

    reach: float
    y: float
    radius: float
    fat: float
    forearm: bool
    slant: float

    @classmethod
    def draw(cls, rng: np.random.Generator, half_width: float) -> ArmsDown:
        """Draw arms beside a trunk of a half width in mm."""
        radius = rng.uniform(32, 48)
        return cls(
            reach=float(half_width + radius + rng.uniform(2, 22)),
            y=float(rng.uniform(0, 60)),
            radius=float(radius),
            fat=float(rng.uniform(2, 11)),
            forearm=bool(rng.random() < 0.5),
            slant=float(rng.normal(0, 0.08)),
        )

    def paint(self, canvas: Canvas) -> None:
        """Paint the arms over air."""
        add = canvas.palette.add
        for side in (-1.0, 1.0):
            start = np.array([side * self.reach, self.y + 400 * self.slant, 500.0])
            end = np.array([side * self.reach, self.y - 400 * self.slant, -500.0])
            box = canvas.box(np.minimum(start, end) - self.radius, np.maximum(start, end) + self.radius)
            if box is None:
                continue
            x, y, z = canvas.at(box)
            arm = capsule(x, y, z, start, end, self.radius, self.radius) + 2 * canvas.noise(60, box)
            air = (0,)
            canvas.paint(add(Tissue.SKIN, Organ.SKIN), arm, box, over=air, solid=False)
            within = (Organ.SKIN,)
            canvas.paint(add(Tissue.FAT, Organ.SUBCUTANEOUS_FAT), arm + 1.6, box, over=within, solid=False)
            within = (Organ.SUBCUTANEOUS_FAT,)
            muscle = arm + 1.6 + self.fat + 1.5 * canvas.noise(30, box)
            canvas.paint(add(Tissue.MUSCLE, Organ.MUSCLE), muscle, box, over=within, solid=False)
            within = (Organ.MUSCLE,)
            bones = [(-9.0, 7.0), (12.0, 6.5)] if self.forearm else [(0.0, 10.5)]
            for offset, radius in bones:
                shift = np.array([offset, 0.3 * offset, 0])
                bone = capsule(x, y, z, start + shift, end + shift, radius, radius)
                canvas.paint(add(Tissue.CORTICAL_BONE, Organ.BONE), bone, box, over=within, solid=False)
                marrow = (Organ.BONE,)
                canvas.paint(add(Tissue.FAT, Organ.BONE), bone + 0.45 * radius, box, over=marrow, solid=False)
