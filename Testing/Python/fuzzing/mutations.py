"""Ways to damage bytes, headers, JSON and archives so that the damage gets past magic numbers and checksums."""

from __future__ import annotations

import gzip
import io
import json
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from random import Random
from typing import Any

Damage = Callable[[bytes, Random], bytes]

_NUMBERS = (0, 1, -1, 2, 127, 255, 32767, 65535, 2**31 - 1, -(2**31), 2**32 - 1, 2**63 - 1, 10**12)
_REALS = (0.0, -0.0, -1.0, 1e-30, 1e30, 1e308, float("nan"), float("inf"), float("-inf"))
_NUMBER_TEXTS = (
    *("0", "-1", "1", "3", "1e308", "nan", "inf", "-inf", "1000000000000", "99999999999999999999999", "0.0", ""),
    *("65536", "2147483648", "4294967296", "18446744073709551615", "1e-300", "0x10", "(1,2,3)", "../x", "%n"),
)
_TEXTS = (
    *("", " ", "\0", "\n", "\x1b[2J", "../../../etc/passwd", "/etc/passwd", "A" * 5000, "=1+1", "<script>", "\ud800"),
    *("true", "null", "-1", "NaN", "ä", "\u202e", "CON", "a/b", "a\\b", "%s%n", "\x7f"),
)
_HEADER = 600  # most of a small file's sense lies in its first bytes


def damage(content: bytes, rng: Random) -> bytes:
    """Flip bits, cut, splice, or write odd numbers somewhere, most often near the start."""
    if not content:
        return rng.randbytes(rng.randint(0, 40))
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        if not data:
            break
        end = min(len(data), _HEADER) if rng.random() < 0.6 else len(data)
        at = rng.randrange(end)
        match rng.randrange(8):
            case 0 | 1:
                for _ in range(rng.choice((1, 2, 8))):
                    data[rng.randrange(end)] ^= 1 << rng.randrange(8)
            case 2:
                del data[at:]
            case 3:
                data[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
            case 4:
                other = rng.randrange(len(data))
                data[at:at] = data[other : other + rng.randint(1, 64)]
            case 5:
                del data[at : at + rng.randint(1, 64)]
            case 6:
                layout = rng.choice("<>") + rng.choice("hHiIqQ")
                size = struct.calcsize(layout)
                number = rng.choice(_NUMBERS) & ((1 << 8 * size) - 1)
                data[at : at + size] = number.to_bytes(size, "little" if layout[0] == "<" else "big")
            case 7:
                packed = struct.pack(rng.choice(("<f", "<d", ">f")), _as_single(rng.choice(_REALS)))
                data[at : at + len(packed)] = packed
    return bytes(data)


def _as_single(value: float) -> float:
    return min(max(value, -3e38), 3e38) if abs(value) != float("inf") else value


def damage_text_header(content: bytes, rng: Random) -> bytes:
    """Edit the lines of a text header (NRRD, MetaImage): numbers, whole values, doubled, lost and swapped lines."""
    head, separator, rest = _split_header(content)
    lines = head.split(b"\n")
    for _ in range(rng.choice((1, 1, 2, 3))):
        n = rng.randrange(len(lines))
        match rng.randrange(6):
            case 0 | 1:
                lines[n] = _other_number(lines[n], rng)
            case 2:
                key, mark, _ = lines[n].partition(b"=" if b"=" in lines[n] else b":")
                lines[n] = key + mark + b" " + _text(rng)
            case 3:
                lines.insert(n, rng.choice(lines))
            case 4 if len(lines) > 1:
                del lines[n]
            case _:
                other = rng.randrange(len(lines))
                key, mark, _ = lines[n].partition(b"=" if b"=" in lines[n] else b":")
                lines[n] = key + mark + lines[other].partition(mark or b":")[2]
    return b"\n".join(lines) + separator + rest


def _split_header(content: bytes) -> tuple[bytes, bytes, bytes]:
    for separator in (b"\n\n", b"LOCAL\n"):
        if separator in content:
            return content.partition(separator)
    return content, b"", b""


def _other_number(line: bytes, rng: Random) -> bytes:
    found = list(re.finditer(rb"-?\d+(\.\d+)?(e-?\d+)?", line))
    if not found:
        return line + b" " + rng.choice(_NUMBER_TEXTS).encode()
    match = rng.choice(found)
    return line[: match.start()] + rng.choice(_NUMBER_TEXTS).encode() + line[match.end() :]


def _text(rng: Random) -> bytes:
    return rng.choice((*_TEXTS, *_NUMBER_TEXTS)).encode(errors="surrogatepass").replace(b"\n", b" ")


def damage_binary_field(fields: dict[int, str]) -> Damage:
    """Write an odd value into one of the fields of a fixed header, given as struct layout by offset."""

    def apply(content: bytes, rng: Random) -> bytes:
        data = bytearray(content)
        for _ in range(rng.choice((1, 1, 2, 3))):
            offset, layout = rng.choice(list(fields.items()))
            if layout[-1] in "fd":
                value = struct.pack("<" + layout, _as_single(rng.choice(_REALS)))
            else:
                size = struct.calcsize("<" + layout)
                value = (rng.choice((*_NUMBERS, rng.randrange(20))) & ((1 << 8 * size) - 1)).to_bytes(size, "little")
            data[offset : offset + len(value)] = value
        return bytes(data)

    return apply


def inside_gzip(inner: Damage) -> Damage:
    """Damage what a gzip holds; length and checksum are made to fit."""
    return lambda content, rng: gzip.compress(inner(gzip.decompress(content), rng), 1, mtime=0)


def damage_dicom(content: bytes, rng: Random) -> bytes:
    """Change the tag, type, length or value of elements written with explicit types, nested ones among them."""
    data = bytearray(content)
    kinds = b"AE|AS|AT|CS|DA|DS|DT|FL|FD|IS|LO|LT|OB|OW|PN|SH|SL|SQ|SS|ST|TM|UI|UL|UN|US|UT"
    found = list(re.finditer(rb"(?s)(?<=.{4})(?:" + kinds + rb")(?=..)", content[132:]))
    for _ in range(rng.choice((1, 1, 2, 3))):
        match = rng.choice(found)
        at = 132 + match.start()
        long = match[0] in (b"OB", b"OW", b"SQ", b"UN", b"UT")
        where, size = (at + 4, 4) if long else (at + 2, 2)
        length = int.from_bytes(data[where : where + size], "little")
        value_at = where + size
        match rng.randrange(5):
            case 0:
                number = rng.choice((0, 1, 2, length + 1, length + 2, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFE, 2**31))
                data[where : where + size] = (number & ((1 << 8 * size) - 1)).to_bytes(size, "little")
            case 1:
                data[at : at + 2] = rng.choice(kinds.split(b"|"))
            case 2:
                other = rng.choice(found)
                data[at - 4 : at] = data[132 + other.start() - 4 : 132 + other.start()]
            case _ if length < 200:
                text = rng.choice((rng.choice(_NUMBER_TEXTS).encode(), _text(rng), b"1\\2\\3", b"\\", b"1\\nan\\2"))
                binary = (rng.choice(_NUMBERS) & (2**64 - 1)).to_bytes(8, "little")
                value = rng.choice((text, binary))[:length].ljust(length, b" ")
                data[value_at : value_at + length] = value
            case _:
                return damage(bytes(data), rng)
    return bytes(data)


def damage_json(content: bytes, rng: Random) -> bytes:
    """Exchange, remove or nest a value somewhere in a JSON document; rarely damage its text."""
    if rng.random() < 0.15:
        return damage(content, rng)
    if rng.random() < 0.05:
        return rng.choice((b"[" * 100_000, b'{"a":' * 50_000, b"1" * 10_000, b"\xff\xfe", b"", b'"\\ud800"'))
    root = [json.loads(content)]
    for _ in range(rng.choice((1, 1, 2, 3))):
        _change_json(root, rng)
    return json.dumps(root[0]).encode()


def _change_json(root: list[Any], rng: Random) -> None:
    places: list[tuple[Any, Any]] = []
    waiting: list[Any] = [root]
    while waiting:
        holder = waiting.pop()
        keys = list(holder) if isinstance(holder, dict) else range(len(holder))
        for key in keys:
            places.append((holder, key))
            if isinstance(holder[key], (dict, list)):
                waiting.append(holder[key])
    holder, key = rng.choice(places)
    old = holder[key]
    match rng.randrange(4):
        case 0 | 1:
            holder[key] = _odd_value(rng)
        case 2 if isinstance(holder, dict):
            del holder[key]
        case 2:
            holder[key] = [old, old]
        case _ if isinstance(holder, dict):
            holder[rng.choice((f"{key} ", "", "__class__", "constructor", *_TEXTS[:4]))] = old
        case _:
            holder[key] = {"x": old}


def _odd_value(rng: Random) -> Any:
    deep: Any = 0
    for _ in range(200):
        deep = [deep]
    return rng.choice(
        (*_NUMBERS, *_REALS, *_TEXTS, None, True, False, [], {}, [[]], {"a": 1}, [0] * 1000, deep, 10**400, 0.5, "0")
    )


def damage_zip(inner: Damage, part: str = "") -> Damage:
    """Damage a file in a zip (whose name holds `part`), its name, or the zip itself; checksums fit where possible."""

    def apply(content: bytes, rng: Random) -> bytes:
        if rng.random() < 0.3:
            # The directory, where sizes and names stand, is at the end.
            return damage(content[::-1], rng)[::-1] if rng.random() < 0.5 else damage(content, rng)
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            files = [(info.filename, archive.read(info)) for info in archive.infolist()]
        n = rng.choice([n for n, (name, _) in enumerate(files) if part in name])
        name, old = files[n]
        if rng.random() < 0.25:
            odd = rng.choice(("../" + name, "/" + name, "C:\\" + name, name + "\0", "", "a" * 300, files[0][0], "\x1b"))
            files[n] = (odd, old)
        else:
            files[n] = (name, inner(old, rng))
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for entry, held in files:
                archive.writestr(zipfile.ZipInfo(entry), held, zipfile.ZIP_DEFLATED)
        return buffer.getvalue()

    return apply


def damage_png(content: bytes, rng: Random) -> bytes:
    """Damage one chunk of a PNG and make its checksum fit."""
    if rng.random() < 0.3:
        return damage(content, rng)
    chunks, at = [], 8
    while at + 12 <= len(content):
        size = int.from_bytes(content[at : at + 4], "big")
        chunks.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + size]))
        at += 12 + size
    n = rng.randrange(len(chunks))
    kind, body = chunks[n]
    if kind == b"IDAT" and rng.random() < 0.7:
        body = zlib.compress(damage(zlib.decompress(body), rng))
    else:
        body = damage(body, rng)
    chunks[n] = (kind, body)
    return content[:8] + b"".join(
        len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big") for kind, body in chunks
    )


def any_of(*ways: Damage) -> Damage:
    """Choose one of several ways each time."""
    return lambda content, rng: rng.choice(ways)(content, rng)
