"""How a donor's organs are painted: their surfaces bent and roughened, their insides drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from LiverMarginLib.phantom.canvas import FAR, Box, Canvas, Organs
from LiverMarginLib.phantom.circulation import GreatVessels
from LiverMarginLib.phantom.fields import FloatArray, smooth_max, smooth_min
from LiverMarginLib.phantom.grafts.donor import Donor
from LiverMarginLib.phantom.organs import Organ
from LiverMarginLib.phantom.splines import SplineField
from LiverMarginLib.phantom.tissues import Tissue
from LiverMarginLib.phantom.torso import Torso
from LiverMarginLib.phantom.tubes import Tube, paint_tubes

# In this order: what is painted first keeps its surface, what touches it gives way.
_ORDER = (
    *(Organ.LIVER, Organ.AORTA, Organ.VENA_CAVA, Organ.PORTAL_VEIN, Organ.SPLEEN, Organ.RIGHT_KIDNEY),
    *(Organ.LEFT_KIDNEY, Organ.GALLBLADDER, Organ.OESOPHAGUS, Organ.RIGHT_ADRENAL, Organ.LEFT_ADRENAL),
    *(Organ.STOMACH, Organ.PANCREAS, Organ.DUODENUM, Organ.COLON, Organ.SMALL_BOWEL, Organ.BLADDER),
)
_PLAIN = {
    Organ.AORTA: Tissue.ARTERY,
    Organ.PORTAL_VEIN: Tissue.PORTAL_BLOOD,
    Organ.SPLEEN: Tissue.SPLEEN,
    Organ.OESOPHAGUS: Tissue.STOMACH_WALL,
    Organ.PANCREAS: Tissue.PANCREAS,
    Organ.RIGHT_ADRENAL: Tissue.ADRENAL,
    Organ.LEFT_ADRENAL: Tissue.ADRENAL,
}
_SMALL = frozenset({Organ.OESOPHAGUS, Organ.RIGHT_ADRENAL, Organ.LEFT_ADRENAL, Organ.PORTAL_VEIN})
_GIVING_WAY: Organs = (Organ.VISCERAL_FAT, Organ.MUSCLE, Organ.RIGHT_LUNG, Organ.LEFT_LUNG)
_UNDER_THE_LUNG = frozenset({Organ.LIVER, Organ.SPLEEN, Organ.STOMACH})
_KNOWN = 7.0  # mm from an organ's surface; `DonorOrgan` knows it further
_ROOM = 14.0  # mm around an organ in which its distance is computed
_WALL_GAP, _LUNG_GAP = 3.0, 2.5  # mm of fat, muscle and pleura before the cavity's end and below the lung


@dataclass(frozen=True)
class Lumen:
    """Inside of a hollow organ.

    Parameters
    ----------
    wall : float
        Thickness in mm.
    wall_tissue, content : Tissue
    gas_level : float
        Standard y in mm before which it holds gas; -inf for none.
    folds : float
        Height of the folds in mm.
    shade : float
        Difference of the content from its kind, in standard deviations.
    """

    wall: float
    wall_tissue: Tissue
    content: Tissue
    gas_level: float
    folds: float
    shade: float

    @classmethod
    def draw(cls, rng: np.random.Generator, organ: Organ, extent: npt.NDArray[np.float64]) -> Lumen:
        """Draw what an organ between two depths (y, standard mm) holds."""
        contents = {
            Organ.STOMACH: ([Tissue.FLUID, Tissue.FOOD, Tissue.ORAL_CONTRAST], [0.5, 0.35, 0.15]),
            Organ.COLON: ([Tissue.STOOL, Tissue.ORAL_CONTRAST], [0.8, 0.2]),
            Organ.BLADDER: ([Tissue.BLADDER_URINE], [1.0]),
        }.get(organ, ([Tissue.FLUID, Tissue.FOOD, Tissue.ORAL_CONTRAST], [0.6, 0.2, 0.2]))
        gas = 0.0 if organ is Organ.BLADDER else 0.7 if organ in (Organ.STOMACH, Organ.COLON) else 0.25
        level = extent[0] + rng.uniform(0.05, 0.6) * (extent[1] - extent[0])
        return cls(
            wall=float(rng.uniform(1.8, 4.5)),
            wall_tissue=Tissue.STOMACH_WALL if organ is Organ.STOMACH else Tissue.BOWEL_WALL,
            content=Tissue(rng.choice(contents[0], p=contents[1])),
            gas_level=float(level) if rng.random() < gas else -np.inf,
            folds=0.0 if organ is Organ.BLADDER else float(rng.uniform(0.5, 2.5)),
            shade=float(np.clip(rng.normal(), -2, 2)),
        )


@dataclass(frozen=True, eq=False)
class GraftedOrgans:
    """All organs of a donor in their new place.

    Parameters
    ----------
    donor : Donor
    scale, shift : ndarray, shape (3,)
        Donor millimetres times `scale` plus `shift` are standard millimetres.
    bend : tuple of SplineField
        Displacement along x, y and z, functions of grid millimetres, of unit standard deviation.
    amplitude : float
        Of the displacement, mm.
    rough : float
        Amplitude of the unevenness of surfaces, mm.
    swelling : float
        How far all surfaces are moved outwards, mm.
    lumina : mapping of Organ to Lumen
    portal, veins : list of Tube
        Vessels in the liver, standard mm.
    cava_change : float
        Height below which the blood of the vena cava comes from the legs alone, standard mm.
    closing : frozenset of Organ
        Organs that end in a dome where the map cuts them off.
    """

    donor: Donor
    scale: npt.NDArray[np.float64]
    shift: npt.NDArray[np.float64]
    bend: tuple[SplineField, SplineField, SplineField]
    amplitude: float
    rough: float
    swelling: float
    lumina: Mapping[Organ, Lumen]
    portal: list[Tube]
    veins: list[Tube]
    cava_change: float
    closing: frozenset[Organ]

    def measure(self, canvas: Canvas) -> tuple[FloatArray, FloatArray]:
        """Compute the distance to each organ, and return that to any of them, and to those below the lungs.

        Both in mm up to a few mm from a surface, and far larger beyond, where they are not known.
        """
        position = self._donor_positions(canvas)
        all_of_them, under = (np.full(canvas.shape, FAR, dtype=np.float32) for _ in range(2))
        for organ in self._present():
            box = self._box(canvas, organ)
            if box is None:
                continue
            x, y, z = (values[box] for values in position)
            distance = self.donor.organs[organ].at(x, y, z, closing=organ in self.closing)
            uneven = 0.4 * self.rough if organ in _SMALL else self.rough
            distance += np.float32(0.6 * uneven) * canvas.noise(30, box) + np.float32(0.4 * uneven) * canvas.noise(
                14, box
            )
            if organ not in _SMALL:
                distance -= np.float32(self.swelling)
            canvas.fields[_name(organ)] = distance
            np.minimum(all_of_them[box], distance, out=all_of_them[box])
            if organ in _UNDER_THE_LUNG:
                np.minimum(under[box], distance, out=under[box])
        return _steep(all_of_them), _steep(under)

    def paint(self, canvas: Canvas) -> None:
        """Paint the organs; `measure` has computed where they are."""
        for organ in self._present():
            box = self._box(canvas, organ)
            if box is None:
                continue
            distance = smooth_max(canvas.fields[_name(organ)], canvas.fields["cavity"][box] + np.float32(1.2), 4)
            distance = canvas.avoid(distance, box, gap=0.2, width=2)
            if organ is Organ.LIVER:
                self._paint_liver(canvas, distance, box)
            else:
                self._paint(canvas, organ, distance, box)

    def _present(self) -> list[Organ]:
        return [organ for organ in _ORDER if organ in self.donor.organs]

    def _donor_positions(self, canvas: Canvas) -> list[FloatArray]:
        positions = []
        for values, field, scale, shift in zip(
            (canvas.x, canvas.y, canvas.z), self.bend, self.scale, self.shift, strict=True
        ):
            moved = field.sample(*canvas.axes)
            moved *= np.float32(self.amplitude)
            moved += values
            moved -= np.float32(shift)
            moved /= np.float32(scale)
            positions.append(moved)
        return positions

    def _box(self, canvas: Canvas, organ: Organ) -> Box | None:
        donor = self.donor.organs[organ]
        bounds = donor.bounds.copy()
        if np.isfinite(donor.cut[0]):
            bounds[0, 2] -= 400 if organ not in self.closing else 60
        if np.isfinite(donor.cut[1]):
            bounds[1, 2] += 400 if organ not in self.closing else 60
        low, high = bounds * self.scale + self.shift
        return canvas.box(low, high, pad=_ROOM + 2 * self.amplitude)

    def _paint_liver(self, canvas: Canvas, distance: FloatArray, box: Box) -> None:
        palette = canvas.palette
        canvas.fields["liver"] = np.full(canvas.shape, FAR, dtype=np.float32)
        canvas.fields["liver"][box] = distance
        canvas.paint(palette.add(Tissue.LIVER, Organ.LIVER), distance, box, over=_GIVING_WAY)
        inside = (Organ.LIVER,)
        paint_tubes(canvas, self.portal, palette.add(Tissue.LIVER_PORTAL, Organ.LIVER_VESSEL), over=inside)
        paint_tubes(canvas, self.veins, palette.add(Tissue.LIVER_VEIN, Organ.LIVER_VESSEL), over=inside)

    def _paint(self, canvas: Canvas, organ: Organ, distance: FloatArray, box: Box) -> None:
        add, inside = canvas.palette.add, (organ,)
        if organ in self.lumina:
            self._paint_hollow(canvas, organ, distance, box)
        elif organ in (Organ.RIGHT_KIDNEY, Organ.LEFT_KIDNEY):
            canvas.paint(add(Tissue.KIDNEY_CORTEX, organ), distance, box, over=_GIVING_WAY)
            medulla = np.maximum(distance + 6.5, 3.5 * (0.1 - canvas.noise(14, box)))
            canvas.paint(add(Tissue.KIDNEY_MEDULLA, organ), medulla, box, over=inside, solid=False)
            pelvis = distance + np.float32(15) + 2 * canvas.noise(14, box)
            canvas.paint(add(Tissue.URINE, organ), pelvis, box, over=inside, solid=False)
        elif organ is Organ.GALLBLADDER:
            canvas.paint(add(Tissue.BOWEL_WALL, organ), distance, box, over=_GIVING_WAY)
            canvas.paint(add(Tissue.BILE, organ), distance + np.float32(1.6), box, over=inside, solid=False)
        elif organ is Organ.VENA_CAVA:
            canvas.paint(add(Tissue.CAVA_UPPER, organ), distance, box, over=_GIVING_WAY)
            below = np.maximum(distance, canvas.z[box] - np.float32(self.cava_change))
            canvas.paint(add(Tissue.CAVA_LOWER, organ), below, box, over=inside, solid=False)
        else:
            canvas.paint(add(_PLAIN[organ], organ), distance, box, over=_GIVING_WAY)

    def _paint_hollow(self, canvas: Canvas, organ: Organ, distance: FloatArray, box: Box) -> None:
        add, inside, lumen = canvas.palette.add, (organ,), self.lumina[organ]
        canvas.paint(add(lumen.wall_tissue, organ), distance, box, over=_GIVING_WAY)
        hollow = distance + np.float32(lumen.wall) + np.float32(lumen.folds) * np.clip(canvas.noise(14, box), -0.4, 1.6)
        canvas.paint(add(lumen.content, organ, lumen.shade), hollow, box, over=inside, solid=False)
        if np.isfinite(lumen.gas_level):
            gas = np.maximum(hollow, canvas.y[box] - np.float32(lumen.gas_level))
            canvas.paint(add(Tissue.GAS, organ), gas, box, over=inside, solid=False)


def _steep(distance: FloatArray) -> FloatArray:
    """Let a distance that is known near the surface alone grow without bounds beyond."""
    return np.asarray(distance + 30 * np.maximum(distance - np.float32(_KNOWN), 0), dtype=np.float32)


def _name(organ: Organ) -> str:
    return f"grafted {organ.name}"


@dataclass(frozen=True)
class FittedTorso(Torso):
    """A trunk that gives way to the organs in it.

    Parameters
    ----------
    organs : GraftedOrgans
    """

    organs: GraftedOrgans

    def measure(self, canvas: Canvas) -> None:
        """See `Torso.measure`: the walls move outwards where organs reach them, and the lungs make room above them."""
        super().measure(canvas)
        organs, under = self.organs.measure(canvas)
        fields = canvas.fields
        outwards = smooth_min(fields["ellipse"], organs - np.float32(_WALL_GAP), 16) - fields["ellipse"]
        for name in ("ellipse", "cavity", "muscle", "body"):
            fields[name] = fields[name] + outwards
        fields["dome"] = smooth_min(fields["dome"], under - np.float32(_LUNG_GAP), 8)


@dataclass(frozen=True)
class VesselBranches:
    """The larger branches of drawn great vessels, whose trunks are the donor's."""

    vessels: GreatVessels

    def paint(self, canvas: Canvas) -> None:
        """Paint them over fat."""
        over = (Organ.VISCERAL_FAT,)
        artery = canvas.palette.add(Tissue.ARTERY, Organ.VESSEL)
        paint_tubes(canvas, self.vessels.arteries, artery, over=over, solid=True)
        vein = canvas.palette.add(Tissue.VEIN, Organ.VESSEL)
        paint_tubes(canvas, self.vessels.veins, vein, over=over, solid=True)
