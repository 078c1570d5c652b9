"""Networks by ncnn, whose convolutions add up in another order: the same as by torch and by ONNX Runtime."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import textwrap
from typing import Any

import numpy as np
import pytest
import torch
from conftest import REPOSITORY
from detectron_examples import enliven, images, small_spec
from model_tools import EVERYTHING, OBLONG, SQUARE, tiny_bundle, tiny_manifest, tiny_unet
from test_air import ct_of_a_body, every_slice, slice_inputs

from LiverMarginLib.errors import BundleError, DependencyError
from LiverMarginLib.inference import ncnn_backend
from LiverMarginLib.inference.ensemble import EnsembleSegmenter
from LiverMarginLib.inference.ncnn_backend import why_not_ncnn
from LiverMarginLib.inference.segmenter import confined, images_side_by_side, load_segmenter
from LiverMarginLib.inference.slicewise import segment_volume
from LiverMarginLib.models.detectron_bundle import save_mask_rcnn
from LiverMarginLib.models.ensemble_architecture import Rule
from LiverMarginLib.models.manifest import Manifest
from LiverMarginLib.models.maskrcnn import MaskRCNN
from LiverMarginLib.models.unet import UNet
from LiverMarginLib.models.unet_ncnn import build_unet

needs_ncnn = pytest.mark.skipif(
    importlib.util.find_spec("ncnn") is None, reason="ncnn is not installed (livermargin[fast])"
)


def state_of(network: torch.nn.Module) -> dict[str, Any]:
    return {name: tensor.detach().numpy() for name, tensor in network.state_dict().items()}


@needs_ncnn
@pytest.mark.parametrize("changes", [{}, EVERYTHING], ids=["one class", "three classes, three slices"])
@pytest.mark.parametrize("threads", [1, 3])
def test_a_unet_gives_the_probabilities_that_torch_gives(tmp_path, changes, threads):
    bundle = tiny_bundle(tmp_path / "m", half=True, **changes)
    batch = np.random.default_rng(0).random((5, bundle.manifest.channels, 32, 32), dtype=np.float32)
    expected = load_segmenter(bundle, device="cpu", runtime="torch", threads=1).predict(batch)
    segmenter = load_segmenter(bundle, device="cpu", runtime="ncnn", threads=threads)
    assert images_side_by_side(segmenter) == threads and segmenter.runtime.startswith("ncnn 1")
    for n in (5, 1, 2):
        np.testing.assert_allclose(segmenter.predict(batch[:n]), expected[:n], atol=5e-6)
    assert expected.std() > 0.01


@needs_ncnn
def test_winograds_convolutions_are_as_exact_as_plain_sums():
    torch.manual_seed(0)
    network = UNet(widths=(16, 32, 64)).eval()  # wide enough for ncnn to choose them
    image = np.random.default_rng(0).random((1, 1, 128, 128), dtype=np.float32)
    with torch.no_grad():
        exact = torch.sigmoid(network.double()(torch.from_numpy(image).double())).numpy()
        single = torch.sigmoid(network.float()(torch.from_numpy(image))).numpy()
    found = build_unet({"widths": [16, 32, 64]}, state_of(network), (128, 128))(image[0])[0]
    assert np.abs(found - exact[0]).max() < 10 * max(np.abs(single - exact).max(), 1e-7)


@needs_ncnn
def test_ncnn_is_chosen_on_a_cpu_and_runs_a_unet_without_torch(tmp_path):
    bundle = tiny_bundle(tmp_path / "m")
    code = f"""
        import sys
        for name in ("torch", "onnxruntime"):
            sys.modules[name] = None
        import numpy as np
        from LiverMarginLib.inference.segmenter import load_segmenter
        from LiverMarginLib.models.bundle import Bundle
        segmenter = load_segmenter(Bundle.load({str(bundle.folder)!r}), device="cpu", threads=2)
        print(segmenter.runtime, segmenter.predict(np.zeros((3, 1, 32, 32), np.float32)).shape)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("ncnn 1") and done.stdout.strip().endswith("(3, 1, 32, 32)")


@needs_ncnn
@pytest.mark.parametrize(
    "changes",
    [
        {},
        pytest.param({"depth": 50, "mask_side": 112}, marks=pytest.mark.slow),
        pytest.param({"mask_side": 224, "point_rend": True}, marks=pytest.mark.slow),
    ],
)
def test_mask_rcnn_gives_the_probabilities_that_onnx_runtime_gives(tmp_path, changes):
    pytest.importorskip("torchvision", reason="torchvision is not installed")
    torch.manual_seed(0)
    network = enliven(MaskRCNN(small_spec(**changes)))
    manifest = tiny_manifest(architecture="mask-rcnn", thresholds={"score": 0.1}, parameters={})
    bundle = save_mask_rcnn(tmp_path / "m", manifest, network.spec, network.state_dict(), half=True)
    expected = load_segmenter(bundle, device="cpu", runtime="onnx", threads=1).predict(images())
    for threads in (1, 2):
        segmenter = load_segmenter(bundle, device="cpu", runtime="ncnn", threads=threads)
        found = segmenter.predict(images())
        # PointRend refines the points that are the least sure; rounding decides among nearly equals.
        assert np.quantile(np.abs(found - expected), 0.999) < 1e-4
        assert np.abs(found - expected).max() < (0.05 if changes.get("point_rend") else 1e-4)
        np.testing.assert_allclose(segmenter.predict(images()[1:2])[0], found[1], atol=1e-5)
    assert expected.max() > 0.2


@needs_ncnn
@pytest.mark.parametrize("change", ["missing", "left over", "channels", "kernel", "bias"])
def test_weights_that_do_not_fit_never_reach_ncnn(change):
    state = state_of(tiny_unet())
    name = "encoder.1.conv1"
    if change == "missing":
        del state[f"{name}.bias"]
    elif change == "left over":
        state["another.weight"] = np.zeros(3, np.float32)
    elif change == "channels":
        state[f"{name}.weight"] = state[f"{name}.weight"][:, :-1]
    elif change == "kernel":
        state[f"{name}.weight"] = state[f"{name}.weight"][..., :2, :2]
    else:
        state[f"{name}.bias"] = state[f"{name}.bias"][:-1]
    with pytest.raises(BundleError, match="do not fit"):
        build_unet({"widths": [4, 8, 12]}, state, (32, 32))


@needs_ncnn
@pytest.mark.parametrize("ensemble", [False, True], ids=["one network", "two networks"])
@pytest.mark.parametrize(("shape", "matrix"), [((64, 64), SQUARE), ((100, 70), OBLONG)])
def test_a_volume_with_air_around_the_body_gets_the_labels_of_its_slices_one_by_one(tmp_path, ensemble, shape, matrix):
    bundle = tiny_bundle(tmp_path / "m", input_size=(64, 64))
    volume = ct_of_a_body(40, shape, matrix=matrix)
    segmenter = load_segmenter(bundle, device="cpu", runtime="ncnn", threads=2)
    if ensemble:
        segmenter = EnsembleSegmenter([segmenter, load_segmenter(bundle, device="cpu", runtime="onnx")], Rule.MEAN)
    source = slice_inputs(volume, bundle)
    inputs, region = source.batch(range(40)), source.bright(range(40))
    quick = confined(segmenter, region, source.dark)
    assert quick is not segmenter and images_side_by_side(quick) == 2 and quick.runtime == segmenter.runtime
    body = source.body(inputs)
    expected = segmenter.predict(inputs) * body
    np.testing.assert_allclose(quick.predict(inputs) * body, expected, atol=5e-6)
    assert expected.std() > 0.01 and 0.1 < body.mean() < 0.7
    found = segment_volume(volume, bundle, segmenter).array
    assert 0.02 < found.mean() < 0.5
    np.testing.assert_array_equal(found, every_slice(volume, bundle, segmenter))


@needs_ncnn
@pytest.mark.parametrize("share", [0, 1])
def test_where_there_is_nothing_or_no_air_the_network_stays_as_it_is(tmp_path, share):
    segmenter = load_segmenter(tiny_bundle(tmp_path / "m"), device="cpu", runtime="ncnn")
    assert confined(segmenter, np.full((32, 32), bool(share)), np.zeros((32, 32), np.float32)) is segmenter


@needs_ncnn
def test_ncnn_obeys_the_threads_and_says_nothing(tmp_path):
    bundle = tiny_bundle(tmp_path / "m")
    code = f"""
        import numpy as np
        from LiverMarginLib.inference.segmenter import load_segmenter
        from LiverMarginLib.models.bundle import Bundle
        for threads in (1, 3):
            segmenter = load_segmenter(Bundle.load({str(bundle.folder)!r}), runtime="ncnn", threads=threads)
            segmenter.predict(np.zeros((4, 1, 32, 32), np.float32))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    # It complains about every layer whose threads are not those that it was loaded with.
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    "changes",
    [{"architecture": "medformer-2d"}, {"input_size": (33, 31)}, {"parameters": {"norm": "GN"}}],
    ids=["architecture", "sides", "group normalisation"],
)
def test_what_ncnn_does_not_run_is_refused_with_one_sentence(tmp_path, changes):
    class Stub:
        manifest: Manifest = tiny_manifest(**changes)

    problem = why_not_ncnn(Stub())  # type: ignore[arg-type]
    assert isinstance(problem, BundleError) and "another runtime" in problem.message


def test_a_missing_ncnn_is_named_and_another_runtime_takes_over(tmp_path, monkeypatch):
    bundle = tiny_bundle(tmp_path / "m")
    monkeypatch.setattr(ncnn_backend.importlib.util, "find_spec", lambda name: None if name == "ncnn" else object())
    with pytest.raises(DependencyError, match=r"ncnn must be installed .* livermargin\[fast\]"):
        load_segmenter(bundle, device="cpu", runtime="ncnn")
    assert load_segmenter(bundle, device="cpu").runtime.startswith("onnxruntime")
