"""The signal of every tissue in an MR sequence, drawn jointly: tissues have relaxation times, scans have sequences.

Signal equations are the textbook ones of the spoiled gradient echo (T1 weighting, with or without contrast agent) and
of the spin echo (T2 weighting). Proton densities and relaxation times at 1.5 T are rounded from the literature on
abdominal tissues (de Bazelaire et al., Radiology 2004; Stanisz et al., MRM 2005); where it has none, from similar
tissues. Units are arbitrary, as those of MR are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from LiverMarginLib.phantom.appearance import TEXTURES
from LiverMarginLib.phantom.options import MrSequence, Phase
from LiverMarginLib.phantom.tissues import Tissue

# Relaxivity of a gadolinium chelate, 1 / (mM s).
_RELAXIVITY = 4.5
_PHASES = (Phase.NATIVE, Phase.ARTERIAL, Phase.PORTAL, Phase.DELAYED)


@dataclass(frozen=True)
class _Spin:
    """Proton density, T1 and T2 in ms, contrast agent in mM in the arterial, portal and delayed phase."""

    density: float
    t1: float
    t2: float
    agent: tuple[float, float, float] = (0.0, 0.0, 0.0)


_FLUID = _Spin(1.0, 3200, 900)
_NOTHING = _Spin(0.0, 1000, 10)
_BLOOD = _Spin(0.9, 1440, 220)


def _blood(arterial: float, portal: float, delayed: float) -> _Spin:
    return _Spin(_BLOOD.density, _BLOOD.t1, _BLOOD.t2, (arterial, portal, delayed))


_SPINS: dict[Tissue, _Spin] = {
    Tissue.AIR: _NOTHING,
    Tissue.LUNG: _Spin(0.12, 1100, 12),
    Tissue.FAT: _Spin(0.95, 300, 62),
    Tissue.VISCERAL_FAT: _Spin(0.9, 310, 60),
    Tissue.SKIN: _Spin(0.55, 700, 30),
    Tissue.MUSCLE: _Spin(0.8, 930, 36, (0.05, 0.16, 0.16)),
    Tissue.BREAST: _Spin(0.8, 700, 55, (0.05, 0.15, 0.2)),
    Tissue.CARTILAGE: _Spin(0.6, 900, 34),
    Tissue.CORTICAL_BONE: _Spin(0.06, 500, 8),
    Tissue.TRABECULAR_BONE: _Spin(0.6, 550, 46, (0.05, 0.12, 0.1)),
    Tissue.RIB_MARROW: _Spin(0.55, 520, 46, (0.05, 0.1, 0.1)),
    Tissue.DISC: _Spin(0.75, 1000, 85),
    Tissue.CORD: _Spin(0.85, 800, 78),
    Tissue.LIVER: _Spin(0.8, 590, 50, (0.12, 0.42, 0.3)),
    Tissue.LIVER_VEIN: _blood(0.1, 1.0, 0.5),
    Tissue.LIVER_PORTAL: _blood(0.4, 1.1, 0.5),
    Tissue.SPLEEN: _Spin(0.85, 1050, 80, (0.75, 0.65, 0.35)),
    Tissue.KIDNEY_CORTEX: _Spin(0.86, 970, 87, (1.3, 1.1, 0.8)),
    Tissue.KIDNEY_MEDULLA: _Spin(0.88, 1400, 88, (0.25, 1.0, 0.9)),
    Tissue.URINE: _FLUID,
    Tissue.BLADDER_URINE: _FLUID,
    Tissue.PANCREAS: _Spin(0.8, 590, 50, (0.5, 0.4, 0.25)),
    Tissue.ADRENAL: _Spin(0.8, 750, 60, (0.35, 0.35, 0.2)),
    Tissue.BILE: _Spin(0.95, 2300, 600),
    Tissue.GALLSTONE: _Spin(0.05, 600, 10),
    Tissue.STOMACH_WALL: _Spin(0.8, 850, 50, (0.25, 0.4, 0.3)),
    Tissue.BOWEL_WALL: _Spin(0.8, 850, 52, (0.25, 0.4, 0.3)),
    Tissue.GAS: _NOTHING,
    Tissue.FLUID: _Spin(0.95, 2400, 500),
    Tissue.FOOD: _Spin(0.7, 700, 70),
    Tissue.STOOL: _Spin(0.6, 550, 60),
    Tissue.ORAL_CONTRAST: _Spin(0.95, 2000, 350),
    Tissue.ARTERY: _blood(3.2, 1.1, 0.55),
    Tissue.PORTAL_BLOOD: _blood(0.4, 1.15, 0.5),
    Tissue.CAVA_UPPER: _blood(0.4, 0.9, 0.5),
    Tissue.CAVA_LOWER: _blood(0.1, 0.6, 0.5),
    Tissue.VEIN: _blood(0.15, 0.8, 0.5),
    Tissue.HEART_MUSCLE: _Spin(0.8, 1000, 45, (0.6, 0.45, 0.3)),
    Tissue.HEART_LEFT: _blood(2.8, 1.1, 0.55),
    Tissue.HEART_RIGHT: _blood(1.8, 1.0, 0.55),
    Tissue.LUNG_VESSEL: _blood(1.5, 1.0, 0.5),
    Tissue.CALCIUM: _Spin(0.03, 500, 8),
    Tissue.ASCITES: _FLUID,
    Tissue.EFFUSION: _FLUID,
    Tissue.LESION_DARK: _Spin(0.85, 1050, 82, (0.06, 0.14, 0.2)),
    Tissue.LESION_BRIGHT: _Spin(0.85, 900, 68, (0.75, 0.4, 0.18)),
    Tissue.LESION_RIM: _Spin(0.82, 850, 60, (0.5, 0.5, 0.45)),
    Tissue.LESION_CAPSULE: _Spin(0.75, 800, 38, (0.15, 0.6, 0.85)),
    Tissue.CYST: _FLUID,
    Tissue.TABLE_SHELL: _NOTHING,
    Tissue.TABLE_CORE: _NOTHING,
}

_FATTY = {Tissue.FAT, Tissue.VISCERAL_FAT, Tissue.BREAST}
_MARROW = {Tissue.TRABECULAR_BONE, Tissue.RIB_MARROW}
_FLOWING = {
    *(Tissue.ARTERY, Tissue.PORTAL_BLOOD, Tissue.CAVA_UPPER, Tissue.CAVA_LOWER, Tissue.VEIN, Tissue.LUNG_VESSEL),
    *(Tissue.HEART_LEFT, Tissue.HEART_RIGHT, Tissue.LIVER_VEIN, Tissue.LIVER_PORTAL),
}
# What gives no signal, whatever the sequence.
_SILENT = {
    *(Tissue.AIR, Tissue.GAS, Tissue.TABLE_SHELL, Tissue.TABLE_CORE, Tissue.CORTICAL_BONE, Tissue.CALCIUM),
    Tissue.GALLSTONE,
}
_MOST_TEXTURE = 0.2


@dataclass(frozen=True)
class MrAppearance:
    """Signals of one scan, in units of the liver's.

    Parameters
    ----------
    sequence : MrSequence
    phase : Phase
        Of the contrast agent; `Phase.NATIVE` without any.
    fat_suppressed : bool
    random_contrast : bool
        Whether tissues were drawn independently of any sequence.
    mean, shade, fine, coarse : dict of Tissue to float
        Signal, spread between materials of a kind, and amplitude of fine and coarse texture.
    """

    sequence: MrSequence
    phase: Phase
    fat_suppressed: bool
    random_contrast: bool
    mean: dict[Tissue, float]
    shade: dict[Tissue, float]
    fine: dict[Tissue, float]
    coarse: dict[Tissue, float]

    @classmethod
    def draw(
        cls,
        rng: np.random.Generator,
        sequence: MrSequence | None,
        phase: Phase | None,
        random_contrast: float,
        steatosis: bool,
    ) -> MrAppearance:
        """Draw the signals of a scan; a sequence and a phase of it where they are None."""
        drawn = MrSequence(rng.choice([str(item) for item in MrSequence], p=[0.65, 0.35]))
        sequence = drawn if sequence is None else sequence
        index = int(rng.choice(4, p=[0.25, 0.2, 0.35, 0.2])) if phase is None else _PHASES.index(phase)
        if sequence is MrSequence.T2 and phase is None:
            index = 0
        scanner = _Scanner.draw(rng, sequence, index)
        unrelated = bool(rng.random() < random_contrast)
        texture = rng.uniform(0.7, 1.4)
        mean: dict[Tissue, float] = {}
        for tissue, spin in _SPINS.items():
            signal = scanner.signal(rng, tissue, spin, steatosis)
            other = float(rng.uniform(0.05, 3.0))
            mean[tissue] = other if unrelated and tissue not in _SILENT else signal
        liver = mean[Tissue.LIVER]
        mean = {tissue: value / liver for tissue, value in mean.items()}
        fine, coarse = (
            {
                tissue: min(_MOST_TEXTURE, amount[position] / 100) * texture * mean[tissue]
                for tissue, amount in TEXTURES.items()
            }
            for position in (0, 1)
        )
        shade = {tissue: 0.08 * value for tissue, value in mean.items()}
        return cls(sequence, _PHASES[index], scanner.fat < 0.5, unrelated, mean, shade, fine, coarse)


@dataclass(frozen=True)
class _Scanner:
    """Settings of a sequence: times in ms, flip angle in radians, and what is left of fat and of flowing blood."""

    sequence: MrSequence
    tr: float
    te: float
    flip: float
    field: float
    agent: int
    dose: float
    fat: float
    flow: float

    @classmethod
    def draw(cls, rng: np.random.Generator, sequence: MrSequence, agent: int) -> _Scanner:
        t1 = sequence is MrSequence.T1
        suppressed = bool(rng.random() < (0.75 if t1 else 0.5))
        return cls(
            sequence,
            tr=float(rng.uniform(3.5, 6.0) if t1 else rng.uniform(1800, 6000)),
            te=float(rng.uniform(1.2, 2.4) if t1 else rng.uniform(55, 90)),
            flip=math.radians(float(rng.uniform(9, 15))),
            field=float(rng.integers(0, 2)),
            agent=agent,
            dose=float(np.clip(rng.lognormal(0, 0.25), 0.5, 1.8)),
            fat=float(rng.uniform(0.06, 0.25)) if suppressed else 1.0,
            flow=float(rng.uniform(1.0, 1.5) if t1 else rng.uniform(0.05, 0.4)),
        )

    def signal(self, rng: np.random.Generator, tissue: Tissue, spin: _Spin, steatosis: bool) -> float:
        """Signal of a tissue whose relaxation times vary a little between patients."""
        spread = np.exp(np.clip(rng.normal(0, 0.07, 3), -0.15, 0.15))
        # T1 lengthens and T2 shortens with the field strength (3 T where `field` is 1).
        t1 = spin.t1 * (1 + 0.28 * self.field) * spread[0]
        t2 = spin.t2 * (1 - 0.15 * self.field) * spread[1]
        density = spin.density * spread[2]
        if self.agent:
            t1 = 1 / (1 / t1 + _RELAXIVITY * self.dose * spin.agent[self.agent - 1] / 1000)
        if tissue in _FATTY:
            density *= self.fat
        elif tissue in _MARROW:
            density *= 0.5 + 0.5 * self.fat
        elif tissue is Tissue.LIVER and steatosis:
            density *= 0.8 + 0.2 * self.fat
        if tissue in _FLOWING:
            density *= self.flow if self.sequence is MrSequence.T2 or not self.agent else 1.0
        if self.sequence is MrSequence.T2:
            # Echo trains keep fat bright (J-coupling), which a single echo would not.
            decay = t2 * (1.8 if tissue in _FATTY else 1.0)
            return float(density * (1 - math.exp(-self.tr / t1)) * math.exp(-self.te / decay))
        recovery = math.exp(-self.tr / t1)
        steady = math.sin(self.flip) * (1 - recovery) / (1 - math.cos(self.flip) * recovery)
        return float(density * steady * math.exp(-self.te / (0.5 * t2)))
