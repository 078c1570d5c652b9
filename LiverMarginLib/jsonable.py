"""Results as standard JSON: no NaN, no infinity, no numpy types."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

import numpy as np

_LARGEST_FILE = 256 << 20


def dumps(value: Any, indent: int | None = None) -> str:
    """Serialise to JSON that every reader accepts.

    Parameters
    ----------
    value : object
        Plain values, mappings, sequences, numpy scalars and arrays, paths.
    indent : int, optional
        As in `json.dumps`.

    Returns
    -------
    str
        ASCII, so that no name in it can steer a terminal, end a line or fail to be encoded. NaN and infinite numbers,
        which JSON cannot hold, are null.
    """
    return json.dumps(_plain(value), indent=indent, allow_nan=False)


def loads(text: str | bytes) -> Any:
    """Parse JSON from outside.

    Raises
    ------
    ValueError
        If it is not JSON, nested without end, or has numbers that JSON does not have.
    """
    try:
        return json.loads(text, parse_constant=_refuse)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def read_json(path: Path) -> Any:
    """Parse a JSON file from outside (UTF-8).

    Raises
    ------
    OSError
        If it cannot be read.
    ValueError
        As `loads`, or if it is larger than any description of a data set.
    """
    if path.stat().st_size > _LARGEST_FILE:
        raise ValueError("absurdly large")
    return loads(path.read_text(encoding="utf-8-sig"))


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a number of JSON")


def _plain(value: Any) -> Any:
    if isinstance(value, (np.generic, np.ndarray)):
        value = value.tolist()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    if isinstance(value, PurePath):
        return str(value)
    return value
