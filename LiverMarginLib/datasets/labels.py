"""Which of a data set's labels are the liver (1) and the tumour inside it (2)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from LiverMarginLib.errors import InputError
from LiverMarginLib.terminology import LIVER, LIVER_MASS

_LIVER_WORDS = re.compile(r"liver|hepar|hepatic|foie|leber", re.IGNORECASE)
_TUMOUR_WORDS = re.compile(r"tumou?r|cancer|lesion|mass|metasta|carcinoma|hcc", re.IGNORECASE)
_OTHER_PARTS = re.compile(r"vessel|vein|arter|duct|segment[_ ]?\d", re.IGNORECASE)


@dataclass(frozen=True)
class LabelChoice:
    """The label values that become 1 (liver) and 2 (tumour); all others become background."""

    liver: tuple[int, ...]
    tumour: tuple[int, ...] = ()

    def apply(self, array: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
        """Return an array of the same shape with values 0, 1 and 2."""
        mask = np.isin(array, self.liver).astype(np.uint8) * np.uint8(LIVER.label)
        if self.tumour:
            mask[np.isin(array, self.tumour)] = LIVER_MASS.label
        return mask


def choose_labels(
    names: Mapping[int, str],
    *,
    label: int | str | None = None,
    tumour: int | str | None = None,
    values: tuple[int, ...] | None = None,
) -> LabelChoice:
    """Decide which label values are liver and tumour.

    Parameters
    ----------
    names : mapping of int to str
        What is known of the labels' names; may be empty. A name may belong to several values.
    label, tumour : int, str or None
        The user's word on it: a value or a name. None looks for the usual names; unnamed labels 1 and 2 are taken
        for liver and tumour, as in LiTS, and a lone 255 for the liver.
    values : tuple of int, optional
        The non-zero values that occur, where they are known.

    Raises
    ------
    InputError
        If the named label does not exist, or if it cannot be told which label is the liver.
    """
    named = {value: name for value, name in names.items() if value > 0}
    tumours = _find(named, tumour) if tumour is not None else ()
    if label is not None:
        return LabelChoice(_find(named, label), tumours)
    if not named:
        occurring = set(values or (1,))
        if occurring == {255}:
            return LabelChoice((255,))
        if not occurring <= {1, 2}:
            shown = ", ".join(str(value) for value in sorted(occurring)[:20])
            raise InputError(f"The masks hold the labels {shown} without names; say which one is the liver (label).")
        return LabelChoice((1,), tumours or (2,))
    livers = tuple(
        value
        for value, name in named.items()
        if _LIVER_WORDS.search(name) and not _TUMOUR_WORDS.search(name) and not _OTHER_PARTS.search(name)
    )
    if not livers and len(set(named.values())) == 1:
        livers = tuple(named)
    if len({named[value] for value in livers}) != 1:
        raise InputError(f"It is not clear which label is the liver among {_listed(named)}; name it (label).")
    if tumour is None:
        tumours = _find_tumours(named)
    return LabelChoice(tuple(value for value in livers if value not in tumours), tumours)


def _find(named: Mapping[int, str], wanted: int | str) -> tuple[int, ...]:
    if isinstance(wanted, int) or wanted.isdigit():
        if named and int(wanted) not in named:
            raise InputError(f"There is no label {wanted}; the data set has {_listed(named)}.")
        return (int(wanted),)
    found = tuple(value for value, name in named.items() if name.casefold() == wanted.casefold())
    if not found:
        raise InputError(f"There is no label named {wanted}; the data set has {_listed(named) or 'no names'}.")
    return found


def _find_tumours(named: Mapping[int, str]) -> tuple[int, ...]:
    found = {value: name for value, name in named.items() if _TUMOUR_WORDS.search(name)}
    in_liver = {value: name for value, name in found.items() if _LIVER_WORDS.search(name)}
    chosen = in_liver or found
    return tuple(chosen) if len(set(chosen.values())) == 1 else ()


def _listed(named: Mapping[int, str]) -> str:
    return ", ".join(f"{value} {name}" for value, name in sorted(named.items())[:20])
