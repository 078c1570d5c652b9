"""Comparing one patient's predictions with a reference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from LiverMarginLib.comparison.alignment import (
    Labels,
    align,
    as_tuple,
    beyond_grid,
    describe_labels,
    join,
    labels_of_prediction,
)
from LiverMarginLib.comparison.result import (
    CaseComparison,
    Estimate,
    PredictionComparison,
    SliceTable,
    Value,
    slice_status,
)
from LiverMarginLib.comparison.settings import CompareSettings, lesion_columns, patient_columns, suffix
from LiverMarginLib.comparison.where import errors_by_region
from LiverMarginLib.errors import InputError
from LiverMarginLib.events import CancelToken, Notice, OnEvent, Progress, ignore
from LiverMarginLib.metrics.boundary import BoundaryCounts, Width
from LiverMarginLib.metrics.lesions import LesionOverlaps, lesion_overlaps
from LiverMarginLib.metrics.overlap import BoolArray, Overlap, SliceDetection
from LiverMarginLib.metrics.slicepass import Extent, Labelled
from LiverMarginLib.metrics.suite import MarginErrors, Measures, measure
from LiverMarginLib.volume import Geometry, LabelMap, axial_view

FloatArray = npt.NDArray[np.float64]


def compare_case(
    reference: LabelMap,
    predictions: Mapping[str, LabelMap],
    label: Labels = 1,
    prediction_label: Labels | Mapping[str, Labels] | None = None,
    *,
    case: str = "case",
    settings: CompareSettings | None = None,
    threads: int | None = None,
    on_event: OnEvent = ignore,
    cancel: CancelToken | None = None,
) -> CaseComparison:
    """Compare predictions with a reference, slice by slice and as a whole.

    Slices are those of the canonical axial view, so that the files' axis orders do not matter. A prediction on
    another grid is resampled to the reference's (nearest neighbour), with a `Notice` and a note in the result.

    Parameters
    ----------
    reference : LabelMap
    predictions : mapping of str to LabelMap
        By model name; at least one.
    label : int or tuple of int
        Value or values in the reference that make up the organ.
    prediction_label : int, tuple of int, or mapping of model name to either, optional
        The same in the predictions. By default the segment with the same meaning, else the same values; see
        `LiverMarginLib.comparison.alignment.labels_of_prediction`.
    case : str
        Name of the case in tables; must not identify a patient.
    settings : CompareSettings, optional
    threads : int, optional
        As many as there are cores by default.
    on_event : callable
        Receives `Progress` (slices) and `Notice`.
    cancel : CancelToken, optional

    Returns
    -------
    CaseComparison

    Raises
    ------
    InputError
        If there is no prediction, or the reference does not carry the label.
    GeometryError
        If a prediction hardly overlaps with the reference.
    Cancelled
        If `cancel` was raised.
    """
    labels = as_tuple(label)
    settings = (settings or CompareSettings()).decided(reference, labels)
    if not predictions:
        raise InputError("There is nothing to compare with the reference; give at least one prediction.")

    view = axial_view(reference.geometry)
    grid = view.geometry
    official = settings.official(grid.shape[1:])
    masks: dict[str, Labelled] = {}
    notes: dict[str, list[str]] = {}
    for name, prediction in predictions.items():
        if cancel:
            cancel.check()
        wanted = prediction_label.get(name) if isinstance(prediction_label, Mapping) else prediction_label
        chosen, said = labels_of_prediction(reference, prediction, labels, wanted, name)
        array, moved = align(prediction, grid, name)
        masks[name] = Labelled(array, chosen)
        notes[name] = said + moved
        for note in notes[name]:
            on_event(Notice(note))

    result = measure(
        Labelled(view.to_view(reference.array), labels),
        masks,
        grid.spacing,
        list(dict.fromkeys((official, *settings.widths))),
        region_min_px=settings.two_region_min_px,
        threads=threads,
        on_progress=lambda done, total: on_event(Progress(done, total, "compare", case)),
        cancel=cancel,
    )
    # A patient without lesions counts: what is found there is false.
    if result.extent is None and not settings.lesion_ious:
        raise InputError(
            f"The reference has no voxel of label {join(labels)}; {describe_labels(reference)}, so choose one of these."
            if reference.array.any()
            else "The reference is empty: no voxel in it carries a label."
        )
    lesions: dict[str, LesionOverlaps | None] = dict.fromkeys(masks)
    if settings.lesion_ious:
        wanted_mask = np.isin(view.to_view(reference.array), labels)
        for name, mask in masks.items():
            lesions[name] = lesion_overlaps(wanted_mask, np.isin(mask.array, mask.labels))
    for name, prediction in predictions.items():
        if result.extent is None:
            break
        for note in beyond_grid(result.extent, grid, prediction.geometry, name):
            notes[name].append(note)
            on_event(Notice(note))
    return CaseComparison(
        case,
        labels,
        grid,
        official,
        settings,
        {
            name: PredictionComparison(
                model=name,
                labels=masks[name].labels,
                notes=tuple(notes[name]),
                provenance=predictions[name].provenance,
                **_numbers(measures, result.extent, grid, official, settings, lesions[name]),
            )
            for name, measures in result.measures.items()
        },
    )


def case_masks(
    case: CaseComparison, reference: LabelMap, predictions: Mapping[str, LabelMap]
) -> tuple[BoolArray, dict[str, BoolArray]]:
    """The masks that were compared, for drawing: on the case's grid, in the axial view.

    Parameters
    ----------
    case : CaseComparison
        Of these very label maps.
    reference : LabelMap
    predictions : mapping of str to LabelMap

    Returns
    -------
    reference : ndarray of bool, shape (k, j, i)
    predictions : dict of str to ndarray of bool, shape (k, j, i)
    """

    def mask(labels: LabelMap, values: tuple[int, ...], name: str) -> BoolArray:
        return np.isin(align(labels, case.geometry, name)[0], values)

    return mask(reference, case.labels, "reference"), {
        name: mask(predictions[name], p.labels, name) for name, p in case.predictions.items()
    }


def _numbers(
    measures: Measures,
    extent: Extent | None,
    grid: Geometry,
    official: Width,
    settings: CompareSettings,
    lesions: LesionOverlaps | None,
) -> dict[str, Any]:
    boundaries = {"": measures.boundaries[official], **{suffix(w): measures.boundaries[w] for w in settings.widths}}
    scores = score_counts(measures.overlap, boundaries)
    detection = SliceDetection.from_overlap(measures.overlap)
    return {
        "slices": _slice_table(measures, scores, grid, official),
        "values": _patient_values(measures, boundaries, detection, grid, settings, lesions),
        "slice_means": {key: mean_of(values) for key, values in scores.items()},
        "detection": detection,
        "where": errors_by_region(measures, extent, grid.voxel_volume),
        "overlap": measures.overlap,
        "boundaries": measures.boundaries,
        "margin": measures.margin,
    }


def score_counts(overlap: Overlap, boundaries: Mapping[str, BoundaryCounts]) -> dict[str, FloatArray]:
    """Scores from counts, by the column names of `slice_score_columns`; shaped like the counts.

    Parameters
    ----------
    overlap : Overlap
    boundaries : mapping of str to BoundaryCounts
        By column suffix: "" for the official d, then `suffix` of each further width.
    """
    scores = {
        "mask_iou": overlap.iou(),
        "dice": overlap.dice(),
        "precision": overlap.precision(),
        "recall": overlap.recall(),
    }
    for ending, counts in boundaries.items():
        scores["boundary_iou" + ending] = counts.boundary_iou()
        scores["trimap_iou" + ending] = counts.trimap_iou()
        scores["boundary_f" + ending] = counts.boundary_f()
        scores["boundary_precision" + ending] = counts.boundary_precision()
        scores["boundary_recall" + ending] = counts.boundary_recall()
    return scores


def mean_of(values: FloatArray) -> Estimate:
    """Mean of the finite values; nan and inf are counted instead."""
    finite = np.isfinite(values)
    n = int(np.count_nonzero(finite))
    undefined = int(np.count_nonzero(np.isnan(values)))
    mean = float(values[finite].mean()) if n else float("nan")
    return Estimate(mean, n, undefined, len(values) - n - undefined)


def _patient_values(
    measures: Measures,
    boundaries: Mapping[str, BoundaryCounts],
    detection: SliceDetection,
    grid: Geometry,
    settings: CompareSettings,
    lesions: LesionOverlaps | None,
) -> dict[str, Value]:
    total = measures.overlap.sum()
    scores = score_counts(total, {ending: counts.sum() for ending, counts in boundaries.items()})
    n_slices = detection.true_positive + detection.false_positive + detection.false_negative
    values = {key: (float(score), n_slices, "slices") for key, score in scores.items()}

    millilitres = grid.voxel_volume / 1000
    rvd = float(total.relative_volume_difference())
    n_reference, n_prediction = int(total.reference), int(total.prediction)
    values["reference_ml"] = (n_reference * millilitres, n_reference, "voxels")
    values["prediction_ml"] = (n_prediction * millilitres, n_prediction, "voxels")
    values["rvd"] = (rvd, n_reference, "voxels")
    values["abs_rvd"] = (abs(rvd), n_reference, "voxels")

    for kind, distances, of in (
        ("voxel", measures.voxel, "surface voxels"),
        ("surfel", measures.surfel, "surface elements"),
    ):
        n = len(distances.reference_to_prediction) + len(distances.prediction_to_reference)
        if kind == "voxel":
            values["hd_mm"] = (distances.hausdorff(), n, of)
            values["hd95_mm"] = (distances.hausdorff_percentile(95.0), n, of)
            values["assd_mm"] = (distances.assd(), n, of)
        for tolerance in settings.nsd_tolerances_mm:
            values[f"nsd_{kind}_{tolerance:g}mm"] = (distances.nsd(tolerance), n, of)

    tp, fp, fn, tn = (
        detection.true_positive,
        detection.false_positive,
        detection.false_negative,
        detection.true_negative,
    )
    values["slice_sensitivity"] = (detection.sensitivity(), tp + fn, "slices")
    values["slice_specificity"] = (detection.specificity(), tn + fp, "slices")
    values["slice_precision"] = (detection.precision(), tp + fp, "slices")
    for key, (_, threshold) in lesion_columns(settings).items():
        assert lesions is not None
        found = lesions.detection(threshold)
        is_recall = key.startswith("lesion_recall")
        n = found.reference if is_recall else found.prediction
        values[key] = (found.recall if is_recall else found.precision, n, "lesions")
    return {key: Value(*values[key]) for key in patient_columns(settings)}


def _slice_table(measures: Measures, scores: dict[str, FloatArray], grid: Geometry, official: Width) -> SliceTable:
    n, rows, columns = grid.shape
    index = np.arange(n)
    centre = np.array([(columns - 1) / 2, (rows - 1) / 2, 0.0, 1.0])
    overlap, pieces = measures.overlap, measures.pieces
    millilitres = grid.voxel_volume / 1000
    return SliceTable(
        {
            "index": index,
            "position_mm": grid.ijk_to_ras[2] @ centre + grid.ijk_to_ras[2, 2] * index,
            "status": slice_status(overlap),
            "reference_px": overlap.reference,
            "prediction_px": overlap.prediction,
            "common_px": overlap.intersection,
            "reference_ml": overlap.reference * millilitres,
            "prediction_ml": overlap.prediction * millilitres,
            "boundary_d_px": np.full(n, int(official.value)),
            **scores,
            "pieces_reference": pieces.reference,
            "pieces_prediction": pieces.prediction,
            "pieces_missed": pieces.missed,
            "pieces_extra": pieces.extra,
            "two_regions": pieces.two_regions,
            **_margin_by_slice(measures.margin, n),
        }
    )


def _margin_by_slice(margin: MarginErrors, n: int) -> dict[str, FloatArray]:
    """Margin errors of each slice's surface voxels; nan where the slice has none of them."""
    k, error = margin.reference_points[:, 0], margin.at_reference
    wrong = error != 0
    with np.errstate(invalid="ignore", divide="ignore"):
        size = np.bincount(k, minlength=n)
        n_wrong = np.bincount(k[wrong], minlength=n)
        signed = np.bincount(k[wrong], weights=error[wrong], minlength=n) / n_wrong
        absolute = np.bincount(k, weights=np.abs(error), minlength=n) / size
        share = n_wrong / size
    k_all = np.concatenate((k, margin.prediction_points[:, 0]))
    error_all = np.concatenate((error, margin.at_prediction))
    farthest = {}
    for name, sign in (("margin_beyond_mm", 1.0), ("margin_short_mm", -1.0)):
        largest = np.full(n, -np.inf)
        np.maximum.at(largest, k_all, np.maximum(sign * error_all, 0.0))
        farthest[name] = np.where(np.bincount(k_all, minlength=n) > 0, largest, np.nan)
    return {
        "margin_error_share": share,
        "margin_signed_mm": signed,
        "margin_abs_mm": absolute,
        "margin_hd95_mm": _hd95_by_slice(margin, n),
        **farthest,
    }


def _hd95_by_slice(margin: MarginErrors, n: int) -> FloatArray:
    """Larger of the two directed 95th percentiles of each slice's surface voxels; nan where there are none."""
    largest = np.full(n, np.nan)
    for points, error in (
        (margin.reference_points, margin.at_reference),
        (margin.prediction_points, margin.at_prediction),
    ):
        order = np.argsort(points[:, 0], kind="stable")
        slices, starts = np.unique(points[order, 0], return_index=True)
        for k, distances in zip(slices, np.split(np.abs(error[order]), starts[1:]), strict=False):
            # Distances to an empty mask are all infinite, and have no percentile between them.
            here = np.percentile(distances, 95) if np.isfinite(distances).all() else np.inf
            largest[k] = np.fmax(largest[k], here)
    return largest
