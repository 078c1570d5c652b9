"""Files and names from outside that want more than to be read; what is fuzzed is in test_fuzz.py."""

from __future__ import annotations

import io
import json
import logging
import os
import struct
import threading
import time
import tracemalloc
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import REPOSITORY
from dataset_builders import ct_like, put, put_case, put_volume
from dicom_makers import ct_slice, save, stored_ct, write_series
from example_labels import example
from pydicom.uid import DeflatedExplicitVRLittleEndian

from LiverMarginLib import cli, worker
from LiverMarginLib.comparison.tables import write_csv
from LiverMarginLib.csv_table import write_rows
from LiverMarginLib.datasets.case_table import read_case_table
from LiverMarginLib.datasets.check import check_dataset
from LiverMarginLib.datasets.layouts import open_dataset
from LiverMarginLib.datasets.split import load_split
from LiverMarginLib.errors import BundleError, InputError, LiverMarginError, ResourceError, technical
from LiverMarginLib.events import Notice
from LiverMarginLib.io import dicom_files
from LiverMarginLib.io.archive import open_tree
from LiverMarginLib.io.notes import Notes
from LiverMarginLib.io.readers import list_images, read_labels, read_volume
from LiverMarginLib.io.writers import write_labelmap
from LiverMarginLib.jobs import job_from_dict, run
from LiverMarginLib.jobs.base import Job
from LiverMarginLib.jobs.export import ExportJob
from LiverMarginLib.models.manifest import Manifest
from LiverMarginLib.models.onnx_guard import check_graph

HOSTILE = "\x1b]0;owned\x07\x1b[2J\r\n\u202e<b>=1+1"


def refusal(read, *arguments) -> str:
    """The sentence of a refusal, for which no memory was taken."""
    tracemalloc.start()
    try:
        with pytest.raises(LiverMarginError) as caught:
            read(*arguments)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
    assert caught.value.message.isprintable()
    return caught.value.message


# --- headers that announce 10^12 voxels and more


def huge_nifti(path: Path) -> Path:
    put_volume(path, ct_like((4, 9, 8)))
    content = bytearray(path.read_bytes())
    struct.pack_into("<4h", content, 40, 3, 10_000, 10_000, 10_000)
    path.write_bytes(content)
    return path


def huge_text(path: Path, old: bytes, new: bytes) -> Path:
    put_volume(path, ct_like((4, 9, 8)))
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))
    return path


def test_a_header_of_a_billion_billion_voxels_is_refused_before_memory_is_taken(tmp_path):
    paths = [
        huge_nifti(tmp_path / "a.nii"),
        huge_text(tmp_path / "b.nrrd", b"sizes: 8 9 4", b"sizes: 1000000 1000000 1000000"),
        huge_text(tmp_path / "c.mha", b"DimSize = 8 9 4", b"DimSize = 1000000 1000000 1000000"),
        save(ct_slice(stored_ct(1)[0], Rows=65535, Columns=65535), tmp_path / "d.dcm"),
        save(ct_slice(stored_ct(1)[0], NumberOfFrames=2_000_000_000), tmp_path / "e.dcm"),
    ]
    for path in paths:
        for read in (read_volume, read_labels, list_images):
            if read is list_images:
                with suppress(LiverMarginError):
                    assert list_images(path)[0].problem
            else:
                refusal(read, path)


def test_a_deflated_dicom_file_that_inflates_without_end_is_not_inflated(tmp_path, monkeypatch):
    dataset = ct_slice(stored_ct(1)[0])
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    path = save(dataset, tmp_path / "bomb.dcm")
    assert read_volume(path).array.shape == (1, 12, 10)
    content = path.read_bytes()
    start = 144 + int.from_bytes(content[140:144], "little")
    packer = zlib.compressobj(9, wbits=-15)
    element = b"\xe0\x7f\x10\x00OW\0\0" + struct.pack("<I", 40 << 20)
    body = zlib.decompress(content[start:], -15).partition(b"\xe0\x7f\x10\x00")[0]
    path.write_bytes(content[:start] + packer.compress(body + element + bytes(40 << 20)) + packer.flush())
    monkeypatch.setattr(dicom_files, "_LARGEST_INFLATED", 8 << 20)
    refusal(read_volume, path)


def test_two_frames_of_a_dicom_seg_at_both_ends_of_the_world_do_not_make_a_volume_between(tmp_path):
    import pydicom

    write_series(tmp_path / "ct", stored_ct(3, 6, 5))
    volume = read_volume(tmp_path / "ct")
    labels = example()
    array = np.ones(volume.geometry.shape, np.uint8)
    write_labelmap(type(labels)(array, volume.geometry, labels.segments[:1]), tmp_path / "s.dcm",
                   source=tmp_path / "ct")  # fmt: skip
    dataset = pydicom.dcmread(tmp_path / "s.dcm")
    frames = dataset.PerFrameFunctionalGroupsSequence
    frames[-1].PlanePositionSequence[0].ImagePositionPatient[2] += 2.0 * 10**7
    dataset.save_as(tmp_path / "far.dcm")
    assert "far apart" in refusal(read_labels, tmp_path / "far.dcm")


# --- paths that lead elsewhere


@pytest.mark.parametrize(
    "field",
    ["NDims = 99999999999999999999999", "NDims = 4", "BinaryData = False", "DimSize = 8 9", "ElementSpacing = nan 1 1",
     "TransformMatrix = 1 0 0", "ElementNumberOfChannels = 10000000", "ElementDataFile = LIST"],
)  # fmt: skip
def test_a_metaimage_header_that_itk_does_not_bear_is_refused_before_itk_sees_it(tmp_path, field):
    put_volume(tmp_path / "image.mhd", ct_like((4, 9, 8)))
    key = field.partition(" =")[0]
    lines = [line for line in (tmp_path / "image.mhd").read_text().splitlines() if not line.startswith(key)]
    at = len(lines) if key == "ElementDataFile" else 0
    (tmp_path / "image.mhd").write_text("\n".join([*lines[:at], field, *lines[at:]]) + "\n")
    refusal(read_volume, tmp_path / "image.mhd")


def test_detached_voxels_that_end_early_are_refused_before_itk_sees_them(tmp_path):
    put_volume(tmp_path / "image.mhd", ct_like((4, 9, 8)))
    (tmp_path / "image.raw").write_bytes((tmp_path / "image.raw").read_bytes()[:3])
    assert "shorter than its header says" in refusal(read_volume, tmp_path / "image.mhd")


@pytest.mark.parametrize("name", ["/etc/passwd", "../secret.raw", "..\\secret.raw", "C:\\secret.raw", "link.raw", ""])
@pytest.mark.parametrize(("suffix", "key"), [(".nhdr", "data file: "), (".mhd", "ElementDataFile = ")])
def test_a_detached_header_cannot_name_a_file_outside_its_folder(tmp_path, name, suffix, key):
    path = tmp_path / "study" / f"image{suffix}"
    put_volume(path, ct_like((4, 9, 8)))
    put(tmp_path / "secret.raw", bytes(10_000))
    (tmp_path / "study" / "link.raw").symlink_to(tmp_path / "secret.raw")
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(key + name + "\n" if line.startswith(key.strip(" =:")) else line for line in lines))
    message = refusal(read_volume, path)
    assert "outside of its own folder" in message or name == ""


def test_links_out_of_a_folder_are_told_and_not_followed(tmp_path):
    secret = tmp_path / "secret"
    write_series(secret)
    folder = tmp_path / "study"
    write_series(folder, stored_ct(3))
    (folder / "more.dcm").symlink_to(secret / "IM0.dcm")
    (folder / "own.dcm").symlink_to(folder / "IM0.dcm")
    told = []
    with pytest.raises(InputError, match=r"holds no image|is empty"):
        (tmp_path / "only").mkdir()
        (tmp_path / "only" / "a.dcm").symlink_to(secret / "IM0.dcm")
        read_volume(tmp_path / "only")
    assert read_volume(folder, on_event=told.append).array.shape[0] == 3
    assert [event.message for event in told if isinstance(event, Notice) and "out of the folder" in event.message]


def test_links_out_of_a_data_set_are_told_and_not_followed(tmp_path):
    put_case(tmp_path / "data" / "case_1")
    put_case(tmp_path / "elsewhere" / "case_2")
    picture = tmp_path / "data" / "case_1" / "images" / "0099.png"
    picture.symlink_to(tmp_path / "elsewhere" / "case_2" / "images" / "0001.png")
    dataset = open_dataset(tmp_path / "data")
    assert any("out of the folder" in note for note in dataset.notes)
    assert len(dataset.cases[0].images.names) == 8


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes in folders")
def test_a_pipe_in_a_folder_does_not_make_anybody_wait(tmp_path):
    write_series(tmp_path, stored_ct(3))
    os.mkfifo(tmp_path / "IM9.dcm")
    found = []
    reading = threading.Thread(target=lambda: found.append(read_volume(tmp_path).array.shape[0]), daemon=True)
    reading.start()
    reading.join(60)
    assert found == [3]


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_a_zip_that_needs_gigabytes_to_be_unpacked_is_refused(tmp_path, method):
    with zipfile.ZipFile(tmp_path / "x.zip", "w", method) as archive:
        archive.writestr("a.png", b"content")
    assert "unusual way" in refusal(open_tree, tmp_path / "x.zip")


def test_a_zip_with_a_file_without_a_name_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        entry = zipfile.ZipInfo("a")
        entry.filename = ""
        archive.writestr(entry, b"content")
    assert "outside the zip" in refusal(open_tree, tmp_path / "x.zip")


# --- JSON without end


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "1" * 100_000, "NaN", '{"schema": Infinity}'])
def test_json_without_end_or_sense_is_refused_by_every_reader(tmp_path, text):
    put(tmp_path / "dataset.json", text)
    put(tmp_path / "split.json", text)
    refusal(open_dataset, tmp_path)
    refusal(load_split, tmp_path / "split.json")
    refusal(Manifest.from_json, text)
    assert [reply["kind"] for reply in replies_to(text.encode() + b"\n")] == ["input"]


def test_a_number_that_no_float_holds_is_not_a_number_of_a_job():
    job = {"job": "segment", "input": "a", "model": "b", "outputs": ["c"]}
    for value in (10**400, float("inf"), "\ud800" * 10**6):
        if value != float("inf"):
            assert len(refusal(job_from_dict, {**job, "threshold": value})) < 400
    assert len(refusal(job_from_dict, {**job, "x" * 10**6: 1})) < 1500


# --- text that acts


class Commands(io.BytesIO):
    """Lines for a worker, which end only when as many of them as are jobs have been answered."""

    def __init__(self, lines: bytes, replies: io.StringIO, answers: int) -> None:
        super().__init__(lines)
        self._replies, self._answers = replies, answers

    def readline(self, size: int | None = -1, /) -> bytes:
        line = super().readline(size)
        until = time.monotonic() + 20
        while not line and self._replies.getvalue().count('"error"') < self._answers and time.monotonic() < until:
            time.sleep(0.01)
        return line


def replies_to(commands: bytes, answers: int = 1) -> list[dict]:
    replies = io.StringIO()
    assert worker.Worker(Commands(commands, replies, answers), replies).serve() == 0
    lines = replies.getvalue().split("\n")
    assert lines.pop() == ""
    assert lines == replies.getvalue().splitlines()  # nor does anything else end a line
    return [json.loads(line) for line in lines][1:]


@pytest.fixture(autouse=True)
def _workers_do_not_end_the_tests(monkeypatch):
    monkeypatch.setattr(worker, "_leave", lambda: None)


def test_no_name_can_make_a_line_of_its_own_in_the_protocol(tmp_path):
    job = ExportJob(f'{tmp_path}/{HOSTILE}\u2028\x85{{"event": "result"}}\udcff.nrrd', (f"{tmp_path}/o.nrrd",))
    (reply,) = replies_to(json.dumps(job.to_dict()).encode() + b"\n")
    assert (reply["event"], reply["kind"]) == ("error", "input")
    assert reply["message"].isprintable()


def test_the_end_of_a_line_that_is_too_long_is_not_a_job_of_its_own(tmp_path):
    job = json.dumps(ExportJob("nowhere.nrrd", ("o.nrrd",)).to_dict()).encode()
    replies = replies_to(b" " * worker.MAX_LINE + job + b"\n" + job + b"\n", answers=2)
    assert ["too long" in reply["message"] for reply in replies] == [True, False]


def test_what_is_unforeseen_is_told_without_values(monkeypatch, caplog):
    quoted = ["Doe", "Jane"]

    def fail(*arguments):
        raise ValueError("^".join(quoted))

    monkeypatch.setattr(worker, "run", fail)
    job = json.dumps(ExportJob("a.nrrd", ("o.nrrd",)).to_dict()).encode()
    (reply,) = replies_to(job + b"\n")
    assert reply["kind"] == "internal"
    assert "ValueError" in reply["details"]
    assert "test_hostile_input.py" in reply["details"]
    assert "Doe^Jane" not in json.dumps(reply) + caplog.text


def test_messages_notices_and_notes_are_one_line_that_a_terminal_only_shows(caplog):
    caplog.set_level(logging.INFO)
    notes = Notes()
    notes.add(f"A {HOSTILE} note.")
    for text in (InputError(HOSTILE).message, Notice(HOSTILE).message, notes.sentences[0], caplog.messages[0]):
        assert text.isprintable()
        assert "<b>=1+1" in text
    assert InputError("Größe 肝臓 كبد").message == "Größe 肝臓 كبد"


def test_a_file_name_cannot_steer_the_terminal(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = HOSTILE.replace("\n", "").replace("/", "")
    put_volume(tmp_path / f"{name}.nrrd", ct_like((4, 9, 8)))
    assert cli.main(["info", "."]) == 0
    assert cli.main(["info", "--json", "."]) == 0
    assert cli.main(["info", f"{name}.nii"]) == 2
    assert cli.main(["segment", f"{name}.nrrd", "-m", name, "-o", "a.nrrd"]) == 2
    assert cli.main(["export", f"{name}.nrrd", "-o", f"{name}.txt"]) == 2
    shown = "".join(capsys.readouterr())
    assert "owned" in shown
    assert {c for c in shown if not c.isprintable()} <= {"\n"}


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t=", "\r=", " =", "a;=", "a\t@", "a\n=", "\uff1d", "a|-"])
def test_no_cell_of_a_table_is_a_formula_in_any_spreadsheet(tmp_path, start):
    text = f"{start}HYPERLINK(1)"
    write_csv([{"case": text, "dice": -0.5, text: "fine"}], tmp_path / "t.csv")
    buffer = io.StringIO()
    write_rows(buffer, [["case", text]])
    for written in ((tmp_path / "t.csv").read_text(encoding="utf-8"), buffer.getvalue()):
        for separator in ",;|":
            for cell in (part.strip(' "') for line in written.splitlines() for part in line.split(separator)):
                assert cell[:1] not in "=+@\uff1d" or not cell, written
                assert not cell.startswith("-H"), written
        assert all(c.isprintable() or c == "\n" for c in written)
    assert ",-0.5," in (tmp_path / "t.csv").read_text(encoding="utf-8")


def test_the_table_of_a_data_set_holds_no_formula(tmp_path):
    put_case(tmp_path / "=cmd|'calc'!A1")
    put_case(tmp_path / "b;=1+1", seed=1)
    written = check_dataset(open_dataset(tmp_path)).to_csv()
    assert "'=cmd|'calc'!A1," in written
    assert "b;'=1+1," in written


def test_details_carry_no_folder_and_no_file(tmp_path):
    error = OSError(2, "No such file", "/data/Doe Jane/ct.nii")
    assert technical(error) == "FileNotFoundError ENOENT" or technical(error) == "OSError ENOENT"
    said = technical(RuntimeError("sitk: Doe Jane/x y.nrrd: bad\nError in 'C:\\Doe Jane\\x y.nrrd' at 3"))
    assert "Doe" not in said
    assert "Jane" not in said

    class Failing(Job):
        def execute(self, on_event, cancel):
            raise error

    with pytest.raises(InputError) as caught:
        run(Failing())
    assert "Doe" not in caught.value.message + caught.value.details
    for missing in (lambda: read_volume(tmp_path / "Doe" / "a.nii"), lambda: open_tree(tmp_path / "Doe" / "a.zip")):
        with pytest.raises(InputError) as caught:
            missing()
        assert "Doe" not in caught.value.message + caught.value.details


# --- graphs that do more than compute


def graph(*nodes: onnx.NodeProto, tensors=(), domain: str = "") -> onnx.ModelProto:
    info = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    out = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    return onnx.helper.make_model(onnx.helper.make_graph(list(nodes), "g", [info], [out], list(tensors)))


def loop() -> onnx.ModelProto:
    body = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["a"], ["b"])], "body", [], [])
    return graph(onnx.helper.make_node("Loop", ["", "x", "x"], ["y"], body=body))


def external() -> onnx.ModelProto:
    tensor = onnx.TensorProto(name="w", data_type=1, dims=[1], data_location=onnx.TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="/etc/passwd")
    return graph(onnx.helper.make_node("Add", ["x", "w"], ["y"]), tensors=[tensor])


def external_constant() -> onnx.ModelProto:
    return graph(onnx.helper.make_node("Constant", [], ["y"], value=external().graph.initializer[0]))


def foreign() -> onnx.ModelProto:
    return graph(onnx.helper.make_node("Evil", ["x"], ["y"], domain="com.evil"))


def function() -> onnx.ModelProto:
    model = graph(onnx.helper.make_node("Relu", ["x"], ["y"]))
    model.functions.add(name="Relu")
    return model


@pytest.mark.parametrize("make", [loop, external, external_constant, foreign, function])
def test_a_graph_that_does_more_than_compute_is_refused(make):
    with pytest.raises(BundleError, match="do not trust this model"):
        check_graph(make().SerializeToString())


def test_a_damaged_graph_is_refused_and_a_sound_one_is_not():
    content = graph(onnx.helper.make_node("Relu", ["x"], ["y"])).SerializeToString()
    check_graph(content)
    for cut in (content[:-3], b"\xff" * 40, b"\x0b"):
        with pytest.raises(BundleError, match="damaged"):
            check_graph(cut)


def test_refusals_take_no_time(tmp_path):
    started = time.process_time()
    refusal(read_volume, huge_nifti(tmp_path / "a.nii"))
    assert time.process_time() - started < 5
    assert issubclass(ResourceError, LiverMarginError)


def test_a_case_table_with_a_cell_without_end_is_refused(tmp_path):
    put(tmp_path / "cases.csv", "case,age\n1," + "9" * 200_000 + "\n")
    assert "cannot be read" in refusal(read_case_table, tmp_path / "cases.csv")


def test_what_pydicom_quotes_of_a_header_does_not_reach_the_worker_s_standard_error(tmp_path):
    import subprocess
    import sys

    for k, pixels in enumerate(stored_ct(2)):
        dataset = ct_slice(pixels, (0.0, 0.0, 2.0 * k), InstanceNumber=k + 1)
        path = save(dataset, tmp_path / f"{k}.dcm")
        # Not a decimal string, of an element that is read
        assert b"DS\x04\x002.0 " in path.read_bytes()
        path.write_bytes(path.read_bytes().replace(b"DS\x04\x002.0 ", b"DS\x04\x00Q7Q7"))
    job = json.dumps(ExportJob(str(tmp_path), (f"{tmp_path}/o.nrrd",)).to_dict())
    with subprocess.Popen(
        [sys.executable, "-m", "LiverMarginLib.worker"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY,
    ) as process:  # fmt: skip
        process.stdin.write(job + "\n")
        process.stdin.flush()
        said = [process.stdout.readline()]
        while '"error"' not in said[-1] and '"result"' not in said[-1]:
            said.append(process.stdout.readline())
        said += process.communicate()
    assert "Q7" not in "".join(said)
