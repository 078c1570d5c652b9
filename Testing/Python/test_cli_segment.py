"""`livermargin` from end to end: a CT in, a segmentation out, and one sentence for everything that goes wrong."""

from __future__ import annotations

import errno
import gzip
import json
import os
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from model_tools import tiny_bundle

from LiverMarginLib.cli import main
from LiverMarginLib.io import atomic
from LiverMarginLib.io.readers import read_labels, read_volume
from LiverMarginLib.io.volume_writers import write_volume
from LiverMarginLib.volume import Geometry, IntensityKind, Modality, Volume

SHAPE = (6, 32, 32)


def ct(seed: int = 0, shape=SHAPE, origin=(0.0, 0.0, 0.0)) -> Volume:
    """A block of soft tissue in air, with noise."""
    array = np.full(shape, -1000, np.int16)
    array[:, 4:-4, 4:-4] = 60
    array += np.random.default_rng(seed).integers(-20, 20, shape).astype(np.int16)
    matrix = np.diag((-1.5, -1.5, 3.0, 1.0))
    matrix[:3, 3] = origin
    return Volume(array, Geometry(shape, matrix), Modality.CT, IntensityKind.HU)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("models") / "tiny").folder


@pytest.fixture
def nifti(tmp_path) -> Path:
    return write_volume(ct(), tmp_path / "ct.nii.gz")


def test_a_dicom_series_becomes_a_segmentation_in_every_format(tmp_path, model, capsys):
    series = write_volume(ct(), tmp_path / "series")
    outputs = [
        tmp_path / f"liver.{suffix}" for suffix in ("seg.nrrd", "nii.gz", "nrrd", "mha", "dcm", "stl", "obj", "ply")
    ]
    words = [word for output in outputs for word in ("-o", str(output))]
    assert main(["segment", str(series), "-m", str(model), *words, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    liver = result["segments"][0]
    assert liver["voxels"] > 0
    assert liver["volume_ml"] == pytest.approx(liver["voxels"] * 1.5 * 1.5 * 3 / 1000, abs=0.01)
    reference = read_labels(outputs[0])
    for output in outputs[1:5]:
        other = read_labels(output)
        assert other.geometry.agrees_with(reference.geometry)
        np.testing.assert_array_equal(other.array > 0, reference.array > 0)
    assert all(output.stat().st_size > 0 for output in outputs)


def test_the_terminal_says_what_was_found_and_where_it_is(nifti, model, tmp_path, capsys):
    assert main(["segment", str(nifti), "-m", str(model), "-o", str(tmp_path / "out.seg.nrrd")]) == 0
    out = capsys.readouterr().out
    assert "Liver:" in out
    assert "ml on" in out
    assert "out.seg.nrrd" in out


def test_one_slice_range_leaves_the_other_slices_empty(nifti, model, tmp_path):
    out = tmp_path / "out.nii.gz"
    assert main(["segment", str(nifti), "-m", str(model), "-o", str(out), "--slices", "2", "3"]) == 0
    assert set(np.flatnonzero(read_labels(out).array.any(axis=(1, 2)))) <= {2, 3}


def corrupt_slice(folder: Path) -> Path:
    series = write_volume(ct(), folder / "series")
    victim = sorted(series.iterdir())[2]
    victim.write_bytes(victim.read_bytes()[:700])
    return series


def two_series(folder: Path) -> Path:
    both = folder / "both"
    both.mkdir()
    for n in (1, 2):
        write_volume(ct(n), both / f"series{n}")
    return both


def truncated(folder: Path) -> Path:
    path = write_volume(ct(), folder / "whole.nii.gz")
    short = folder / "short.nii.gz"
    short.write_bytes(path.read_bytes()[:2000])
    return short


def text(folder: Path) -> Path:
    path = folder / "text.nii.gz"
    path.write_text("this is no image")
    return path


def save_nifti(folder: Path, array, affine=None) -> Path:
    path = folder / "odd.nii.gz"
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    return path


def announcing_too_much(folder: Path) -> Path:
    header = bytearray(gzip.decompress(save_nifti(folder, np.zeros((4, 4, 4), np.int16)).read_bytes()))
    header[40:48] = np.array([3, 30000, 30000, 30000], "<i2").tobytes()
    path = folder / "huge.nii.gz"
    path.write_bytes(gzip.compress(bytes(header)))
    return path


def empty(folder: Path) -> Path:
    (folder / "empty").mkdir()
    return folder / "empty"


def zero_bytes(folder: Path) -> Path:
    (folder / "zero.nrrd").touch()
    return folder / "zero.nrrd"


def all_air(folder: Path) -> Path:
    volume = ct()
    return write_volume(Volume(np.full(SHAPE, -1000, np.int16), volume.geometry, Modality.CT, IntensityKind.HU),
                        folder / "air.nii.gz")  # fmt: skip


BAD_INPUTS = {
    "no such file": lambda folder: folder / "nowhere.nii.gz",
    "empty folder": empty,
    "zero bytes": zero_bytes,
    "truncated NIfTI": truncated,
    "text named .nii.gz": text,
    "one corrupt slice": corrupt_slice,
    "two series": two_series,
    "4-D": lambda folder: save_nifti(folder, np.zeros((8, 8, 4, 3), np.int16)),
    "RGB": lambda folder: save_nifti(folder, np.zeros((8, 8, 4), np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))),
    "all NaN": lambda folder: save_nifti(folder, np.full((8, 8, 4), np.nan, np.float32)),
    "complex": lambda folder: save_nifti(folder, np.zeros((8, 8, 4), np.complex64)),
    "all air": all_air,
    "header that announces 27 terabytes": announcing_too_much,
}


def one_sentence(capsys) -> str:
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if line.startswith("livermargin: ")]
    assert len(lines) == 1, error
    assert "Traceback" not in error
    assert "unforeseen" not in error
    assert lines[0].endswith((".", ")"))
    return lines[0]


@pytest.mark.parametrize("make", BAD_INPUTS.values(), ids=BAD_INPUTS.keys())
def test_a_bad_input_gives_one_sentence_and_no_output(make, model, tmp_path, capsys):
    out = tmp_path / "results" / "out.seg.nrrd"
    assert main(["segment", str(make(tmp_path)), "-m", str(model), "-o", str(out)]) in (2, 4)
    one_sentence(capsys)
    assert not out.parent.exists()


def test_a_wrong_model_path_names_the_models_there_are(nifti, tmp_path, capsys):
    assert main(["segment", str(nifti), "-m", "no-such-model", "-o", str(tmp_path / "o.nii.gz")]) == 2
    assert "known models" in one_sentence(capsys)


def test_tampered_weights_are_refused(nifti, model, tmp_path, capsys):
    copy = shutil.copytree(model, tmp_path / "tampered")
    for weights in (copy / "model.onnx", copy / "weights.safetensors"):
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(content)
    assert main(["segment", str(nifti), "-m", str(copy), "-o", str(tmp_path / "o.nii.gz")]) == 2
    assert "sha256" in one_sentence(capsys)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["-o", "out.docx"], "known format"),
        (["-o", "out.dcm"], "DICOM"),
        (["-o", "out.nii.gz", "--slices", "4", "99"], "slice"),
        (["-o", "out.nii.gz", "--threshold", "7"], "threshold"),
        (["-o", "out.nii.gz", "--batch-size", "0"], "batch"),
        (["-o", "out.nii.gz", "--threads", "0"], "threads"),
        (["-o", "out.nii.gz", "--device", "cuda"], "cuda"),
        (["-o", "out.nii.gz", "--modality", "MR"], "MR"),
    ],
)
def test_a_wrong_option_gives_one_sentence(options, words, nifti, model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert main(["segment", str(nifti), "-m", str(model), *options]) in (2, 3, 4)
    assert words.lower() in one_sentence(capsys).lower()
    assert not list(tmp_path.glob("out*"))


def test_an_output_folder_that_is_a_file_is_refused_before_the_work(nifti, model, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["segment", str(nifti), "-m", str(model), "-o", str(tmp_path / "file" / "o.nii.gz")]) == 2
    one_sentence(capsys)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_read_only_output_folder_is_refused(nifti, model, tmp_path, capsys):
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(0o500)
    assert main(["segment", str(nifti), "-m", str(model), "-o", str(folder / "o.nii.gz")]) == 4
    one_sentence(capsys)


@pytest.mark.parametrize(("number", "code"), [(errno.ENOSPC, 4), (errno.EROFS, 4)])
def test_a_disk_that_refuses_leaves_the_old_result_alone(number, code, nifti, model, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out.seg.nrrd"
    out.write_text("the result of yesterday")

    def refuse(self, *arguments, **options):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(atomic.Path, "replace", refuse)
    assert main(["segment", str(nifti), "-m", str(model), "-o", str(out)]) == code
    one_sentence(capsys)
    assert out.read_text() == "the result of yesterday"
    assert {path.name for path in tmp_path.iterdir()} == {"ct.nii.gz", "out.seg.nrrd"}


def test_debug_shows_the_traceback(model, tmp_path):
    with pytest.raises(Exception, match="nowhere"):
        main(["segment", str(tmp_path / "nowhere.nii.gz"), "-m", str(model), "-o", str(tmp_path / "o.nrrd"), "--debug"])


def test_an_error_is_json_too_when_json_was_asked_for(model, tmp_path, capsys):
    assert main(["segment", str(tmp_path / "no.nii"), "-m", str(model), "-o", str(tmp_path / "o.nrrd"), "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"] == "input"


def test_info_lists_images_without_the_name_of_the_patient(tmp_path, capsys):
    series = write_volume(ct(), tmp_path / "series")
    assert main(["info", str(series), "--json"]) == 0
    out = capsys.readouterr().out
    assert json.loads(out)["images"][0]["shape"] == list(SHAPE)
    assert "Synthetic" not in out


def test_what_a_model_made_is_never_exported_as_drawn_by_hand(tmp_path, model, capsys):
    series = write_volume(ct(), tmp_path / "series")
    for name in ("liver.seg.nrrd", "liver.nrrd"):
        first, second = tmp_path / name, tmp_path / f"{name}.dcm"
        assert main(["segment", str(series), "-m", str(model), "-o", str(first)]) == 0
        assert main(["export", str(first), "-o", str(second), "--source", str(series)]) == 0
        segment = pydicom.dcmread(second).SegmentSequence[0]
        assert segment.SegmentAlgorithmType == "AUTOMATIC"
        assert segment.SegmentAlgorithmName == "tiny"


def test_export_keeps_the_chosen_label_only(tmp_path, capsys):
    array = np.zeros((8, 8, 8), np.uint8)
    array[1:3], array[4:6] = 5, 6
    labels = save_nifti(tmp_path, array)
    out = tmp_path / "one.nii.gz"
    assert main(["export", str(labels), "-o", str(out), "--label", "6"]) == 0
    assert set(np.unique(read_labels(out).array)) == {0, 6}
    capsys.readouterr()
    assert main(["export", str(labels), "-o", str(out), "--label", "9"]) == 2
    assert "5" in one_sentence(capsys)


@pytest.mark.parametrize(
    "words", [[], ["fly"], ["segment"], ["models", "jump"], ["segment", "x", "--device", "abacus"]]
)
def test_bad_usage_exits_2(words, capsys):
    assert main(words) == 2
    assert "usage" in capsys.readouterr().err


def test_help_and_version_exit_0(capsys):
    assert main(["--help"]) == 0
    assert main(["segment", "--help"]) == 0
    assert main(["--version"]) == 0


def test_the_written_ct_reads_back_voxel_for_voxel(tmp_path):
    volume = ct(origin=(12.25, -7.5, 1001.0))
    for name in ("series", "ct.nii.gz", "ct.nrrd", "ct.mha"):
        again = read_volume(write_volume(volume, tmp_path / name))
        assert again.geometry.agrees_with(volume.geometry, 1e-3)
        np.testing.assert_array_equal(again.array, volume.array)


@pytest.mark.realdata
def test_a_real_ct_is_segmented_and_its_dicom_seg_references_all_instances(real_data, model, tmp_path):
    import highdicom

    out = tmp_path / "liver.dcm"
    assert main(["segment", str(real_data / "ct_portal_slab/dicom"), "-m", str(model), "-o", str(out)]) == 0
    seg = highdicom.seg.segread(out)
    assert len(seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence) == 20
