"""Model bundles: what is written and what is refused."""

from __future__ import annotations

import os
import pickle
import shutil
import sys
from pathlib import Path

import onnx
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_tools import (
    EVERYTHING,
    REMOVED,
    edit,
    one_sentence,
    refused_when_run,
    replace_weights,
    tiny_bundle,
    tiny_manifest,
    tiny_unet,
)

from LiverMarginLib.errors import BundleError, ResourceError
from LiverMarginLib.inference.segmenter import load_segmenter
from LiverMarginLib.models import bundle as bundle_module
from LiverMarginLib.models.bundle import Bundle, save_bundle, write_bundle
from LiverMarginLib.models.manifest import Manifest

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tiny_model, tmp_path) -> Path:
    """A copy of a good bundle, to be spoilt."""
    return Path(shutil.copytree(tiny_model.folder, tmp_path / "tiny"))


# ---- the manifest


@pytest.mark.parametrize("manifest", [tiny_manifest(), tiny_manifest(**EVERYTHING)], ids=["plain", "everything"])
def test_a_manifest_comes_back_from_json_as_it_was(manifest):
    assert Manifest.from_json(manifest.to_json()) == manifest
    assert Manifest.from_json(manifest.to_json().encode()) == manifest


def test_a_volumetric_manifest_comes_back_with_its_spacing():
    manifest = tiny_manifest(input_size=(16, 16, 16), spacing=(2.0, 1.0, 1.0))
    assert Manifest.from_json(manifest.to_json()) == manifest
    assert manifest.volumetric


@pytest.mark.parametrize(
    "changes",
    [
        {"schema_version": 2},
        {"schema_version": True},
        {"schema_version": "1"},
        {"name": "../evil"},
        {"name": ""},
        {"name": 7},
        {"name": REMOVED},
        {"version": "one"},
        {"architecture": REMOVED},
        {"architecture": "transformer-9000"},
        {"parameters": {"in_channels": 1, "classes": 1, "widths": [10**9], "dropout": 0.1}},
        {"parameters": {"in_channels": 1, "classes": 1, "widths": [4] * 99, "dropout": 0.1}},
        {"parameters": {"in_channels": 1, "classes": 1, "widths": "4", "dropout": 0.1}},
        {"parameters": {"in_channels": 2, "classes": 1, "widths": [4], "dropout": 0.1}},
        {"parameters": {"in_channels": 1, "classes": 9, "widths": [4], "dropout": 0.1}},
        {"parameters": {"in_channels": 1, "classes": 1, "widths": [4], "dropout": 1.5}},
        {"parameters": {"in_channels": 1, "classes": 1, "widths": [4], "dropout": 0.1, "code": "x"}},
        {"parameters": []},
        {"task": "classification"},
        {"modality": "PET"},
        {"labels": []},
        {"labels": [1]},
        {"labels": [{"label": 0, "name": "Liver", "colour": [1, 2, 3], "terminology": None}]},
        {"labels": [{"label": 1, "name": "Liver", "colour": [1, 2, 300], "terminology": None}]},
        {"labels": [{"label": 1, "name": "Liver", "colour": [1, 2], "terminology": None}]},
        {"labels": [{"label": 1, "name": "Liver", "colour": [1, 2, 3], "terminology": {"category": {}}}]},
        {"input_kind": "inches"},
        {"window": {"low": 240, "high": -160, "unit": "value"}},
        {"window": {"low": 2, "high": 98, "unit": "percentile"}},
        {"window": {"low": 2, "high": 10**400, "unit": "value"}},
        {"window": [0, 1]},
        {"input_size": [30, 32]},
        {"input_size": [32]},
        {"input_size": [0, 32]},
        {"input_size": [2**20, 2**20]},
        {"input_size": [32.5, 32]},
        {"context_slices": -1},
        {"context_slices": 10**6},
        {"spacing": [1, 1, 1]},
        {"spacing": [1, 1]},
        {"thresholds": {"mask": 0}},
        {"thresholds": {"mask": "0.5"}},
        {"postprocessing": {"largest_component": 1, "fill_holes": "none", "min_volume_ml": 0}},
        {"postprocessing": {"largest_component": True, "fill_holes": "all", "min_volume_ml": 0}},
        {"postprocessing": {"largest_component": True, "fill_holes": "none", "min_volume_ml": -1}},
        {"weights": {}},
        {"weights": {"../../weights.safetensors": "0" * 64}},
        {"weights": {"weights.pt": "0" * 64}},
        {"weights": {"model.onnx": "0" * 63}},
        {"weights": {"model.onnx": 5}},
        {"licence": REMOVED},
        {"licence": None},
        {"spacing": REMOVED},
        {"training": []},
        {"licens": "MIT"},
    ],
    ids=str,
)
def test_a_description_with_a_fault_is_refused_with_one_sentence(folder, changes):
    edit(folder)
    Bundle.load(folder)
    edit(folder, **changes)
    with pytest.raises(BundleError) as caught:
        Bundle.load(folder)
    assert one_sentence(caught.value.message)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe", b"[]", b"null", b"[" * 100_000, b'{"schema_version": 1}', b"{}" + b" " * (2 << 20)],
    ids=["empty", "cut", "not utf-8", "list", "null", "deep", "nearly empty", "absurdly large"],
)
def test_a_description_that_is_not_one_is_refused_with_one_sentence(folder, content):
    (folder / "model.json").write_bytes(content)
    with pytest.raises(BundleError) as caught:
        Bundle.load(folder)
    assert one_sentence(caught.value.message)


@given(position=st.integers(0, 1500), byte=st.integers(0, 255))
@settings(deadline=None)
def test_a_changed_byte_in_the_description_never_raises_anything_else(position, byte):
    text = bytearray(tiny_manifest(**EVERYTHING).to_json().encode())
    text[position % len(text)] = byte
    try:
        manifest = Manifest.from_json(bytes(text))
    except BundleError as error:
        assert "\n" not in error.message
    else:
        assert isinstance(manifest, Manifest)


# ---- what is written


def test_a_bundle_holds_its_description_both_forms_of_the_weights_and_a_card(tiny_model):
    assert {path.name for path in tiny_model.folder.iterdir()} == {
        "model.json",
        "weights.safetensors",
        "model.onnx",
        "README.md",
    }
    card = (tiny_model.folder / "README.md").read_text()
    for expected in ("# tiny 1.0.0", "not a medical device", "Liver", "-160 to 240", "Apache-2.0", "sha256"):
        assert expected in card


def test_the_written_files_say_nothing_about_the_machine(tiny_model):
    for path in tiny_model.folder.iterdir():
        content = path.read_bytes()
        for trace in (str(REPOSITORY), str(Path.home()), sys.prefix, "site-packages", ".py"):
            assert trace.encode() not in content, path.name


def test_the_same_network_gives_the_same_bundle_byte_for_byte(tiny_model, tmp_path):
    again = tiny_bundle(tmp_path / "tiny")
    for path in tiny_model.folder.iterdir():
        assert path.read_bytes() == (again.folder / path.name).read_bytes(), path.name


def test_half_precision_halves_the_weights_and_both_forms_hold_the_same_rounded_values(tiny_model, tmp_path):
    net = tiny_unet().train()
    half = save_bundle(tmp_path / "half", tiny_manifest(), module=net, half=True)
    assert net.training
    assert {parameter.dtype for parameter in net.parameters()} == {torch.float32}
    tensors = safetensors.torch.load_file(half.folder / "weights.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    expected = {name: tensor.half() for name, tensor in tiny_unet().state_dict().items()}
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)

    graph = onnx.load(half.folder / "model.onnx").graph
    halves = [onnx.numpy_helper.to_array(t) for t in graph.initializer if t.data_type == onnx.TensorProto.FLOAT16]
    assert not any(t.data_type == onnx.TensorProto.FLOAT for t in graph.initializer)
    assert sorted(a.tobytes() for a in halves) == sorted(t.numpy().tobytes() for t in tensors.values())
    sizes = [(one.folder / "weights.safetensors").stat().st_size for one in (half, tiny_model)]
    assert sizes[0] < 0.75 * sizes[1]


def test_weights_beyond_half_precision_or_not_finite_are_not_saved(tmp_path):
    for value, half in ((1e6, True), (float("nan"), False)):
        net = tiny_unet()
        torch.nn.init.constant_(net.head.bias, value)
        with pytest.raises(BundleError) as caught:
            save_bundle(tmp_path / "m", tiny_manifest(), module=net, half=half)
        assert one_sentence(caught.value.message)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_a_bundle_is_never_replaced(folder, tmp_path):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years of work")
    for taken, overwrite in ((precious, True), (folder, False)):
        before = sorted(path.name for path in taken.iterdir())
        with pytest.raises(BundleError):
            write_bundle(taken, tiny_manifest(), {"model.onnx": b"x"}, overwrite=overwrite)
        assert sorted(path.name for path in taken.iterdir()) == before


def test_a_bundle_is_replaced_whole_when_asked_for(folder, tmp_path):
    (folder / "old.png").write_bytes(b"of the old model")
    write_bundle(folder, tiny_manifest(version="2.0.0"), {"model.onnx": b"x"}, overwrite=True)
    assert {path.name for path in folder.iterdir()} == {"model.json", "model.onnx", "README.md"}
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


def test_the_only_copy_of_the_old_bundle_is_kept_where_it_cannot_be_put_back(tmp_path, monkeypatch):
    folder = tmp_path / "tiny"
    write_bundle(folder, tiny_manifest(), {"model.onnx": b"old"})
    original = Path.rename

    def rename(self, target):
        if Path(target) == folder:
            raise OSError("refused")
        return original(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(ResourceError):
        write_bundle(folder, tiny_manifest(version="2.0.0"), {"model.onnx": b"new"}, overwrite=True)
    assert [path.read_bytes() for path in tmp_path.rglob("model.onnx") if path.parent.name == "old"] == [b"old"]


@pytest.mark.parametrize("fail_at", ["write", "rename"])
def test_a_full_disk_leaves_the_old_bundle_and_nothing_else(folder, tmp_path, monkeypatch, fail_at):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    original_write, original_rename = Path.write_bytes, Path.rename

    def write(self, content):
        if self.name == "README.md":
            raise OSError(28, "No space left on device")
        return original_write(self, content)

    def rename(self, target):
        if self.name == "new":
            raise OSError(28, "No space left on device")
        return original_rename(self, target)

    monkeypatch.setattr(
        Path, "write_bytes" if fail_at == "write" else "rename", write if fail_at == "write" else rename
    )
    with pytest.raises(ResourceError) as caught:
        write_bundle(folder, tiny_manifest(version="2.0.0"), {"model.onnx": b"x"}, overwrite=True)
    monkeypatch.undo()
    assert one_sentence(caught.value.message)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


# ---- what is refused


@pytest.mark.parametrize("name", ["weights.safetensors", "model.onnx"])
def test_tampered_truncated_and_missing_weights_are_refused_before_they_are_read(folder, name):
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    assert "sha256" in refused_when_run(folder, "auto")
    (folder / name).write_bytes(content[: len(content) // 2])
    assert "sha256" in refused_when_run(folder, "auto")
    (folder / name).unlink()
    assert "missing" in refused_when_run(folder, "auto")


def test_weights_that_change_after_the_check_are_refused_when_they_are_read(folder):
    bundle = Bundle.load(folder)
    (folder / "model.onnx").write_bytes(b"something else")
    with pytest.raises(BundleError, match="sha256"):
        load_segmenter(bundle, runtime="onnx")


class Exploit:
    def __reduce__(self):
        return os.system, ("touch exploited",)


@pytest.mark.parametrize("kind", ["pickle", "torch zip", "truncated", "absurd header", "empty"])
def test_files_that_are_no_safetensors_are_refused_and_never_unpickled(folder, tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    if kind == "torch zip":
        torch.save({"x": Exploit()}, tmp_path / "evil.pt")
    good = (folder / "weights.safetensors").read_bytes()
    content = {
        "pickle": pickle.dumps(Exploit()),
        "torch zip": (tmp_path / "evil.pt").read_bytes() if kind == "torch zip" else b"",
        "truncated": good[:-8],
        "absurd header": (2**60).to_bytes(8, "little") + good[8:],
        "empty": b"",
    }[kind]
    replace_weights(folder, "weights.safetensors", content)
    assert "safetensors" in refused_when_run(folder, "torch")
    assert not (tmp_path / "exploited").exists()


def test_weights_of_another_network_are_refused_before_it_is_made(folder):
    edit(folder, parameters={"in_channels": 1, "classes": 1, "widths": [2048] * 3, "dropout": 0.0})
    assert "architecture" in refused_when_run(folder, "torch")


def test_a_folder_without_a_description_and_an_unreadable_one_are_refused(tmp_path):
    with pytest.raises(BundleError, match=r"model\.json"):
        Bundle.load(tmp_path)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "model.json")  # reading it would wait for ever
        with pytest.raises(BundleError, match=r"model\.json"):
            Bundle.load(tmp_path)


def test_a_file_is_hashed_again_only_if_it_may_have_changed(tiny_model, tmp_path, monkeypatch):
    folder = Path(shutil.copytree(tiny_model.folder, tmp_path / "m"))
    hashed: list[str] = []
    digest = bundle_module.hashlib.file_digest
    monkeypatch.setattr(
        bundle_module.hashlib, "file_digest", lambda stream, kind: hashed.append(stream.name) or digest(stream, kind)
    )

    Bundle.load(folder)
    Bundle.load(folder)
    assert len(hashed) == 4  # too young to be sure of
    monkeypatch.setattr(bundle_module, "_SETTLED_SECONDS", -1.0)
    Bundle.load(folder)
    assert len(hashed) == 6
    Bundle.load(folder)
    assert len(hashed) == 6
    content = bytearray((folder / "model.onnx").read_bytes())
    content[-1] ^= 1
    (folder / "model.onnx").write_bytes(content)
    with pytest.raises(BundleError, match="damaged or has been changed"):
        Bundle.load(folder)


def test_what_is_computed_with_is_always_hashed(tiny_model, tmp_path):
    folder = Path(shutil.copytree(tiny_model.folder, tmp_path / "m"))
    bundle = Bundle.load(folder)
    content = bytearray((folder / "model.onnx").read_bytes())
    content[-1] ^= 1
    (folder / "model.onnx").write_bytes(content)
    with pytest.raises(BundleError, match="damaged or has been changed"):
        bundle.read("model.onnx")
