"""What a training has seen, for the warning that an image is unlike it."""

from __future__ import annotations

import math
from collections import defaultdict

import numpy as np

from LiverMarginLib.inference.resemblance import measure, ranges
from LiverMarginLib.training.data import Source
from LiverMarginLib.volume import IntensityKind

_PATIENTS, _SLICES = 100, 12


def ranges_seen(source: Source, kind: IntensityKind) -> dict[str, list[float]]:
    """Measure the images that a slice-wise network learns from.

    Parameters
    ----------
    source : Source
        Patients without anything labelled are left out: a warning should say that an image is none of the organ. Of
        many patients, every so many are measured.
    kind : IntensityKind
        What the intensities mean.

    Returns
    -------
    dict of str to list of float
        For a manifest's training record; see `LiverMarginLib.inference.resemblance`.
    """
    patients: dict[str, list[int]] = defaultdict(list)
    for index in range(len(source)):
        patients[source.patient(index)].append(index)
    chosen = np.linspace(0, len(patients) - 1, min(_PATIENTS, len(patients))).round().astype(int)
    names = list(patients)
    measured = []
    for name in (names[n] for n in chosen):
        indices = patients[name]
        few = np.unique(np.linspace(0, len(indices) - 1, min(_SLICES, len(indices))).round().astype(int))
        slices = [source.read(indices[n]) for n in few]
        if any(one.mask.any() for one in slices):
            measured.append(measure([one.image for one in slices], (math.nan, *slices[0].spacing), kind))
    return ranges(measured)
