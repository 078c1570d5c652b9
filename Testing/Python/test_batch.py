"""A cohort from end to end: a table, a summary, a run that goes on where the last one ended, and nobody named."""

from __future__ import annotations

import csv
import importlib.util
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from conftest import REPOSITORY
from dicom_makers import SECRET, ct_slice, stored_ct
from model_tools import AXIS_ORDERS_AND_FLIPS, ct, reoriented
from scipy.spatial.transform import Rotation

from LiverMarginLib.batch.plan import Case
from LiverMarginLib.batch.records import read_record
from LiverMarginLib.batch.scratch import load_labels, load_volume, save_labels, save_volume
from LiverMarginLib.batch.stages import ComputeJob, FinishJob, ReadJob, read_case
from LiverMarginLib.cli import main
from LiverMarginLib.digest import sha256_of
from LiverMarginLib.errors import InputError, LiverMarginError, ResourceError
from LiverMarginLib.events import ignore
from LiverMarginLib.io.volume_writers import write_volume
from LiverMarginLib.io.writers import write_labelmap
from LiverMarginLib.jobs import job_from_dict, run
from LiverMarginLib.jobs.batch import BatchJob
from LiverMarginLib.terminology import LIVER
from LiverMarginLib.volume import LabelMap

PATIENT = "Mustermann_Erika_19640812"
SHAPE = (12, 32, 32)


def reference_of(volume) -> LabelMap:
    array = np.zeros(volume.array.shape, np.uint8)
    array[2:9, 6:24, 6:24] = 1
    return LabelMap(array, volume.geometry, (LIVER,))


@dataclass
class Cohort:
    """Four cases: a DICOM series that names a patient, two files, of which one is broken, and one in other axes."""

    folder: Path
    model: Path
    output: Path
    whole: bytes

    def batch(self, *words: str) -> int:
        return main(
            ["batch", str(self.folder), "-o", str(self.output), "-m", str(self.model), "--device", "cpu",
             "--references", str(self.folder.parent / "truth"), *words]
        )  # fmt: skip

    @property
    def broken(self) -> Path:
        return self.folder / f"{PATIENT}_2.nii.gz"

    def rows(self) -> dict[str, dict[str, str]]:
        with (self.output / "cases.csv").open(newline="", encoding="utf-8") as stream:
            return {row["case"]: row for row in csv.DictReader(stream)}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory, tiny_model) -> Cohort:
    root = tmp_path_factory.mktemp("cohort")
    data = root / "data"
    (data / PATIENT).mkdir(parents=True)
    for k, pixels in enumerate(stored_ct(12, 32, 32)):
        ct_slice(pixels, (0.0, 0.0, 3.0 * k), series="1.2.840.7").save_as(
            data / PATIENT / f"{k:03d}.dcm", enforce_file_format=True
        )
    first = ct(SHAPE, seed=1)
    write_volume(first, data / f"{PATIENT}_1.nii.gz")
    write_labelmap(reference_of(first), root / "truth" / f"{PATIENT}_1.seg.nrrd")
    write_volume(ct(SHAPE, seed=2), data / f"{PATIENT}_2.nii.gz")
    turned, _ = reoriented(ct(SHAPE, seed=3), *AXIS_ORDERS_AND_FLIPS[29], Rotation.identity())
    write_volume(turned, data / f"{PATIENT}_3.nrrd")
    made = Cohort(data, tiny_model.folder, root / "out", (data / f"{PATIENT}_2.nii.gz").read_bytes())
    made.broken.write_bytes(made.whole[:-2000])
    return made


@pytest.fixture(scope="module")
def ran(cohort) -> Cohort:
    """The cohort after its first run, which ends with 1."""
    assert cohort.batch("-f", "seg.nrrd", "-f", "dcm", "--case-timeout", "600") == 1
    return cohort


def test_every_case_has_a_row_and_the_broken_one_a_reason(ran):
    rows = ran.rows()
    assert [row["status"] for row in rows.values()] == ["done", "done", "failed", "done"]
    assert rows["case-003"]["message"] == (
        "'image' is truncated or damaged: its compressed data end early; copy or export it again."
    )
    for name in ("case-001", "case-002", "case-004"):
        labels = sitk.ReadImage(str(ran.output / "cases" / name / "liver.seg.nrrd"))
        millilitres = np.prod(labels.GetSpacing()) * (sitk.GetArrayViewFromImage(labels) > 0).sum() / 1000
        assert float(rows[name]["volume_ml"]) == pytest.approx(millilitres, abs=0.006)
        assert 0.5 <= float(rows[name]["least_confidence"]) <= float(rows[name]["confidence"]) <= 1
        assert 0 <= int(rows[name]["least_sure_slice"]) < int(rows[name]["slices"])


def test_a_case_with_a_reference_is_measured(ran):
    found = sitk.GetArrayFromImage(sitk.ReadImage(str(ran.output / "cases/case-002/liver.seg.nrrd"))) > 0
    truth = reference_of(ct(SHAPE, seed=1)).array > 0
    dice = 2 * (found & truth).sum() / (found.sum() + truth.sum())
    assert float(ran.rows()["case-002"]["dice"]) == pytest.approx(dice, abs=1e-6)
    assert ran.rows()["case-004"]["dice"] == ""


def test_dicom_seg_is_written_where_the_image_is_dicom(ran):
    assert [path.parent.name for path in sorted(ran.output.glob("cases/*/liver.dcm"))] == ["case-001"]


def test_run_json_tells_what_went_in_and_what_came_out(ran):
    values = json.loads((ran.output / "run.json").read_text())
    assert values["counts"] == {"done": 3, "no liver found": 0, "failed": 1, "not done": 0}
    assert values["models"][0]["name"] == "tiny" and len(values["models"][0]["sha256"]["model.onnx"]) == 64
    for case in values["cases"]:
        for name, digest in case["sha256_out"].items():
            assert sha256_of(ran.output / "cases" / case["case"] / name) == digest


def test_the_summary_shows_every_case_and_loads_nothing(ran):
    page = (ran.output / "summary.html").read_text()
    assert page.count('src="data:image/png;base64,') == 3
    assert "http://" not in page and "https://" not in page
    assert "Look at these first: case-001, case-002, case-003 and case-004." in page  # an untrained model is unsure


def test_nothing_that_is_written_names_the_patient(ran):
    secrets = [PATIENT, "Mustermann", "19640812", SECRET, "ID-4711", "ACC-0815", str(ran.folder.parent)]
    looked = 0
    for path in ran.output.rglob("*"):
        assert not any(secret in path.name for secret in secrets)
        if path.is_file() and path.suffix != ".dcm":  # DICOM SEG keeps the references that the standard requires
            content = path.read_bytes()
            looked += 1
            assert not [secret for secret in secrets if secret.encode() in content], path
    assert looked > 15


def test_a_second_run_computes_nothing_that_is_there(ran, capsys):
    before = {path: sha256_of(path) for path in ran.output.glob("cases/*/*")}
    ran.broken.write_bytes(ran.whole)
    assert ran.batch("-f", "dcm", "-f", "seg.nrrd", "--json", "--mapping", str(ran.output.parent / "map.csv")) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["computed"] == 1
    assert values["counts"]["done"] == 4
    after = {path: sha256_of(path) for path in ran.output.glob("cases/*/*")}
    unchanged = [path for path in before if path.parent.name != "case-003"]
    assert all(after[path] == before[path] for path in unchanged)
    assert (ran.output.parent / "map.csv").read_text().count(PATIENT) == 4


def test_a_model_of_the_same_weights_with_another_threshold_computes_again(tmp_path, tiny_model, capsys):
    model = shutil.copytree(tiny_model.folder, tmp_path / "model")
    write_volume(ct(SHAPE, seed=1), tmp_path / "data/a.nii.gz")
    words = ["batch", str(tmp_path / "data"), "-o", str(tmp_path / "out"), "-m", str(model), "--device", "cpu"]

    def computed() -> int:
        assert main([*words, "--json"]) == 0
        return json.loads(capsys.readouterr().out)["computed"]

    assert computed() == 1
    description = json.loads((model / "model.json").read_text())
    description["thresholds"]["mask"] = 0.625
    (model / "model.json").write_text(json.dumps(description))
    assert computed() == 1
    assert computed() == 0


def test_a_plan_names_cases_and_reasons_and_writes_nothing(cohort, tmp_path, capsys):
    shutil.copytree(cohort.folder.parent, tmp_path / "all")
    output = tmp_path / "all/out"
    before = sorted(output.rglob("*"))
    words = ["batch", str(tmp_path / "all"), "-o", str(output), "-m", str(cohort.model), "--dry-run", "--json"]
    assert main(words) == 0
    values = json.loads(capsys.readouterr().out)
    assert len(values["cases"]) == 4
    assert [image["reason"] for image in values["left_out"]] == ["a segmentation"]
    assert len(values["rules"]) > 3
    assert sorted(output.rglob("*")) == before


@pytest.mark.parametrize(
    "words",
    [
        ["nowhere", "-o", "o"],
        ["."],
        [".", "-o", "o", "-m", "no-such-model"],
        [".", "-o", "o", "-f", "docx"],
        [".", "-o", "o", "--shard", "3/2"],
        [".", "-o", "o", "--workers", "0"],
        [".", "-o", "o", "--case-timeout", "-1"],
        ["merge", "."],
        ["merge"],
    ],
)
def test_what_cannot_start_ends_with_2_and_one_sentence(tmp_path, monkeypatch, capsys, words):
    monkeypatch.chdir(tmp_path)
    assert main(["batch", *words]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("livermargin: ") and "Traceback" not in error
    assert not (tmp_path / "o").exists()


def test_the_script_runs_in_any_python_and_gives_the_exit_code(tmp_path):
    script = str(REPOSITORY / "scripts/batch_segment.py")
    for words in (["nowhere", "-o", "o"], ["--", "nowhere", "-o", "o"]):
        done = subprocess.run([sys.executable, script, *words], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 2
        assert "does not exist" in done.stderr


def test_a_plan_is_printed_where_rich_is_missing_as_in_slicers_python(cohort, monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setitem(sys.modules, "rich", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None if name == "rich" else find(name, *rest))
    assert cohort.batch("--dry-run") == 0
    assert "case-001\t" in capsys.readouterr().out


def test_a_batch_is_a_job_that_every_door_can_run():
    job = BatchJob(("in",), "out", formats=("stl",), shard="2/8", memory_limit=4)
    assert job_from_dict(json.loads(json.dumps(job.to_dict()))) == job
    assert job.part() == (2, 8)


# The stages, without processes.


@pytest.fixture
def one(tmp_path, tiny_model):
    """A case on disk, and how to run its three stages here."""
    image = write_volume(ct(seed=5), tmp_path / "a.nii.gz")

    class Stages:
        case = Case("case-001", str(image))
        final = tmp_path / "out/cases/case-001"
        path = image

        def __init__(self) -> None:
            self.count = 0

        def fields(self, case: Case) -> dict:
            self.scratch = tmp_path / f"out/work/{self.count}"
            return {"case": {**case.__dict__, "files": list(case.files)}, "scratch": str(self.scratch)}

        def read(self, settings: str = "s", again: bool = False) -> dict:
            self.count += 1
            return run(ReadJob(**self.fields(self.case), settings=settings, final=str(self.final), again=again))

        def compute(self) -> dict:
            options = {"model": str(tiny_model.folder), "device": "cpu"}
            return run(ComputeJob(**self.fields(self.case), options=options))

        def finish(self, key: str, formats=("seg.nrrd",)) -> dict:
            return run(FinishJob(**self.fields(self.case), final=str(self.final), formats=formats, key=key))

        def all(self) -> dict:
            read = self.read()
            if not read["unchanged"]:
                self.compute()
                self.finish(read["key"])
            return read

    return Stages()


def test_a_result_is_kept_until_image_settings_or_files_change(one):
    assert not one.all()["unchanged"]
    assert one.read()["unchanged"]
    assert not one.read(settings="other")["unchanged"]
    (one.final / "liver.seg.nrrd").write_bytes(b"half")
    assert not one.all()["unchanged"]
    assert one.read()["unchanged"]
    write_volume(ct(seed=6), one.path)
    assert not one.read()["unchanged"]


def test_the_same_case_gives_the_same_bytes(one):
    one.all()
    first = {path.name: path.read_bytes() for path in one.final.iterdir() if path.name != "case.json"}
    shutil.rmtree(one.final)
    one.all()
    assert first == {path.name: path.read_bytes() for path in one.final.iterdir() if path.name != "case.json"}


def test_an_image_cut_off_while_it_is_read_is_refused(one, monkeypatch):
    from LiverMarginLib.batch import stages

    def read_and_cut(case, on_event):
        volume = read_case(case, on_event)
        one.path.write_bytes(one.path.read_bytes()[:-100])
        return volume

    monkeypatch.setattr(stages, "read_case", read_and_cut)
    answer = one.read()
    assert (answer["kind"], answer["problem"]) == (
        "input", "The image changed while it was read; start again when it is complete."
    )  # fmt: skip


def test_a_failure_of_the_files_is_not_repeated_unless_asked_for(one, tmp_path):
    from LiverMarginLib.batch.records import CaseRecord, Status, publish_record

    key = one.read()["key"]
    for error, settled in (("input", True), ("crash", False), ("resource", False), ("timeout", False)):
        publish_record(CaseRecord("case-001", Status.FAILED, key, error=error), one.final, tmp_path / "w")
        assert one.read()["unchanged"] is settled
        assert not one.read(again=True)["unchanged"]


def test_an_image_that_may_not_be_read_is_said_in_one_sentence(one, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied", "a.nii.gz")

    monkeypatch.setattr("LiverMarginLib.batch.stages.content_digest", refuse)
    with pytest.raises(ResourceError, match="Permission was denied"):
        one.read()


@pytest.mark.parametrize("where", ["save_volume", "save_labels"])
def test_a_full_disk_is_one_sentence_and_leaves_the_older_result(one, monkeypatch, where):
    one.all()
    before = (one.final / "liver.seg.nrrd").read_bytes()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"LiverMarginLib.batch.scratch.{where}", full)
    with pytest.raises(ResourceError, match="disk is full"):
        key = one.read(settings="other")["key"]
        one.compute()
        one.finish(key)
    assert (one.final / "liver.seg.nrrd").read_bytes() == before
    assert read_record(one.final) is not None


def test_a_full_disk_while_the_files_are_written_publishes_nothing(one, monkeypatch):
    key = one.read()["key"]
    one.compute()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("LiverMarginLib.batch.stages.write_record", full)
    with pytest.raises(ResourceError, match="disk is full"):
        one.finish(key)
    assert not one.final.exists()


def test_an_output_folder_that_is_taken_away_is_one_sentence(one):
    key = one.read()["key"]
    one.compute()
    shutil.rmtree(one.scratch)
    with pytest.raises(InputError, match="no such file or folder"):
        one.finish(key)


def test_a_gpu_without_memory_gives_way_to_the_cpu(one, monkeypatch, tiny_model):
    from model_tools import Fake

    from LiverMarginLib.inference import model, slicewise, warm

    monkeypatch.setattr(warm, "_kept", [])
    monkeypatch.setattr(model, "load_segmenter", lambda *_, **__: Fake(holds=0, device="cuda"))
    monkeypatch.setattr(slicewise, "load_segmenter", lambda *_, **__: Fake())
    key = one.read()["key"]
    one.compute()
    one.finish(key)
    record = read_record(one.final)
    assert (record.status, record.device) == ("done", "cpu")


def test_no_liver_is_a_status_of_its_own(one, tiny_model):
    key = one.read()["key"]
    one.compute()
    labels, _ = load_labels(one.scratch)
    save_labels(LabelMap(np.zeros_like(labels.array), labels.geometry, labels.segments, labels.provenance), one.scratch)
    one.finish(key, ("seg.nrrd", "stl"))
    record = read_record(one.final)
    assert (record.status, set(record.files)) == ("no liver found", {"liver.seg.nrrd", "preview.png"})


def test_a_reference_that_cannot_be_used_spoils_no_segmentation(one, tmp_path):
    (tmp_path / "r.nrrd").write_bytes(b"NRRD0005\n")
    one.case = Case("case-001", str(one.path), reference=str(tmp_path / "r.nrrd"))
    one.all()
    record = read_record(one.final)
    assert (record.status, record.error, dict(record.metrics)) == ("done", "input", {})
    assert "not measured" in record.message


def test_scratch_gives_back_what_was_put_in(tmp_path):
    volume, _ = reoriented(ct(), *AXIS_ORDERS_AND_FLIPS[17], Rotation.from_euler("xyz", (5, 9, 2), degrees=True))
    save_volume(volume, tmp_path)
    again = load_volume(tmp_path)
    np.testing.assert_array_equal(again.array, volume.array)
    np.testing.assert_array_equal(again.geometry.ijk_to_ras, volume.geometry.ijk_to_ras)
    assert (again.modality, again.intensity, again.notes) == (volume.modality, volume.intensity, volume.notes)
    labels = LabelMap((volume.array > 0).astype(np.uint8), volume.geometry, (LIVER,), {"confidence": 0.5})
    save_labels(labels, tmp_path)
    back, _ = load_labels(tmp_path)
    np.testing.assert_array_equal(back.array, labels.array)
    assert (back.segments, dict(back.provenance)) == (labels.segments, {"confidence": 0.5})


def test_every_refusal_of_the_stages_is_ours(one):
    with pytest.raises(LiverMarginError):
        run(ComputeJob(**one.fields(one.case), options={"model": "x"}))
    assert ignore(None) is None
