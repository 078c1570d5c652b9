"""Segmentation of a volume by a network that sees blocks of voxels.

The image, in the axial view, is resampled to the network's spacing, block after block is predicted, and the weighted
mean of the probabilities is resampled back to the image's own grid before labels are chosen. All of it goes row by row
from the bottom up (see `LiverMarginLib.inference.sliding`): memory holds one layer of blocks, and slices of the result
appear while the blocks above them are still to come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from LiverMarginLib.errors import InputError, ResourceError
from LiverMarginLib.events import CancelToken, Notice, OnEvent, Progress, SliceReady, ignore
from LiverMarginLib.inference.compatibility import plan_input
from LiverMarginLib.inference.labelling import Confidence, Labelling
from LiverMarginLib.inference.memory import FrugalPredictor
from LiverMarginLib.inference.options import SegmentOptions, Uncertainty
from LiverMarginLib.inference.provenance import provenance
from LiverMarginLib.inference.segmenter import Device, DropoutSampler, Segmenter, largest_batch, load_segmenter
from LiverMarginLib.inference.sliding import SlidingWindow
from LiverMarginLib.inference.stages import SEGMENTING, Recorder, check_numbers, finish
from LiverMarginLib.models.bundle import Bundle
from LiverMarginLib.models.volumetric_fields import SpacingUnit
from LiverMarginLib.network_grid import NetworkGrid, fit_grid
from LiverMarginLib.preprocessing import FloatImage
from LiverMarginLib.volume import IntensityKind, LabelMap, Volume, axial_view

Box = tuple[slice, slice, slice]

# On a CPU larger batches are not faster; on a GPU there are fewer where memory is short.
_CPU_BATCH = 1
_GPU_BATCH = 4


@dataclass(frozen=True, eq=False)
class VolumetricResult:
    """What `segment_blocks` gives.

    Parameters
    ----------
    labels : LabelMap
    uncertainty : Volume, optional
        float32 on the same grid, where samples were asked for; 0 outside of the box.
    """

    labels: LabelMap
    uncertainty: Volume | None = None


def segment_blocks(
    volume: Volume,
    bundle: Bundle,
    segmenter: Segmenter,
    options: SegmentOptions | None = None,
    on_event: OnEvent = ignore,
    cancel: CancelToken | None = None,
    *,
    out: npt.NDArray[np.uint8] | None = None,
    box: Box | None = None,
    fallback: Callable[[], Segmenter] | None = None,
) -> VolumetricResult:
    """Segment a volume block by block.

    Parameters
    ----------
    volume : Volume
        Not changed.
    bundle : Bundle
        A volumetric model.
    segmenter : Segmenter
        The bundle's network, see `load_segmenter`.
    options : SegmentOptions, optional
    on_event : callable
        Told of every finished block (`Progress`), of every slice whose labels are in `out` (`SliceReady`) and of
        everything that the user should know (`Notice`).
    cancel : CancelToken, optional
        Looked at between blocks.
    out : ndarray of uint8, shape of the volume, optional
        Zeros into which the labels are written as they come.
    box : tuple of slice, optional
        The part of the axial view, (k, j, i), that the network sees; labels outside of it stay 0.
    fallback : callable, optional
        Makes the network ready on the CPU when a device's memory holds not even one block.

    Returns
    -------
    VolumetricResult
        Labels on the volume's grid, with the bundle's segments and with provenance. Empty, after a notice, if nothing
        was found.

    Raises
    ------
    InputError
        If the image is not of the model's kind, shows nothing or has no spacing, if the slice range lies outside of
        it, or if samples are asked for and the runtime or the network has no dropout.
    BundleError
        If the model cannot be run or gives values that are not numbers.
    ResourceError
        If memory does not suffice.
    Cancelled
        If `cancel` was raised.
    """
    options, cancel = options or SegmentOptions(), cancel or CancelToken()
    manifest, tell = bundle.manifest, Recorder(on_event)
    view = axial_view(volume.geometry)
    voxels = view.to_view(volume.array)
    seen = None if box is None else voxels[box]
    box = _box(box, options.slices(len(voxels)), voxels.shape)
    plan = plan_input(volume, manifest, allow_mismatch=options.allow_mismatch, seen=seen)
    for message in plan.notices:
        tell(Notice(message))
    grid = _grid(volume, bundle, view.geometry.spacing, voxels[box].shape)
    predictor = _Predictor(
        FrugalPredictor(
            segmenter,
            options.batch_size or (_CPU_BATCH if segmenter.device == "cpu" else largest_batch(segmenter, _GPU_BATCH)),
            fallback or (lambda: _on_cpu(bundle, options)),
            tell,
            "block",
        ),
        options,
        manifest.name,
        cancel,
    )
    k, j, i = bundle.manifest.input_size
    window = SlidingWindow(grid.shape, (k, j, i), options.overlap)
    labelling = Labelling.of(manifest, options.threshold)
    labels = np.zeros(volume.geometry.shape, np.uint8) if out is None else out
    planes = view.to_view(labels)
    unsure = np.zeros(volume.geometry.shape, np.float32) if options.samples else None
    part = voxels[box]
    rows = window.rows(
        grid.rows_to_network(lambda k: plan.apply(part[k])),
        predictor,
        predictor.channels,
        batch=predictor.batch,
        padding=plan.scale.padding,
        on_block=lambda done: tell(Progress(done, len(window), SEGMENTING)),
    )
    tell(Progress(0, len(window), SEGMENTING))
    confidence = Confidence(labelling.exclusive)
    with predictor.sampling():
        for n, probabilities in _slices(grid, rows):
            index = box[0].start + n
            found = probabilities[: predictor.classes]
            planes[index][box[1:]] = labelling(found)
            confidence.add(found, planes[index][box[1:]])
            if unsure is not None:
                view.to_view(unsure)[index][box[1:]] = np.clip(probabilities[-1], 0, 1)
            tell(SliceReady(index))
    finished = finish(planes, volume, manifest, options, tell, cancel, confidence, box[0].start)
    record = provenance(bundle, predictor.segmenter) | {
        "options": {
            "threshold": labelling.threshold,
            "box": [[part.start, part.stop] for part in box],
            "window": [plan.low, plan.high],
            "allow_mismatch": options.allow_mismatch,
            "overlap": options.overlap,
            "samples": options.samples,
            **finished["options"],
            **({"uncertainty": options.uncertainty.value, "seed": options.seed} if options.samples else {}),
        },
        **{key: finished[key] for key in ("pieces_removed", "confidence", "slice_confidence")},
        "notices": tell.notices,
    }
    result = LabelMap(labels, volume.geometry, manifest.labels, record)
    if unsure is None:
        return VolumetricResult(result)
    note = f"Uncertainty ({options.uncertainty.value}) of the model {manifest.name} over {options.samples} samples."
    return VolumetricResult(
        result, Volume(unsure, volume.geometry, volume.modality, IntensityKind.ARBITRARY, notes=(note,))
    )


def _on_cpu(bundle: Bundle, options: SegmentOptions) -> Segmenter:
    if options.samples:  # half of them drawn on one device and half on another would be of no use
        raise ResourceError("The device's memory does not hold one block; choose the device cpu.")
    return load_segmenter(bundle, device=Device.CPU)


def _box(box: Box | None, slices: range, shape: tuple[int, ...]) -> Box:
    k, j, i = box or tuple(slice(0, n) for n in shape)
    k = slice(max(k.start, slices.start), min(k.stop, slices.stop))
    if k.start >= k.stop:
        raise InputError("The chosen slices show nothing of the organ that was found; choose others.")
    return k, j, i


def _grid(volume: Volume, bundle: Bundle, spacing: tuple[float, float, float], shape: tuple[int, ...]) -> NetworkGrid:
    manifest = bundle.manifest
    assert manifest.spacing is not None  # volumetric models have one
    in_voxels = manifest.spacing_unit is SpacingUnit.VOXEL
    if not volume.spacing_known and not in_voxels:
        raise InputError(
            f"The model {manifest.name!r} needs to know the image's voxel spacing; give it with the stack of pictures."
        )
    k, j, i = shape
    try:
        return fit_grid((k, j, i), spacing, manifest.spacing, in_voxels=in_voxels)
    except MemoryError as error:
        raise ResourceError(
            f"At the spacing of the model {manifest.name!r} this image is too large ({error}); check its voxel spacing."
        ) from error


def _slices(grid: NetworkGrid, rows: Iterator[tuple[int, FloatImage]]) -> Iterator[tuple[int, FloatImage]]:
    """Turn final rows of the network's grid into slices of the image, each as soon as its rows are there.

    Yields
    ------
    tuple of int and ndarray of float32, shape (channels, j, i)
    """
    n, held, first = 0, None, 0
    for start, block in rows:
        held = block if held is None else np.concatenate((held, block), axis=1)
        stop = start + block.shape[1]
        while n < grid.image_shape[0] and grid.support(n)[1] <= stop:
            low, high = grid.support(n)
            yield n, grid.plane_from_network(grid.combine(n, held[:, low - first : high - first]))
            n += 1
        needed = min(grid.support(n)[0], stop) if n < grid.image_shape[0] else stop
        held, first = held[:, needed - first :], needed


class _Predictor:
    """The network's prediction of blocks, or the mean and the spread of several with dropout."""

    def __init__(self, frugal: FrugalPredictor, options: SegmentOptions, name: str, cancel: CancelToken) -> None:
        self._frugal = frugal
        self._options = options
        self._name = name
        self._cancel = cancel
        self.classes = frugal.segmenter.classes
        self.channels = self.classes + (options.samples > 0)
        if options.samples and not isinstance(frugal.segmenter, DropoutSampler):
            raise InputError("The uncertainty needs dropout, which ONNX Runtime cannot draw; choose the runtime torch.")

    @property
    def batch(self) -> int:
        return self._frugal.batch_size

    @property
    def segmenter(self) -> Segmenter:
        return self._frugal.segmenter

    def sampling(self) -> AbstractContextManager[None]:
        segmenter = self._frugal.segmenter
        if self._options.samples and isinstance(segmenter, DropoutSampler):
            return segmenter.dropout(self._options.seed)
        return nullcontext()

    def __call__(self, blocks: FloatImage) -> FloatImage:
        if not self._options.samples:
            return self._predict(blocks)
        samples = []
        for _ in range(self._options.samples):
            samples.append(self._predict(blocks))
            blocks = blocks[: len(samples[-1])]  # fewer, where memory has become short meanwhile
        stack = np.stack([sample[: len(blocks)] for sample in samples])
        mean = stack.mean(axis=0)
        return np.concatenate((mean, spread(stack, mean, self._options.uncertainty)[:, None]), axis=1)

    def _predict(self, blocks: FloatImage) -> FloatImage:
        self._cancel.check()
        probabilities = self._frugal.predict(blocks)
        check_numbers(probabilities, self._name, self._frugal.segmenter)
        return probabilities


def spread(samples: FloatImage, mean: FloatImage, kind: Uncertainty) -> FloatImage:
    """Measure how much predictions differ; background is what the labels leave.

    Parameters
    ----------
    samples : ndarray of float32, shape (samples, n, classes, k, j, i)
        Without the background.
    mean : ndarray of float32, shape (n, classes, k, j, i)
    kind : Uncertainty

    Returns
    -------
    ndarray of float32, shape (n, k, j, i)
    """
    whole = np.concatenate((1 - mean.sum(axis=1, keepdims=True), mean), axis=1).clip(0, 1)
    if kind is Uncertainty.ENTROPY:
        terms = np.where(whole > 0, whole * np.log(whole.clip(min=1e-12)), 0)
        return np.asarray(-terms.sum(axis=1) / np.log(whole.shape[1]), np.float32)
    background = 1 - samples.sum(axis=2, keepdims=True)
    deviation = np.concatenate((background, samples), axis=2).std(axis=0)
    return np.take_along_axis(deviation, whole.argmax(axis=1)[:, None], axis=1)[:, 0]
