"""Colours of signed margin errors, the same in the report and in 3D Slicer's views. Needs numpy alone."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

# ColorBrewer's "PuOr" from the farthest short (orange) to the farthest beyond (purple): told apart by every eye, and
# no model's colour. matplotlib knows it by this name.
NAME = "PuOr"
STEPS = (
    "#7f3b08", "#b35806", "#e08214", "#fdb863", "#fee0b6", "#f7f7f7",
    "#d8daeb", "#b2abd2", "#8073ac", "#542788", "#2d004b",
)  # fmt: skip

MARGIN_ERROR = "MarginError"
"""Name of the point array of a surface file that holds signed margin errors in mm."""

LIMIT = "MarginLimit"
"""Name of its field array with the one `margin_limit` of all surfaces of a case."""

_LEAST_LIMIT_MM, _MOST_LIMIT_MM = 3.0, 20.0


def margin_limit(errors_mm: Iterable[npt.NDArray[np.floating]]) -> float:
    """Choose one limit for the colours of several pictures: what 98 of 100 places stay within, from 3 to 20 mm.

    Parameters
    ----------
    errors_mm : iterable of ndarray
        Signed errors in mm, of any shapes; infinite and undefined ones do not count.

    Returns
    -------
    float
        Whole millimetres.
    """
    sizes = [np.abs(errors[np.isfinite(errors)]) for errors in errors_mm]
    everything = np.concatenate(sizes) if sizes else np.zeros(0)
    if everything.size == 0:
        return _LEAST_LIMIT_MM
    return float(np.clip(np.ceil(np.percentile(everything, 98)), _LEAST_LIMIT_MM, _MOST_LIMIT_MM))
