"""`livermargin dataset`, and the jobs behind it."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from dataset_builders import png, put, put_case, put_volume, two_pieces

from LiverMarginLib.cli import main
from LiverMarginLib.datasets.layouts import open_dataset
from LiverMarginLib.datasets.split import load_split
from LiverMarginLib.jobs import job_from_dict
from LiverMarginLib.jobs.dataset import SplitDatasetJob


@pytest.fixture
def data(tmp_path):
    for number in range(1, 7):
        put_case(tmp_path / "data" / f"Case {number}", seed=number)
    return tmp_path / "data"


def test_check_prints_the_table_and_writes_the_reports(data, tmp_path, capsys):
    put(data / "Case 3" / "images" / "0002.png", b"\x89PNG cut")
    outputs = [str(tmp_path / f"report{suffix}") for suffix in (".json", ".csv", ".txt")]
    assert main(["dataset", "check", str(data), *(word for path in outputs for word in ("-o", path))]) == 0
    printed = capsys.readouterr().out
    assert "Layout: case folders with images and masks, 6 cases." in printed
    assert "Case 3: 0002.png is damaged or not a picture; export it again." in printed
    assert json.loads((tmp_path / "report.json").read_text())["cases"][2]["images"] == 8
    assert len(list(csv.DictReader((tmp_path / "report.csv").open()))) == 6
    assert (tmp_path / "report.txt").read_text() in printed


def test_check_speaks_json(data, capsys):
    assert main(["dataset", "check", str(data), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [case["annotated_slices"] for case in result["cases"]] == [3] * 6
    assert "text" not in result


def test_split_writes_a_split_by_patient(data, tmp_path, capsys):
    output = tmp_path / "split.json"
    assert main(["dataset", "split", str(data), "-o", str(output), "--folds", "3", "--seed", "4"]) == 0
    assert "fold 2: 2 cases" in capsys.readouterr().out
    assert sorted(load_split(output).cases.values()) == [0, 0, 1, 1, 2, 2]
    assert main(["dataset", "split", str(data), "-o", str(output), "--fractions", "0.5", "0.5"]) == 0
    assert {part: len(cases) for part, cases in load_split(output).parts().items()} == {"train": 3, "val": 3, "test": 0}


def test_a_split_by_slice_needs_force_and_warns(data, tmp_path, capsys):
    words = [
        "dataset",
        "split",
        str(data),
        "-o",
        str(tmp_path / "s.json"),
        "--fractions",
        "0.5",
        "0.5",
        "--by",
        "slice",
    ]
    assert main(words) == 2
    assert "split by patient (or force it)" in capsys.readouterr().err
    assert not (tmp_path / "s.json").exists()
    assert main([*words, "--force"]) == 0
    assert "warning: This split is by slice" in capsys.readouterr().err


def test_export_writes_a_zip_a_case_that_opens_as_the_same_data(data, tmp_path, capsys):
    assert main(["dataset", "export-kitti", str(data), "-o", str(tmp_path / "out")]) == 0
    assert "Case 4.zip (3 frames)" in capsys.readouterr().out
    again = open_dataset(tmp_path / "out")
    before = open_dataset(data)
    for case in before.cases:
        first, second = before.load(case), again.load(case.id)
        np.testing.assert_array_equal(first.volume.array, second.volume.array)
        np.testing.assert_array_equal(first.labels.array, second.labels.array)
        np.testing.assert_array_equal(first.annotated, second.annotated)
        assert [name.rpartition("/")[2] for name in again.case(case.id).images.names] == [
            f"{number:04d}.png" for number in range(1, 9)
        ]


def test_export_goes_on_after_a_damaged_case_and_leaves_finished_zips_alone(data, tmp_path, capsys):
    put(data / "Case 2" / "images" / "0002.png", png(two_pieces()[:5]))
    out = tmp_path / "out"
    assert main(["dataset", "export-kitti", str(data), "-o", str(out)]) == 2
    assert "Case 2 is not exported: Case Case 2 has images of several sizes" in capsys.readouterr().err
    assert sorted(path.name for path in out.iterdir()) == [f"Case {n}.zip" for n in (1, 3, 4, 5, 6)]
    before = (out / "Case 1.zip").stat().st_mtime_ns
    main(["dataset", "export-kitti", str(data), "-o", str(out)])
    assert "Case 1.zip exists already" in capsys.readouterr().err
    assert (out / "Case 1.zip").stat().st_mtime_ns == before


def test_export_of_a_volume_lies_in_the_zip_as_in_the_patient(tmp_path):
    array = np.zeros((4, 10, 12), np.int16)
    array[:, 2:8, 2:10] = 60
    array[3, 2, 2] = 200  # SimpleITK writes LPS: i to the left, j to posterior, k to superior
    mask = (array == 200).astype(np.uint8)
    put_volume(tmp_path / "data" / "p" / "ct.nii.gz", array)
    put_volume(tmp_path / "data" / "p" / "liver.nii.gz", mask)
    words = ["dataset", "export-kitti", str(tmp_path / "data"), "-o", str(tmp_path / "out"), "--window", "0", "200"]
    assert main(words) == 0
    loaded = open_dataset(tmp_path / "out").load("p")
    assert np.argwhere(loaded.labels.array).tolist() == [[0, 2, 2]]  # first file: uppermost slice
    assert loaded.volume.array[0, 2, 2] == 255


def test_a_wrong_path_is_one_sentence_and_exit_code_2(tmp_path, capsys):
    assert main(["dataset", "check", str(tmp_path / "nowhere")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "does not exist" in error
    put(tmp_path / "a" / "x.txt", "")
    assert main(["dataset", "check", str(tmp_path / "a"), "-o", "report.pdf"]) == 2
    assert ".json, .csv or .txt" in capsys.readouterr().err


def test_the_jobs_survive_json(data):
    job = SplitDatasetJob(data=str(data), folds=3, spacing=(5.0, 0.7, 0.7), label="liver")
    assert job_from_dict(json.loads(json.dumps(job.to_dict()))) == job
