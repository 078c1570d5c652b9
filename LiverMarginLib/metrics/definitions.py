"""What each number is: its name, unit, direction, definition and source, for tables, reports and documentation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

CHENG = "Cheng et al., Boundary IoU, CVPR 2021"
HEIMANN = "Heimann et al. 2009, doi 10.1109/TMI.2009.2013851"
LITS = "Bilic et al. 2023, doi 10.1016/j.media.2022.102680; matching: Maier-Hein et al. 2024"
NIKOLOV = "Nikolov et al. 2021, doi 10.2196/26151"


@dataclass(frozen=True)
class Definition:
    """A number that is reported.

    Parameters
    ----------
    key : str
        Column name in files.
    name : str
        What a person reads; the field's standard term.
    text : str
        One sentence; G is the reference, P the prediction.
    unit : str
        "" for shares from 0 to 1 and plain counts, else "mm", "ml", "px".
    better : {"higher", "lower", None}
        Which direction is good; None where neither is, such as for a volume.
    symmetric : bool
        Whether exchanging reference and prediction leaves it unchanged, so that it measures agreement of readers.
    source : str
    """

    key: str
    name: str
    text: str
    unit: str = ""
    better: Literal["higher", "lower"] | None = "higher"
    symmetric: bool = False
    source: str = ""


def _by_key(definitions: Iterable[Definition]) -> Mapping[str, Definition]:
    return {d.key: d for d in definitions}


OVERLAP = _by_key(
    (
        Definition("mask_iou", "Mask IoU", "|G ∩ P| / |G ∪ P|.", symmetric=True, source=CHENG),
        Definition("dice", "Dice", "2 |G ∩ P| / (|G| + |P|), the F1 score of the voxels.", symmetric=True),
        Definition("precision", "Precision", "Share of the predicted voxels that are right, |G ∩ P| / |P|."),
        Definition("recall", "Recall", "Share of the reference's voxels that were found, |G ∩ P| / |G|."),
    )
)

# Each of these is computed for one or more distances d, which every table states.
BOUNDARY = _by_key(
    (
        Definition(
            "boundary_iou",
            "Boundary IoU",
            "IoU of the two inner bands within d of either mask's contour; the image's border is contour.",
            symmetric=True,
            source=CHENG,
        ),
        Definition(
            "trimap_iou",
            "Trimap IoU",
            "IoU counted only within d of G's contour, on both sides of it.",
            source="Kohli et al. 2009, doi 10.1007/s11263-008-0202-0",
        ),
        Definition(
            "boundary_f",
            "F-Measure (boundary)",
            "Harmonic mean of boundary precision and boundary recall.",
            symmetric=True,
            source="Martin et al. 2004, doi 10.1109/TPAMI.2004.1273918; Csurka et al. 2013",
        ),
        Definition("boundary_precision", "Boundary precision", "Share of P's contour within d of G's contour."),
        Definition("boundary_recall", "Boundary recall", "Share of G's contour within d of P's contour."),
    )
)

VOLUME = _by_key(
    (
        Definition("reference_ml", "Reference volume", "Volume of G.", "ml", None),
        Definition("prediction_ml", "Predicted volume", "Volume of P.", "ml", None),
        Definition("rvd", "RVD", "Signed relative volume difference, (|P| - |G|) / |G|.", better=None, source=HEIMANN),
        Definition("abs_rvd", "|RVD|", "Absolute value of RVD.", better="lower", source=HEIMANN),
    )
)

DISTANCE = _by_key(
    (
        Definition("hd_mm", "HD", "Largest distance between the surface voxels, either way.", "mm", "lower", True),
        Definition(
            "hd95_mm",
            "HD95",
            "Larger of the two directed 95th percentiles of the distances between the surface voxels.",
            "mm",
            "lower",
            True,
        ),
        Definition(
            "assd_mm",
            "ASSD",
            "Mean distance of both masks' surface voxels to the other's.",
            "mm",
            "lower",
            True,
            HEIMANN,
        ),
    )
)

# Each of these is computed for one or more tolerances.
SURFACE_DICE = _by_key(
    (
        Definition(
            "nsd_surfel",
            "NSD (surfel)",
            "Share of the area of both marching-cubes surfaces within the tolerance of the other.",
            symmetric=True,
            source=NIKOLOV,
        ),
        Definition(
            "nsd_voxel",
            "NSD (voxel)",
            "Share of both masks' surface voxels within the tolerance of the other's.",
            symmetric=True,
            source=NIKOLOV,
        ),
    )
)

DETECTION = _by_key(
    (
        Definition("slice_sensitivity", "Slice sensitivity", "Share of the slices with G in which P is not empty."),
        Definition("slice_specificity", "Slice specificity", "Share of the slices without G in which P is empty."),
        Definition("slice_precision", "Slice precision", "Share of the slices with P that show G."),
    )
)

# Each of these is computed for one or more thresholds of IoU, where lesions are compared.
LESIONS = _by_key(
    (
        Definition(
            "lesion_recall",
            "Lesion recall",
            "Share of the reference's lesions (26-connected pieces) that are matched by a predicted one.",
            source=LITS,
        ),
        Definition(
            "lesion_precision",
            "Lesion precision",
            "Share of the predicted lesions that are matched by one of the reference.",
            source=LITS,
        ),
    )
)

PIECES = _by_key(
    (
        Definition("pieces_reference", "Pieces of the reference", "8-connected pieces of G in the slice.", better=None),
        Definition("pieces_prediction", "Pieces of the prediction", "8-connected pieces of P.", better=None),
        Definition("pieces_missed", "Missed pieces", "Pieces of G that P does not touch.", better="lower"),
        Definition("pieces_extra", "Extra pieces", "Pieces of P that G does not touch.", better="lower"),
        Definition("two_regions", "Two regions", "Whether G falls into two or more regions in the slice.", better=None),
    )
)

MARGIN = _by_key(
    (
        Definition(
            "margin_error_share",
            "Share of the margin in error",
            "Share of G's surface voxels in the slice that are not surface voxels of P.",
            better="lower",
        ),
        Definition(
            "margin_signed_mm",
            "Signed margin error",
            "Mean signed distance to P's surface of those voxels in error; positive where P reaches beyond G.",
            "mm",
            None,
        ),
        Definition(
            "margin_abs_mm", "Mean margin error", "Mean distance of G's surface voxels to P's surface.", "mm", "lower"
        ),
        Definition(
            "margin_hd95_mm",
            "HD95 of the slice",
            "Larger of the two directed 95th percentiles of the distances of the surface voxels in the slice.",
            "mm",
            "lower",
            symmetric=True,
        ),
        Definition(
            "margin_beyond_mm", "Farthest beyond", "Largest distance by which P reaches beyond G.", "mm", "lower"
        ),
        Definition("margin_short_mm", "Farthest short", "Largest distance by which P falls short of G.", "mm", "lower"),
    )
)

DEFINITIONS: Mapping[str, Definition] = {
    **OVERLAP,
    **BOUNDARY,
    **VOLUME,
    **DISTANCE,
    **SURFACE_DICE,
    **DETECTION,
    **LESIONS,
    **PIECES,
    **MARGIN,
}
