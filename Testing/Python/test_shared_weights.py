"""ONNX graphs whose weights lie in the bundle's safetensors file."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from model_tools import replace_weights, tiny_bundle, tiny_unet

from LiverMarginLib.errors import BundleError
from LiverMarginLib.inference.backends import onnx_session
from LiverMarginLib.models.architectures import Activation
from LiverMarginLib.models.bundle import Bundle
from LiverMarginLib.models.onnx_export import export_onnx
from LiverMarginLib.models.onnx_guard import check_graph

IMAGE = np.random.default_rng(0).random((2, 1, 32, 32), dtype=np.float32)


@pytest.fixture(params=[False, True], ids=["single", "half"])
def bundle(tmp_path, request) -> Bundle:
    return tiny_bundle(tmp_path / "tiny", half=request.param)


def external(bundle: Bundle) -> tuple[onnx.ModelProto, list[onnx.TensorProto]]:
    model = onnx.load_from_string((bundle.folder / "model.onnx").read_bytes())
    return model, [one for one in model.graph.initializer if one.data_location == onnx.TensorProto.EXTERNAL]


def spoilt(bundle: Bundle, change) -> Bundle:
    """The bundle with a change to the first of the graph's references, signed as its maker would."""
    model, tensors = external(bundle)
    change(tensors[0])
    replace_weights(bundle.folder, "model.onnx", model.SerializeToString())
    return Bundle.load(bundle.folder)


def test_the_weights_are_stored_once_and_give_what_a_graph_of_its_own_gives(tmp_path):
    bundle = tiny_bundle(tmp_path / "tiny")
    alone = export_onnx(tiny_unet(), (1, 1, 32, 32), activation=Activation.SIGMOID)
    assert (bundle.folder / "model.onnx").stat().st_size < 0.6 * len(alone)
    expected = onnxruntime.InferenceSession(alone).run(None, {"image": IMAGE})[0]
    np.testing.assert_array_equal(onnx_session(bundle).run(None, {"image": IMAGE})[0], expected)


def test_any_onnx_tool_finds_the_weights_when_it_opens_the_graph_by_its_path(bundle):
    path = str(bundle.folder / "model.onnx")
    onnx.checker.check_model(path)
    expected = onnxruntime.InferenceSession(path).run(None, {"image": IMAGE})[0]
    np.testing.assert_array_equal(onnx_session(bundle).run(None, {"image": IMAGE})[0], expected)


def test_a_graph_that_was_exported_for_itself_still_runs(bundle):
    graph = export_onnx(tiny_unet(), (1, 1, 32, 32), activation=Activation.SIGMOID)
    before = onnx_session(bundle).run(None, {"image": IMAGE})[0]
    replace_weights(bundle.folder, "model.onnx", graph)
    np.testing.assert_allclose(
        onnx_session(Bundle.load(bundle.folder)).run(None, {"image": IMAGE})[0], before, atol=2e-3
    )


def put(tensor: onnx.TensorProto, key: str, value: str) -> None:
    next(entry for entry in tensor.external_data if entry.key == key).value = value


def another_type(tensor: onnx.TensorProto) -> None:
    kinds = {onnx.TensorProto.FLOAT16: onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT: onnx.TensorProto.FLOAT16}
    tensor.data_type = kinds[tensor.data_type]


@pytest.mark.parametrize(
    "change",
    [
        lambda tensor: put(tensor, "offset", "0"),
        lambda tensor: put(tensor, "offset", "-8"),
        lambda tensor: put(tensor, "length", "999999999999"),
        lambda tensor: put(tensor, "length", "many"),
        lambda tensor: tensor.dims.append(7),
        another_type,
    ],
    ids=["header", "before the file", "beyond the file", "no number", "another shape", "another type"],
)
def test_a_reference_to_anything_but_a_whole_tensor_of_the_same_kind_is_refused(bundle, change):
    with pytest.raises(BundleError, match="do not belong together"):
        onnx_session(spoilt(bundle, change))


@pytest.mark.parametrize("place", ["/etc/passwd", "../weights.safetensors", "weights.safetensors/", "README.md", ""])
def test_a_reference_to_another_file_is_refused_before_the_graph_is_loaded(bundle, place):
    with pytest.raises(BundleError, match="takes weights from other files"):
        onnx_session(spoilt(bundle, lambda tensor: put(tensor, "location", place)))


def test_a_second_location_in_the_same_reference_is_refused(bundle):
    model, tensors = external(bundle)
    tensors[0].external_data.add(key="location", value="/etc/passwd")
    with pytest.raises(BundleError, match="takes weights from other files"):
        check_graph(model.SerializeToString())


@pytest.mark.parametrize("part", ["key", "value"])
def test_a_reference_that_lacks_half_of_an_entry_is_refused(bundle, part):
    with pytest.raises(BundleError, match="takes weights from other files"):
        onnx_session(spoilt(bundle, lambda tensor: tensor.external_data[0].ClearField(part)))


def test_the_guard_names_the_weights_that_lie_outside_of_the_graph(bundle):
    model, tensors = external(bundle)
    found = [onnx.TensorProto.FromString(bytes(one)) for one in check_graph(model.SerializeToString())]
    assert found == tensors != []


def test_other_weights_than_those_of_the_export_are_noticed(bundle):
    content = bytearray((bundle.folder / "weights.safetensors").read_bytes())
    content[-1] ^= 1
    (bundle.folder / "weights.safetensors").write_bytes(bytes(content))
    with pytest.raises(BundleError, match="sha256"):
        onnx_session(bundle)


def test_a_graph_without_its_weights_says_what_is_missing(bundle):
    (bundle.folder / "weights.safetensors").unlink()
    with pytest.raises(BundleError, match=r"weights\.safetensors is missing"):
        onnx_session(bundle)
