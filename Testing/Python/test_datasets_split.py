"""Splits by patient, and the refusal of all others."""

from __future__ import annotations

import json

import numpy as np
import pytest
from dataset_builders import ct_like, put, put_case, put_volume

from LiverMarginLib.datasets.case_table import find_row, read_case_table
from LiverMarginLib.datasets.layouts import open_dataset
from LiverMarginLib.datasets.split import Split, liver_slice_count, load_split, split_dataset
from LiverMarginLib.errors import InputError
from LiverMarginLib.events import Notice

# Annotated slices of 25 patients as uneven as the paper's: three patients hold much of everything.
SIZES = (24, 30, 26, 28, 34, 12, 40, 8, 22, 60, 31, 29, 44, 18, 33, 16, 27, 55, 21, 35, 23, 14, 19, 25, 32)


@pytest.fixture(scope="module")
def paper_like(tmp_path_factory):
    root = tmp_path_factory.mktemp("paper")
    mask = np.zeros((8, 8), np.uint8)
    mask[2:5, 1:4] = 1
    for number, size in enumerate(SIZES, start=1):
        # a quarter of the size is enough to show the same
        put_case(root / f"Case {number}", slices=size // 4 + 2, annotated=range(size // 4), seed=number, mask=mask)
    return open_dataset(root)


@pytest.fixture(scope="module")
def folds(paper_like):
    return split_dataset(paper_like, folds=5, seed=3, check_duplicates=False)


def sizes_of(dataset, cases):
    return sum(liver_slice_count(dataset, dataset.case(case)) for case in cases)


def test_five_folds_of_25_patients_test_each_patient_once(paper_like, folds):
    tested = []
    for fold in range(5):
        parts = folds.parts(fold)
        assert {part: len(cases) for part, cases in parts.items()} == {"train": 15, "val": 5, "test": 5}
        assert set(parts["train"]) | set(parts["val"]) | set(parts["test"]) == {c.id for c in paper_like.cases}
        tested += parts["test"]
    assert sorted(tested) == sorted(case.id for case in paper_like.cases)
    assert set(folds.parts(0)["val"]) == set(folds.parts(1)["test"])


def test_stratified_folds_are_closer_in_size_than_unstratified_ones(paper_like):
    def spread(stratify, seed):
        split = split_dataset(paper_like, folds=5, seed=seed, stratify_by_size=stratify, check_duplicates=False)
        sizes = [sizes_of(paper_like, split.parts(fold)["test"]) for fold in range(5)]
        return max(sizes) - min(sizes)

    stratified = [spread(True, seed) for seed in range(8)]
    plain = [spread(False, seed) for seed in range(8)]
    assert np.mean(stratified) < 0.7 * np.mean(plain)
    # each of the five largest patients is in a fold of its own
    largest = sorted(paper_like.cases, key=lambda case: -liver_slice_count(paper_like, case))[:5]
    split = split_dataset(paper_like, folds=5, seed=1, check_duplicates=False)
    assert len({split.cases[case.id] for case in largest}) == 5


def test_the_seed_alone_decides(paper_like, folds):
    assert split_dataset(paper_like, folds=5, seed=3, check_duplicates=False) == folds
    assert split_dataset(paper_like, folds=5, seed=4, check_duplicates=False) != folds


@pytest.mark.parametrize(
    ("fractions", "numbers"),
    [
        ((0.6, 0.2, 0.2), {"train": 15, "val": 5, "test": 5}),
        ((0.8, 0.2), {"train": 20, "val": 5, "test": 0}),
        ({"train": 0.9, "test": 0.1}, {"train": 22, "val": 0, "test": 3}),
        ((0.98, 0.01, 0.01), {"train": 23, "val": 1, "test": 1}),
    ],
)
def test_fractions_are_kept_to_the_patient_and_no_part_is_empty(paper_like, fractions, numbers):
    parts = split_dataset(paper_like, fractions=fractions, check_duplicates=False).parts()
    found = {part: len(cases) for part, cases in parts.items()}
    assert sum(found.values()) == 25
    assert all(abs(found[part] - number) <= 1 and (found[part] > 0) == (number > 0) for part, number in numbers.items())


def test_a_split_comes_back_from_its_file(paper_like, folds, tmp_path):
    folds.save(tmp_path / "split.json")
    assert load_split(tmp_path / "split.json") == folds
    content = json.loads((tmp_path / "split.json").read_text())
    assert (content["by"], content["folds"], content["seed"]) == ("patient", 5, 3)
    assert content["cases"]["Case 1"]["patient"] == "Case 1"
    assert [path.name for path in tmp_path.iterdir()] == ["split.json"]
    folds.check_against(paper_like)


def test_cases_of_one_patient_stay_together(tmp_path):
    for number in range(1, 9):
        put_case(tmp_path / f"Case {number}", seed=number)
    put(tmp_path / "cases.csv", "case,patient\n" + "".join(f"{n},P{(n + 1) // 2}\n" for n in range(1, 9)))
    dataset = open_dataset(tmp_path)
    assert dataset.patients == ("P1", "P2", "P3", "P4")
    split = split_dataset(dataset, folds=4)
    assert all(split.cases[f"Case {n}"] == split.cases[f"Case {n + 1}"] for n in (1, 3, 5, 7))


def test_a_patient_under_two_names_is_refused(tmp_path):
    for number, seed in ((1, 1), (2, 2), (3, 1), (4, 4)):
        put_case(tmp_path / f"Case {number}", seed=seed)
    dataset = open_dataset(tmp_path)
    with pytest.raises(InputError, match="Cases Case 1 and Case 3 share 8 slices but are two patients"):
        split_dataset(dataset, folds=2)
    put(tmp_path / "cases.csv", "case,patient\n1,A\n3,A\n")
    split = split_dataset(open_dataset(tmp_path), folds=2)
    assert split.cases["Case 1"] == split.cases["Case 3"]


def test_a_split_file_with_a_patient_in_training_and_test_is_refused(paper_like, tmp_path):
    content = {
        "schema": 1,
        "by": "patient",
        "fractions": {"train": 0.5, "test": 0.5},
        "cases": {"a": {"patient": "P", "part": "train"}, "b": {"patient": "P", "part": "test"}},
    }
    put(tmp_path / "split.json", json.dumps(content))
    with pytest.raises(InputError, match="Patient P is in two parts"):
        load_split(tmp_path / "split.json")
    # the file may name patients wrongly; the data set knows better
    split = Split("patient", {"Case 1": "train", "Case 2": "test"}, {"Case 1": "x", "Case 2": "y"})
    put(tmp_path / "cases.csv", "case,patient\n1,same\n2,same\n")
    with pytest.raises(InputError, match="Patient same is in two parts"):
        split.check_against(paper_like.with_table(read_case_table(tmp_path / "cases.csv")))
    with pytest.raises(InputError, match="names case Case 99"):
        Split("patient", {"Case 99": "train"}, {"Case 99": "x"}).check_against(paper_like)


def test_a_split_by_slice_is_refused_unless_forced_and_then_carries_a_warning(paper_like, tmp_path):
    with pytest.raises(InputError, match="split by patient"):
        split_dataset(paper_like, fractions=(0.5, 0.5), by="slice", check_duplicates=False)
    told = []
    split = split_dataset(
        paper_like, fractions=(0.5, 0.5), by="slice", force=True, check_duplicates=False, on_event=told.append
    )
    assert any(isinstance(event, Notice) and "by slice" in event.message for event in told)
    split.save(tmp_path / "split.json")
    again = load_split(tmp_path / "split.json")
    assert again == split
    assert "too high" in again.warning
    train, val = again.slices("train"), again.slices("val")
    assert sorted([*train["Case 1"], *val["Case 1"]]) == list(range(8))
    with pytest.raises(InputError, match="by slice"):
        split.parts()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, "Give either"),
        ({"folds": 5, "fractions": (1,)}, "Give either"),
        ({"folds": 1}, "at least 2 folds"),
        ({"folds": 26}, "25 patients with masks cannot be divided into 26 parts"),
        ({"fractions": (0.5, 0.6)}, "add up to 1"),
        ({"fractions": {"train": 0.5, "holdout": 0.5}}, "train, val and test"),
        ({"fractions": (0.25, 0.25, 0.25, 0.25)}, "train, val and test"),
        ({"folds": 5, "by": "case"}, "not by case"),
    ],
)
def test_what_cannot_be_split_is_said(paper_like, options, sentence):
    with pytest.raises(InputError, match=sentence):
        split_dataset(paper_like, check_duplicates=False, **options)


def test_a_case_without_masks_is_in_no_part_and_that_is_said(tmp_path):
    for number in range(1, 4):
        put_case(tmp_path / f"Case {number}", seed=number, annotated=(1,) if number < 3 else ())
    told = []
    split = split_dataset(open_dataset(tmp_path), folds=2, on_event=told.append)
    assert set(split.cases) == {"Case 1", "Case 2"}
    assert Notice("1 cases without masks are in no part of the split.") in told


def test_volumes_are_sized_by_their_slices_with_liver(tmp_path):
    array = ct_like()
    mask = np.zeros(array.shape, np.uint8)
    mask[2:5, 5:9, 5:9] = 1
    put_volume(tmp_path / "p1" / "ct.nii.gz", array)
    put_volume(tmp_path / "p1" / "liver.nii.gz", mask)
    dataset = open_dataset(tmp_path)
    assert liver_slice_count(dataset, dataset.case("p1")) == 3


@pytest.mark.parametrize("text", ["", "[]", '{"schema": 9}', '{"schema": 1, "by": "patient", "cases": {"a": {}}}'])
def test_a_file_that_is_no_split_is_said(tmp_path, text):
    put(tmp_path / "split.json", text)
    with pytest.raises(InputError, match="not a split that can be used"):
        load_split(tmp_path / "split.json")


@pytest.mark.parametrize("part", ["holdout", 2, True, None, ["train"]])
def test_a_part_that_is_none_is_refused(tmp_path, part):
    content = {"schema": 1, "by": "patient", "folds": 2, "cases": {"a": {"patient": "P", "part": part}}}
    put(tmp_path / "split.json", json.dumps(content))
    with pytest.raises(InputError, match="not a split"):
        load_split(tmp_path / "split.json")


def test_the_fold_must_be_named(folds):
    for fold in (None, 5, -1):
        with pytest.raises(InputError, match="say which one is the test"):
            folds.parts(fold)


def test_a_case_table_tells_age_gender_health_and_disease_and_may_leave_cells_empty(tmp_path):
    text = (
        "Case;Age;Sex;Health status;Disease;Ward\nCase 01;54;M;sick;HCC;3\nCase 2;;female;;;\n3;060Y;x;healthy;-;\n\n"
    )
    put(tmp_path / "t.csv", "\ufeff" + text)
    rows = read_case_table(tmp_path / "t.csv")
    first = find_row(rows, "case_1").info
    assert (first.age, first.gender, first.health_status, first.disease) == (54, "male", "sick", "HCC")
    second = find_row(rows, "Case 2").info
    assert (second.age, second.gender, second.health_status, second.disease) == (None, "female", None, None)
    third = find_row(rows, "Case 3").info
    assert (third.age, third.gender, third.disease) == (60, "x", None)
    assert find_row(rows, "Case 11") is None


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("age,sex\n5,m\n", 'no column "case"'),
        ("case,age\n1,old\n", "Line 2 of t.csv has an age"),
        ("case,age\n1,5\n1,6\n", "describes case 1 twice"),
        ("case,age\n,5\n", "does not say which case"),
        ("", 'no column "case"'),
    ],
)
def test_a_wrong_case_table_is_said_by_line(tmp_path, text, sentence):
    put(tmp_path / "t.csv", text)
    with pytest.raises(InputError, match=sentence):
        read_case_table(tmp_path / "t.csv")
