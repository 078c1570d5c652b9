"""Lesion-wise recall and precision: golden values counted by hand on tiny arrays, and their way into a comparison."""

from __future__ import annotations

import csv
from collections.abc import Mapping

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from LiverMarginLib.comparison import (
    CaseComparison,
    CaseInput,
    CompareSettings,
    Study,
    compare_case,
    compare_cases,
    read_case,
    write_case,
)
from LiverMarginLib.comparison.tables import write_tables
from LiverMarginLib.errors import InputError
from LiverMarginLib.metrics.lesions import LesionOverlaps, lesion_overlaps
from LiverMarginLib.report.fragments import make_fragment
from LiverMarginLib.report.page import write_report
from LiverMarginLib.report.paper import write_pdf
from LiverMarginLib.report.pictures import slice_stack
from LiverMarginLib.terminology import LIVER, LIVER_MASS, Segment
from LiverMarginLib.volume import Geometry, LabelMap


def row(text: str) -> np.ndarray:
    """One line of voxels: ``#`` belongs to a lesion."""
    return np.array([[[letter == "#" for letter in text]]])


def detection(reference: str, prediction: str, threshold: float) -> tuple[int, int, int]:
    found = lesion_overlaps(row(reference), row(prediction)).detection(threshold)
    return found.matched, found.reference, found.prediction


@pytest.mark.parametrize(
    ("reference", "prediction", "at_01", "at_05"),
    [
        # the same two lesions
        ("##..###", "##..###", (2, 2, 2), (2, 2, 2)),
        # 2 of 4 voxels of the only lesion: IoU 1/2, which is enough
        ("####...", "##.....", (1, 1, 1), (1, 1, 1)),
        # 1 of 3: IoU 1/3
        ("###....", "#......", (1, 1, 1), (0, 1, 1)),
        # one found, one missed, one invented
        ("##..##.....", "##......###", (1, 2, 2), (1, 2, 2)),
        # a prediction that bridges two lesions (IoU 2/6 and 3/6) matches one of them, the better one
        ("##.###", "######", (1, 2, 1), (1, 2, 1)),
        # a lesion in two predicted pieces (IoU 2/6 and 3/6) is found once, and one piece is too many
        ("######", "##.###", (1, 1, 2), (1, 1, 2)),
        # beside each other without a common voxel
        ("##...", "..##.", (0, 1, 1), (0, 1, 1)),
        ("##...", ".....", (0, 1, 0), (0, 1, 0)),
        (".....", "##...", (0, 0, 1), (0, 0, 1)),
        (".....", ".....", (0, 0, 0), (0, 0, 0)),
    ],
)
def test_matches_are_those_counted_by_hand(reference, prediction, at_01, at_05):
    assert detection(reference, prediction, 0.1) == at_01
    assert detection(reference, prediction, 0.5) == at_05


def test_as_many_lesions_as_possible_are_matched_and_not_the_best_one_first():
    # Taking the pair of 0.6 first would leave the second lesion without a partner.
    found = LesionOverlaps(np.array([[0.6, 0.3], [0.2, 0.0]])).detection(0.1)
    assert found.matched == 2
    rng = np.random.default_rng(0)
    for _ in range(20):
        iou = rng.random((4, 5)) * (rng.random((4, 5)) < 0.5)
        # Without weights, the largest number of pairs is a plain assignment of zeros and ones.
        ones = (iou >= 0.1).astype(float)
        rows, columns = linear_sum_assignment(ones, maximize=True)
        assert LesionOverlaps(iou).detection(0.1).matched == ones[rows, columns].sum()


def test_recall_and_precision_are_undefined_where_there_is_nothing():
    nothing = lesion_overlaps(row("..."), row("...")).detection(0.5)
    missed = lesion_overlaps(row("#.."), row("...")).detection(0.5)
    invented = lesion_overlaps(row("..."), row("#.#")).detection(0.5)
    assert np.isnan([nothing.recall, nothing.precision]).all()
    assert missed.recall == 0 and np.isnan(missed.precision)
    assert np.isnan(invented.recall) and invented.precision == 0


def test_voxels_that_touch_at_a_corner_are_one_lesion():
    mask = np.zeros((2, 3, 3), bool)
    mask[0, 0, 0] = mask[1, 1, 1] = True
    assert lesion_overlaps(mask, mask).iou.shape == (1, 1)
    mask[1, 1, 1], mask[0, 2, 2] = False, True
    assert lesion_overlaps(mask, mask).iou.shape == (2, 2)


def test_masks_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match="different shapes"):
        lesion_overlaps(row("##"), row("###"))


def label_map(text: str, segments=(LIVER, LIVER_MASS)) -> LabelMap:
    """Four equal slices of a line: ``.`` nothing, ``o`` liver, ``#`` lesion."""
    line = np.array([".o#".index(letter) for letter in text], np.uint8)
    array = np.tile(line, (4, 3, 1))
    return LabelMap(array, Geometry(array.shape, np.diag([2.0, 2.0, 5.0, 1.0])), segments)


REFERENCE = label_map(".oo##ooo###oo.")
PREDICTION = label_map(".oo##oooooooo#")


def test_a_comparison_of_masses_tells_recall_and_precision_of_lesions():
    case = compare_case(REFERENCE, {"a": PREDICTION}, 2)
    values = case.predictions["a"].values
    assert {key: (values[key].value, values[key].n, values[key].of) for key in values if key.startswith("lesion")} == {
        "lesion_recall_iou0.1": (0.5, 2, "lesions"),
        "lesion_recall_iou0.5": (0.5, 2, "lesions"),
        "lesion_precision_iou0.1": (0.5, 2, "lesions"),
        "lesion_precision_iou0.5": (0.5, 2, "lesions"),
    }


@pytest.mark.parametrize("labels", [1, (1, 2)])
def test_a_comparison_of_the_liver_does_not(labels):
    values = compare_case(REFERENCE, {"a": PREDICTION}, labels).predictions["a"].values
    assert not any(key.startswith("lesion") for key in values)


def test_a_label_2_that_is_another_organ_is_no_lesion():
    organs = (LIVER, Segment(2, "Kidney", (1, 2, 3), LIVER.terminology))
    named, unnamed = label_map(".oo##ooo.", organs), label_map(".oo##ooo.", ())
    assert compare_case(named, {"a": named}, 2).settings.lesion_ious == ()
    assert compare_case(unnamed, {"a": unnamed}, 2).settings.lesion_ious == (0.1, 0.5)


HEALTHY = label_map(".oooooooooooo.")


def cohort(**options) -> Study:
    """One patient with two lesions, two without any, of whom one got two false ones."""
    return compare_cases(
        [
            CaseInput("ill", lambda: (REFERENCE, {"a": PREDICTION})),
            CaseInput("healthy", lambda: (HEALTHY, {"a": label_map(".o#oo#ooooooo.")})),
            CaseInput("rightly empty", lambda: (HEALTHY, {"a": HEALTHY})),
        ],
        2,
        **options,
    )


def test_a_patient_without_lesions_counts_through_what_is_found_there(tmp_path):
    study = cohort()
    assert not study.failures
    metrics = study.models["a"].metrics
    # Pooled: 1 of 2 lesions found, 1 of 4 findings true. The mean over patients leaves out what is undefined.
    assert metrics["lesion_recall_iou0.5"].pooled.value == 0.5
    assert metrics["lesion_precision_iou0.5"].pooled.value == 0.25
    assert metrics["lesion_recall_iou0.5"].patient_mean.value == 0.5
    assert metrics["lesion_precision_iou0.5"].patient_mean.value == pytest.approx((0.5 + 0) / 2)
    assert metrics["lesion_precision_iou0.5"].patient_mean.n == 2
    with write_tables(study, tmp_path)["per_patient"].open() as stream:
        rows = list(csv.DictReader(stream))
    assert [line["lesion_precision_iou0.5"] for line in rows] == ["0.5", "0.0", ""]


def test_the_report_of_lesions_has_patients_without_any(tmp_path):
    fragments = {}

    def keep(case: CaseComparison, reference: LabelMap, predictions: Mapping[str, LabelMap]) -> None:
        fragments[case.case] = make_fragment(case, slice_stack(case, reference, predictions, None))

    study = cohort(on_case=keep)
    page = write_report(study, fragments.get, tmp_path / "report.html").read_text()
    assert "Lesion recall" in page
    assert "nothing was found" in page.split("rightly empty")[-1]
    assert write_pdf(study, fragments.get, tmp_path / "report.pdf").stat().st_size > 1000


def test_a_comparison_of_lesions_goes_on_where_it_stopped(tmp_path):
    compared = []

    def inputs():
        return [CaseInput("one", lambda: compared.append(1) or (REFERENCE, {"a": PREDICTION}))]

    first = compare_cases(inputs(), 2)
    write_case(first.cases[0], tmp_path / "one.json")
    stored = read_case(tmp_path / "one.json")
    assert stored.settings == first.settings
    compare_cases(inputs(), 2, finished={"one": stored})
    assert len(compared) == 1
    compare_cases(inputs(), 2, settings=CompareSettings(lesion_ious=(0.3,)), finished={"one": stored})
    assert len(compared) == 2


@pytest.mark.parametrize("threshold", [0.0, 1.5])
def test_a_threshold_that_means_nothing_is_refused(threshold):
    with pytest.raises(InputError, match="lesion"):
        CompareSettings(lesion_ious=(threshold,))
