"""Results as standard JSON: no NaN, no infinity, no numpy types."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import numpy as np


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
        NaN and infinite numbers, which JSON cannot hold, are null.
    """
    return json.dumps(_plain(value), indent=indent, allow_nan=False, ensure_ascii=False)


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
