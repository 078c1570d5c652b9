"""What an ONNX graph of a bundle may be, read from its bytes before ONNX Runtime sees it.

A sha256 tells that a graph is the one that its maker signed, not that its maker is a friend. Graphs that compute
without end (loops), call code that is not part of ONNX, or take weights from files that are not the bundle's own are
refused. The onnx package is not needed: the few fields that matter are found with the rules of protocol buffers' wire
format, and their numbers are those of onnx.proto.
"""

from __future__ import annotations

from LiverMarginLib.errors import BundleError
from LiverMarginLib.models.protobuf import fields, messages
from LiverMarginLib.models.shared_weights import is_shared

_MODEL_GRAPH, _MODEL_TRAINING, _MODEL_FUNCTIONS = 7, 20, 25
_GRAPH_NODE, _GRAPH_TENSOR, _GRAPH_SPARSE = 1, 5, 15
_NODE_ATTRIBUTE, _NODE_DOMAIN = 5, 7
_ATTRIBUTE_TENSOR, _ATTRIBUTE_GRAPH, _ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS = 5, 6, 10, 11
_TENSOR_EXTERNAL, _TENSOR_LOCATION = 13, 14
_PLAIN_DOMAINS = (b"", b"ai.onnx")
_MOST_NODES = 20_000


def check_graph(content: bytes) -> list[memoryview]:
    """Refuse a graph that could do more than compute an output of its input.

    Parameters
    ----------
    content : bytes
        A serialised ``ModelProto``.

    Returns
    -------
    list of memoryview
        The serialised ``TensorProto`` of each weight that lies in the bundle's safetensors file, for `shared_tensors`;
        views of `content`.

    Raises
    ------
    BundleError
    """
    try:
        return _check_model(memoryview(content))
    except (IndexError, ValueError) as error:
        raise BundleError("The model's ONNX graph is damaged; get the model again from its source.") from error


def _check_model(model: memoryview) -> list[memoryview]:
    nodes = 0
    shared = []
    for number, value in fields(model):
        if number in (_MODEL_TRAINING, _MODEL_FUNCTIONS):
            raise _refused("holds more than one graph")
        if number != _MODEL_GRAPH:
            continue
        for part, inside in messages(value):
            if part == _GRAPH_NODE:
                nodes += 1
                _check_node(inside)
            elif part == _GRAPH_TENSOR and is_shared(inside):
                shared.append(inside)
            elif part == _GRAPH_TENSOR:
                _check_tensor(inside)
            elif part == _GRAPH_SPARSE:
                raise _refused("has sparse weights")
    if nodes > _MOST_NODES:
        raise _refused(f"has {nodes} steps")
    return shared


def _check_node(node: memoryview) -> None:
    for number, value in messages(node):
        if number == _NODE_DOMAIN and bytes(value) not in _PLAIN_DOMAINS:
            raise _refused("calls operators that are not ONNX's own")
        if number != _NODE_ATTRIBUTE:
            continue
        for part, inside in messages(value):
            if part in (_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS):
                raise _refused("holds loops or branches")
            if part in (_ATTRIBUTE_TENSOR, _ATTRIBUTE_TENSORS):
                _check_tensor(inside)


def _check_tensor(tensor: memoryview) -> None:
    if any(number == _TENSOR_EXTERNAL or (number == _TENSOR_LOCATION and value) for number, value in fields(tensor)):
        raise _refused("takes weights from other files")


def _refused(what: str) -> BundleError:
    return BundleError(f"The model's ONNX graph {what}, which no model of LiverMargin does; do not trust this model.")
