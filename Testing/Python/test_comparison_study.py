"""Many patients: the three means, their intervals, paired tests, failures, and the files."""

from __future__ import annotations

import csv
import json
import math

import numpy as np
import pytest
from scipy import stats

from LiverMarginLib.comparison import (
    CaseComparison,
    CaseInput,
    CompareSettings,
    Study,
    compare_case,
    compare_cases,
    patient_columns,
    read_case,
    summarise,
    write_case,
    write_tables,
)
from LiverMarginLib.comparison.statistics import bootstrap_weights, holm, percentile_interval, wilcoxon_signed_rank
from LiverMarginLib.errors import Cancelled, InputError, ResourceError
from LiverMarginLib.events import CancelToken, Event, Notice, Progress
from LiverMarginLib.metrics.boundary import Width
from LiverMarginLib.volume import Geometry, LabelMap


def patient(seed: int, empty: bool = False, shape=(6, 24, 24)) -> tuple[LabelMap, dict[str, LabelMap]]:
    """A box with two predictions: one a little off, one far off; sizes differ between patients."""
    rng = np.random.default_rng(seed)
    geometry = Geometry(shape, np.diag((-1.0, -1.0, 2.5, 1.0)))
    reference, good, bad = np.zeros((3, *shape), dtype=np.uint8)
    size = int(rng.integers(8, 14))
    reference[1:5, 4 : 4 + size, 4 : 4 + size] = 1
    reference[4, 4 + size // 2 :] = 0  # so that slices differ and their mean is not the patient's number
    good[1:5, 4 : 4 + size, 5 : 5 + size] = 1
    bad[2:5, 4 : 4 + size, 4 + int(rng.integers(2, 5)) : 4 + size] = 1
    if empty:
        bad[:] = 0
    return LabelMap(reference, geometry), {name: LabelMap(a, geometry) for name, a in (("good", good), ("bad", bad))}


def compared(seed: int, **options: object) -> CaseComparison:
    reference, predictions = patient(seed, **options)
    return compare_case(reference, predictions, case=f"case {seed}")


@pytest.fixture(scope="module")
def study() -> Study:
    return summarise([compared(seed) for seed in range(8)])


def test_slice_mean_patient_mean_and_pooled_differ_and_each_has_its_n(study):
    cases = [c.predictions["bad"] for c in study.cases]
    iou = study.models["bad"].metrics["mask_iou"]
    slices = np.concatenate([c.slices["mask_iou"] for c in cases])
    assert iou.slice_mean.value == pytest.approx(np.nanmean(slices))
    assert (iou.slice_mean.n, iou.slice_mean.n_undefined) == (8 * 4, 8 * 2)
    values = [c.values["mask_iou"].value for c in cases]
    assert (iou.patient_mean.value, iou.patient_mean.n) == (pytest.approx(np.mean(values)), 8)
    assert iou.patient_sd == pytest.approx(np.std(values, ddof=1))
    assert iou.patient_median == pytest.approx(np.median(values))
    common = sum(c.overlap.intersection.sum() for c in cases)
    union = sum(c.overlap.union.sum() for c in cases)
    assert (iou.pooled.value, iou.pooled.n) == (pytest.approx(common / union), 8 * 4)
    assert len({round(e.value, 6) for e in (iou.slice_mean, iou.patient_mean, iou.pooled)}) == 3
    boundary = study.models["bad"].metrics["boundary_iou"].pooled.value
    bands = [c.boundaries[Width(1)].band.sum() for c in cases]
    assert boundary == pytest.approx(sum(b.intersection for b in bands) / sum(b.union for b in bands))
    assert study.models["bad"].metrics["hd95_mm"].pooled is None
    assert study.models["bad"].detection.false_negative == 8


def test_every_patient_column_is_summarised(study):
    for model in study.models.values():
        assert list(model.metrics) == list(patient_columns(study.settings))


def test_the_interval_of_the_patient_mean_is_that_of_scipy_up_to_chance(study):
    values = np.array([c.predictions["bad"].values["dice"].value for c in study.cases])
    golden = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=20000, rng=1).confidence_interval
    ours = study.models["bad"].metrics["dice"].patient_mean
    assert (ours.low, ours.high) == pytest.approx((golden.low, golden.high), abs=0.15 * values.std())
    assert ours.low < ours.value < ours.high


def test_intervals_resample_patients_and_not_slices():
    # Two patients, one all right and one all wrong: whatever the number of slices, 0 and 1 are possible means.
    shape = (40, 10, 10)
    geometry = Geometry(shape, np.diag((-1.0, -1.0, 1.0, 1.0)))
    reference, wrong = np.zeros((2, *shape), dtype=np.uint8)
    reference[:, 1:4, 1:4] = 1
    wrong[:, 6:9, 6:9] = 1
    cases = [
        compare_case(LabelMap(reference, geometry), {"model": LabelMap(p, geometry)}, case=name)
        for name, p in (("right", reference), ("wrong", wrong))
    ]
    summary = summarise(cases).models["model"].metrics["mask_iou"]
    for estimate in (summary.slice_mean, summary.patient_mean, summary.pooled):
        assert (estimate.low, estimate.high) == (0.0, 1.0)


def test_one_patient_has_no_interval():
    summary = summarise([compared(0)]).models["good"].metrics["dice"]
    for estimate in (summary.slice_mean, summary.patient_mean, summary.pooled):
        assert math.isnan(estimate.low)
        assert math.isnan(estimate.high)
    assert math.isnan(summary.patient_sd)


def test_a_failed_patient_is_counted_and_kept_out_of_the_mean_distance():
    summary = summarise([*(compared(seed) for seed in range(3)), compared(3, empty=True)]).models["bad"]
    hd = summary.metrics["hd95_mm"].patient_mean
    assert (hd.n, hd.n_failed, hd.n_undefined) == (3, 1, 0)
    assert math.isfinite(hd.value)
    assert math.isfinite(hd.high)
    dice = summary.metrics["dice"].patient_mean
    assert (dice.n, dice.n_failed) == (4, 0)


def test_summarising_twice_gives_the_same_numbers(study):
    again = summarise(study.cases)
    assert again.models["bad"].metrics["dice"] == study.models["bad"].metrics["dice"]
    assert again.paired == study.paired


def test_patients_of_different_image_sizes_are_pooled_each_with_its_own_d():
    cases = [compared(0), compared(1, shape=(6, 90, 90))]
    assert [c.official for c in cases] == [Width(1), Width(3)]
    bands = [c.predictions["bad"].boundaries[c.official].band.sum() for c in cases]
    pooled = summarise(cases).models["bad"].metrics["boundary_iou"].pooled.value
    assert pooled == pytest.approx(sum(b.intersection for b in bands) / sum(b.union for b in bands))


def test_two_models_are_compared_patient_by_patient(study):
    pair = next(p for p in study.paired if p.metric == "dice")
    first, second = (np.array([c.predictions[m].values["dice"].value for c in study.cases]) for m in ("good", "bad"))
    golden = stats.wilcoxon(first, second)
    assert (pair.first, pair.second, pair.better) == ("good", "bad", "first")
    assert pair.test.p == pytest.approx(golden.pvalue)
    assert pair.test.n == 8
    assert pair.test.rank_biserial == 1.0  # better in every patient
    assert pair.mean_difference == pytest.approx((first - second).mean())
    assert pair.low < pair.mean_difference < pair.high
    distance = next(p for p in study.paired if p.metric == "hd95_mm")
    assert distance.better == ("first" if distance.mean_difference < 0 else "second")
    assert all(p.better == "" for p in study.paired if p.metric == "rvd")


def test_wilcoxon_and_its_effect_size_agree_with_scipy_and_with_a_count_by_hand():
    first = np.array([1.0, 2.5, 3.0, 4.5, 5.0, 6.5, 9.0])
    second = np.array([0.5, 3.5, 3.0, 2.5, 1.0, 3.5, 4.0])
    # Differences 0.5, -1, 0, 2, 4, 3, 5: without the zero, ranks 1, 2 (negative), 3, 5, 4, 6.
    result = wilcoxon_signed_rank(first, second)
    golden = stats.wilcoxon(first, second)
    assert (result.n, result.n_zero, result.statistic) == (7, 1, 19.0)
    assert result.p == pytest.approx(golden.pvalue)
    assert result.rank_biserial == pytest.approx((19 - 2) / 21)
    assert result.median_difference == 2.0


@pytest.mark.parametrize("n", [1, 2, 5, 12, 40, 100, 101, 300])
@pytest.mark.parametrize("ties", [False, True])
def test_the_p_of_the_signed_rank_test_is_that_of_scipy(n, ties):
    rng = np.random.default_rng(n)
    difference = rng.integers(-4, 7, n).astype(float) if ties else rng.normal(0.2, 1, n)
    if not difference.any():
        difference[0] = 1.0
    nonzero = difference[difference != 0]
    tolerance = 1e-9
    # scipy enumerates with ties only for few pairs; by its permutation test it does for any.
    if len(nonzero) > 100:
        golden = stats.wilcoxon(nonzero, method="asymptotic").pvalue
    elif not ties or len(nonzero) == 1:
        golden = stats.wilcoxon(nonzero, method="exact").pvalue
    elif len(nonzero) <= 12:
        golden = stats.wilcoxon(nonzero, method=stats.PermutationMethod(n_resamples=2**13)).pvalue
    else:
        golden, tolerance = stats.wilcoxon(nonzero, method="asymptotic").pvalue, 0.02
    p = wilcoxon_signed_rank(difference, np.zeros(n)).p
    assert p == pytest.approx(golden, abs=tolerance)


def test_a_failure_ranks_as_worse_than_every_distance_and_two_failures_are_equal():
    inf = math.inf
    result = wilcoxon_signed_rank(np.array([1.0, 2.0, inf, inf]), np.array([3.0, 1.5, 4.0, inf]))
    # -2, 0.5, inf, 0: ranks 2 (negative), 1, 3.
    assert (result.n_zero, result.statistic, result.rank_biserial) == (1, 4.0, pytest.approx(2 / 6))
    assert 0 < result.p <= 1


def test_equal_models_do_not_differ():
    same = np.array([0.5, 0.7, 0.9])
    result = wilcoxon_signed_rank(same, same)
    assert (result.p, result.rank_biserial, result.n_zero) == (1.0, 0.0, 3)


def test_holm_adjusts_in_steps():
    # Sorted 0.01, 0.03, 0.04: times 3, 2, 1 is 0.03, 0.06, 0.04, and never decreasing.
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_bootstrap_weights_draw_as_many_patients_as_there_are():
    weights = bootstrap_weights(7, 200, seed=1)
    assert weights.shape == (200, 7)
    assert np.array_equal(weights.sum(axis=1), np.full(200, 7))
    assert np.array_equal(weights, bootstrap_weights(7, 200, seed=1))
    assert percentile_interval(np.array([math.nan])) == pytest.approx((math.nan, math.nan), nan_ok=True)


def test_one_bad_case_is_reported_and_stops_nothing():
    def broken() -> tuple[LabelMap, dict[str, LabelMap]]:
        raise InputError("The file is damaged; export it again.")

    events: list[Event] = []
    inputs = [CaseInput("a", lambda: patient(0)), CaseInput("b", broken), CaseInput("c", lambda: patient(2))]
    study = compare_cases(inputs, on_event=events.append)
    assert [c.case for c in study.cases] == ["a", "c"]
    assert [(f.case, f.message) for f in study.failures] == [("b", "The file is damaged; export it again.")]
    assert [e.message for e in events if isinstance(e, Notice)] == [
        "b was left out: The file is damaged; export it again."
    ]
    assert [e for e in events if isinstance(e, Progress)][-1] == Progress(3, 3, "compare")
    with pytest.raises(InputError, match="damaged"):
        compare_cases([CaseInput("b", broken)])
    with pytest.raises(InputError, match="None of the 2 cases"):
        compare_cases([CaseInput("b", broken), CaseInput("d", broken)])


def test_a_cancelled_study_stops_before_the_next_case():
    token = CancelToken()
    inputs = [CaseInput(str(seed), lambda seed=seed: patient(seed)) for seed in range(3)]
    done: list[str] = []

    def stop(case: CaseComparison, *_) -> None:
        done.append(case.case)
        token.cancel()

    with pytest.raises(Cancelled):
        compare_cases(inputs, on_case=stop, cancel=token)
    assert done == ["0"]


def test_a_stored_case_comes_back_and_is_not_computed_again(tmp_path, study):
    for case in study.cases:
        write_case(case, tmp_path / f"{case.case}.json")
    stored = {p.stem: read_case(p) for p in sorted(tmp_path.glob("*.json"))}

    def must_not_run() -> tuple[LabelMap, dict[str, LabelMap]]:
        raise AssertionError("a finished case was loaded")

    inputs = [CaseInput(name, must_not_run) for name in stored]
    again = compare_cases(inputs, finished=stored)
    assert again.models == study.models
    assert again.paired == study.paired
    for before, after in zip(study.cases, again.cases, strict=True):
        for name, column in before.predictions["bad"].slices.columns.items():
            assert np.array_equal(after.predictions["bad"].slices[name], column, equal_nan=column.dtype.kind == "f")
    with pytest.raises(InputError, match="None of the"):
        compare_cases(
            [
                CaseInput(name, lambda: (_ for _ in ()).throw(InputError("New settings need new numbers.")))
                for name in stored
            ],
            finished=stored,
            settings=CompareSettings(nsd_tolerances_mm=(5.0,)),
        )


def test_failures_survive_being_stored(tmp_path):
    case = compared(0, empty=True)
    write_case(case, tmp_path / "case.json")
    values = read_case(tmp_path / "case.json").predictions["bad"].values
    assert values["hd_mm"].value == math.inf
    slices = read_case(tmp_path / "case.json").predictions["bad"].slices
    assert slices["margin_abs_mm"].tolist()[1:5] == [math.inf] * 4
    assert slices["two_regions"].dtype == bool


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"schema": "livermargin.case", "version": 99}', "\x00\x01"])
def test_a_damaged_stored_case_is_refused_with_one_sentence(tmp_path, content):
    path = tmp_path / "case.json"
    path.write_text(content)
    with pytest.raises(InputError, match=r"case\.json is not a stored comparison"):
        read_case(path)


def test_cases_that_cannot_be_summarised_together_are_refused(study):
    with pytest.raises(InputError, match="no compared case"):
        summarise([])
    with pytest.raises(InputError, match="same name"):
        summarise([study.cases[0], study.cases[0]])
    reference, predictions = patient(1)
    other = compare_case(reference, predictions, case="x", settings=CompareSettings(boundary_fraction=0.1))
    with pytest.raises(InputError, match="different settings"):
        summarise([study.cases[0], other])


def test_the_csv_files_hold_every_slice_and_every_patient(tmp_path, study):
    paths = write_tables(study, tmp_path / "out")
    with paths["per_slice"].open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 8 * 2 * 6
    first = study.cases[0].predictions["good"].slices
    assert [float(r["dice"]) for r in rows[1:5]] == first["dice"][1:5].tolist()
    assert rows[0]["dice"] == ""
    assert rows[0]["status"] == "neither"
    assert {r["boundary_d_px"] for r in rows} == {"1"}
    with paths["per_patient"].open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 8 * 2
    result = study.cases[3].predictions["bad"]
    row = next(r for r in rows if (r["case"], r["model"]) == ("case 3", "bad"))
    assert float(row["hd95_mm"]) == result.values["hd95_mm"].value
    assert float(row["boundary_iou_slice_mean"]) == result.slice_means["boundary_iou"].value
    assert (row["n_slices_both"], row["n_slices_missed"], row["n_slices_neither"]) == ("3", "1", "2")


def test_the_summary_is_standard_json_with_schema_definitions_and_n(tmp_path, study):
    path = write_tables(study, tmp_path)["summary"]

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    content = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    assert (content["schema"], content["version"]) == ("livermargin.comparison", 1)
    metric = content["models"]["bad"]["metrics"]["boundary_f_2px"]
    assert metric["patient_mean"]["n"] == 8
    assert metric["slice_mean"]["n"] == 32
    assert content["definitions"]["boundary_f_2px"]["parameter"] == "d = 2 px"
    assert content["definitions"]["nsd_surfel_2mm"]["parameter"] == "tolerance 2 mm"
    used = set(content["models"]["bad"]["metrics"])
    assert used <= set(content["definitions"])
    case = content["cases"][0]
    assert case["boundary_d_px"] == 1
    assert case["models"]["bad"]["values"]["hd_mm"]["of"] == "surface voxels"
    assert case["models"]["bad"]["worst_slices"][0]["index"] == 1
    assert len(content["paired"]) == len(study.paired)
    failed = summarise([compared(0, empty=True)])
    values = json.loads(write_tables(failed, tmp_path)["summary"].read_text())["cases"][0]["models"]["bad"]["values"]
    assert values["hd_mm"]["value"] == "inf"
    assert values["nsd_voxel_1mm"]["value"] == 0.0


def test_text_that_a_spreadsheet_would_run_is_disarmed(tmp_path):
    reference, predictions = patient(0)
    case = compare_case(reference, {'=HYPERLINK("x")': predictions["bad"]}, case="@SUM(A1)")
    text = write_tables(summarise([case]), tmp_path)["per_patient"].read_text(encoding="utf-8")
    row = next(csv.DictReader(text.splitlines()))
    assert row["case"] == "'@SUM(A1)"
    assert row["model"] == '\'=HYPERLINK("x")'
    assert float(row["rvd"]) < 0  # a minus stays a minus


def test_files_that_cannot_be_written_leave_the_old_ones(tmp_path, study, monkeypatch):
    paths = write_tables(study, tmp_path)
    before = {name: path.read_bytes() for name, path in paths.items()}

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(csv, "writer", full)
    with pytest.raises(ResourceError, match="disk is full"):
        write_tables(summarise([compared(5)]), tmp_path)
    assert {name: path.read_bytes() for name, path in paths.items()} == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["per_patient.csv", "per_slice.csv", "summary.json"]
