"""What a caller may ask of a phantom; everything left at None is drawn from the seed."""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass
from enum import StrEnum

from LiverMarginLib.errors import InputError
from LiverMarginLib.volume import Modality


class Phase(StrEnum):
    """Contrast phase of the scan."""

    NATIVE = "native"
    ARTERIAL = "arterial"
    PORTAL = "portal"
    DELAYED = "delayed"


class Region(StrEnum):
    """What part of the body the volume shows; only the first contains liver."""

    LIVER = "liver"
    CHEST = "chest"
    PELVIS = "pelvis"


class Arms(StrEnum):
    """Where the patient's arms are: beside the head, or beside the body and in the picture."""

    UP = "up"
    DOWN = "down"


class MrSequence(StrEnum):
    """Weighting of an MR phantom: a spoiled gradient echo, or a train of spin echoes."""

    T1 = "t1"
    T2 = "t2"


class LesionKind(StrEnum):
    """What a liver lesion is made of."""

    HYPOVASCULAR = "hypovascular"
    """Darker than the enhanced liver, as most metastases are."""
    HYPERVASCULAR = "hypervascular"
    """Brighter than the liver in the arterial phase."""
    RIM = "rim"
    """Hypovascular with a bright rim and a necrotic core."""
    CAPSULE = "capsule"
    """Hypervascular inside a thin capsule that enhances late, as hepatocellular carcinoma may be."""
    CYST = "cyst"
    """Water behind a smooth border."""


@dataclass(frozen=True)
class PhantomOptions:
    """Options of `make_phantom`.

    Parameters
    ----------
    shape : tuple of int
        Voxels along (k, j, i).
    spacing : tuple of float
        Millimetres along (k, j, i).
    region : Region or str
        Part of the body; "chest" ends above the liver, "pelvis" begins below it.
    phase : Phase or str, optional
        Contrast phase; drawn, mostly portal, when None.
    random_contrast : float
        Probability in [0, 1] that all soft tissues get unrelated random intensities instead of those of a phase
        (domain randomisation as in SynthSeg, Billot et al. 2023).
    lesions : int, optional
        Number of liver lesions, 0 to 40; drawn (none in half of the patients) when None.
    noise_hu : float, optional
        Noise standard deviation in HU at the body's centre; 8 to 26 when None.
    streaks : float, optional
        Strength of streak artefacts in [0, 1].
    table : bool, optional
        Whether the patient table is in the picture.
    arms : Arms or str, optional
        Arm position.
    padding : int, optional
        Value in HU outside a circular field of view (such as -2000); None draws it, mostly without any circle.
    body_scale : float, optional
        Size of the patient relative to an average adult, 0.6 to 1.5.
    fat_mm : float, optional
        Thickness of the subcutaneous fat, 1 to 80 mm.
    liver_scale : float, optional
        Size of the liver relative to an average one, 0.6 to 1.4 (a length, not a volume).
    steatosis, cirrhosis, riedel, resected, wrapping_left_lobe, ascites, effusion, situs_inversus : bool, optional
        Findings and variants; each drawn with its own small probability when None.
    modality : Modality or str
        CT, or MR with intensities in arbitrary units. The anatomy of a seed is the same in both.
    sequence : MrSequence or str, optional
        Weighting of an MR phantom; drawn when None. `phase` is then that of its contrast agent.
    noise_share : float, optional
        Noise standard deviation of an MR phantom as a share of the liver's signal; 0.015 to 0.15 when None.
    bias : float, optional
        Strength of the MR bias field: standard deviation of its logarithm; 0.05 to 0.3 when None.
    ringing : float, optional
        Share of the frequencies that the MR phantom lacks along its phase encoding, 0 to 0.6; mostly none when None.
    lesion_kinds : tuple of LesionKind or str, optional
        Each lesion is of one of these, by equal chances. When None, most lesions of a patient are of one kind, drawn
        from dark, bright and cystic ones, some of them with rim and core.
    lesion_mm : tuple of float, optional
        Smallest and largest radius of the lesions; about 9 mm on average, 2.5 to 48, when None.
    lesions_at_border : float
        Share in [0, 1] of the lesions that touch the surface of the liver.

    Raises
    ------
    InputError
        If a value is out of its range.
    """

    shape: tuple[int, int, int] = (48, 256, 256)
    spacing: tuple[float, float, float] = (5.0, 1.6, 1.6)
    region: Region | str = Region.LIVER
    phase: Phase | str | None = None
    random_contrast: float = 0.0
    lesions: int | None = None
    noise_hu: float | None = None
    streaks: float | None = None
    table: bool | None = None
    arms: Arms | str | None = None
    padding: int | None = None
    body_scale: float | None = None
    fat_mm: float | None = None
    liver_scale: float | None = None
    steatosis: bool | None = None
    cirrhosis: bool | None = None
    riedel: bool | None = None
    resected: bool | None = None
    wrapping_left_lobe: bool | None = None
    ascites: bool | None = None
    effusion: bool | None = None
    situs_inversus: bool | None = None
    modality: Modality | str = Modality.CT
    sequence: MrSequence | str | None = None
    noise_share: float | None = None
    bias: float | None = None
    ringing: float | None = None
    lesion_kinds: tuple[LesionKind | str, ...] | None = None
    lesion_mm: tuple[float, float] | None = None
    lesions_at_border: float = 0.0

    def __post_init__(self) -> None:
        shape, spacing = tuple(self.shape), tuple(self.spacing)
        if len(shape) != 3 or any(not isinstance(n, numbers.Integral) or n < 1 for n in shape):
            raise InputError(
                f"A phantom's shape is three whole numbers of voxels (k, j, i), each 1 or more, not {shape}."
            )
        if math.prod(shape) > 2**31:
            raise InputError(f"A phantom of {shape} voxels is too large; ask for fewer than 2147483648 voxels.")
        if len(spacing) != 3 or any(not math.isfinite(s) or not 0.1 <= s <= 50 for s in spacing):
            raise InputError(f"A phantom's spacing is three lengths (k, j, i) from 0.1 to 50 mm, not {spacing}.")
        object.__setattr__(self, "shape", tuple(int(n) for n in shape))
        object.__setattr__(self, "spacing", tuple(float(s) for s in spacing))
        kinds = (("region", Region), ("phase", Phase), ("arms", Arms), ("modality", Modality), ("sequence", MrSequence))
        for name, kind in kinds:
            value = getattr(self, name)
            if value is None and name not in ("region", "modality"):
                continue
            try:
                object.__setattr__(self, name, kind(value))
            except ValueError:
                known = ", ".join(kind)
                raise InputError(f"{value!r} is not a phantom's {name}; choose one of {known}.") from None
        for name, low, high in (
            ("random_contrast", 0.0, 1.0),
            ("lesions", 0, 40),
            ("noise_hu", 0.0, 200.0),
            ("streaks", 0.0, 1.0),
            ("padding", -32768, 0),
            ("body_scale", 0.6, 1.5),
            ("fat_mm", 1.0, 80.0),
            ("liver_scale", 0.6, 1.4),
            ("noise_share", 0.0, 1.0),
            ("bias", 0.0, 1.0),
            ("ringing", 0.0, 0.6),
            ("lesions_at_border", 0.0, 1.0),
        ):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and low <= value <= high):
                raise InputError(f"A phantom's {name} lies from {low} to {high}, so {value} cannot be used.")
        if self.modality is Modality.UNKNOWN:
            raise InputError("A phantom is CT or MR; choose one of them.")
        if self.lesion_kinds is not None:
            if not self.lesion_kinds or not set(self.lesion_kinds) <= set(LesionKind):
                raise InputError(f"A phantom's lesion_kinds are one or more of {', '.join(LesionKind)}.")
            object.__setattr__(self, "lesion_kinds", tuple(LesionKind(kind) for kind in self.lesion_kinds))
        if self.lesion_mm is not None and not (
            len(self.lesion_mm) == 2 and 1 <= self.lesion_mm[0] <= self.lesion_mm[1] <= 80
        ):
            raise InputError("A phantom's lesion_mm are two radii from 1 to 80 mm, the smaller one first.")


def check_seed(seed: object) -> None:
    """Refuse what is not a seed.

    Raises
    ------
    InputError
        If `seed` is not a whole number of 0 or more.
    """
    if not isinstance(seed, numbers.Integral) or isinstance(seed, bool) or seed < 0:
        raise InputError(f"A phantom's seed is a whole number of 0 or more, not {seed!r}.")
