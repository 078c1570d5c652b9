"""What a two-stage network is judged by: the liver's Dice, the cancer's Dice, and its lesions one by one."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from LiverMarginLib.metrics.lesions import LesionDetection, lesion_overlaps
from LiverMarginLib.metrics.overlap import Overlap
from LiverMarginLib.terminology import LIVER, LIVER_MASS
from LiverMarginLib.volume import Modality

LESION_IOUS = (0.1, 0.5)


@dataclass(frozen=True)
class CaseScore:
    """One test case.

    Parameters
    ----------
    case : str
        Its modality and number; names of patients are not written.
    modality : Modality
    liver, cancer : Overlap, optional
        Voxels of the liver with its masses, and of the masses; None where a person did not mark them.
    lesions : mapping of float to LesionDetection
        By the IoU from which a lesion counts as found; empty where cancer was not marked.
    """

    case: str
    modality: Modality
    liver: Overlap | None
    cancer: Overlap | None
    lesions: Mapping[float, LesionDetection]


def score_case(
    case: str,
    modality: Modality,
    reference: npt.NDArray[np.uint8],
    found: npt.NDArray[Any],
    annotated: Sequence[int],
) -> CaseScore:
    """Count one test case; both arrays of shape (k, j, i) have 1 for liver and 2 for cancer."""
    liver = _overlap(reference > 0, found > 0) if LIVER.label in annotated else None
    if LIVER_MASS.label not in annotated:
        return CaseScore(case, modality, liver, None, {})
    wanted, given = reference == LIVER_MASS.label, found == LIVER_MASS.label
    overlaps = lesion_overlaps(wanted, given)
    return CaseScore(
        case,
        modality,
        liver,
        _overlap(wanted, given),
        {threshold: overlaps.detection(threshold) for threshold in LESION_IOUS},
    )


def _overlap(wanted: npt.NDArray[np.bool_], given: npt.NDArray[np.bool_]) -> Overlap:
    return Overlap(*(np.array(np.count_nonzero(mask)) for mask in (wanted, given, wanted & given)))


def summary(scores: Sequence[CaseScore]) -> list[dict[str, Any]]:
    """One row for each modality: means over cases, and what all cases give together ("global").

    Dice of cancer is undefined, and left out of the mean, where a case has none and none was found. Recall and
    precision are of the lesions of all cases.
    """
    rows = []
    for modality in dict.fromkeys(score.modality for score in scores):
        own = [score for score in scores if score.modality is modality]
        livers = _dice([score.liver for score in own])
        cancers = [score.cancer for score in own if score.cancer is not None]
        each = _dice(cancers)
        row: dict[str, Any] = {
            "test": modality.value,
            "n": len(own),
            "liver_dice": _mean(livers),
            "liver_dice_sd": _deviation(livers),
            "cancer_dice": _mean(each),
            "cancer_dice_sd": _deviation(each),
            "cancer_dice_global": float(_sum(cancers).dice()) if cancers else float("nan"),
            "lesions": sum(score.lesions[LESION_IOUS[0]].reference for score in own if score.lesions),
            "lesions_found": sum(score.lesions[LESION_IOUS[0]].prediction for score in own if score.lesions),
        }
        for threshold in LESION_IOUS:
            detections = [score.lesions[threshold] for score in own if score.lesions]
            total = LesionDetection(
                sum(d.matched for d in detections),
                sum(d.reference for d in detections),
                sum(d.prediction for d in detections),
            )
            row[f"recall_iou{threshold:g}"] = total.recall
            row[f"precision_iou{threshold:g}"] = total.precision
        rows.append(row)
    return rows


def scores_csv(scores: Mapping[str, Sequence[CaseScore]]) -> str:
    """All cases of several models as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    counts = [f"matched_iou{t:g}" for t in LESION_IOUS]
    writer.writerow(("model", "case", "liver_dice", "cancer_dice", "lesions", "lesions_found", *counts))
    for model, own in scores.items():
        for score in own:
            first = score.lesions.get(LESION_IOUS[0])
            writer.writerow(
                (
                    model,
                    score.case,
                    *(_number(overlap) for overlap in (score.liver, score.cancer)),
                    "" if first is None else first.reference,
                    "" if first is None else first.prediction,
                    *(score.lesions[t].matched if score.lesions else "" for t in LESION_IOUS),
                )
            )
    return text.getvalue()


def _number(overlap: Overlap | None) -> str:
    if overlap is None or not np.isfinite(float(overlap.dice())):
        return ""
    return f"{float(overlap.dice()):.5f}"


def _dice(overlaps: Sequence[Overlap | None]) -> npt.NDArray[np.float64]:
    values = np.array([float(overlap.dice()) for overlap in overlaps if overlap is not None])
    return values[np.isfinite(values)]


def _sum(overlaps: Sequence[Overlap]) -> Overlap:
    counts = np.array([(overlap.reference, overlap.prediction, overlap.intersection) for overlap in overlaps])
    return Overlap(*counts.sum(axis=0))


def _mean(values: npt.NDArray[np.float64]) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _deviation(values: npt.NDArray[np.float64]) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else float("nan")
