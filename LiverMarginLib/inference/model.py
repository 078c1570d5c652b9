"""One way to run any segmentation model: slice by slice or block by block, with its localiser or without."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from LiverMarginLib.errors import BundleError
from LiverMarginLib.events import CancelToken, Event, Notice, OnEvent, Progress, ignore
from LiverMarginLib.inference.compatibility import input_of
from LiverMarginLib.inference.options import SegmentOptions
from LiverMarginLib.inference.postprocessing import bounding_box
from LiverMarginLib.inference.provenance import model_record, provenance
from LiverMarginLib.inference.segmenter import Device, Precision, Runtime, Segmenter, load_segmenter
from LiverMarginLib.inference.slicewise import segment_volume
from LiverMarginLib.inference.stages import LOCALISING, SEGMENTING, Recorder
from LiverMarginLib.inference.volumetric import Box, VolumetricResult, segment_blocks
from LiverMarginLib.models.bundle import Bundle
from LiverMarginLib.models.manifest import Manifest
from LiverMarginLib.models.store import find_localiser
from LiverMarginLib.volume import AxialView, LabelMap, Volume, axial_view


@dataclass(frozen=True, eq=False)
class SegmentationModel:
    """A bundle that is ready to segment volumes. Made by `load_model`.

    Parameters
    ----------
    bundle : Bundle
    segmenter : Segmenter
    localiser : SegmentationModel, optional
        Finds the organ first.
    others : tuple of SegmentationModel
        The same network for its further modalities, each with the manifest and the localiser for them.
    """

    bundle: Bundle
    segmenter: Segmenter
    localiser: SegmentationModel | None = None
    others: tuple[SegmentationModel, ...] = ()

    @property
    def bundles(self) -> list[Bundle]:
        """The model's own and those of its localisers."""
        localisers = [model.localiser for model in (self, *self.others) if model.localiser is not None]
        return [self.bundle, *(localiser.bundle for localiser in localisers)]

    def segment(
        self,
        volume: Volume,
        options: SegmentOptions | None = None,
        on_event: OnEvent = ignore,
        cancel: CancelToken | None = None,
        *,
        out: npt.NDArray[np.uint8] | None = None,
    ) -> VolumetricResult:
        """Segment a volume; parameters and errors as `segment_volume` and `segment_blocks`.

        A network of several modalities takes the image as what it says it is, or as what its values look like, which
        a notice says. Where a localiser finds nothing, the result is empty, and a notice says so.
        """
        options, cancel = options or SegmentOptions(), cancel or CancelToken()
        if self.others:
            modality, assumed = input_of(volume, self.bundle.manifest)
            models = {model.bundle.manifest.modality: model for model in self.others}
            model = models.get(modality) or replace(self, others=())
            tell = Recorder(on_event)
            if assumed:
                tell(Notice(assumed))
            return _noted(model.segment(volume, options, on_event, cancel, out=out), tell.notices)
        if not self.bundle.manifest.volumetric:
            labels = segment_volume(volume, self.bundle, self.segmenter, options, on_event, cancel, out=out)
            return VolumetricResult(labels)
        if self.localiser is None:
            return segment_blocks(volume, self.bundle, self.segmenter, options, on_event, cancel, out=out)
        return self._localised(self.localiser, volume, options, on_event, cancel, out)

    def _localised(
        self,
        localiser: SegmentationModel,
        volume: Volume,
        options: SegmentOptions,
        on_event: OnEvent,
        cancel: CancelToken,
        out: npt.NDArray[np.uint8] | None,
    ) -> VolumetricResult:
        tell = Recorder(on_event)

        def listen(event: Event) -> None:
            if isinstance(event, Progress) and event.stage == SEGMENTING:
                tell(replace(event, stage=LOCALISING))
            elif isinstance(event, Notice):  # but not `SliceReady`: its slices are not the result's
                tell(event)

        found = localiser.segment(volume, SegmentOptions(allow_mismatch=options.allow_mismatch), listen, cancel).labels
        view = axial_view(volume.geometry)
        extent = bounding_box(view.to_view(found.array))
        wanted = self.bundle.manifest.localiser
        assert wanted is not None
        used = {"localiser": model_record(localiser.bundle) | {"margin_mm": wanted.margin_mm}}
        if extent is None:
            organ = localiser.bundle.manifest.labels[0].name.lower()
            tell(
                Notice(
                    f"The localiser {localiser.bundle.manifest.name!r} found no {organ} in this image, so the model "
                    f"{self.bundle.manifest.name!r} did not look further; nothing is labelled."
                )
            )
            return VolumetricResult(self._nothing(volume, out, tell.notices, used))
        box = with_margin(extent, view, wanted.margin_mm)
        result = segment_blocks(volume, self.bundle, self.segmenter, options, on_event, cancel, out=out, box=box)
        labels = replace(result.labels, provenance={**result.labels.provenance, **used})
        if wanted.keep_organ:
            labels = _with_organ(labels, found)
        return _noted(replace(result, labels=labels), tell.notices)

    def _nothing(
        self, volume: Volume, out: npt.NDArray[np.uint8] | None, notices: list[str], used: dict[str, Any]
    ) -> LabelMap:
        labels = np.zeros(volume.geometry.shape, np.uint8) if out is None else out
        record = provenance(self.bundle, self.segmenter) | used | {"notices": notices}
        return LabelMap(labels, volume.geometry, self.bundle.manifest.labels, record)


def _noted(result: VolumetricResult, notices: list[str]) -> VolumetricResult:
    """Put notices before those that the result's provenance has already."""
    record = dict(result.labels.provenance)
    record["notices"] = list(dict.fromkeys([*notices, *record.get("notices", ())]))
    return replace(result, labels=replace(result.labels, provenance=record))


def _with_organ(labels: LabelMap, organ: LabelMap) -> LabelMap:
    """Fill what is not labelled with the organ that the localiser found."""
    own = {segment.label for segment in labels.segments}
    for segment in organ.segments:
        if segment.label not in own:
            labels.array[(labels.array == 0) & (organ.array == segment.label)] = segment.label
    added = tuple(segment for segment in organ.segments if segment.label not in own)
    return replace(labels, segments=(*added, *labels.segments))


def with_margin(extent: Box, view: AxialView, margin_mm: float) -> Box:
    """Grow a box of the axial view by a margin in mm, within the image."""
    grown = []
    for part, spacing, length in zip(extent, view.geometry.spacing, view.geometry.shape, strict=True):
        margin = int(np.ceil(margin_mm / spacing))
        grown.append(slice(max(0, part.start - margin), min(length, part.stop + margin)))
    k, j, i = grown
    return k, j, i


def load_model(
    bundle: Bundle,
    *,
    device: Device | str = Device.AUTO,
    runtime: Runtime | str = Runtime.AUTO,
    threads: int | None = None,
    precision: Precision | str = Precision.SINGLE,
) -> SegmentationModel:
    """Make a bundle's network, and its localiser's, ready to run.

    The localiser is looked for beside the bundle first, then among all models. It runs on the same device, by whatever
    runtime it has weights for, in single precision.

    Parameters
    ----------
    bundle, device, runtime, threads, precision
        See `load_segmenter`.

    Raises
    ------
    BundleError
        If the bundle does not segment, or its localiser is missing or needs a localiser of its own.
    DependencyError, InputError, ResourceError
        See `load_segmenter`.
    """
    segmenter = load_segmenter(bundle, device=device, runtime=runtime, threads=threads, precision=precision)
    loaded: dict[str, SegmentationModel] = {}

    def behind_its_localiser(manifest: Manifest) -> SegmentationModel:
        wanted = manifest.localiser
        if wanted is not None and wanted.model not in loaded:
            loaded[wanted.model] = _load_localiser(bundle, wanted.model, device, threads)
        return SegmentationModel(
            replace(bundle, manifest=manifest), segmenter, None if wanted is None else loaded[wanted.model]
        )

    model = behind_its_localiser(bundle.manifest)
    others = [behind_its_localiser(bundle.manifest.seen_as(item.modality)) for item in bundle.manifest.other_inputs]
    return replace(model, others=tuple(others))


def _load_localiser(bundle: Bundle, name: str, device: Device | str, threads: int | None) -> SegmentationModel:
    other = find_localiser(bundle, name)
    if other.manifest.localiser is not None:
        raise BundleError(f"The localiser {name!r} needs a localiser itself; choose another model.")
    return SegmentationModel(other, load_segmenter(other, device=device, threads=threads))
