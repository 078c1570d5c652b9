"""CSV as spreadsheets and programs read it alike: UTF-8, comma, point as decimal sign, nothing that runs."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable
from typing import Any, TextIO

import numpy as np

from LiverMarginLib.plain_text import one_line

# What starts a formula (OWASP, "CSV Injection"), also behind a separator at which another spreadsheet would cut.
_FORMULA = re.compile(r"(^|[;,|\t\r\n])(\s*)(?=[=+\-@\uff1d\uff0b\uff0d\uff20\t\r\n])")
_LONGEST_CELL = 32_000  # spreadsheets hold 32767 characters


def write_rows(stream: TextIO, rows: Iterable[Iterable[Any]]) -> None:
    """Write rows of values.

    Parameters
    ----------
    stream : text stream
        Opened with ``newline=""``.
    rows : iterable of iterable
        None and undefined numbers become empty cells, infinite ones ``inf``, truth values 0 and 1. A text is one line,
        with an apostrophe before whatever a spreadsheet would run as a formula.
    """
    csv.writer(stream, lineterminator="\n").writerows([_cell(value) for value in row] for row in rows)


def _cell(value: Any) -> str:
    if isinstance(value, np.generic):
        value = value.item()
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float):
        return "" if math.isnan(value) else repr(value)
    # Numbers do not come this way, so that a minus stays a minus.
    return one_line(_FORMULA.sub(r"\1\2'", value), _LONGEST_CELL) if isinstance(value, str) else str(value)
