"""Half precision: an option that says so, by torch where it is quick, refused in one sentence everywhere else."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from model_tools import Fake, bare, ct, one_sentence

from LiverMarginLib.cli import main
from LiverMarginLib.errors import BundleError, DependencyError, InputError, ResourceError
from LiverMarginLib.inference import arithmetic
from LiverMarginLib.inference.arithmetic import Arithmetic, choose_arithmetic, without_tf32
from LiverMarginLib.inference.ensemble import EnsembleSegmenter
from LiverMarginLib.inference.segmenter import Precision, load_segmenter, precision_of
from LiverMarginLib.inference.slicewise import segment_volume
from LiverMarginLib.inference.torch_backend import TorchSegmenter
from LiverMarginLib.inference.warm import warm_model
from LiverMarginLib.io.readers import read_labels
from LiverMarginLib.io.volume_writers import write_volume
from LiverMarginLib.jobs import job_from_dict
from LiverMarginLib.jobs.batch import BatchJob
from LiverMarginLib.jobs.evaluate import EvaluateJob
from LiverMarginLib.jobs.pseudo_label import PseudoLabelJob
from LiverMarginLib.jobs.segment import SegmentJob
from LiverMarginLib.models.ensemble_architecture import Rule


@pytest.fixture
def with_bfloat16(monkeypatch) -> None:
    """torch computes bfloat16 on any CPU; whether it is quick there is another matter."""
    monkeypatch.setattr(arithmetic, "_has_bfloat16", lambda: True)


@pytest.fixture
def without_bfloat16(monkeypatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": False, "avx2": True}, raising=False)


def batch() -> np.ndarray:
    return np.random.default_rng(0).random((3, 1, 32, 32), dtype=np.float32)


# ---- what it is


@pytest.mark.usefixtures("with_bfloat16")
def test_half_precision_on_a_cpu_is_bfloat16_by_torch_near_single_precision_and_not_it(tiny_model):
    single = load_segmenter(tiny_model, device="cpu", runtime="torch")
    half = load_segmenter(tiny_model, device="cpu", precision="half")
    assert (precision_of(single), precision_of(half)) == ("float32", "bfloat16")
    assert half.runtime.startswith("torch")
    found = half.predict(batch())
    assert found.dtype == np.float32
    assert 0 < np.abs(found - single.predict(batch())).max() < 0.02


@pytest.mark.usefixtures("with_bfloat16")
def test_volumetric_networks_compute_in_half_precision_too(tmp_path):
    from model_tools import tiny_unet3d_bundle

    bundle = tiny_unet3d_bundle(tmp_path / "m")
    blocks = np.random.default_rng(0).random((2, 1, 16, 16, 16), dtype=np.float32)
    single, half = (load_segmenter(bundle, device="cpu", precision=p).predict(blocks) for p in Precision)
    assert 0 < np.abs(half - single).max() < 0.05


def test_single_precision_is_the_default_and_nothing_less(tiny_model):
    segmenter = load_segmenter(tiny_model, device="cpu", runtime="torch")
    with torch.inference_mode():
        expected = torch.sigmoid(tiny_model.torch_module()(torch.from_numpy(batch()))).numpy()
    np.testing.assert_allclose(segmenter.predict(batch()), expected, atol=1e-6)
    assert precision_of(load_segmenter(tiny_model, device="cpu", runtime="onnx")) == "float32"


def test_tf32_is_off_while_a_network_computes_and_as_it_was_afterwards(tiny_model, monkeypatch):
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    segmenter = load_segmenter(tiny_model, device="cpu", runtime="torch")
    seen = []
    segmenter._module.register_forward_hook(lambda *_: seen.append((cudnn.allow_tf32, matmul.allow_tf32)))
    before = cudnn.allow_tf32, matmul.allow_tf32
    try:
        cudnn.allow_tf32 = matmul.allow_tf32 = True
        segmenter.predict(batch())
        assert seen == [(False, False)]
        assert (cudnn.allow_tf32, matmul.allow_tf32) == (True, True)
        with pytest.raises(ValueError, match="x"), without_tf32():
            raise ValueError("x")
        assert (cudnn.allow_tf32, matmul.allow_tf32) == (True, True)
    finally:
        cudnn.allow_tf32, matmul.allow_tf32 = before


def test_an_overflow_of_float16_is_not_taken_for_certainty():
    logits = torch.tensor([65504.0, torch.inf, -torch.inf], dtype=torch.float16)
    found = torch.sigmoid(Arithmetic("cuda", torch.float16).finished(logits))
    assert found[0] == 1
    assert found[1:].isnan().all()
    assert Arithmetic("cpu", torch.bfloat16).finished(torch.tensor([torch.inf])).isinf().all()


def test_values_that_are_no_numbers_in_half_precision_are_refused_with_the_way_out(tiny_model):
    class Overflowing(Fake):
        precision = "float16"

        def predict(self, batch):
            return np.full_like(batch, np.nan)

    with pytest.raises(BundleError) as caught:
        segment_volume(ct(), tiny_model, Overflowing())
    assert one_sentence(caught.value.message)
    assert "in float16; choose the precision single" in caught.value.message


@pytest.mark.parametrize(("capability", "expected"), [((6, 1), None), ((7, 0), torch.float16), ((9, 0), torch.float16)])
def test_half_precision_on_a_gpu_is_float16_where_tensor_cores_are(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    if expected is None:
        with pytest.raises(ResourceError, match="no quicker in half precision"):
            choose_arithmetic(Precision.HALF, "cuda")
    else:
        assert choose_arithmetic(Precision.HALF, "cuda").half is expected
    assert choose_arithmetic(Precision.SINGLE, "cuda").half is None


# ---- where it is not


@pytest.mark.parametrize("runtime", ["onnx", "ncnn"])
def test_a_runtime_without_half_precision_refuses_it_in_one_sentence(tiny_model, runtime):
    with pytest.raises(InputError) as caught:
        load_segmenter(tiny_model, device="cpu", runtime=runtime, precision="half")
    assert one_sentence(caught.value.message)
    assert "choose the runtime torch" in caught.value.message


def test_half_precision_without_torch_is_refused_in_one_sentence(tiny_model, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None if name == "torch" else find(name))
    with pytest.raises(DependencyError) as caught:
        load_segmenter(tiny_model, device="cpu", precision="half")
    assert one_sentence(caught.value.message)
    assert "precision single" in caught.value.message
    assert "torch must be installed" in caught.value.details


@pytest.mark.usefixtures("without_bfloat16")
def test_a_processor_without_instructions_for_it_refuses_it_in_one_sentence(tiny_model):
    with pytest.raises(ResourceError) as caught:
        load_segmenter(tiny_model, device="cpu", precision="half")
    assert one_sentence(caught.value.message)
    assert "choose the precision single" in caught.value.message


def test_a_network_that_finds_boxes_refuses_it_in_one_sentence(tiny_model, monkeypatch):
    from LiverMarginLib.models import architectures

    unet = architectures.find_architecture("unet")
    boxes = replace(unet, name="boxes", activation=architectures.Activation.IDENTITY)
    monkeypatch.setitem(architectures._ARCHITECTURES, "boxes", boxes)
    with pytest.raises(BundleError) as caught:
        TorchSegmenter(bare(tiny_model, architecture="boxes"), precision=Precision.HALF)
    assert one_sentence(caught.value.message)
    assert "precision single" in caught.value.message


def test_an_unknown_precision_is_refused(tiny_model):
    with pytest.raises(InputError, match="single, half"):
        load_segmenter(tiny_model, precision="double")


# ---- every door


@pytest.mark.usefixtures("with_bfloat16")
def test_the_command_line_computes_in_half_precision_and_the_file_says_so(tiny_model, tmp_path, capsys):
    image, out = write_volume(ct(), tmp_path / "ct.nii.gz"), tmp_path / "liver.seg.nrrd"
    words = ["segment", str(image), "-m", str(tiny_model.folder), "-o", str(out), "--device", "cpu"]
    assert main([*words, "--precision", "half", "--modality", "CT"]) == 0
    assert "computed in bfloat16" in capsys.readouterr().out
    assert read_labels(out).provenance["precision"] == "bfloat16"
    out.unlink()
    assert main([*words, "--modality", "CT", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["precision"] == "float32"


@pytest.mark.parametrize("kind", [SegmentJob, BatchJob, EvaluateJob, PseudoLabelJob])
def test_jobs_that_segment_take_a_precision_through_json(kind):
    required = {SegmentJob: {"input": "a", "model": "m", "outputs": []}, BatchJob: {"inputs": [], "folder": "f"}}
    values = json.loads(json.dumps({"job": kind.kind, "precision": "half", **required.get(kind, {})}))
    job = job_from_dict(values)
    assert isinstance(job, kind)
    assert job.precision == "half"
    assert job.to_dict()["precision"] == "half"


def test_a_batch_hands_its_precision_to_its_workers_and_starts_anew_with_another_one():
    job = BatchJob(inputs=("a",), folder="f", precision="half")
    assert job.worker_options()["precision"] == "half"
    assert job.segment_job().precision == "half"
    assert job.deciding_options() != replace(job, precision="single").deciding_options()


@pytest.mark.usefixtures("with_bfloat16")
def test_a_warm_network_is_not_taken_for_one_of_another_precision(tiny_model):
    first = warm_model(tiny_model, device="cpu", runtime="torch")
    half = warm_model(tiny_model, device="cpu", runtime="torch", precision="half")
    assert (precision_of(first.segmenter), precision_of(half.segmenter)) == ("float32", "bfloat16")


def test_an_ensemble_says_what_each_of_its_members_computes_in():
    one, other = Fake(), Fake()
    other.precision = "float16"
    assert precision_of(EnsembleSegmenter([one, other], Rule.MEAN)) == "float32 + float16"
    assert precision_of(EnsembleSegmenter([one, Fake()], Rule.MEAN)) == "float32"


@pytest.mark.gpu
def test_half_precision_on_a_gpu_is_near_single_precision(tiny_model):
    single, half = (load_segmenter(tiny_model, device="cuda", precision=p) for p in Precision)
    assert (precision_of(single), precision_of(half)) == ("float32", "float16")
    expected = load_segmenter(tiny_model, device="cpu", runtime="torch").predict(batch())
    np.testing.assert_allclose(single.predict(batch()), expected, atol=2e-5)
    np.testing.assert_allclose(half.predict(batch()), expected, atol=5e-3)
