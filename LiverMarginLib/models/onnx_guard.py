"""What an ONNX graph of a bundle may be, read from its bytes before ONNX Runtime sees it.

A sha256 tells that a graph is the one that its maker signed, not that its maker is a friend. Graphs that compute
without end (loops), call code that is not part of ONNX, or take weights from other files are refused. The onnx
package is not needed: the few fields that matter are found with the rules of protocol buffers' wire format, and their
numbers are those of onnx.proto.
"""

from __future__ import annotations

from collections.abc import Iterator

from LiverMarginLib.errors import BundleError

_MODEL_GRAPH, _MODEL_TRAINING, _MODEL_FUNCTIONS = 7, 20, 25
_GRAPH_NODE, _GRAPH_TENSOR, _GRAPH_SPARSE = 1, 5, 15
_NODE_ATTRIBUTE, _NODE_DOMAIN = 5, 7
_ATTRIBUTE_TENSOR, _ATTRIBUTE_GRAPH, _ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS = 5, 6, 10, 11
_TENSOR_EXTERNAL, _TENSOR_LOCATION = 13, 14
_PLAIN_DOMAINS = (b"", b"ai.onnx")
_MOST_NODES = 20_000
_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5

_Field = tuple[int, int | memoryview]


def check_graph(content: bytes) -> None:
    """Refuse a graph that could do more than compute an output of its input.

    Parameters
    ----------
    content : bytes
        A serialised ``ModelProto``.

    Raises
    ------
    BundleError
    """
    try:
        _check_model(memoryview(content))
    except (IndexError, ValueError) as error:
        raise BundleError("The model's ONNX graph is damaged; get the model again from its source.") from error


def _check_model(model: memoryview) -> None:
    nodes = 0
    for number, value in _fields(model):
        if number in (_MODEL_TRAINING, _MODEL_FUNCTIONS):
            raise _refused("holds more than one graph")
        if number != _MODEL_GRAPH:
            continue
        for part, inside in _messages(value):
            if part == _GRAPH_NODE:
                nodes += 1
                _check_node(inside)
            elif part == _GRAPH_TENSOR:
                _check_tensor(inside)
            elif part == _GRAPH_SPARSE:
                raise _refused("has sparse weights")
    if nodes > _MOST_NODES:
        raise _refused(f"has {nodes} steps")


def _check_node(node: memoryview) -> None:
    for number, value in _messages(node):
        if number == _NODE_DOMAIN and bytes(value) not in _PLAIN_DOMAINS:
            raise _refused("calls operators that are not ONNX's own")
        if number != _NODE_ATTRIBUTE:
            continue
        for part, inside in _messages(value):
            if part in (_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS):
                raise _refused("holds loops or branches")
            if part in (_ATTRIBUTE_TENSOR, _ATTRIBUTE_TENSORS):
                _check_tensor(inside)


def _check_tensor(tensor: memoryview) -> None:
    if any(number == _TENSOR_EXTERNAL or (number == _TENSOR_LOCATION and value) for number, value in _fields(tensor)):
        raise _refused("takes weights from other files")


def _refused(what: str) -> BundleError:
    return BundleError(f"The model's ONNX graph {what}, which no model of LiverMargin does; do not trust this model.")


def _messages(value: int | memoryview) -> Iterator[tuple[int, memoryview]]:
    if isinstance(value, int):
        raise ValueError("a number in the place of a message")
    return ((number, inside) for number, inside in _fields(value) if not isinstance(inside, int))


def _fields(message: memoryview) -> Iterator[_Field]:
    """Number and value of each field: an integer, or the bytes of a text or message."""
    at = 0
    while at < len(message):
        key, at = _integer(message, at)
        kind = key & 7
        if kind == _VARINT:
            number, at = _integer(message, at)
            yield key >> 3, number
            continue
        if kind == _LENGTH:
            size, at = _integer(message, at)
        elif kind in (_EIGHT_BYTES, _FOUR_BYTES):
            size = 8 if kind == _EIGHT_BYTES else 4
        else:
            raise ValueError("no such kind of field")
        if at + size > len(message):
            raise ValueError("a field is longer than its message")
        yield key >> 3, message[at : at + size]
        at += size


def _integer(message: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number does not end")
