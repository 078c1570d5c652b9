"""What is computed in a comparison, and under which column names."""

from __future__ import annotations

from dataclasses import dataclass, replace

from LiverMarginLib.errors import InputError
from LiverMarginLib.metrics.boundary import OFFICIAL_RATIO, Width, official_width
from LiverMarginLib.metrics.definitions import (
    BOUNDARY,
    DEFINITIONS,
    DISTANCE,
    LESIONS,
    OVERLAP,
    SURFACE_DICE,
    VOLUME,
    Definition,
)
from LiverMarginLib.terminology import LIVER_MASS
from LiverMarginLib.volume import LabelMap

# A loose match (something was seen there) and that of the LiTS challenge.
_LESION_IOUS = (0.1, 0.5)


@dataclass(frozen=True)
class CompareSettings:
    """The choices behind the numbers of a comparison; they are stored with them.

    Parameters
    ----------
    boundary_fraction : float
        Share of the image's diagonal that is the d of the columns without a suffix; 0.02 is the official one.
    widths : tuple of Width
        Further d for Boundary IoU, Trimap IoU and boundary F, in pixels or mm; columns such as ``boundary_f_2px``.
    nsd_tolerances_mm : tuple of float
        Tolerances of NSD.
    two_region_min_px : int
        Pixels that a piece of the reference needs to count as a region for the two-region flag.
    lesion_ious : tuple of float, optional
        IoU from which a lesion counts as found, in (0, 1], for lesion-wise recall and precision; none for no such
        numbers. None stands for 0.1 and 0.5 where masses are compared, and for none otherwise.

    Raises
    ------
    InputError
        If a value makes no sense.
    """

    boundary_fraction: float = OFFICIAL_RATIO
    widths: tuple[Width, ...] = (Width(2), Width(6))
    nsd_tolerances_mm: tuple[float, ...] = (1.0, 2.0, 3.0)
    two_region_min_px: int = 20
    lesion_ious: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if not 0 < self.boundary_fraction < 1:
            raise InputError("The boundary width must be a share of the image's diagonal between 0 and 1.")
        if any(not 0 <= t < float("inf") for t in self.nsd_tolerances_mm):
            raise InputError("The tolerances of NSD must be lengths in mm, 0 or more.")
        if self.two_region_min_px < 1:
            raise InputError("A region needs at least one pixel.")
        if any(not 0 < threshold <= 1 for threshold in self.lesion_ious or ()):
            raise InputError("The IoU from which a lesion counts as found must lie above 0 and not above 1.")

    def decided(self, reference: LabelMap, labels: tuple[int, ...]) -> CompareSettings:
        """These settings with what is left open decided by what `labels` of the reference mean."""
        if self.lesion_ious is not None:
            return self
        return replace(self, lesion_ious=_LESION_IOUS if _are_masses(reference, labels) else ())

    def allows(self, decided: CompareSettings) -> bool:
        """Whether `decided` settings are these, with what is left open decided."""
        return decided == (replace(self, lesion_ious=decided.lesion_ious) if self.lesion_ious is None else self)

    def official(self, image_shape: tuple[int, int]) -> Width:
        """The d of the columns without a suffix, for slices of this many rows and columns."""
        return Width(official_width(image_shape, self.boundary_fraction))


@dataclass(frozen=True)
class Column:
    """A reported number with its d or tolerance.

    Parameters
    ----------
    key : str
        Column name: the definition's key, with the parameter where it is not the default, such as ``nsd_surfel_2mm``.
    definition : Definition
    parameter : str
        For people, such as "d = 2 px"; "" if there is none.
    """

    key: str
    definition: Definition
    parameter: str = ""

    @property
    def title(self) -> str:
        """Name with parameter and unit, for table headings."""
        extra = ", ".join(part for part in (self.parameter, self.definition.unit) if part)
        return f"{self.definition.name} ({extra})" if extra else self.definition.name


def suffix(width: Width) -> str:
    """Column suffix of a boundary width, such as ``_2px`` or ``_1.5mm``."""
    return f"_{width.value:g}{width.unit}"


def boundary_columns(settings: CompareSettings) -> dict[str, Column]:
    """Columns of the boundary metrics: at the official d first, then at each further width."""
    official = f"d = {settings.boundary_fraction * 100:g} % of the diagonal"
    columns = {key: Column(key, definition, official) for key, definition in BOUNDARY.items()}
    for width in settings.widths:
        for key, definition in BOUNDARY.items():
            name = key + suffix(width)
            columns[name] = Column(name, definition, f"d = {width}")
    return columns


def slice_score_columns(settings: CompareSettings) -> dict[str, Column]:
    """Columns of the scores from 0 to 1 that exist for a slice, a patient and a study."""
    return {**{k: Column(k, d) for k, d in OVERLAP.items()}, **boundary_columns(settings)}


def patient_columns(settings: CompareSettings) -> dict[str, Column]:
    """Columns of everything that exists for a patient."""
    columns = slice_score_columns(settings)
    columns.update({k: Column(k, d) for k, d in {**VOLUME, **DISTANCE}.items()})
    for key, definition in SURFACE_DICE.items():
        for tolerance in settings.nsd_tolerances_mm:
            name = f"{key}_{tolerance:g}mm"
            columns[name] = Column(name, definition, f"tolerance {tolerance:g} mm")
    for key in ("slice_sensitivity", "slice_specificity", "slice_precision"):
        columns[key] = Column(key, DEFINITIONS[key])
    return columns | {key: column for key, (column, _) in lesion_columns(settings).items()}


def lesion_columns(settings: CompareSettings) -> dict[str, tuple[Column, float]]:
    """Columns of the lesion-wise numbers, such as ``lesion_recall_iou0.5``, each with its IoU."""
    columns = {}
    for key, definition in LESIONS.items():
        for threshold in settings.lesion_ious or ():
            name = f"{key}_iou{threshold:g}"
            columns[name] = Column(name, definition, f"IoU >= {threshold:g}"), threshold
    return columns


def _are_masses(reference: LabelMap, labels: tuple[int, ...]) -> bool:
    """Whether all labels are masses by their codes, or label 2 where nothing is said about it."""
    known = {segment.label: segment.terminology for segment in reference.segments}
    mass = LIVER_MASS.terminology
    assert mass is not None
    return all(
        label == LIVER_MASS.label if (terminology := known.get(label)) is None else terminology.type == mass.type
        for label in labels
    )
