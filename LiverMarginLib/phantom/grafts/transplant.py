"""From a drawn patient and a donor's organs to one patient: the organs are fitted to the body, and the body to them.

The affine map from the donor to the standard patient is found from where organs lie in both, then varied. The body
gives way where organs need more room, its diaphragm follows their upper surfaces, and whatever the label map does not
know (skin, fat, muscles, bones, lungs, heart, bowel, smaller vessels) stays that of the drawn patient.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from LiverMarginLib.phantom.anatomy import Graft, Part
from LiverMarginLib.phantom.canvas import Canvas
from LiverMarginLib.phantom.circulation import GreatVessels
from LiverMarginLib.phantom.grafts.donor import Donor
from LiverMarginLib.phantom.grafts.organs import FittedTorso, GraftedOrgans, Lumen, VesselBranches
from LiverMarginLib.phantom.gut import Hollow
from LiverMarginLib.phantom.liver import Liver
from LiverMarginLib.phantom.options import PhantomOptions, check_seed
from LiverMarginLib.phantom.organs import Organ
from LiverMarginLib.phantom.skeleton import Skeleton
from LiverMarginLib.phantom.splines import SplineField
from LiverMarginLib.phantom.torso import Torso
from LiverMarginLib.phantom.viscera import Bladder, Kidney, Pancreas, Retroperitoneum, Spleen

# Mean centres (x, y, z) in mm of the drawn organs of ten patients; of tubes, those at the height of the liver.
_STANDARD: dict[Organ, tuple[float, float, float]] = {
    Organ.LIVER: (-55, -16, 15),
    Organ.SPLEEN: (94, 27, 23),
    Organ.RIGHT_KIDNEY: (-66, 57, -53),
    Organ.LEFT_KIDNEY: (67, 58, -37),
    Organ.GALLBLADDER: (-43, -34, -27),
    Organ.STOMACH: (51, -19, 13),
    Organ.PANCREAS: (14, -2, -22),
    Organ.AORTA: (5, 32, 0),
    Organ.VENA_CAVA: (-25, 24, 0),
}
_TUBES = frozenset({Organ.AORTA, Organ.VENA_CAVA, Organ.OESOPHAGUS, Organ.PORTAL_VEIN})
_STIFFNESS = 4.0e4  # mm²; against scaling where few organs are known
_FAR = 400.0  # mm; more than any field of view reaches from the liver


def grafted_options(options: PhantomOptions) -> PhantomOptions:
    """The options of a phantom with a donor's organs: without the variants that are those of drawn organs."""
    return replace(options, cirrhosis=False, riedel=False, resected=False, wrapping_left_lobe=False)


def transplant(donor: Donor, seed: int) -> Graft:
    """Prepare the exchange of a drawn patient's organs.

    Parameters
    ----------
    donor : Donor
    seed : int
        Of the deformation; that of the patient will do.

    Returns
    -------
    callable
        For `LiverMarginLib.phantom.make_phantom` and `make_anatomy`, whose options should be `grafted_options`.
    """
    check_seed(seed)

    def graft(parts: list[Part], rest: list[Part], probe: Canvas) -> tuple[list[Part], list[Part]]:
        rng = np.random.default_rng([seed, 7])
        fit = _Fit.draw(rng, donor)
        organs = _organs(rng, donor, fit, parts)
        trunk: list[Part] = []
        for part in parts:
            if isinstance(part, Torso):
                trunk.append(_fitted(part, donor, fit, organs))
            elif isinstance(part, (Skeleton, Retroperitoneum)):
                trunk.append(part)
        others = [kept for part in parts if (kept := _kept(part, donor)) is not None]
        later = [kept for part in rest if (kept := _kept(part, donor)) is not None]
        return [*trunk, organs, *others], later

    return graft


@dataclass(frozen=True)
class _Fit:
    """Donor millimetres times `scale` plus `shift` are standard millimetres, (x, y, z)."""

    scale: npt.NDArray[np.float64]
    shift: npt.NDArray[np.float64]

    @classmethod
    def draw(cls, rng: np.random.Generator, donor: Donor) -> _Fit:
        """Fit the donor to the standard patient, and vary size and place a little."""
        scale, shift = np.ones(3), np.zeros(3)
        for axis in range(3):
            places = [
                (organ.centre[axis], _STANDARD[name][axis])
                for name, organ in donor.organs.items()
                # Of a tube, or of an organ that is cut, the middle height depends on what the map shows of it.
                if name in _STANDARD and (axis < 2 or (name not in _TUBES and not np.isfinite(organ.cut).any()))
            ]
            if not places:
                places = [(donor.organs[Organ.LIVER].centre[axis], _STANDARD[Organ.LIVER][axis])]
            here, there = np.array(places).T
            spread = here - here.mean()
            size = (spread @ (there - there.mean()) + _STIFFNESS) / (spread @ spread + _STIFFNESS)
            scale[axis] = np.clip(size, 0.75, 1.35)
            shift[axis] = there.mean() - scale[axis] * here.mean()
        middle = donor.organs[Organ.LIVER].centre
        varied = scale * np.exp(rng.normal(0, 0.05, 3))
        return cls(varied, shift + (scale - varied) * middle + rng.normal(0, (3, 3, 6)))

    def __call__(self, points: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Standard positions of donor positions, shape (n, 3)."""
        return np.asarray(points, dtype=np.float64) * self.scale + self.shift


def _organs(rng: np.random.Generator, donor: Donor, fit: _Fit, parts: list[Part]) -> GraftedOrgans:
    low, high = (-_FAR, -_FAR, -_FAR), (_FAR, _FAR, _FAR)
    liver = next(part for part in parts if isinstance(part, Liver))
    return GraftedOrgans(
        donor=donor,
        scale=fit.scale,
        shift=fit.shift,
        bend=tuple(SplineField.draw(rng, low, high, float(rng.uniform(60, 110))) for _ in range(3)),  # type: ignore[arg-type]
        amplitude=float(rng.uniform(1.5, 6.0)),
        rough=float(rng.uniform(0.3, 1.8)),
        swelling=float(rng.normal(0, 1.5)),
        lumina={
            organ: Lumen.draw(rng, organ, fit(donor.organs[organ].bounds)[:, 1])
            for organ in (Organ.STOMACH, Organ.DUODENUM, Organ.SMALL_BOWEL, Organ.COLON, Organ.BLADDER)
            if organ in donor.organs
        },
        portal=liver.portal,
        veins=liver.veins,
        cava_change=float(rng.uniform(-30, -10)),
        closing=frozenset(donor.organs) - _TUBES,
    )


def _fitted(torso: Torso, donor: Donor, fit: _Fit, organs: GraftedOrgans) -> FittedTorso:
    """Make the trunk as wide, deep and high as the organs are."""
    liver = donor.organs[Organ.LIVER]
    spleen = donor.organs.get(Organ.SPLEEN)
    edges = fit(liver.bounds)
    reach = -edges[0, 0]
    if spleen is not None:
        reach = max(reach, float(fit(spleen.bounds)[1, 0]))
    front = -edges[0, 1] - 0.3 * torso.belly
    # A little lower than the organs: these displace the lungs, and no fat is left between them.
    top = float(fit((0, 0, liver.top))[2]) - 8
    left = top - 10 if spleen is None else float(fit((0, 0, spleen.top))[2]) - 4
    right = float(np.clip(top, 60, 135))
    fields = {
        **vars(torso),
        "width": float(np.clip((reach + 5) / 139, 0.8, 1.25)),
        "depth": float(np.clip((front + 5) / 86, 0.8, 1.3)),
        "dome_right": right,
        "dome_left": float(np.clip(left, right - 30, right + 5)),
        "dome_middle": right - (torso.dome_right - torso.dome_middle),
    }
    return FittedTorso(**fields, organs=organs)


def _kept(part: Part, donor: Donor) -> Part | None:
    """What remains of a drawn part beside the donor's organs: the same, less, or nothing."""
    known = donor.organs
    if isinstance(part, (Torso, Skeleton, Retroperitoneum, Liver)):
        return None  # painted first, or replaced
    if isinstance(part, GreatVessels):
        return VesselBranches(part) if Organ.AORTA in known or Organ.VENA_CAVA in known else part
    mine = {
        Spleen: Organ.SPLEEN,
        Pancreas: Organ.PANCREAS,
        Bladder: Organ.BLADDER,
    }.get(type(part))  # type: ignore[call-overload]
    if isinstance(part, Kidney):
        mine = Organ.RIGHT_KIDNEY if part.side < 0 else Organ.LEFT_KIDNEY
    elif isinstance(part, Hollow):
        mine = part.organ
    return None if mine in known else part
