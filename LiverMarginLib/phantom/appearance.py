"""The intensity of every tissue in a contrast phase, drawn jointly so that the organs of one scan fit together.

Means follow the project's reference table (liver 55 HU without contrast and 110 in the portal phase, spleen 50/120,
kidney 35/180, blood 40/150, fat -100, lung -850, bone 300 to 1200) and textbook values for the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from LiverMarginLib.phantom.options import Phase
from LiverMarginLib.phantom.tissues import Tissue

_PHASES = (Phase.NATIVE, Phase.ARTERIAL, Phase.PORTAL, Phase.DELAYED)


@dataclass(frozen=True)
class _Look:
    """HU in the four phases, spread between patients, spread between materials, texture (fine, coarse) in HU."""

    native: float
    arterial: float
    portal: float
    delayed: float
    spread: float = 6.0
    shade: float = 8.0
    fine: float = 1.5
    coarse: float = 1.5


def _flat(hu: float, spread: float = 5.0, shade: float = 5.0, fine: float = 1.5, coarse: float = 1.5) -> _Look:
    return _Look(hu, hu, hu, hu, spread, shade, fine, coarse)


_LOOKS: dict[Tissue, _Look] = {
    Tissue.AIR: _flat(-1000, 0, 0, 0, 0),
    Tissue.LUNG: _flat(-862, 28, 0, 14, 16),
    Tissue.FAT: _flat(-104, 6, 0, 4, 4),
    Tissue.VISCERAL_FAT: _flat(-101, 7, 0, 8, 7),
    Tissue.SKIN: _flat(20, 20, 0, 8, 6),
    Tissue.MUSCLE: _Look(50, 56, 62, 61, 7, 0, 7, 5),
    Tissue.BREAST: _Look(10, 15, 25, 25, 20, 0, 18, 16),
    Tissue.CARTILAGE: _flat(105, 22, 0, 26, 30),
    Tissue.CORTICAL_BONE: _flat(720, 130, 0, 50, 40),
    Tissue.TRABECULAR_BONE: _flat(150, 50, 0, 45, 25),
    Tissue.RIB_MARROW: _flat(80, 45, 0, 25, 20),
    Tissue.DISC: _flat(85, 12, 0, 5, 5),
    Tissue.CORD: _flat(32, 6, 0, 3, 3),
    Tissue.LIVER: _Look(56, 70, 110, 90, 6, 0, 1.5, 2.0),
    Tissue.LIVER_VEIN: _Look(42, 45, 152, 112, 6, 0, 2, 1),
    Tissue.LIVER_PORTAL: _Look(42, 95, 162, 112, 6, 0, 2, 1),
    Tissue.SPLEEN: _Look(49, 115, 124, 96, 6, 0, 1.5, 2),
    Tissue.KIDNEY_CORTEX: _Look(34, 165, 190, 152, 9, 0, 3, 4),
    Tissue.KIDNEY_MEDULLA: _Look(33, 62, 165, 150, 9, 0, 3, 4),
    Tissue.URINE: _Look(6, 6, 12, 320, 5, 0, 2, 2),
    Tissue.BLADDER_URINE: _Look(5, 5, 7, 90, 6, 0, 1.5, 2),
    Tissue.PANCREAS: _Look(40, 98, 95, 76, 9, 0, 9, 8),
    Tissue.ADRENAL: _Look(28, 75, 75, 55, 9, 0, 3, 3),
    Tissue.BILE: _flat(9, 7, 0, 1.5, 1.5),
    Tissue.GALLSTONE: _flat(180, 120, 0, 20, 20),
    Tissue.STOMACH_WALL: _Look(40, 72, 86, 75, 8, 0, 4, 5),
    Tissue.BOWEL_WALL: _Look(40, 78, 88, 76, 8, 0, 4, 5),
    Tissue.GAS: _flat(-985, 8, 0, 2, 0),
    Tissue.FLUID: _flat(18, 8, 10, 4, 5),
    Tissue.FOOD: _flat(42, 14, 18, 14, 14),
    Tissue.STOOL: _flat(-5, 35, 35, 75, 65),
    Tissue.ORAL_CONTRAST: _flat(300, 90, 60, 12, 25),
    Tissue.ARTERY: _Look(42, 300, 150, 114, 6, 0, 2, 1),
    Tissue.PORTAL_BLOOD: _Look(42, 105, 166, 114, 6, 0, 2, 1),
    Tissue.CAVA_UPPER: _Look(41, 95, 138, 112, 8, 0, 2, 3),
    Tissue.CAVA_LOWER: _Look(41, 48, 112, 108, 10, 0, 3, 5),
    Tissue.VEIN: _Look(41, 60, 135, 110, 8, 0, 2, 2),
    Tissue.HEART_MUSCLE: _Look(46, 108, 112, 92, 8, 0, 3, 3),
    Tissue.HEART_LEFT: _Look(42, 280, 150, 112, 8, 0, 2, 3),
    Tissue.HEART_RIGHT: _Look(42, 230, 146, 112, 12, 0, 3, 6),
    Tissue.LUNG_VESSEL: _Look(40, 180, 140, 100, 10, 0, 2, 2),
    Tissue.CALCIUM: _flat(560, 150, 0, 30, 20),
    Tissue.ASCITES: _flat(9, 6, 0, 2, 2),
    Tissue.EFFUSION: _flat(10, 7, 0, 2, 2),
    Tissue.LESION_DARK: _Look(38, 48, 66, 62, 7, 9, 4, 6),
    Tissue.LESION_BRIGHT: _Look(45, 118, 100, 74, 10, 12, 5, 7),
    Tissue.LESION_RIM: _Look(44, 100, 112, 96, 8, 10, 4, 4),
    Tissue.CYST: _flat(9, 6, 5, 2, 2),
    Tissue.TABLE_SHELL: _flat(160, 200, 0, 10, 0),
    Tissue.TABLE_CORE: _flat(-935, 35, 0, 6, 4),
}

# Drawn after all others and from random numbers of their own, so that the scans of all other tissues stay as they were.
_LATER_LOOKS: dict[Tissue, _Look] = {Tissue.LESION_CAPSULE: _Look(52, 80, 124, 132, 6, 8, 3, 3)}

TEXTURES: Mapping[Tissue, tuple[float, float]] = {
    tissue: (look.fine, look.coarse) for tissue, look in (_LOOKS | _LATER_LOOKS).items()
}
"""Amplitude of fine and of coarse texture of each tissue, HU."""

# Tissues that keep their intensity when contrast is drawn at random: gas and bone frame every CT.
_FIXED = {
    *(Tissue.AIR, Tissue.LUNG, Tissue.GAS, Tissue.TABLE_SHELL, Tissue.TABLE_CORE),
    *(Tissue.CORTICAL_BONE, Tissue.TRABECULAR_BONE, Tissue.RIB_MARROW, Tissue.CALCIUM),
}


@dataclass(frozen=True)
class Appearance:
    """Intensities of one scan.

    Parameters
    ----------
    phase : Phase
    random_contrast : bool
        Whether soft tissues were drawn independently of the phase.
    mean, shade, fine, coarse : dict of Tissue to float
        Mean, spread between materials of a kind, and amplitude of fine and coarse texture, all in HU.
    """

    phase: Phase
    random_contrast: bool
    mean: dict[Tissue, float]
    shade: dict[Tissue, float]
    fine: dict[Tissue, float]
    coarse: dict[Tissue, float]

    @classmethod
    def draw(cls, rng: np.random.Generator, phase: Phase | None, random_contrast: float, steatosis: bool) -> Appearance:
        """Draw the intensities of a scan in a phase (mostly portal when None)."""
        drawn = Phase(rng.choice([str(p) for p in _PHASES], p=[0.18, 0.16, 0.5, 0.16]))
        phase = drawn if phase is None else phase
        index = _PHASES.index(phase)
        # A bolus is seldom timed to the textbook: mix with a neighbouring phase, and scale all enhancement.
        neighbour = int(np.clip(index + rng.choice([-1, 1]), 1, 3)) if index else 0
        mix = rng.uniform(0, 0.3)
        strength = float(np.clip(rng.lognormal(0, 0.22), 0.55, 1.7))
        common = rng.normal(0, 3)
        fat_liver = rng.uniform(15, 70) if steatosis else max(0.0, float(rng.normal(0, 5)))
        unrelated = bool(rng.random() < random_contrast)
        texture = rng.uniform(0.6, 1.5)

        hu: dict[Tissue, float] = {}
        late = rng.spawn(1)[0]
        for source, looks in ((rng, _LOOKS), (late, _LATER_LOOKS)):
            for tissue, look in looks.items():
                phases = (look.native, look.arterial, look.portal, look.delayed)
                target = (1 - mix) * phases[index] + mix * phases[neighbour]
                value = look.native + strength * (target - look.native)
                value += float(np.clip(source.normal(), -2, 2)) * look.spread
                if tissue not in _FIXED:
                    value += common
                random_value = float(source.uniform(-140, 260))
                hu[tissue] = random_value if unrelated and tissue not in _FIXED else value
        if not unrelated:
            hu[Tissue.LIVER] -= fat_liver
            hu[Tissue.LUNG_VESSEL] = min(hu[Tissue.LUNG_VESSEL], 250)
        coarse = {tissue: amount * texture for tissue, (_, amount) in TEXTURES.items()}
        if phase is Phase.ARTERIAL:
            coarse[Tissue.SPLEEN] += float(rng.uniform(5, 28))  # the red pulp fills unevenly
        coarse[Tissue.LIVER] += float(rng.exponential(1.5))
        return cls(
            phase,
            unrelated,
            hu,
            {tissue: look.shade for tissue, look in (_LOOKS | _LATER_LOOKS).items()},
            {tissue: amount * texture for tissue, (amount, _) in TEXTURES.items()},
            coarse,
        )
