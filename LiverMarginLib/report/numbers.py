"""Numbers as people read them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from LiverMarginLib.comparison import CompareSettings, Estimate, patient_columns
from LiverMarginLib.metrics.definitions import Definition

NOTHING = "–"
NO_BREAK = "\u00a0"
_MINUS = "−"


def number(value: float, definition: Definition) -> str:
    """A value with as many digits as it deserves, without unit; relative volume differences in per cent."""
    if math.isnan(value):
        return NOTHING
    if math.isinf(value):
        return "∞" if value > 0 else f"{_MINUS}∞"
    if definition.key in ("rvd", "abs_rvd"):
        sign = "+" if definition.key == "rvd" else ""
        return f"{100 * value:{sign}.1f}{NO_BREAK}%".replace("-", _MINUS)
    digits = {"mm": 2, "ml": 0}.get(definition.unit, 3)
    return f"{value:.{digits}f}".replace("-", _MINUS)


def signed(value: float, definition: Definition) -> str:
    """A difference, with its sign."""
    text = number(value, definition)
    return text if text[0] in ("+", _MINUS, NOTHING) else f"+{text}"


def interval(estimate: Estimate, definition: Definition) -> str:
    """The ends of a confidence interval; "" if there is none."""
    if math.isnan(estimate.low) or math.isnan(estimate.high):
        return ""
    return f"{number(estimate.low, definition)} to {number(estimate.high, definition)}"


def p_value(p: float) -> str:
    """A p value as in "p = 0.031" and "p < 0.001", without the p."""
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def count(n: int, noun: str, plural: str = "") -> str:
    """A number of things: "1 slice", "2 slices"."""
    return f"{n} {noun if n == 1 else plural or noun + 's'}"


def heading(key: str, settings: CompareSettings, official: str = "") -> str:
    """Name of a column for a table, with its d or tolerance and its unit.

    Parameters
    ----------
    key : str
        A column of `patient_columns`.
    settings : CompareSettings
    official : str
        The d of the columns without a suffix, if it is known in pixels.
    """
    column = patient_columns(settings)[key]
    parameter = official if official and column.parameter.endswith("diagonal") else column.parameter
    name, _, variant = column.definition.name.rstrip(")").partition(" (")
    parts = (variant, parameter.removeprefix("tolerance "), column.definition.unit)
    extra = ", ".join(part.replace(" ", NO_BREAK) for part in parts if part)
    return f"{name} ({extra})" if extra else name


def best(values: Mapping[str, float], definition: Definition) -> set[str]:
    """Models with the best value as it is shown; none if there are no two to choose from, or no better direction."""
    known = {name: value for name, value in values.items() if not math.isnan(value)}
    if len(known) < 2 or definition.better is None:
        return set()
    top = (max if definition.better == "higher" else min)(known.values())
    return {name for name, value in known.items() if number(value, definition) == number(top, definition)}


def listing(items: Iterable[str]) -> str:
    """Words joined as in a sentence: "a", "a and b", "a, b and c"."""
    words = list(items)
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)
