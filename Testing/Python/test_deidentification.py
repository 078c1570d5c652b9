"""What identifies a patient in the headers, folders and file names of the input appears in nothing that is written.

Every text, date and identifier that a header can hold gets a word of its own, all jobs that write files run, and every
file (unpacked where it is packed), event, log line and text in a picture is searched for these words.
"""

from __future__ import annotations

import gzip
import json
import logging
import re
import shutil
import struct
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path

import matplotlib.text
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_makers import ct_slice, save, stored_ct
from pydicom.datadict import DicomDictionary, keyword_for_tag
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from LiverMarginLib.errors import LiverMarginError
from LiverMarginLib.events import CancelToken
from LiverMarginLib.io.readers import list_images
from LiverMarginLib.io.writers import formats
from LiverMarginLib.jobs import run
from LiverMarginLib.jobs.compare import CompareJob
from LiverMarginLib.jobs.dataset import CheckDatasetJob, ExportKittiJob, SplitDatasetJob
from LiverMarginLib.jobs.denoise import DenoiseJob
from LiverMarginLib.jobs.export import ExportJob
from LiverMarginLib.jobs.segment import SegmentJob
from LiverMarginLib.models.bundle import save_bundle

WORD = re.compile(r"ZQ[0-9A-F]{8}QZ")
FOLDER, FILE = "ZQF01DE000QZ Doequist Jane", "ZQF11E0000QZ"
DATE, TIME, AGE = "19470811", "031415.926", "077Y"
UID_ROOT = "1.2.826.0.1.47114711"
SIGNS = (DATE, TIME, AGE, UID_ROOT, "Doequist")
SEG_NRRD, NIFTI, DICOM = ".seg.nrrd", ".nii.gz", ".dcm"

# What a DICOM SEG takes over from the series that it refers to, as docs/formats.md lists it.
SEG_KEEPS = {
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyID", "StudyDate",
    "StudyTime", "AccessionNumber", "ReferringPhysicianName", "FrameOfReferenceUID", "PositionReferenceIndicator",
    "SeriesInstanceUID", "SOPInstanceUID", "ReferencedSOPInstanceUID",
    "PatientAge", "PatientSize", "PatientWeight",
}  # fmt: skip
_TEXT = {"PN", "LO", "SH", "LT", "ST", "UT", "UC", "AE", "UR"}
_READ = {"RescaleType"}  # the only text that decides how voxels are read


def word(tag: int) -> str:
    return f"ZQ{tag:08X}QZ"


def value_for(tag: int, vr: str) -> str | None:
    """A value of its type that gives the tag away; the date, time and age are the same in every tag."""
    if vr in _TEXT:
        return f"Doequist^{word(tag)}" if vr == "PN" else word(tag)
    return {"DA": DATE, "TM": TIME, "DT": DATE + "031415", "AS": AGE}.get(vr)


def plant(dataset: Dataset) -> None:
    """Fill every standard element that holds text, a date or an age, private ones, and some in sequences."""
    for tag, (vr, _, _, retired, keyword) in DicomDictionary.items():
        value = value_for(tag, vr)
        group = tag >> 16
        if value and keyword and keyword not in _READ and not retired and group > 0x0002 and group < 0x7F00:
            dataset.add_new(tag, vr, value)
    for holder in (dataset, Dataset()):
        block = holder.private_block(0x0009, word(0x00090010), create=True)
        block.add_new(0x01, "LO", word(0x00091001))
        block.add_new(0x02, "UN", word(0x00091002).encode())
        block.add_new(0x03, "SQ", Sequence([nested(0x00091003)]))
    for keyword in ("ReferencedStudySequence", "RequestAttributesSequence", "OtherPatientIDsSequence",
                    "ProcedureCodeSequence", "SourceImageSequence", "DeidentificationMethodCodeSequence"):  # fmt: skip
        setattr(dataset, keyword, Sequence([nested(pydicom.datadict.tag_for_keyword(keyword))]))


def nested(tag: int) -> Dataset:
    item = Dataset()
    item.PatientName = item.CodeMeaning = item.InstitutionName = word(tag)
    item.CodeValue, item.CodingSchemeDesignator = "1", "99"
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", f"{UID_ROOT}.9.{tag}"
    return item


def dicom_folder(folder: Path) -> Path:
    for k, pixels in enumerate(stored_ct(3, 32, 32)):
        dataset = ct_slice(pixels, (0.0, 0.0, 2.0 * k), series=f"{UID_ROOT}.2", InstanceNumber=k + 1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # not every word is a legal value of its element
            plant(dataset)
            dataset.StudyInstanceUID, dataset.FrameOfReferenceUID = f"{UID_ROOT}.1", f"{UID_ROOT}.3"
            dataset.SOPInstanceUID = f"{UID_ROOT}.4.{k}"
            save(dataset, folder / FOLDER / f"{FILE}_{k}.dcm")
    return folder / FOLDER


def _image() -> sitk.Image:
    image = sitk.GetImageFromArray(stored_ct(3, 32, 32).astype(np.int16) - 1024)
    image.SetSpacing((0.8, 0.8, 2.0))
    return image


def nifti_file(folder: Path) -> Path:
    path = folder / FOLDER / f"{FILE}.nii.gz"
    path.parent.mkdir()
    plain = folder / "plain.nii"
    sitk.WriteImage(_image(), str(plain))
    content = bytearray(plain.read_bytes())
    plain.unlink()
    comment = f"<x>{word(9)} Doequist {DATE}</x>".encode()
    extension = struct.pack("<2i", 8 + len(comment) + (-8 - len(comment)) % 16, 6) + comment
    extension += bytes(-len(extension) % 16)
    for offset, room in (
        (4, 10),
        (14, 18),
        (148, 80),
        (228, 24),
        (328, 16),
    ):  # data_type and so on
        content[offset : offset + room] = f"Doequist {word(offset)}"[-room:].encode().ljust(room, b"\0")
    content[108:112], content[348] = struct.pack("<f", 352 + len(extension)), 1
    path.write_bytes(gzip.compress(bytes(content[:352]) + extension + bytes(content[352:])))
    return path


def nrrd_file(folder: Path) -> Path:
    path = folder / FOLDER / f"{FILE}.nrrd"
    path.parent.mkdir()
    image = _image()
    for n, key in enumerate(("PatientName", "dicom_0010_0010", word(70), "modality", "Segmentation_Source")):
        image.SetMetaData(key, f"Doequist {word(n)} {DATE}")
    sitk.WriteImage(image, str(path))
    content = path.read_bytes()
    path.write_bytes(
        content.replace(b"\ntype:", f"\n# Doequist {word(90)}\ncontent: Doequist {word(91)}\ntype:".encode(), 1)
    )
    return path


def mha_file(folder: Path) -> Path:
    path = folder / FOLDER / f"{FILE}.mha"
    path.parent.mkdir()
    image = _image()
    for n, key in enumerate(("Comment", "Name", "PatientName", word(70))):
        image.SetMetaData(key, f"Doequist {word(n)} {DATE}")
    sitk.WriteImage(image, str(path))
    return path


# --- everything that is said or written


@pytest.fixture
def said(monkeypatch, caplog):
    """Events, texts in pictures, and log lines of every library."""
    heard: list[str] = []
    set_text = matplotlib.text.Text.set_text

    def spy(self, text):
        heard.append(str(text))
        return set_text(self, text)

    monkeypatch.setattr(matplotlib.text.Text, "set_text", spy)
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.INFO, "matplotlib")  # which fonts there are takes 10,000 lines
    yield heard
    heard.append(caplog.text)


def contents(path: Path) -> Iterator[bytes]:
    """The bytes of a file, and those that are packed in it."""
    content = path.read_bytes()
    yield content
    if path.suffix == ".gz":
        yield gzip.decompress(content)
    elif path.suffix in (".zip", ".npz"):
        with zipfile.ZipFile(path) as archive:
            yield from (archive.read(name) for name in archive.namelist())
    elif path.suffix == ".nrrd" and b"encoding: gz" in content:
        yield gzip.decompress(content.partition(b"\n\n")[2])
    elif path.suffix == ".dcm":
        yield str(pydicom.dcmread(path, stop_before_pixels=True)).encode()


def signs_in(content: bytes) -> set[str]:
    found = set()
    for encoding in ("latin-1", "utf-16-le", "utf-16-be"):
        text = content.decode(encoding, errors="replace")
        found |= set(WORD.findall(text)) | {sign for sign in SIGNS if sign in text}
    return found


def leaks(folder: Path) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        signs = signs_in(str(path.relative_to(folder)).encode())
        for content in contents(path):
            signs |= signs_in(content)
        if signs:
            found[str(path.relative_to(folder))] = signs
    return found


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    torch = pytest.importorskip("torch")
    from model_tools import tiny_manifest, tiny_unet

    from LiverMarginLib.models.dncnn_sr import DnCNNSR
    from LiverMarginLib.models.manifest import Task

    folder = tmp_path_factory.mktemp("models")
    save_bundle(folder / "tiny", tiny_manifest(), module=tiny_unet(), onnx=False)
    torch.manual_seed(0)
    denoiser = tiny_manifest(name="toy", architecture="dncnn-sr", labels=(), parameters={"scale": 1, "width": 4},
                             task=Task.DENOISING)  # fmt: skip
    save_bundle(folder / "toy", denoiser, module=DnCNNSR(1, width=4), onnx=False)
    return folder


def run_everything(source: Path, out: Path, models: Path, heard: list[str]) -> None:
    """Segment, compare, export, denoise and make a data set, as a user would with nothing but defaults."""

    def do(job) -> None:
        values = run(job, lambda event: heard.append(json.dumps(event.to_dict(), default=str)), CancelToken())
        heard.append(json.dumps(values, default=str))

    out.mkdir()
    dicom = source.is_dir()
    suffixes = [SEG_NRRD, NIFTI, *(s for s in formats() if s not in (SEG_NRRD, NIFTI) and (dicom or s != DICOM))]
    modality = None if dicom else "CT"
    outputs = tuple(str(out / f"liver{suffix}") for suffix in suffixes)
    do(SegmentJob(str(source), str(models / "tiny"), outputs, modality=modality, device="cpu", runtime="torch"))
    do(CompareJob(outputs[0], {"a": outputs[1]}, str(out / "comparison"), label="1", image=str(source), pdf=True))
    again = tuple(str(out / f"again{suffix}") for suffix in suffixes)
    do(ExportJob(outputs[0], again, source=str(source) if dicom else None))
    for name in ("denoised.nii.gz", "denoised"):
        figure = str(out / f"{name}.png")
        do(DenoiseJob(str(source), str(out / name), str(models / "toy"), modality=modality, device="cpu",
                      runtime="torch", figure=figure))  # fmt: skip
    # The names of a data set's cases are chosen by whoever made it; its headers are not.
    data = source.parent / FILE
    suffix = "".join(source.suffixes[-2:]) if not dicom else ""
    for n in range(2):
        target = data / f"case_{n}" / f"ct{suffix}"
        target.parent.mkdir(parents=True)
        shutil.copytree(source, target) if dicom else shutil.copy(source, target)
        shutil.copy(outputs[1], data / f"case_{n}" / "liver.nii.gz")
    do(CheckDatasetJob(str(data), outputs=(str(out / "check.json"), str(out / "check.csv"), str(out / "check.txt"))))
    do(SplitDatasetJob(str(data), output=str(out / "split.json"), folds=2, check_duplicates=False))
    do(ExportKittiJob(str(data), output=str(out / "kitti")))
    heard.append("".join(image.summary for image in list_images(source)) if dicom else "")


@pytest.mark.parametrize(
    "make",
    [dicom_folder, nifti_file, pytest.param(nrrd_file, marks=pytest.mark.slow),
     pytest.param(mha_file, marks=pytest.mark.slow)],
)  # fmt: skip
def test_no_identifier_of_the_input_is_in_anything_that_is_written_or_said(
    make, tmp_path, models, said, capfd, monkeypatch, caplog
):
    (tmp_path / "in").mkdir()
    monkeypatch.chdir(tmp_path)
    source = make(tmp_path / "in")
    assert signs_in(b"".join(b"".join(contents(p)) for p in source.parent.rglob("*") if p.is_file()))
    run_everything(source, tmp_path / "out", models, said)
    found = leaks(tmp_path / "out")
    segs = {name: found.pop(name) for name in list(found) if name.endswith("liver.dcm") or name.endswith("again.dcm")}
    assert found == {}
    printed = capfd.readouterr()
    lines = "\n".join([*said, caplog.text, printed.out, printed.err]).splitlines()
    assert [line for line in lines if signs_in(line.encode())] == []
    assert len(list((tmp_path / "out").rglob("*"))) > 30
    assert len(segs) == (2 if source.is_dir() else 0)
    for name in segs:
        kept = identifiers_in(pydicom.dcmread(tmp_path / "out" / name))
        assert kept - SEG_KEEPS == set()
        assert {"PatientName", "PatientID", "StudyInstanceUID", "ReferencedSOPInstanceUID"} <= kept


def identifiers_in(dataset: Dataset) -> set[str]:
    """Elements of a data set, nested ones too, that hold an identifier of the input."""
    found = set()
    for element in dataset.iterall():
        if element.VR != "SQ" and signs_in(str(element.value).encode()):
            found.add(element.keyword or f"{element.tag} {element.value}")
            for planted in WORD.findall(str(element.value)):
                assert keyword_for_tag(int(planted[2:10], 16)) == element.keyword
    return found


def test_the_documentation_lists_what_a_dicom_seg_keeps():
    from conftest import REPOSITORY

    text = (REPOSITORY / "docs" / "formats.md").read_text()
    listed = text.partition("### What a DICOM SEG keeps")[2].partition("\n#")[0]
    assert {name for name in SEG_KEEPS if f"`{name}`" not in listed} == set()


def test_an_error_names_no_folder_and_a_broken_header_is_not_quoted(tmp_path, caplog, capfd):
    folder = dicom_folder(tmp_path)
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes()[:-100])
    heard: list[str] = []
    job = SegmentJob(str(folder), "unet-ct", (str(tmp_path / "a.nrrd"),))
    with pytest.raises(LiverMarginError) as caught:
        run(job, lambda event: heard.append(json.dumps(event.to_dict())), CancelToken())
    heard += [caught.value.message, caught.value.details, caplog.text, *capfd.readouterr()]
    assert signs_in("".join(heard).encode()) == set()
