"""`livermargin compare` from end to end: one patient, folders of patients, and what it refuses."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from LiverMarginLib.cli import main
from LiverMarginLib.io.writers import write_labelmap
from LiverMarginLib.terminology import LIVER
from LiverMarginLib.volume import Geometry, LabelMap

SHAPE = (8, 40, 40)


def save(path: Path, *, shift: int = 0, label: int = 1, origin: float = 0.0, flipped: bool = False) -> Path:
    """A block of 16 x 16 pixels on six slices, moved by `shift` pixels."""
    array = np.zeros(SHAPE, np.uint8)
    array[1:7, 12:28, 12 + shift : 28 + shift] = label
    matrix = np.diag((-1.5, -1.5, 3.0, 1.0))
    matrix[0, 3] = origin
    if flipped:
        array = array[:, :, ::-1]
        matrix = matrix @ np.array([[-1, 0, 0, SHAPE[2] - 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_labelmap(LabelMap(np.ascontiguousarray(array), Geometry(SHAPE, matrix), (LIVER,)), path)[0]


def compare(capsys, *words: object) -> dict:
    assert main(["compare", *map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_numbers_are_those_of_hand(tmp_path, capsys):
    """Shifted by 4 of 16 pixels: 12 x 16 common, 20 x 16 in the union."""
    reference, prediction = save(tmp_path / "reference.nii.gz"), save(tmp_path / "prediction.seg.nrrd", shift=4)
    result = compare(capsys, reference, prediction, "-o", tmp_path / "out")
    scores = result["models"]["prediction"]
    assert scores["mask_iou"] == pytest.approx(12 / 20)
    assert scores["dice"] == pytest.approx(12 / 16)
    assert scores["reference_ml"] == pytest.approx(6 * 16 * 16 * 1.5 * 1.5 * 3 / 1000)
    rows = list(csv.DictReader((tmp_path / "out" / "per_slice.csv").open()))
    assert [row["status"] for row in rows] == ["neither", *["both"] * 6, "neither"]
    for name in ("per_patient.csv", "summary.json", "report.html"):
        assert (tmp_path / "out" / name).stat().st_size > 100
    assert list((tmp_path / "out").rglob("*.png"))


def test_the_axis_order_of_a_file_changes_no_number(tmp_path, capsys):
    reference, plain = save(tmp_path / "reference.nii.gz"), save(tmp_path / "plain.nii.gz", shift=3)
    flipped = save(tmp_path / "flipped.nrrd", shift=3, flipped=True)
    models = compare(capsys, reference, plain, flipped, "-o", tmp_path / "out", "--no-report")["models"]
    assert models["plain"] == models["flipped"]


def test_folders_of_patients_are_matched_by_name_and_a_bad_one_stops_nothing(tmp_path, capsys):
    for n in range(3):
        save(tmp_path / "reference" / f"p{n}.nii.gz")
        save(tmp_path / "model" / f"p{n}.seg.nrrd", shift=n)
    (tmp_path / "model" / "p2.seg.nrrd").write_bytes(b"NRRD0004\nbroken")
    save(tmp_path / "reference" / "alone.nii.gz")
    words = [tmp_path / "reference", tmp_path / "model", "-o", tmp_path / "out", "--no-report"]
    result = compare(capsys, *words)
    assert [patient["case"] for patient in result["patients"]] == ["p0", "p1"]
    assert [failure["case"] for failure in result["failed"]] == ["p2"]
    save(tmp_path / "model" / "p2.seg.nrrd", shift=2)
    stored = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "cases").glob("*.json")}
    assert len(compare(capsys, *words)["patients"]) == 3
    assert all(path.stat().st_mtime_ns == time for path, time in stored.items())


def refused(capsys, *words: object) -> str:
    assert main(["compare", *map(str, words)]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("livermargin: ")]
    assert len(lines) == 1
    return lines[0]


def test_a_wrong_label_names_those_there_are(tmp_path, capsys):
    reference, prediction = save(tmp_path / "r.nii.gz", label=5), save(tmp_path / "p.nii.gz")
    assert "5" in refused(capsys, reference, prediction, "--label", "9", "-o", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_reference_of_another_patient_is_refused(tmp_path, capsys):
    reference, prediction = save(tmp_path / "r.nii.gz"), save(tmp_path / "p.nii.gz", origin=500.0)
    refused(capsys, reference, prediction, "-o", tmp_path / "out")
    assert not (tmp_path / "out" / "per_slice.csv").exists()


def test_what_cannot_be_compared_is_refused(tmp_path, capsys):
    reference = save(tmp_path / "r.nii.gz")
    refused(capsys, tmp_path / "nowhere.nii.gz", reference, "-o", tmp_path / "out")
    refused(capsys, reference, tmp_path / "nowhere.nii.gz", "-o", tmp_path / "out")
    refused(capsys, reference, reference, "--name", "a", "--name", "b", "-o", tmp_path / "out")
    save(tmp_path / "left" / "a.nii.gz")
    save(tmp_path / "right" / "b.nii.gz")
    assert "same file name" in refused(capsys, tmp_path / "left", tmp_path / "right", "-o", tmp_path / "out")
