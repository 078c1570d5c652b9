"""Segmentation of a volume by a network that sees one axial slice at a time.

Whatever the axis order, flips and obliqueness of the image, the network sees the canonical axial view, and the result
lies on the image's own grid. Nothing is found in the air around the body: in each row of a slice, no label lies beyond
the first and the last pixel that is brighter than the window's lower end, whatever the network makes of air.

Memory holds the image as it came, the result in one byte a voxel, and one batch (on a device that computes while the
machine does something else, two).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from LiverMarginLib.events import CancelToken, Notice, OnEvent, Progress, SliceReady, ignore
from LiverMarginLib.inference.compatibility import plan_input
from LiverMarginLib.inference.labelling import Confidence, Labelling, SliceLabels
from LiverMarginLib.inference.memory import FrugalPredictor
from LiverMarginLib.inference.options import SegmentOptions
from LiverMarginLib.inference.provenance import provenance
from LiverMarginLib.inference.segmenter import (
    Confinable,
    Device,
    Segmenter,
    images_side_by_side,
    largest_batch,
    load_segmenter,
)
from LiverMarginLib.inference.slice_inputs import SliceInputs
from LiverMarginLib.inference.slice_labeller import Begun, SliceLabeller
from LiverMarginLib.inference.stages import SEGMENTING, Recorder, finish
from LiverMarginLib.models.bundle import Bundle
from LiverMarginLib.preprocessing import fit_in_plane
from LiverMarginLib.volume import LabelMap, Volume, axial_view

# On a CPU batches beyond what is computed side by side are not faster, but progress and cancelling become coarser.
_CPU_BATCH = 2
_GPU_BATCH = 16
# Fewer slices gain less by a network made for their region than making it takes.
_WORTH_CONFINING = 32


def segment_volume(
    volume: Volume,
    bundle: Bundle,
    segmenter: Segmenter,
    options: SegmentOptions | None = None,
    on_event: OnEvent = ignore,
    cancel: CancelToken | None = None,
    *,
    out: npt.NDArray[np.uint8] | None = None,
    fallback: Callable[[], Segmenter] | None = None,
) -> LabelMap:
    """Segment a volume slice by slice.

    Parameters
    ----------
    volume : Volume
        Not changed.
    bundle : Bundle
        The model: window, labels, thresholds, defaults.
    segmenter : Segmenter
        The bundle's network, see `load_segmenter`.
    options : SegmentOptions, optional
    on_event : callable
        Told of every finished slice (`Progress` and `SliceReady`, its labels then being in `out`) and of everything
        that the user should know (`Notice`).
    cancel : CancelToken, optional
        Looked at between batches.
    out : ndarray of uint8, shape of the volume, optional
        Zeros into which the labels are written as they come, for listeners that show them; a memory map, perhaps.
    fallback : callable, optional
        Makes the network ready on the CPU when a device's memory holds not even one slice; by default
        `load_segmenter`.

    Returns
    -------
    LabelMap
        On the volume's grid, with the bundle's segments and with provenance. Empty, after a notice, if nothing was
        found.

    Raises
    ------
    InputError
        If the image is not of the model's kind or shows nothing, or the slice range lies outside it.
    BundleError
        If the model cannot be run or gives values that are not numbers.
    ResourceError
        If memory does not suffice for a single slice.
    Cancelled
        If `cancel` was raised.
    """
    options, cancel = options or SegmentOptions(), cancel or CancelToken()
    manifest = bundle.manifest
    view = axial_view(volume.geometry)
    voxels = view.to_view(volume.array)
    slices = options.slices(len(voxels))
    tell = Recorder(on_event)
    plan = plan_input(volume, manifest, allow_mismatch=options.allow_mismatch)
    for message in plan.notices:
        tell(Notice(message))
    down, across = view.geometry.spacing[1:] if volume.spacing_known else (1.0, 1.0)
    height, width = segmenter.input_size
    fit = fit_in_plane((voxels.shape[1], voxels.shape[2]), (down, across), (height, width))
    apart = view.geometry.spacing[0] if volume.spacing_known else None
    source = SliceInputs(voxels, plan, fit, manifest.context, apart)
    if isinstance(segmenter, Confinable) and len(slices) >= _WORTH_CONFINING:
        segmenter = segmenter.confined(source.bright(slices), source.dark)
    predictor = FrugalPredictor(
        segmenter,
        options.batch_size or default_batch(segmenter),
        fallback or (lambda: load_segmenter(bundle, device=Device.CPU)),
        tell,
    )
    labels = np.zeros(volume.geometry.shape, np.uint8) if out is None else out
    planes = view.to_view(labels)
    labelling = Labelling.of(manifest, options.threshold)
    labeller = SliceLabeller(source, predictor, labelling, manifest.name)
    confidence = Confidence(labelling.exclusive)
    for k, found in _in_order(labeller, slices, cancel):
        planes[k] = found.labels
        confidence.add_sum(found.voxels, found.total)
        tell(Progress(k + 1 - slices.start, len(slices), SEGMENTING))
        tell(SliceReady(k))
    finished = finish(planes, volume, manifest, options, tell, cancel, confidence, slices.start)
    record = provenance(bundle, predictor.segmenter) | {
        "options": {
            "threshold": labelling.threshold,
            "slice_range": [slices.start, slices.stop],
            "window": [plan.low, plan.high],
            "allow_mismatch": options.allow_mismatch,
            **finished["options"],
        },
        **{key: finished[key] for key in ("pieces_removed", "confidence", "slice_confidence")},
        "notices": tell.notices,
    }
    return LabelMap(labels, volume.geometry, manifest.labels, record)


def default_batch(segmenter: Segmenter) -> int:
    """How many slices to hand to a network at a time where the user does not say."""
    if segmenter.device == "cpu":
        return max(_CPU_BATCH, images_side_by_side(segmenter))
    return largest_batch(segmenter, _GPU_BATCH)


def _in_order(labeller: SliceLabeller, slices: range, cancel: CancelToken) -> Iterator[tuple[int, SliceLabels]]:
    """Begin as many batches as there may be at a time, then finish the first of them, and so on."""
    begun: deque[Begun] = deque()
    while slices or begun:
        cancel.check()
        if slices and len(begun) < labeller.at_a_time:
            begun.append(labeller.begin(slices))
            slices = slices[len(begun[-1].indices) :]
        else:
            batch = begun.popleft()
            yield from zip(batch.indices, batch.labels(), strict=True)
