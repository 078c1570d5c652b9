"""The wire format of protocol buffers, as far as reading an ONNX graph without the onnx package needs it.

Raises `ValueError` or `IndexError` for what is not in that format.
"""

from __future__ import annotations

from collections.abc import Iterator

_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5

Field = tuple[int, int | memoryview]


def messages(value: int | memoryview) -> Iterator[tuple[int, memoryview]]:
    """Number and bytes of each text or message within a message; `ValueError` for a number in its place."""
    if isinstance(value, int):
        raise ValueError("a number in the place of a message")
    return ((number, inside) for number, inside in fields(value) if not isinstance(inside, int))


def fields(message: memoryview) -> Iterator[Field]:
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


def integers(packed: memoryview) -> list[int]:
    """The numbers of a packed repeated field."""
    found, at = [], 0
    while at < len(packed):
        number, at = _integer(packed, at)
        found.append(number)
    return found


def _integer(message: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number does not end")
