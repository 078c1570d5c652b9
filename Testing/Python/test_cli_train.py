"""`livermargin train`, `evaluate` and `denoise` from end to end on small phantoms."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from LiverMarginLib.cli import main
from LiverMarginLib.io.readers import read_labels, read_volume
from LiverMarginLib.io.volume_writers import write_volume
from LiverMarginLib.models.bundle import Bundle
from LiverMarginLib.phantom import PhantomOptions, liver_target, make_phantom

SMALL = ["--phantom-shape", "8", "64", "64", "--phantom-spacing", "20", "6", "6"]
FAST = ["--set", "size=64", "--set", "batch=4", "--set", "steps_per_epoch=3", "--set", "workers=0", "--epochs", "2"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("training")
    words = ["train", "unet", "--phantoms", "2", "--validation-phantoms", "1", *SMALL, *FAST]
    words += ["--set", "model_options.widths=[4, 8, 16]", "--cache", str(folder / "cache"), "--device", "cpu"]
    assert main([*words, "--out", str(folder / "unet-tiny")]) == 0
    return folder


def test_a_training_ends_in_a_bundle_that_says_where_it_comes_from(trained):
    manifest = Bundle.load(trained / "unet-tiny").manifest
    assert manifest.name == "unet-tiny"
    assert manifest.input_size == (64, 64)
    assert manifest.training["epochs"] == 2
    assert "2 procedural phantoms" in manifest.training["data"]
    assert 0 < manifest.mask_threshold < 1
    work = trained / "unet-tiny.training"
    assert (work / "log.csv").read_text().count("\n") >= 3
    assert list(work.glob("*.png"))


def test_a_trained_bundle_segments_and_is_evaluated_on_patients_it_never_saw(trained, tmp_path, capsys):
    words = ["evaluate", str(trained / "unet-tiny"), "--phantoms", "2", *SMALL, "-o", str(tmp_path / "evaluation")]
    assert main([*words, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert {patient["case"] for patient in result["patients"]} == {"phantom 950000", "phantom 950001"}
    assert 0 <= result["models"]["unet-tiny"]["dice"] <= 1
    assert (tmp_path / "evaluation" / "per_slice.csv").is_file()


def test_a_training_on_a_folder_of_volumes_keeps_patients_apart(tmp_path, capsys):
    data = tmp_path / "data"
    for folder in ("images", "labels"):
        (data / folder).mkdir(parents=True)
    for seed in range(4):
        phantom = make_phantom(seed, PhantomOptions(shape=(6, 64, 64), spacing=(25.0, 6.0, 6.0)))
        write_volume(phantom.volume, data / "images" / f"p{seed}.nii.gz")
        liver = liver_target(phantom.labels)
        image = sitk.ReadImage(str(data / "images" / f"p{seed}.nii.gz"))
        label = sitk.GetImageFromArray(liver.array.astype(np.uint8))
        label.CopyInformation(image)
        sitk.WriteImage(label, str(data / "labels" / f"p{seed}.nii.gz"))
    split = tmp_path / "split.json"
    assert main(["dataset", "split", str(data), "--fractions", "0.5", "0.25", "0.25", "-o", str(split)]) == 0
    capsys.readouterr()
    words = ["train", "unet", "--data", str(data), "--split", str(split), *FAST, "--device", "cpu", "--json"]
    words += ["--set", "model_options.widths=[4, 8, 16]", "--out", str(tmp_path / "m")]
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["bundle"]
    assert main(["evaluate", str(tmp_path / "m"), "--data", str(data), "--split", str(split), "--json",
                 "-o", str(tmp_path / "e")]) == 0  # fmt: skip
    assert len(json.loads(capsys.readouterr().out)["patients"]) == 1


@pytest.fixture(scope="module")
def denoiser(trained) -> Path:
    cache = trained / "cache"
    words = ["train", "dncnn-sr", "--phantoms", "1", "--validation-phantoms", "1", *SMALL, "--cache", str(cache)]
    words += ["--set", "size=32", "--set", "batch=2", "--set", "steps_per_epoch=2", "--set", "workers=0"]
    words += ["--set", "model_options.width=4", "--set", "optimiser.learning_rate=0.05", "--epochs", "1"]
    words += ["--device", "cpu", "--out", str(trained / "denoiser")]
    assert main(words) == 0
    return trained / "denoiser"


def test_the_effect_of_denoising_on_the_segmentation_is_evaluated_side_by_side(trained, denoiser, tmp_path, capsys):
    words = ["evaluate", str(trained / "unet-tiny"), "--phantoms", "1", *SMALL, "-o", str(tmp_path / "evaluation")]
    assert main([*words, "--denoise", str(denoiser), "--phantom-noise", "80", "--json"]) == 0
    models = json.loads(capsys.readouterr().out)["models"]
    assert list(models) == ["unet-tiny", "unet-tiny + denoiser"]
    assert models["unet-tiny"] != models["unet-tiny + denoiser"]


def test_dncnn_sr_denoises_into_a_new_file(denoiser, tmp_path, capsys):
    phantom = make_phantom(3, PhantomOptions(shape=(4, 64, 64), spacing=(30.0, 6.0, 6.0)))
    ct = write_volume(phantom.volume, tmp_path / "ct.nii.gz")
    before = ct.read_bytes()
    out, figure = tmp_path / "denoised.nii.gz", tmp_path / "figure.png"
    words = ["denoise", str(ct), "-m", str(denoiser), "-o", str(out), "--figure", str(figure)]
    assert main(words) == 0
    assert ct.read_bytes() == before
    assert read_volume(out).geometry.agrees_with(phantom.volume.geometry, 1e-3)
    assert figure.read_bytes()[:4] == b"\x89PNG"
    capsys.readouterr()
    assert main(["denoise", str(ct), "-m", str(denoiser), "-o", str(ct)]) == 2
    assert "not overwritten" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["--set", "no_such=1"],
        ["--set", "optimiser.nothing=1"],
        ["--set", "batch"],
        ["--set", "batch=many"],
        ["--profile", "nothing"],
        ["--data", "nowhere"],
    ],
)
def test_a_wrong_training_gives_one_sentence(words, tmp_path, capsys):
    assert main(["train", "unet", "--out", str(tmp_path / "m"), *words]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("livermargin: ")]
    assert len(lines) == 1
    assert not (tmp_path / "m").exists()


def test_the_model_of_another_kind_is_refused(trained, tmp_path, capsys):
    phantom = make_phantom(3, PhantomOptions(shape=(4, 64, 64), spacing=(30.0, 6.0, 6.0)))
    ct = write_volume(phantom.volume, tmp_path / "ct.nii.gz")
    assert main(["denoise", str(ct), "-m", str(trained / "unet-tiny"), "-o", str(tmp_path / "d.nii.gz")]) == 2
    assert "denois" in capsys.readouterr().err


def test_denoising_before_segmenting_is_noted_and_changes_no_image(trained, denoiser, tmp_path, capsys):
    phantom = make_phantom(3, PhantomOptions(shape=(4, 64, 64), spacing=(30.0, 6.0, 6.0)))
    ct = write_volume(phantom.volume, tmp_path / "ct.nii.gz")
    before = ct.read_bytes()
    out = tmp_path / "liver.seg.nrrd"
    words = ["segment", str(ct), "-m", str(trained / "unet-tiny"), "-o", str(out), "--denoise", str(denoiser)]
    assert main(words) == 0
    assert ct.read_bytes() == before
    assert read_labels(out).provenance["denoised_by"]["name"] == "denoiser"
    capsys.readouterr()
    assert main([*words[:-1], str(trained / "unet-tiny")]) == 2
    assert "denois" in capsys.readouterr().err


def test_a_bundle_is_exported_with_an_onnx_graph_that_gives_the_same(trained, tmp_path, capsys):
    out = tmp_path / "exported"
    assert main(["models", "export", str(trained / "unet-tiny"), "-o", str(out), "--onnx"]) == 0
    assert Bundle.load(out).has("model.onnx")
    capsys.readouterr()
    assert main(["models", "check", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["largest_difference"] < 1e-4
    assert main(["models", "export", str(trained / "unet-tiny")]) == 2


# ---- volumetric networks go through the same doors


@pytest.fixture(scope="module")
def solid(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("volumetric")
    words = ["train", "unet3d", "--profile", "tiny", "--phantoms", "2", "--validation-phantoms", "1", "--device", "cpu"]
    words += ["--set", "volume.patch=[16,16,16]", "--set", "volume.spacing=[12,12,12]", "--epochs", "1"]
    words += ["--set", "model_options.widths=[4,8]", "--set", "steps_per_epoch=4", "--set", "threads=1"]
    assert main([*words, "--cache", str(folder / "cache"), "--out", str(folder / "solid")]) == 0
    return folder


def test_a_volumetric_training_ends_in_a_bundle_of_two_labels(solid):
    manifest = Bundle.load(solid / "solid").manifest
    assert manifest.volumetric and manifest.spacing == (12, 12, 12)
    assert [segment.name for segment in manifest.labels] == ["Liver", "Mass in Liver"]
    assert "dice_tumour" in manifest.training["validation"] or "dice_liver" in manifest.training["validation"]


def test_a_volumetric_bundle_segments_says_how_unsure_it_is_and_is_checked(solid, tmp_path, capsys):
    phantom = make_phantom(5, PhantomOptions(shape=(10, 40, 40), spacing=(20.0, 10.0, 10.0)))
    write_volume(phantom.volume, tmp_path / "ct.nii.gz")
    words = ["segment", str(tmp_path / "ct.nii.gz"), "-m", str(solid / "solid"), "-o", str(tmp_path / "out.seg.nrrd")]
    assert (
        main([*words, "--modality", "CT", "--uncertainty", str(tmp_path / "u.nrrd"), "--samples", "2", "--json"]) == 0
    )
    result = json.loads(capsys.readouterr().out)
    assert [segment["name"] for segment in result["segments"]] == ["Liver", "Mass in Liver"]
    assert len(result["outputs"]) == 2
    unsure = read_volume(tmp_path / "u.nrrd")
    assert unsure.array.shape == (10, 40, 40) and unsure.array.min() >= 0 and unsure.array.max() <= 1
    assert read_labels(tmp_path / "out.seg.nrrd").array.shape == (10, 40, 40)
    assert main(["models", "check", str(solid / "solid"), "--json"]) == 0


def test_a_slice_wise_model_has_no_uncertainty(trained, tmp_path, capsys):
    phantom = make_phantom(5, PhantomOptions(shape=(4, 32, 32), spacing=(40.0, 12.0, 12.0)))
    write_volume(phantom.volume, tmp_path / "ct.nii.gz")
    words = ["segment", str(tmp_path / "ct.nii.gz"), "-m", str(trained / "unet-tiny"), "-o", str(tmp_path / "o.nrrd")]
    assert main([*words, "--modality", "CT", "--uncertainty", str(tmp_path / "u.nrrd")]) == 2
    assert "volumetric" in capsys.readouterr().err


def test_tumours_are_evaluated_when_asked_for_and_only_with_models_that_find_them(solid, trained, tmp_path, capsys):
    words = ["evaluate", str(solid / "solid"), "--phantoms", "1", *SMALL, "-o", str(tmp_path / "e"), "--json"]
    assert main(words) == 0
    assert "solid" in json.loads(capsys.readouterr().out)["models"]
    words = ["evaluate", str(trained / "unet-tiny"), "--phantoms", "1", *SMALL, "-o", str(tmp_path / "t")]
    assert main([*words, "--target", "tumour"]) == 2
    assert "does not find a tumour" in capsys.readouterr().err
