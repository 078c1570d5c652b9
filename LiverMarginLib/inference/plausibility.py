"""What is doubtful about a result, as far as can be told without a reference."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from LiverMarginLib.inference.postprocessing import bounding_box
from LiverMarginLib.models.manifest import Manifest
from LiverMarginLib.terminology import LIVER
from LiverMarginLib.volume import Volume

UNSURE = 0.8
"""Confidence below which a result is called unsure."""

# Wider than livers of adults after resections and with polycystic disease; a whole liver outside is hardly one.
_LIVER_ML = (250.0, 6000.0)


def doubts(
    planes: npt.NDArray[np.uint8], volume: Volume, manifest: Manifest, confidence: float | None, slices: range
) -> list[str]:
    """Say what a person should know before believing a result.

    Parameters
    ----------
    planes : ndarray of uint8, shape (k, j, i)
        The final labels in the axial view.
    volume : Volume
    manifest : Manifest
        Of the model.
    confidence : float, optional
        See `LiverMarginLib.inference.labelling.Confidence`.
    slices : range
        Those that were looked at.

    Returns
    -------
    list of str
        One sentence each; empty if there is nothing to say.
    """
    organ = manifest.labels[0].name.lower()
    box = bounding_box(planes)
    if box is None:
        return [f"No {organ} was found in this image."]
    found = []
    if confidence is not None and confidence < UNSURE:
        found.append(
            f"The model is unsure of the {organ} that it found (mean probability {confidence:.2f}); check every slice."
        )
    whole = slices.start < box[0].start and box[0].stop < slices.stop
    if manifest.labels[0] == LIVER and volume.spacing_known and whole:
        millilitres = np.count_nonzero(planes) * volume.geometry.voxel_volume / 1000
        low, high = _LIVER_ML
        if not low <= millilitres <= high:
            size = f"{millilitres:.{0 if millilitres >= 10 else 1}f} ml"
            found.append(
                f"The liver that was found has {size} although the image goes on above and below it; that is "
                f"{'less' if millilitres < low else 'more'} than livers of adults have, so check whether it is one."
            )
    return found
