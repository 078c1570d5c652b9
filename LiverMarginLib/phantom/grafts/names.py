"""What the values of a label map mean: two public schemes, or names given one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from LiverMarginLib.errors import InputError
from LiverMarginLib.phantom.organs import Organ

SCHEMES: Mapping[str, Mapping[int, Organ]] = {
    # Ji et al., AMOS, NeurIPS 2022. Value 15 (prostate or uterus) has no place in the phantom.
    "amos": {
        1: Organ.SPLEEN,
        2: Organ.RIGHT_KIDNEY,
        3: Organ.LEFT_KIDNEY,
        4: Organ.GALLBLADDER,
        5: Organ.OESOPHAGUS,
        6: Organ.LIVER,
        7: Organ.STOMACH,
        8: Organ.AORTA,
        9: Organ.VENA_CAVA,
        10: Organ.PANCREAS,
        11: Organ.RIGHT_ADRENAL,
        12: Organ.LEFT_ADRENAL,
        13: Organ.DUODENUM,
        14: Organ.BLADDER,
    },
    # Wasserthal et al., TotalSegmentator, Radiology: Artificial Intelligence 2023, version 2 of its classes.
    "totalsegmentator": {
        1: Organ.SPLEEN,
        2: Organ.RIGHT_KIDNEY,
        3: Organ.LEFT_KIDNEY,
        4: Organ.GALLBLADDER,
        5: Organ.LIVER,
        6: Organ.STOMACH,
        7: Organ.PANCREAS,
        8: Organ.RIGHT_ADRENAL,
        9: Organ.LEFT_ADRENAL,
        15: Organ.OESOPHAGUS,
        18: Organ.SMALL_BOWEL,
        19: Organ.DUODENUM,
        20: Organ.COLON,
        21: Organ.BLADDER,
        52: Organ.AORTA,
        63: Organ.VENA_CAVA,
        64: Organ.PORTAL_VEIN,
    },
}
"""Organ of each value, for the organs that can be taken over."""

USABLE = frozenset(organ for scheme in SCHEMES.values() for organ in scheme.values())


def organs_named(names: Sequence[str]) -> dict[int, Organ]:
    """Understand what a user says about the values of a label map.

    Parameters
    ----------
    names : sequence of str
        The name of one of `SCHEMES`; or ``organ=value`` for each organ, such as ``liver=1``, ``right_kidney=4``.
        Several values may be one organ.

    Returns
    -------
    dict of int to Organ

    Raises
    ------
    InputError
        If a name or a value is unknown, a value is named twice, or none is the liver.
    """
    if len(names) == 1 and "=" not in names[0]:
        scheme = SCHEMES.get(names[0].lower())
        if scheme is None:
            raise InputError(
                f"There is no label scheme {names[0]!r}; use one of {', '.join(SCHEMES)}, or name the values one by "
                "one such as liver=1 spleen=2."
            )
        return dict(scheme)
    known = {organ.name.lower(): organ for organ in sorted(USABLE)}
    found: dict[int, Organ] = {}
    for text in names:
        name, _, number = text.partition("=")
        organ = known.get(name.strip().lower().replace(" ", "_"))
        if organ is None or not number.strip().isdecimal() or not 1 <= int(number) <= 65535:
            raise InputError(
                f"{text!r} does not name a label; write organ=value with one of {', '.join(known)} and a whole number."
            )
        if int(number) in found:
            raise InputError(f"The label {int(number)} is named twice; name each value once.")
        found[int(number)] = organ
    if Organ.LIVER not in found.values():
        raise InputError("None of the labels is named liver; say which one it is, such as liver=1.")
    return found
