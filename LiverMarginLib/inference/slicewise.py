"""Segmentation of a volume by a network that sees one axial slice at a time.

Whatever the axis order, flips and obliqueness of the image, the network sees the canonical axial view, and the result
lies on the image's own grid. Memory holds the image as it came, the result in one byte a voxel, and one batch.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

import LiverMarginLib
from LiverMarginLib.errors import BundleError, InputError
from LiverMarginLib.events import CancelToken, Event, Notice, OnEvent, Progress, SliceReady, ignore
from LiverMarginLib.inference.compatibility import InputPlan, plan_input
from LiverMarginLib.inference.memory import FrugalPredictor
from LiverMarginLib.inference.postprocessing import bounding_box, postprocess
from LiverMarginLib.inference.segmenter import Device, Segmenter, load_segmenter
from LiverMarginLib.models.bundle import Bundle
from LiverMarginLib.models.manifest import FillHoles, Manifest, Postprocessing
from LiverMarginLib.preprocessing import InPlaneFit, fit_in_plane, window_to_unit
from LiverMarginLib.volume import LabelMap, Volume, axial_view

SEGMENTING = "segmenting"
POSTPROCESSING = "post-processing"

# On a CPU larger batches are not faster, but progress and cancelling become coarser.
_CPU_BATCH = 2
_GPU_BATCH = 16


@dataclass(frozen=True)
class SlicewiseOptions:
    """What a user may choose; None stands for the model's own default.

    Parameters
    ----------
    batch_size : int, optional
        Slices computed together.
    threshold : float, optional
        Probability in (0, 1) from which a voxel is labelled.
    largest_component : bool, optional
        Keep only the largest 3-D piece.
    fill_holes : FillHoles, optional
    min_volume_ml : float, optional
        Smaller 3-D pieces are removed.
    slice_range : tuple of int, optional
        First slice, and the one after the last, counted from the inferior end as in the axial view; slices outside
        are left empty.
    allow_mismatch : bool
        Go on where the image is not of the kind that the model was trained on.

    Raises
    ------
    InputError
        If a value is out of its range.
    """

    batch_size: int | None = None
    threshold: float | None = None
    largest_component: bool | None = None
    fill_holes: FillHoles | None = None
    min_volume_ml: float | None = None
    slice_range: tuple[int, int] | None = None
    allow_mismatch: bool = False

    def __post_init__(self) -> None:
        if self.batch_size is not None and self.batch_size < 1:
            raise InputError("The batch size must be 1 or more.")
        if self.threshold is not None and not 0 < self.threshold < 1:
            raise InputError("The threshold must lie between 0 and 1.")
        if self.min_volume_ml is not None and not 0 <= self.min_volume_ml < float("inf"):
            raise InputError("The smallest volume that is kept must be zero or more millilitres.")

    def postprocessing(self, manifest: Manifest) -> Postprocessing:
        """The model's post-processing with the choices made here."""
        chosen: dict[str, Any] = {
            "largest_component": self.largest_component,
            "fill_holes": self.fill_holes,
            "min_volume_ml": self.min_volume_ml,
        }
        return replace(manifest.postprocessing, **{key: value for key, value in chosen.items() if value is not None})


def segment_volume(
    volume: Volume,
    bundle: Bundle,
    segmenter: Segmenter,
    options: SlicewiseOptions | None = None,
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
    options : SlicewiseOptions, optional
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
    options, cancel = options or SlicewiseOptions(), cancel or CancelToken()
    manifest = bundle.manifest
    view = axial_view(volume.geometry)
    voxels = view.to_view(volume.array)
    slices = _slice_range(options, len(voxels))
    notices: list[str] = []

    def tell(event: Event) -> None:
        if isinstance(event, Notice):
            notices.append(event.message)
        on_event(event)

    plan = plan_input(volume, manifest, allow_mismatch=options.allow_mismatch)
    for message in plan.notices:
        tell(Notice(message))
    down, across = view.geometry.spacing[1:] if volume.spacing_known else (1.0, 1.0)
    fit = fit_in_plane((voxels.shape[1], voxels.shape[2]), (down, across), segmenter.input_size)
    predictor = FrugalPredictor(
        segmenter,
        options.batch_size or (_CPU_BATCH if segmenter.device == "cpu" else _GPU_BATCH),
        fallback or (lambda: load_segmenter(bundle, device=Device.CPU)),
        tell,
    )
    labels = np.zeros(volume.geometry.shape, np.uint8) if out is None else out
    planes = view.to_view(labels)
    threshold = options.threshold if options.threshold is not None else manifest.mask_threshold
    source = _NetworkInputs(voxels, plan, fit, manifest.context_slices)
    confidence = _label_slices(planes, source, slices, predictor, manifest, threshold, tell, cancel)

    chosen = options.postprocessing(manifest)
    if chosen.min_volume_ml > 0 and not volume.spacing_known:
        tell(Notice("The voxel spacing is not known, so no piece is removed for being small."))
        chosen = replace(chosen, min_volume_ml=0.0)
    tell(Progress(0, 1, POSTPROCESSING))
    removed = postprocess(planes, volume.geometry.voxel_volume, chosen, organ=manifest.labels[0].label)
    cancel.check()
    tell(Progress(1, 1, POSTPROCESSING))
    if bounding_box(planes) is None:
        tell(Notice(f"No {manifest.labels[0].name.lower()} was found in this image."))
    provenance = _provenance(bundle, predictor.segmenter) | {
        "options": {
            "threshold": threshold,
            "slice_range": [slices.start, slices.stop],
            "window": [plan.low, plan.high],
            "largest_component": chosen.largest_component,
            "fill_holes": chosen.fill_holes.value,
            "min_volume_ml": chosen.min_volume_ml,
            "allow_mismatch": options.allow_mismatch,
        },
        "pieces_removed": removed,
        "confidence": confidence,
        "notices": notices,
    }
    return LabelMap(labels, volume.geometry, manifest.labels, provenance)


@dataclass(frozen=True, eq=False)
class _NetworkInputs:
    """The slices of an image as the network wants them, made when asked for."""

    voxels: npt.NDArray[Any]
    plan: InputPlan
    fit: InPlaneFit
    context: int

    def batch(self, indices: range) -> npt.NDArray[np.float32]:
        """Inputs of some slices, shape (n, c, h, w)."""
        return np.stack([self._one(k) for k in indices])

    def _one(self, index: int) -> npt.NDArray[np.float32]:
        # Beyond the ends of the volume the end slices are repeated.
        channels = np.clip(np.arange(index - self.context, index + self.context + 1), 0, len(self.voxels) - 1)
        units = (window_to_unit(self.voxels[k], self.plan.low, self.plan.high) for k in channels)
        return np.stack([self.fit.to_network(unit) for unit in units])


def _label_slices(
    planes: npt.NDArray[np.uint8],
    source: _NetworkInputs,
    slices: range,
    predictor: FrugalPredictor,
    manifest: Manifest,
    threshold: float,
    tell: OnEvent,
    cancel: CancelToken,
) -> float | None:
    """Write the labels of `slices` into `planes` (the axial view of the result) and tell of each.

    Returns the confidence: the mean probability of the voxels that reach the threshold, to four digits, or None if
    there are none. It says how sure the network is of what it found, not how good the boundary is.
    """
    values = [segment.label for segment in manifest.labels]
    found, certainty = 0, 0.0
    k = slices.start
    while k < slices.stop:
        cancel.check()
        probabilities = predictor.predict(source.batch(range(k, min(k + predictor.batch_size, slices.stop))))
        if not np.isfinite(probabilities).all():
            raise BundleError(
                f"The model {manifest.name!r} gives values that are not numbers on the device "
                f"{predictor.segmenter.device}; try the device cpu, or check the model."
            )
        for of_slice in probabilities:
            for value, channel in zip(values, source.fit.from_network(of_slice), strict=True):
                inside = channel >= threshold
                planes[k][inside] = value
                found += int(np.count_nonzero(inside))
                certainty += float(channel[inside].sum(dtype=np.float64))
            tell(Progress(k + 1 - slices.start, len(slices), SEGMENTING))
            tell(SliceReady(k))
            k += 1
    return round(certainty / found, 4) if found else None


def _slice_range(options: SlicewiseOptions, count: int) -> range:
    first, stop = options.slice_range or (0, count)
    if not 0 <= first < stop <= count:
        raise InputError(
            f"Slices {first} to {stop - 1} are not to be had in this image, which has slices 0 to {count - 1}; "
            "choose among those."
        )
    return range(first, stop)


def _provenance(bundle: Bundle, segmenter: Segmenter) -> dict[str, Any]:
    manifest = bundle.manifest
    return {
        "software": {
            "LiverMargin": LiverMarginLib.__version__,
            **{name: importlib.metadata.version(name) for name in ("numpy", "scipy")},
        },
        "model": {
            "name": manifest.name,
            "version": manifest.version,
            "architecture": manifest.architecture,
            "sha256": dict(manifest.weights),
        },
        "runtime": segmenter.runtime,
        "device": segmenter.device,
    }
