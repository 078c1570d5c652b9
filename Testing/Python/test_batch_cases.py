"""Which images are cases, what they are called, and that nobody is named."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY
from dicom_makers import SECRET, ct_slice, stored_ct
from model_tools import ct, one_sentence

from LiverMarginLib.batch.case_list import read_case_list
from LiverMarginLib.batch.discovery import Choice, find_cases, with_references
from LiverMarginLib.batch.lock import LockedError, run_lock
from LiverMarginLib.batch.privacy import Scrubber
from LiverMarginLib.batch.records import CaseRecord, Status, publish, publish_record, read_record, sweep
from LiverMarginLib.batch.registry import Registry, write_mapping
from LiverMarginLib.batch.tables import write_cases
from LiverMarginLib.errors import InputError
from LiverMarginLib.io.volume_writers import write_volume
from LiverMarginLib.volume import Modality

CT = Choice(Modality.CT, wants_hu=True)


def series(folder: Path, uid: str, count: int = 12, apart: float = 3.0, **elements) -> Path:
    """Write a DICOM CT series."""
    folder.mkdir(parents=True, exist_ok=True)
    for k, pixels in enumerate(stored_ct(count)):
        dataset = ct_slice(pixels, (0.0, 0.0, apart * k), series=uid, **elements)
        dataset.save_as(folder / f"{uid}-{k:03d}.dcm", enforce_file_format=True)
    return folder


def found(root: Path, choice: Choice = CT) -> tuple[list[str], dict[str, str]]:
    """Names of the cases below a folder, and reasons by the name of what is left out."""
    cases, left = find_cases(root, choice)
    return [case.path.name for case in cases], {image.path.name: image.reason for image in left}


def test_of_a_study_the_axial_original_series_that_covers_most_is_taken(tmp_path):
    series(tmp_path / "thin", "1.1", count=12, apart=1.0)
    series(tmp_path / "long", "1.2", count=30, apart=3.0, ImageType=["ORIGINAL", "PRIMARY", "AXIAL"])
    series(tmp_path / "derived", "1.3", count=40, ImageType=["DERIVED", "SECONDARY"])
    series(
        tmp_path / "coronal",
        "1.4",
        count=60,
        ImageType=["ORIGINAL", "PRIMARY"],
        orientation=(1.0, 0.0, 0.0, 0.0, 0.0, -1.0),
    )
    series(tmp_path / "scout", "1.5", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    series(tmp_path / "short", "1.6", count=3)
    series(tmp_path / "mr", "1.7", Modality="MR")
    series(tmp_path / "brain", "1.8", BodyPartExamined="BRAIN")
    cases, left = found(tmp_path)
    assert cases == ["long"]
    assert left["scout"] == "its image type is localizer"
    assert left["short"] == "3 slices, fewer than 10"
    assert left["mr"] == "MR, but the model is for CT"
    assert left["brain"] == "another part of the body"
    everything, _ = found(tmp_path, Choice(Modality.CT, True, min_slices=1, all_series=True))
    assert {"thin", "long", "short", "derived"} <= set(everything)


def test_two_studies_give_two_cases(tmp_path):
    series(tmp_path / "a", "1.1", StudyInstanceUID="1.2.3.1")
    series(tmp_path / "b", "1.2", StudyInstanceUID="1.2.3.2")
    assert found(tmp_path)[0] == ["a", "b"]


def test_a_damaged_series_is_a_case_that_says_so(tmp_path):
    folder = series(tmp_path / "a", "1.1")
    damaged = sorted(folder.iterdir())[4]
    damaged.write_bytes(damaged.read_bytes()[:200])
    lost = tmp_path / "lost"
    lost.mkdir()
    (lost / "1.dcm").write_bytes(b"not DICOM at all")
    cases, _ = find_cases(tmp_path, CT)
    assert [case.path.name for case in cases] == ["a", "lost"]
    assert all(case.problem and one_sentence(case.problem) for case in cases)


def test_label_maps_and_pictures_beside_images_are_no_cases(tmp_path):
    write_volume(ct((8, 32, 32)), tmp_path / "imagesTr/liver_0.nii.gz")
    mask = ct((8, 32, 32))
    labels = type(mask)((mask.array > 100).astype(np.int16), mask.geometry)
    for name in ("labelsTr/liver_0.nii.gz", "x/patient_seg.nrrd", "x/odd.nii.gz"):
        write_volume(labels, tmp_path / name)
    cases, left = found(tmp_path)
    assert cases == ["liver_0.nii.gz"]
    assert left["patient_seg.nrrd"] == "its name says that it is a label map"
    assert left["odd.nii.gz"] == "values from 0 to 1, no Hounsfield units"


def test_references_are_matched_by_file_and_by_folder(tmp_path):
    write_volume(ct(), tmp_path / "in/anna_0000.nii.gz")
    series(tmp_path / "in/bert/s1", "1.1")
    cases, _ = find_cases(tmp_path / "in", CT)
    references = {"anna": Path("anna.nii.gz"), "bert": Path("bert.nrrd")}
    matched = with_references(cases, tmp_path / "in", references)
    assert [case.reference for case in matched] == [Path("anna.nii.gz"), Path("bert.nrrd")]


def test_a_list_of_cases_is_taken_as_it_is_and_a_bad_line_is_a_case_with_a_problem(tmp_path):
    write_volume(ct(), tmp_path / "a.nii.gz")
    series(tmp_path / "d", "1.1", count=3)
    listed = tmp_path / "cohort.csv"
    listed.write_text("image;reference;label\na.nii.gz;r.nrrd;5\nd;;\nnowhere.mha;;\n", encoding="utf-8-sig")
    cases, _ = read_case_list(listed, CT)
    assert [case.path.name for case in cases] == ["a.nii.gz", "d", "nowhere.mha"]
    assert (cases[0].reference, cases[0].label) == (tmp_path / "r.nrrd", "5")
    assert [bool(case.problem) for case in cases] == [False, False, True]


@pytest.mark.parametrize("text", ["", "patient\nx\n", "image\n", "image,reference\n,r.nrrd\n"])
def test_a_list_that_is_no_list_is_refused_with_one_sentence(tmp_path, text):
    (tmp_path / "l.csv").write_text(text)
    with pytest.raises(InputError) as caught:
        read_case_list(tmp_path / "l.csv", CT)
    assert one_sentence(caught.value.message)


def test_names_stay_with_their_places_and_hold_nothing_of_them(tmp_path):
    registry = Registry.load(tmp_path / "registry.json")
    first = registry.names(["doe_jane/ct", "roe/ct"])
    registry.save()
    assert first == {"doe_jane/ct": "case-001", "roe/ct": "case-002"}
    again = Registry.load(tmp_path / "registry.json").names(["adams/ct", "roe/ct"])
    assert again == {"adams/ct": "case-003", "roe/ct": "case-002"}
    assert "doe" not in (tmp_path / "registry.json").read_text()
    other = Registry.load(tmp_path / "other.json")
    other.names(["roe/ct"])
    other.save()
    keys = [set(json.loads((tmp_path / n).read_text())["cases"]) for n in ("registry.json", "other.json")]
    assert not keys[0] & keys[1]  # the same place has another hash elsewhere


def test_a_mapping_is_for_its_owner_alone(tmp_path):
    write_mapping({"case-001": Path("doe_jane.nii.gz")}, tmp_path / "map.csv")
    assert "doe_jane" in (tmp_path / "map.csv").read_text()
    if os.name == "posix":
        assert (tmp_path / "map.csv").stat().st_mode & 0o077 == 0


def test_messages_lose_the_names_of_files_and_folders():
    scrub = Scrubber("/data/Doe^Jane/1970-01-01/ct of Jane.nii.gz", "/data/refs/Jane.nrrd")
    text = scrub("'ct of Jane.nii.gz' in 1970-01-01 of Doe^Jane at /data/Doe^Jane/x is damaged; Jane.nrrd too.")
    assert "Jane" not in text and "1970" not in text
    assert text.startswith("'image' in") and text.endswith("reference too.")
    assert scrub("None of the DICOM files can be read.") == "None of the DICOM files can be read."


def test_a_message_cannot_steer_a_terminal():
    assert Scrubber("/d/a.nii")("x\x1b[2Jb\u202etxt") == "x?[2Jb?txt"


def test_cells_that_a_spreadsheet_would_run_are_text(tmp_path):
    write_cases([CaseRecord("case-001", Status.FAILED, message="=cmd|' /C calc'!A0")], tmp_path / "t.csv")
    assert "'=cmd" in (tmp_path / "t.csv").read_text()


def test_two_runs_in_one_folder_are_refused_and_the_holder_is_named(tmp_path):
    with run_lock(tmp_path, None) as works:
        assert works
        with pytest.raises(LockedError, match=f"process {os.getpid()} on "), run_lock(tmp_path, None):
            pass
        with pytest.raises(LockedError), run_lock(tmp_path, (1, 2)):
            pass
    with run_lock(tmp_path, None):
        pass


def test_parts_of_one_run_share_the_folder(tmp_path):
    with run_lock(tmp_path, (1, 2)), run_lock(tmp_path, (2, 2)):
        for other in (None, (1, 2), (1, 3)):
            with pytest.raises(LockedError), run_lock(tmp_path, other):
                pass


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom LiverMarginLib.batch.lock import run_lock\n"
        "with run_lock(Path(sys.argv[1]), None):\n    print('held', flush=True)\n    time.sleep(60)\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=REPOSITORY, stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(LockedError, match=f"process {holder.pid} on "), run_lock(tmp_path, None):
        pass
    holder.send_signal(getattr(signal, "SIGKILL", signal.SIGTERM))
    holder.communicate()
    with run_lock(tmp_path, None) as works:
        assert works


def test_a_folder_is_replaced_whole_even_if_two_do_it_at_once(tmp_path):
    def publish_often(number: int) -> None:
        for n in range(20):
            made = tmp_path / f"made-{number}-{n}"
            made.mkdir()
            (made / "case.json").write_text("{}")
            publish(made, tmp_path / "final", tmp_path)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(publish_often, range(2)))
    assert (tmp_path / "final/case.json").is_file()


def test_a_failure_takes_the_place_of_an_older_result(tmp_path):
    final = tmp_path / "cases/case-001"
    final.mkdir(parents=True)
    (final / "liver.seg.nrrd").write_text("older")
    publish_record(CaseRecord("case-001", Status.FAILED, message="no"), final, tmp_path / "work")
    assert [path.name for path in final.iterdir()] == ["case.json"]
    assert read_record(final) == CaseRecord("case-001", Status.FAILED, message="no")
    (tmp_path / "work/half").mkdir()
    sweep(tmp_path / "work")
    assert list((tmp_path / "work").iterdir()) == []


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": "other", "version": 1}', '{"schema": 3}'])
def test_a_damaged_record_is_no_record(tmp_path, text):
    (tmp_path / "case.json").write_text(text)
    assert read_record(tmp_path) is None


def test_headers_of_patients_never_reach_the_list_of_cases(tmp_path):
    series(tmp_path / "a", "1.1")
    cases, left = find_cases(tmp_path, CT)
    assert SECRET not in repr((cases, left)) and "4711" not in repr((cases, left))
