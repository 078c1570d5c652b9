"""Model bundles: what is written, what is refused, where they are found, and that every runtime gives the same."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from model_tools import tiny_bundle, tiny_manifest, tiny_unet

from LiverMarginLib.errors import BundleError, InputError, LiverMarginError, ResourceError
from LiverMarginLib.inference import devices
from LiverMarginLib.inference.check import check_bundle
from LiverMarginLib.inference.segmenter import load_segmenter
from LiverMarginLib.models import architectures, store
from LiverMarginLib.models.architectures import Architecture, register
from LiverMarginLib.models.bundle import Bundle, save_bundle, write_bundle
from LiverMarginLib.models.manifest import Manifest, Postprocessing, Task, Window, WindowUnit
from LiverMarginLib.models.store import find_bundle, list_bundles
from LiverMarginLib.terminology import LIVER, LIVER_MASS, Segment
from LiverMarginLib.volume import IntensityKind, Modality

REPOSITORY = Path(__file__).resolve().parents[2]
EVERYTHING = {
    "modality": Modality.MR,
    "input_kind": IntensityKind.ARBITRARY,
    "window": Window(2, 98, WindowUnit.PERCENTILE),
    "labels": (LIVER, LIVER_MASS, Segment(7, "Größe", (1, 2, 3))),
    "parameters": {"in_channels": 3, "classes": 3, "widths": [4, 8, 12], "dropout": 0.0},
    "context_slices": 1,
    "thresholds": {"mask": 0.4, "score": 0.6},
    "postprocessing": Postprocessing(largest_component=True, min_volume_ml=1.5),
    "training": {"data": "phantoms", "scores": {"Dice": [0.9, 0.95]}},
}


@pytest.fixture(scope="module")
def pristine(tmp_path_factory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("models") / "tiny").folder


@pytest.fixture
def folder(pristine, tmp_path) -> Path:
    """A copy of a good bundle, to be spoilt."""
    return Path(shutil.copytree(pristine, tmp_path / "tiny"))


def one_sentence(message: str) -> bool:
    return message.endswith(".") and "\n" not in message and ". " not in message and len(message) < 400


REMOVED = "REMOVED"


def edit(folder: Path, **changes) -> None:
    """Change entries of model.json, or take them out."""
    path = folder / "model.json"
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not REMOVED}))


def replace_weights(folder: Path, name: str, content: bytes) -> None:
    """Put other weights into a bundle and sign them, as an attacker would."""
    (folder / name).write_bytes(content)
    weights = json.loads((folder / "model.json").read_text())["weights"]
    edit(folder, weights=weights | {name: hashlib.sha256(content).hexdigest()})


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


def test_a_bundle_holds_its_description_both_forms_of_the_weights_and_a_card(pristine):
    assert {path.name for path in pristine.iterdir()} == {
        "model.json",
        "weights.safetensors",
        "model.onnx",
        "README.md",
    }
    card = (pristine / "README.md").read_text()
    for expected in ("# tiny 1.0.0", "not a medical device", "Liver", "-160 to 240", "Apache-2.0", "sha256"):
        assert expected in card


def test_the_written_files_say_nothing_about_the_machine(pristine):
    for path in pristine.iterdir():
        content = path.read_bytes()
        for trace in (str(REPOSITORY), str(Path.home()), sys.prefix, "site-packages", ".py"):
            assert trace.encode() not in content, path.name


def test_the_same_network_gives_the_same_bundle_byte_for_byte(pristine, tmp_path):
    again = tiny_bundle(tmp_path / "tiny")
    for path in pristine.iterdir():
        assert path.read_bytes() == (again.folder / path.name).read_bytes(), path.name


def test_half_precision_halves_the_files_and_both_forms_hold_the_same_rounded_values(pristine, tmp_path):
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
    for name in ("weights.safetensors", "model.onnx"):
        assert (half.folder / name).stat().st_size < 0.75 * (pristine / name).stat().st_size


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


def refused(folder: Path, runtime: str) -> str:
    """Load and run a bundle, which must fail with a `BundleError`; return its message."""
    with pytest.raises(BundleError) as caught:
        load_segmenter(Bundle.load(folder), runtime=runtime).predict(np.zeros((1, 1, 32, 32), np.float32))
    assert one_sentence(caught.value.message)
    return caught.value.message


@pytest.mark.parametrize("name", ["weights.safetensors", "model.onnx"])
def test_tampered_truncated_and_missing_weights_are_refused_before_they_are_read(folder, name):
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    assert "sha256" in refused(folder, "auto")
    (folder / name).write_bytes(content[: len(content) // 2])
    assert "sha256" in refused(folder, "auto")
    (folder / name).unlink()
    assert "missing" in refused(folder, "auto")


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
    assert "safetensors" in refused(folder, "torch")
    assert not (tmp_path / "exploited").exists()


def test_weights_of_another_network_are_refused_before_it_is_made(folder):
    edit(folder, parameters={"in_channels": 1, "classes": 1, "widths": [2048] * 3, "dropout": 0.0})
    assert "architecture" in refused(folder, "torch")


def graph(side: int, weights: onnx.TensorProto) -> bytes:
    """A graph that adds weights to an image."""
    shape = ["batch", 1, side, side]
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            [onnx.helper.make_node("Add", ["x", "w"], ["y"])],
            "g",
            [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
            [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch", "classes", side, side])],
            [weights],
        ),
        opset_imports=[onnx.helper.make_opsetid("", 18)],
        ir_version=9,
    )
    return model.SerializeToString()


def weights_in_a_file_of_the_machine() -> onnx.TensorProto:
    tensor = onnx.TensorProto(name="w", data_type=1, dims=[1], data_location=onnx.TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="secret.bin")
    return tensor


def weights_of_shape(*shape: int) -> onnx.TensorProto:
    return onnx.numpy_helper.from_array(np.zeros(shape, np.float32), "w")


@pytest.mark.parametrize("kind", ["not onnx", "external data", "other input", "other output"])
def test_graphs_that_cannot_be_used_are_refused(folder, tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret.bin").write_bytes(b"\0\0\0\0")
    content = {
        "not onnx": b"text",
        "external data": graph(32, weights_in_a_file_of_the_machine()),
        "other input": graph(64, weights_of_shape(1)),
        "other output": graph(32, weights_of_shape(1, 2, 1, 1)),
    }[kind]
    replace_weights(folder, "model.onnx", content)
    assert "ONNX graph" in refused(folder, "onnx")


def test_a_graph_that_fits_is_run(folder):
    replace_weights(folder, "model.onnx", graph(32, weights_of_shape(1)))
    batch = np.random.default_rng(0).random((2, 1, 32, 32), dtype=np.float32)
    np.testing.assert_array_equal(load_segmenter(Bundle.load(folder), runtime="onnx").predict(batch), batch)


def test_a_folder_without_a_description_and_an_unreadable_one_are_refused(tmp_path):
    with pytest.raises(BundleError, match=r"model\.json"):
        Bundle.load(tmp_path)
    os.mkfifo(tmp_path / "model.json")  # reading it would wait for ever
    with pytest.raises(BundleError, match=r"model\.json"):
        Bundle.load(tmp_path)


# ---- runtimes


@pytest.mark.parametrize(
    ("half", "changes"),
    [(False, {}), (True, {}), (True, EVERYTHING)],
    ids=["single precision", "half precision", "three classes in context"],
)
def test_torch_and_onnx_runtime_give_the_same_probabilities(tmp_path, half, changes):
    bundle = tiny_bundle(tmp_path / "m", half=half, **changes)
    channels, classes = bundle.manifest.channels, len(bundle.manifest.labels)
    batch = np.random.default_rng(0).random((5, channels, 32, 32), dtype=np.float32)
    outputs = []
    for runtime in ("torch", "onnx"):
        segmenter = load_segmenter(bundle, device="cpu", runtime=runtime)
        assert (segmenter.input_size, segmenter.classes, segmenter.device) == ((32, 32), classes, "cpu")
        for n in (5, 1, 3):
            output = segmenter.predict(batch[:n])
            assert output.shape == (n, classes, 32, 32)
            assert output.dtype == np.float32
        outputs.append(segmenter.predict(batch))
    net = tiny_unet(in_channels=channels, classes=classes)
    if half:
        net = net.half().float()
    with torch.no_grad():
        expected = torch.sigmoid(net.eval()(torch.from_numpy(batch))).numpy()
    np.testing.assert_allclose(outputs[0], expected, atol=1e-5)
    np.testing.assert_allclose(outputs[1], expected, atol=1e-5)
    assert expected.min() < 0.45 < 0.55 < expected.max()


def test_the_network_of_table_4_gives_the_same_in_both_runtimes_at_512(tmp_path):
    widths = [16, 32, 64, 128, 256]
    manifest = tiny_manifest(
        parameters={"in_channels": 1, "classes": 1, "widths": widths, "dropout": 0.1}, input_size=(512, 512)
    )
    save_bundle(tmp_path / "m", manifest, module=tiny_unet(widths=widths), half=True)
    report = check_bundle(tmp_path / "m")
    assert set(report.seconds) == {"onnx", "torch"}
    assert report.largest_difference < 1e-4


def test_a_check_reports_time_and_difference_and_finds_forms_that_disagree(folder, tmp_path):
    report = check_bundle(folder)
    assert set(report.seconds) == {"onnx", "torch"}
    assert report.largest_difference < 1e-4
    other = tiny_bundle(tmp_path / "other", seed=1)
    replace_weights(folder, "model.onnx", other.read("model.onnx"))
    with pytest.raises(BundleError, match="different results"):
        check_bundle(folder)


def test_a_runtime_without_its_weights_is_refused_and_auto_takes_the_other(tmp_path):
    bundle = tiny_bundle(tmp_path / "m", onnx=False)
    assert "torch" in load_segmenter(bundle, device="cpu").runtime
    with pytest.raises(BundleError, match="runtime torch"):
        load_segmenter(bundle, runtime="onnx")


def test_onnx_runtime_is_chosen_on_the_cpu_and_threads_are_obeyed(pristine):
    segmenter = load_segmenter(Bundle.load(pristine), device="cpu", threads=1)
    assert segmenter.runtime == f"onnxruntime {onnxruntime.__version__}"
    before = torch.get_num_threads()
    load_segmenter(Bundle.load(pristine), device="cpu", runtime="torch", threads=1)
    assert torch.get_num_threads() == 1
    torch.set_num_threads(before)


@pytest.mark.parametrize("options", [{"device": "tpu"}, {"runtime": "tensorflow"}, {"threads": 0}])
def test_unknown_devices_runtimes_and_thread_counts_are_refused(pristine, options):
    with pytest.raises(InputError):
        load_segmenter(Bundle.load(pristine), **options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a CUDA device")
@pytest.mark.parametrize("runtime", ["auto", "torch", "onnx"])
def test_a_device_that_is_not_there_is_refused_with_one_sentence(pristine, runtime):
    with pytest.raises(ResourceError) as caught:
        load_segmenter(Bundle.load(pristine), device="cuda", runtime=runtime)
    assert one_sentence(caught.value.message)
    assert caught.value.exit_code == 4


def test_a_device_that_computes_wrongly_is_not_trusted(monkeypatch):
    assert devices.prove_torch_device("cpu") == ""
    original = torch.nn.functional.conv2d
    calls = []

    def every_second_is_wrong(*args):
        calls.append(args)
        return original(*args) * (1 if len(calls) % 2 else 0)

    monkeypatch.setattr(torch.nn.functional, "conv2d", every_second_is_wrong)
    assert "wrong" in devices.prove_torch_device("cpu")


def test_auto_goes_on_with_the_cpu_where_the_gpu_fails_its_test(pristine, monkeypatch):
    from LiverMarginLib.inference import backends

    monkeypatch.setattr(backends, "accelerator_is_likely", lambda: True)
    monkeypatch.setattr(backends, "prove_torch_device", lambda name: "the driver is too old")
    assert load_segmenter(Bundle.load(pristine)).device == "cpu"


@pytest.mark.gpu
def test_the_gpu_gives_the_probabilities_of_the_cpu(pristine):
    bundle = Bundle.load(pristine)
    batch = np.random.default_rng(0).random((5, 1, 32, 32), dtype=np.float32)
    on_gpu = load_segmenter(bundle, device="cuda", runtime="torch").predict(batch)
    np.testing.assert_allclose(on_gpu, load_segmenter(bundle, device="cpu").predict(batch), atol=5e-3)


def test_a_bundle_is_listed_checked_and_run_in_a_python_without_torch(pristine):
    code = f"""
import sys
sys.modules["torch"] = None
sys.modules["safetensors"] = None
import pkgutil, importlib, numpy as np
import LiverMarginLib.inference, LiverMarginLib.models, LiverMarginLib.preprocessing
for package in (LiverMarginLib.inference, LiverMarginLib.models):
    for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        if module.name != "LiverMarginLib.models.unet":
            importlib.import_module(module.name)
from LiverMarginLib.inference.check import check_bundle
from LiverMarginLib.models.store import find_bundle
from LiverMarginLib.inference.segmenter import load_segmenter
find_bundle({str(pristine)!r})
print(check_bundle({str(pristine)!r}).skipped)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert done.returncode == 0, done.stderr
    assert "torch" in done.stdout
    assert done.stderr == ""


def test_other_architectures_bring_their_own_code(tmp_path, monkeypatch):
    monkeypatch.setattr(architectures, "_ARCHITECTURES", dict(architectures._ARCHITECTURES))
    register(Architecture("echo", check=lambda manifest: None, segmenter=f"{__name__}:load_echo"))
    manifest = tiny_manifest(architecture="echo", parameters={"anything": [1]})
    bundle = write_bundle(tmp_path / "echo", manifest, {"model.onnx": b"not read"})
    segmenter = load_segmenter(Bundle.load(bundle.folder), device="cpu")
    assert segmenter.runtime == "echo"
    with pytest.raises(BundleError, match="ONNX graph alone"):
        bundle.architecture.build({})


class Echo:
    input_size, classes, device, runtime = (32, 32), 1, "cpu", "echo"

    def predict(self, batch):
        return batch


def load_echo(bundle, *, device, runtime, threads):
    return Echo()


def test_a_model_that_does_not_segment_slices_is_refused_by_the_slice_pipeline(tmp_path, monkeypatch):
    monkeypatch.setattr(architectures, "_ARCHITECTURES", dict(architectures._ARCHITECTURES))
    register(Architecture("denoiser", check=lambda manifest: None))
    manifest = dataclasses.replace(tiny_manifest(labels=(), task=Task.DENOISING), architecture="denoiser")
    bundle = write_bundle(tmp_path / "m", manifest, {"model.onnx": b"x"})
    with pytest.raises(BundleError, match="does not segment slices"):
        load_segmenter(bundle)


# ---- where they are found


@pytest.fixture
def places(tmp_path, monkeypatch) -> dict[str, Path]:
    """Empty model folders of every kind."""
    monkeypatch.setattr(store, "_PACKAGE", tmp_path / "tree" / "LiverMarginLib")
    monkeypatch.setattr(store.sys, "platform", "linux")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("LIVERMARGIN_MODELS", f"{tmp_path / 'first'}{os.pathsep}{tmp_path / 'second'}")
    folders = {
        "named": tmp_path / "named",
        "first": tmp_path / "first",
        "second": tmp_path / "second",
        "user": tmp_path / "data" / "LiverMargin" / "Models",
        "shipped": tmp_path / "tree" / "Resources" / "Models",
        "pip": tmp_path / "tree" / "LiverMarginLib" / "Resources" / "Models",
    }
    for folder in folders.values():
        folder.mkdir(parents=True)
    return folders


def test_models_are_found_in_every_place_and_the_nearer_one_wins(places):
    for order, (place, folder) in enumerate(places.items()):
        write_bundle(folder / "own", tiny_manifest(name=f"of-{place}"), {"model.onnx": b"x"})
        write_bundle(folder / "same", tiny_manifest(name="same", version=f"{order}"), {"model.onnx": b"x"})
    names = [entry.name for entry in list_bundles(places["named"])]
    assert names == sorted([*(f"of-{place}" for place in places), "same"])
    assert find_bundle("same", places["named"]).manifest.version == "0"
    assert find_bundle("same").manifest.version == "1"
    assert find_bundle("of-pip").folder == places["pip"] / "own"


def test_models_are_found_by_folder_and_by_their_description_file(places, folder):
    for path in (folder, str(folder), folder / "model.json"):
        assert find_bundle(path).manifest.name == "tiny"


def test_an_unknown_model_is_refused_with_the_known_ones(places):
    with pytest.raises(BundleError, match="known models: none") as caught:
        find_bundle("unet")
    write_bundle(places["user"] / "x", tiny_manifest(name="unet-ct"), {"model.onnx": b"x"})
    with pytest.raises(BundleError, match="known models: unet-ct") as caught:
        find_bundle("unet")
    assert one_sentence(caught.value.message)


def test_a_damaged_bundle_is_listed_with_its_problem_and_hides_no_other(places):
    write_bundle(places["user"] / "good", tiny_manifest(name="good"), {"model.onnx": b"x"})
    broken = places["user"] / "broken"
    broken.mkdir()
    (broken / "model.json").write_text("{")
    (places["user"] / "no model").mkdir()
    entries = {entry.name: entry for entry in list_bundles()}
    assert set(entries) == {"good", "broken"}
    assert not entries["good"].problem
    assert one_sentence(entries["broken"].problem)
    with pytest.raises(LiverMarginError, match="JSON"):
        find_bundle("broken")


@pytest.mark.parametrize(
    ("platform", "expected"),
    [("linux", "data/LiverMargin/Models"), ("darwin", "Library/Application Support/LiverMargin/Models")],
)
def test_the_users_models_lie_where_the_platform_keeps_data(places, monkeypatch, tmp_path, platform, expected):
    monkeypatch.setattr(store.sys, "platform", platform)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert store.user_model_folder() == tmp_path / expected
