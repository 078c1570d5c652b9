"""Runtimes and devices: every one gives the same probabilities, or is refused with a reason."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from model_tools import (
    EVERYTHING,
    graph,
    one_sentence,
    refused_when_run,
    replace_weights,
    tiny_bundle,
    tiny_manifest,
    tiny_unet,
    weights_in_a_file_of_the_machine,
    weights_of_shape,
)

from LiverMarginLib.errors import BundleError, DependencyError, InputError, ResourceError
from LiverMarginLib.inference import backends, devices
from LiverMarginLib.inference.check import check_bundle
from LiverMarginLib.inference.segmenter import images_side_by_side, load_segmenter
from LiverMarginLib.models import architectures
from LiverMarginLib.models.architectures import Architecture, register
from LiverMarginLib.models.bundle import Bundle, save_bundle, write_bundle
from LiverMarginLib.models.manifest import Task

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tiny_model, tmp_path) -> Path:
    """A copy of a good bundle, to be spoilt."""
    return Path(shutil.copytree(tiny_model.folder, tmp_path / "tiny"))


@pytest.mark.parametrize("kind", ["not onnx", "external data", "other input", "other output"])
def test_graphs_that_cannot_be_used_are_refused_when_run(folder, tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret.bin").write_bytes(b"\0\0\0\0")
    content = {
        "not onnx": b"text",
        "external data": graph(32, weights_in_a_file_of_the_machine()),
        "other input": graph(64, weights_of_shape(1)),
        "other output": graph(32, weights_of_shape(1, 2, 1, 1)),
    }[kind]
    replace_weights(folder, "model.onnx", content)
    assert "ONNX graph" in refused_when_run(folder, "onnx")


@pytest.mark.parametrize("threads", [1, 2, 3, 9])
def test_slices_computed_side_by_side_are_to_the_bit_those_of_one_batch(tiny_model, threads):
    batch = np.random.default_rng(0).random((5, 1, 32, 32), dtype=np.float32)
    expected = backends.onnx_session(tiny_model).run(None, {"image": batch})[0]
    segmenter = load_segmenter(tiny_model, device="cpu", runtime="onnx", threads=threads)
    assert images_side_by_side(segmenter) == min(threads, 4)
    for _ in range(2):
        np.testing.assert_array_equal(segmenter.predict(batch), expected)
    np.testing.assert_array_equal(segmenter.predict(batch[:1]), expected[:1])


def test_who_begins_with_a_single_slice_gets_all_threads_for_it(tiny_model):
    segmenter = load_segmenter(tiny_model, device="cpu", runtime="onnx", threads=3)
    batch = np.random.default_rng(0).random((2, 1, 32, 32), dtype=np.float32)
    alone = segmenter.predict(batch[:1])
    assert segmenter._session_for(1).get_session_options().intra_op_num_threads == 3
    np.testing.assert_array_equal(segmenter.predict(batch)[:1], alone)
    assert segmenter._session_for(2).get_session_options().intra_op_num_threads == 1


def test_a_graph_that_fits_is_run(folder):
    replace_weights(folder, "model.onnx", graph(32, weights_of_shape(1)))
    batch = np.random.default_rng(0).random((2, 1, 32, 32), dtype=np.float32)
    np.testing.assert_array_equal(load_segmenter(Bundle.load(folder), runtime="onnx").predict(batch), batch)


@pytest.mark.parametrize(
    ("half", "changes"), [(False, {}), (True, EVERYTHING)], ids=["single precision", "three classes in half precision"]
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


def test_a_check_reports_time_and_difference_and_finds_forms_that_disagree(folder):
    report = check_bundle(folder)
    assert set(report.seconds) == {"onnx", "torch"}
    assert report.largest_difference < 1e-4
    replace_weights(folder, "model.onnx", graph(32, weights_of_shape(1)))
    with pytest.raises(BundleError, match="different results"):
        check_bundle(folder)


@pytest.fixture
def without_ncnn(monkeypatch) -> None:
    """What is chosen where ncnn is not installed, wherever the tests run."""
    monkeypatch.setattr(backends, "why_not_ncnn", lambda bundle: DependencyError("ncnn is not installed."))


@pytest.mark.usefixtures("without_ncnn")
def test_a_runtime_without_its_weights_is_refused_and_auto_takes_the_other(tmp_path):
    bundle = tiny_bundle(tmp_path / "m", onnx=False)
    assert "torch" in load_segmenter(bundle, device="cpu").runtime
    with pytest.raises(BundleError, match="runtime torch"):
        load_segmenter(bundle, runtime="onnx")


@pytest.mark.usefixtures("without_ncnn")
def test_onnx_runtime_is_chosen_on_the_cpu_and_threads_are_obeyed(tiny_model):
    segmenter = load_segmenter(tiny_model, device="cpu", threads=1)
    assert segmenter.runtime == f"onnxruntime {onnxruntime.__version__}"
    before = torch.get_num_threads()
    load_segmenter(tiny_model, device="cpu", runtime="torch", threads=1)
    assert torch.get_num_threads() == 1
    torch.set_num_threads(before)


@pytest.mark.parametrize("options", [{"device": "tpu"}, {"runtime": "tensorflow"}, {"threads": 0}])
def test_unknown_devices_runtimes_and_thread_counts_are_refused(tiny_model, options):
    with pytest.raises(InputError):
        load_segmenter(tiny_model, **options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a CUDA device")
@pytest.mark.parametrize("runtime", ["auto", "torch", "onnx"])
def test_a_device_that_is_not_there_is_refused_with_one_sentence(tiny_model, runtime):
    with pytest.raises(ResourceError) as caught:
        load_segmenter(tiny_model, device="cuda", runtime=runtime)
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


def test_auto_goes_on_with_the_cpu_where_the_gpu_fails_its_test(tiny_model, monkeypatch):
    from LiverMarginLib.inference import backends

    monkeypatch.setattr(backends, "accelerator_is_likely", lambda: True)
    monkeypatch.setattr(backends, "prove_torch_device", lambda name: "the driver is too old")
    assert load_segmenter(tiny_model).device == "cpu"


@pytest.mark.gpu
def test_the_gpu_gives_the_probabilities_of_the_cpu(tiny_model):
    bundle = tiny_model
    batch = np.random.default_rng(0).random((5, 1, 32, 32), dtype=np.float32)
    on_gpu = load_segmenter(bundle, device="cuda", runtime="torch").predict(batch)
    np.testing.assert_allclose(on_gpu, load_segmenter(bundle, device="cpu").predict(batch), atol=2e-5)


def test_a_bundle_is_listed_checked_and_run_in_a_python_without_torch(tiny_model):
    code = f"""
import sys
sys.modules["torch"] = None
sys.modules["safetensors"] = None
from LiverMarginLib.inference.check import check_bundle
from LiverMarginLib.models.store import find_bundle
find_bundle({str(tiny_model.folder)!r})
print(check_bundle({str(tiny_model.folder)!r}).skipped)
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


def load_echo(bundle, *, device, runtime, threads, precision):
    return Echo()


def test_a_model_that_does_not_segment_slices_is_refused_by_the_slice_pipeline(tmp_path, monkeypatch):
    monkeypatch.setattr(architectures, "_ARCHITECTURES", dict(architectures._ARCHITECTURES))
    register(Architecture("denoiser", check=lambda manifest: None))
    manifest = dataclasses.replace(tiny_manifest(labels=(), task=Task.DENOISING), architecture="denoiser")
    bundle = write_bundle(tmp_path / "m", manifest, {"model.onnx": b"x"})
    with pytest.raises(BundleError, match="does not segment"):
        load_segmenter(bundle)
