"""What a caller may ask of a phantom; everything left at None is drawn from the seed."""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass
from enum import StrEnum

from LiverMarginLib.errors import InputError


class Phase(StrEnum):
    """Contrast phase of the CT."""

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
        for name, kind in (("region", Region), ("phase", Phase), ("arms", Arms)):
            value = getattr(self, name)
            if value is None and name != "region":
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
        ):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and low <= value <= high):
                raise InputError(f"A phantom's {name} lies from {low} to {high}, so {value} cannot be used.")


def check_seed(seed: object) -> None:
    """Refuse what is not a seed.

    Raises
    ------
    InputError
        If `seed` is not a whole number of 0 or more.
    """
    if not isinstance(seed, numbers.Integral) or isinstance(seed, bool) or seed < 0:
        raise InputError(f"A phantom's seed is a whole number of 0 or more, not {seed!r}.")
