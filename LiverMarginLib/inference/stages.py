"""What slice-wise and volumetric segmentation have in common before and after the network."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from LiverMarginLib.errors import BundleError
from LiverMarginLib.events import CancelToken, Event, Notice, OnEvent, Progress
from LiverMarginLib.inference.labelling import Confidence
from LiverMarginLib.inference.options import SegmentOptions
from LiverMarginLib.inference.plausibility import doubts
from LiverMarginLib.inference.postprocessing import postprocess
from LiverMarginLib.inference.segmenter import FULL_PRECISION, Segmenter, precision_of
from LiverMarginLib.models.manifest import Manifest
from LiverMarginLib.volume import Volume

LOCALISING = "localising"
SEGMENTING = "segmenting"
POSTPROCESSING = "post-processing"


class Recorder:
    """Passes events on and keeps the notices, for the provenance.

    Parameters
    ----------
    on_event : callable
    """

    def __init__(self, on_event: OnEvent) -> None:
        self._on_event = on_event
        self.notices: list[str] = []

    def __call__(self, event: Event) -> None:
        if isinstance(event, Notice):
            self.notices.append(event.message)
        self._on_event(event)


def finish(
    planes: npt.NDArray[np.uint8],
    volume: Volume,
    manifest: Manifest,
    options: SegmentOptions,
    tell: OnEvent,
    cancel: CancelToken,
    confidence: Confidence,
    first: int,
) -> dict[str, Any]:
    """Post-process the labels of a volume, in place, and say if nothing was found or what was is doubtful.

    Parameters
    ----------
    planes : ndarray of uint8, shape (k, j, i)
        The labels in the axial view.
    confidence : Confidence
        Of the slices from the one with the index `first` on.

    Returns
    -------
    dict
        For the provenance: the ``options`` that were used, the number of ``pieces_removed``, the ``confidence`` and
        the ``slice_confidence``.
    """
    chosen = options.postprocessing(manifest)
    if chosen.min_volume_ml > 0 and not volume.spacing_known:
        tell(Notice("The voxel spacing is not known, so no piece is removed for being small."))
        chosen = replace(chosen, min_volume_ml=0.0)
    tell(Progress(0, 1, POSTPROCESSING))
    removed = postprocess(planes, volume.geometry.voxel_volume, chosen, organ=manifest.labels[0].label)
    cancel.check()
    tell(Progress(1, 1, POSTPROCESSING))
    for doubt in doubts(planes, volume, manifest, confidence.value, options.slices(len(planes))):
        tell(Notice(doubt))
    used = {
        "largest_component": chosen.largest_component,
        "fill_holes": chosen.fill_holes.value,
        "min_volume_ml": chosen.min_volume_ml,
    }
    return {
        "options": used,
        "pieces_removed": removed,
        "confidence": confidence.value,
        "slice_confidence": confidence.by_slice(planes, first),
    }


def check_numbers(probabilities: npt.NDArray[np.float32], name: str, segmenter: Segmenter) -> None:
    """Raise `BundleError` unless a network's output is finite."""
    if not np.isfinite(probabilities).all():
        raise not_numbers(name, segmenter)


def not_numbers(name: str, segmenter: Segmenter) -> BundleError:
    """Say that a network's output is not finite."""
    computed_in = precision_of(segmenter)
    where, way_out = f"on the device {segmenter.device}", "try the device cpu"
    if computed_in != FULL_PRECISION:
        where, way_out = f"in {computed_in}", "choose the precision single"
    return BundleError(f"The model {name!r} gives values that are not numbers {where}; {way_out}, or check the model.")
