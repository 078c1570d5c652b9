"""One set of weights for both runtimes: an ONNX graph whose weights lie in the bundle's ``weights.safetensors``.

The format is ONNX's own for external data (onnx.proto, ``TensorProto.external_data``), so that any ONNX tool finds the
weights when it opens ``model.onnx`` by its path. LiverMargin does not let the runtime open files: it hands over the
bytes whose sha256 was checked, and only as whole tensors of the safetensors file, of the same type and size.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from LiverMarginLib.errors import BundleError
from LiverMarginLib.models.manifest import SAFETENSORS_FILE
from LiverMarginLib.models.protobuf import fields, integers, messages

_DIMENSIONS, _TYPE, _NAME, _EXTERNAL, _LOCATION = 1, 2, 8, 13, 14
_ENTRY_KEY, _ENTRY_VALUE = 1, 2
_IS_EXTERNAL = 1

# Type of a tensor by its number in onnx.proto: its name in a safetensors file, and numpy's.
_TYPES: dict[int, tuple[str, np.dtype[Any]]] = {
    1: ("F32", np.dtype("<f4")),
    7: ("I64", np.dtype("<i8")),
    10: ("F16", np.dtype("<f2")),
}
_NOT_WORTH_IT = 256  # bytes; a reference takes as much


@dataclass(frozen=True)
class _Stored:
    """Place of a tensor in a safetensors file, in bytes from the file's beginning."""

    type: str
    begin: int
    end: int


def share_weights(graph: bytes, weights: bytes) -> bytes:
    """Replace the weights of an ONNX graph by references to equal ones in a safetensors file.

    Parameters
    ----------
    graph : bytes
        A serialised ``ModelProto``.
    weights : bytes
        Content of ``weights.safetensors``.

    Returns
    -------
    bytes
        The graph; weights that are not in the file, bit for bit, stay in it.
    """
    import onnx
    from onnx import numpy_helper

    places = {
        (place.type, hashlib.sha256(weights[place.begin : place.end]).digest()): place for place in _stored(weights)
    }
    model = onnx.load_from_string(graph)
    for tensor in model.graph.initializer:
        content = numpy_helper.to_array(tensor).tobytes()
        place = places.get((_TYPES.get(tensor.data_type, ("",))[0], hashlib.sha256(content).digest()))
        if place is None or len(content) < _NOT_WORTH_IT:
            continue
        dimensions, kind, name = list(tensor.dims), tensor.data_type, tensor.name
        tensor.Clear()
        tensor.dims.extend(dimensions)
        tensor.data_type, tensor.name = kind, name
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", SAFETENSORS_FILE), ("offset", place.begin), ("length", len(content))):
            tensor.external_data.add(key=key, value=str(value))
    return bytes(model.SerializeToString())


def is_shared(tensor: memoryview) -> bool:
    """Whether a serialised ``TensorProto`` lies in the bundle's safetensors file."""
    return _reference(tensor).get("location") == SAFETENSORS_FILE


def shared_tensors(tensors: Iterable[memoryview], weights: bytes) -> dict[str, npt.NDArray[Any]]:
    """The weights that a graph takes from the bundle's safetensors file.

    Parameters
    ----------
    tensors : iterable of memoryview
        Those of the graph that `is_shared` holds of, as `LiverMarginLib.models.onnx_guard.check_graph` returns them.
    weights : bytes
        Content of ``weights.safetensors``, checked by its sha256.

    Returns
    -------
    dict of str to ndarray
        By the names in the graph; views of `weights`.

    Raises
    ------
    BundleError
        If a reference is not to a whole tensor of the same type and size.
    """
    try:
        places = {(place.begin, place.end - place.begin): place.type for place in _stored(weights)}
        return dict(_take(tensor, weights, places) for tensor in tensors)
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise BundleError(
            "The model's ONNX graph and its weights do not belong together; get the model again from its source."
        ) from error


def _take(tensor: memoryview, weights: bytes, places: dict[tuple[int, int], str]) -> tuple[str, npt.NDArray[Any]]:
    reference = _reference(tensor)
    begin, length = int(reference["offset"]), int(reference["length"])
    single: dict[int, int | memoryview] = {}
    shape: list[int] = []
    for number, value in fields(tensor):
        if number == _DIMENSIONS:
            shape += [value] if isinstance(value, int) else integers(value)
        else:
            single[number] = value
    name, kind = single[_NAME], single[_TYPE]
    if not isinstance(name, memoryview) or not isinstance(kind, int):
        raise ValueError("no name or no type")
    type_name, dtype = _TYPES[kind]
    if places[begin, length] != type_name:
        raise ValueError("another type")
    array = np.frombuffer(weights, dtype, length // dtype.itemsize, begin).reshape(shape)
    return bytes(name).decode(), array


def _reference(tensor: memoryview) -> dict[str, str]:
    """What the tensor says of its place, of which LiverMargin's own graphs say each word once."""
    entries: dict[str, str] = {}
    external = False
    for number, value in fields(tensor):
        if number == _LOCATION:
            external = value == _IS_EXTERNAL
        elif number == _EXTERNAL:
            entry = {part: bytes(inside).decode() for part, inside in messages(value)}
            key = entry.get(_ENTRY_KEY, "")
            if key in entries:
                return {}
            entries[key] = entry.get(_ENTRY_VALUE, "")
    return entries if external and entries.keys() == {"location", "offset", "length"} else {}


def _stored(weights: bytes) -> Iterator[_Stored]:
    """Table of contents of a safetensors file: eight bytes of length, then as many of JSON."""
    size = int.from_bytes(weights[:8], "little")
    for name, entry in json.loads(weights[8 : 8 + size]).items():
        if name != "__metadata__":
            begin, end = (8 + size + int(offset) for offset in entry["data_offsets"])
            if not 8 + size <= begin <= end <= len(weights):
                raise ValueError("a tensor lies outside of the file")
            yield _Stored(str(entry["dtype"]), begin, end)
