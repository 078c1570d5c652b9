"""Segment one volume with one model and write the result in any number of formats."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from LiverMarginLib.errors import InputError
from LiverMarginLib.events import CancelToken, OnEvent, Progress
from LiverMarginLib.jobs.base import Job, modality_named
from LiverMarginLib.volume import LabelMap, Volume

if TYPE_CHECKING:
    from LiverMarginLib.inference.options import SegmentOptions
    from LiverMarginLib.inference.volumetric import VolumetricResult
    from LiverMarginLib.models.bundle import Bundle


@dataclass(frozen=True)
class SegmentJob(Job):
    """Find the liver in a volume.

    Parameters
    ----------
    input : str
        DICOM folder or file, NIfTI, NRRD, MHA, or a folder of pictures.
    model : str
        Name of a bundle, or the path of a bundle folder.
    outputs : tuple of str
        Files to write; the suffix decides the format (see `LiverMarginLib.io.writers.formats`).
    series : str, optional
        Which DICOM series, when the folder holds several.
    modality : str, optional
        "CT" or "MR", for files that do not say it.
    spacing : tuple of float, optional
        (k, j, i) spacing in mm of a stack of pictures.
    device, runtime : str
        "auto", "cpu", "cuda", "mps"; "auto", "ncnn", "onnx", "torch".
    batch_size, threads : int, optional
        None lets the machine decide.
    precision : str
        "single", or "half" for the 16 bits that the device is quick in, by torch alone; a localiser and a denoising
        model stay with single precision.
    threshold : float, optional
        Probability from which a voxel is liver; None takes the bundle's.
    largest_component : bool, optional
        Keep one connected piece; None takes the bundle's default.
    fill_holes : str, optional
        "none", "slice" or "volume"; None takes the bundle's default.
    denoise : str, optional
        Name or folder of a denoising bundle that the image goes through first; the image itself is not changed.
    slices : tuple of int, optional
        First and last axial slice, counted from 0 at the inferior end.
    allow_mismatch : bool
        Run although modality or intensities are not those the model was made for.
    uncertainty : str, optional
        Image file that receives how unsure a volumetric network is of each voxel: the result is then the mean of
        `samples` predictions with dropout left on.
    samples : int
    uncertainty_kind : str
        "entropy" or "std"; see `LiverMarginLib.inference.options.Uncertainty`.
    live : str, optional
        File in which whoever asked can watch the result grow: raw uint8 in the voxel order of the input, made here
        and belonging to the caller from then on. A `SliceReady` event says that a slice of it is there; with the
        `Result` it holds the final labels, whose provenance is among the result's values.
    """

    kind: ClassVar[str] = "segment"

    input: str
    model: str
    outputs: tuple[str, ...]
    series: str | None = None
    modality: str | None = None
    spacing: tuple[float, float, float] | None = None
    device: str = "auto"
    runtime: str = "auto"
    batch_size: int | None = None
    threads: int | None = None
    precision: str = "single"
    threshold: float | None = None
    largest_component: bool | None = None
    fill_holes: str | None = None
    denoise: str | None = None
    slices: tuple[int, int] | None = None
    allow_mismatch: bool = False
    uncertainty: str | None = None
    samples: int = 8
    uncertainty_kind: str = "entropy"
    live: str | None = None

    def execute(self, on_event: OnEvent, cancel: CancelToken) -> dict[str, Any]:
        """Read, segment, write; see `LiverMarginLib.jobs.run`."""
        from LiverMarginLib.io.readers import read_volume
        from LiverMarginLib.io.volume_writers import write_volume
        from LiverMarginLib.io.writers import check_output, write_labelmap

        # What can be refused is refused before the minutes of work, not after.
        bundles = self.bundles()
        for output in self.outputs:
            check_output(output, source=Path(self.input))
        started = time.perf_counter()
        on_event(Progress(0, 1, "read"))
        volume = read_volume(
            self.input,
            series=self.series,
            modality=modality_named(self.modality),
            spacing=self.spacing,
            on_event=on_event,
        )
        cancel.check()
        on_event(Progress(1, 1, "read"))
        read_seconds = time.perf_counter() - started
        result = self._segment(volume, bundles, on_event, cancel)
        labels = result.labels
        segment_seconds = time.perf_counter() - started - read_seconds
        written: list[str] = []
        for number, output in enumerate(self.outputs):
            cancel.check()
            on_event(Progress(number, len(self.outputs), "write", Path(output).name))
            written += [str(path) for path in write_labelmap(labels, output, source=Path(self.input))]
        if self.uncertainty is not None and result.uncertainty is not None:
            written.append(str(write_volume(result.uncertainty, self.uncertainty)))
        on_event(Progress(len(self.outputs), len(self.outputs), "write"))
        return {
            "model": bundles[0].manifest.name,
            "device": labels.provenance["device"],
            "precision": labels.provenance["precision"],
            "outputs": written,
            **measurements(volume, labels),
            "seconds": {"read": round(read_seconds, 2), "segment": round(segment_seconds, 2)},
            **({} if self.live is None else {"provenance": dict(labels.provenance)}),
        }

    def bundles(self) -> tuple[Bundle, Bundle | None]:
        """Find and check the model, and the one that denoises for it if there is one."""
        from LiverMarginLib.models.store import find_bundle

        return find_bundle(self.model), None if self.denoise is None else find_bundle(self.denoise)

    def segment(
        self, volume: Volume, bundles: tuple[Bundle, Bundle | None], on_event: OnEvent, cancel: CancelToken
    ) -> LabelMap:
        """Segment a volume that has been read already.

        Parameters
        ----------
        volume : Volume
        bundles : tuple of Bundle
            From `bundles`.
        on_event : callable
        cancel : CancelToken
        """
        return self._segment(volume, bundles, on_event, cancel).labels

    def _segment(
        self, volume: Volume, bundles: tuple[Bundle, Bundle | None], on_event: OnEvent, cancel: CancelToken
    ) -> VolumetricResult:
        from LiverMarginLib.inference.warm import warm_model

        bundle, denoising = bundles
        options = self._options(bundle)
        # ONNX Runtime cannot leave dropout on.
        runtime = "torch" if options.samples and self.runtime == "auto" else self.runtime
        model = warm_model(bundle, device=self.device, runtime=runtime, threads=self.threads, precision=self.precision)
        seen = volume if denoising is None else self._denoised(volume, denoising, on_event, cancel)
        out = None if self.live is None else _live_labels(Path(self.live), volume)
        result = model.segment(seen, options, on_event, cancel, out=out)
        labels = result.labels
        if denoising is not None:
            used = {"name": denoising.manifest.name, "version": denoising.manifest.version}
            labels = replace(labels, provenance={**labels.provenance, "denoised_by": used})
            result = replace(result, labels=labels)
        return result

    def _options(self, bundle: Bundle) -> SegmentOptions:
        from LiverMarginLib.inference.options import SegmentOptions, Uncertainty
        from LiverMarginLib.models.manifest import FillHoles

        if self.uncertainty is not None and not bundle.manifest.volumetric:
            raise InputError(
                f"The model {bundle.manifest.name} segments slice by slice, for which there is no uncertainty; choose "
                "a volumetric model."
            )
        return SegmentOptions(
            batch_size=self.batch_size,
            threshold=self.threshold,
            largest_component=self.largest_component,
            fill_holes=None if self.fill_holes is None else FillHoles(self.fill_holes),
            slice_range=None if self.slices is None else (self.slices[0], self.slices[1] + 1),
            allow_mismatch=self.allow_mismatch,
            samples=0 if self.uncertainty is None else self.samples,
            uncertainty=Uncertainty(self.uncertainty_kind),
        )

    def _denoised(self, volume: Volume, bundle: Bundle, on_event: OnEvent, cancel: CancelToken) -> Volume:
        from LiverMarginLib.inference.denoising import denoise_volume, load_denoiser_of_same_size

        denoiser = load_denoiser_of_same_size(bundle, device=self.device, runtime=self.runtime, threads=self.threads)
        return denoise_volume(volume, denoiser, on_event, cancel, allow_mismatch=self.allow_mismatch)


def _live_labels(path: Path, volume: Volume) -> np.memmap[Any, np.dtype[np.uint8]]:
    """Zeros of the volume's shape in a new file that other processes can look at."""
    try:
        with path.open("xb") as file:
            if hasattr(os, "posix_fallocate"):  # a full disk is told here; found through the map it kills the process
                os.posix_fallocate(file.fileno(), 0, volume.array.size)
    except FileExistsError as error:
        raise InputError(f"{path.name} exists already; name a new file for the live labels.") from error
    return np.memmap(path, np.uint8, "r+" if path.stat().st_size else "w+", shape=volume.geometry.shape)


def measurements(volume: Volume, labels: LabelMap) -> dict[str, Any]:
    """Return what a user wants to know at once.

    Volumes in ml and the slices that carry each label; how sure the model was, of all and of each slice (None where it
    found nothing), and the slice of which it was least sure, among those with a tenth of the largest section or more.
    """
    from LiverMarginLib.volume import axial_view

    seen = axial_view(labels.geometry).to_view(labels.array)
    segments = []
    for segment in labels.segments:
        rows = np.flatnonzero((seen == segment.label).any(axis=(1, 2)))
        segments.append(
            {
                "label": segment.label,
                "name": segment.name,
                "volume_ml": round(labels.volume_ml(segment.label), 2) if volume.spacing_known else None,
                "voxels": int(np.count_nonzero(labels.array == segment.label)),
                "slices": len(rows),
                "first_slice": int(rows[0]) if len(rows) else None,
                "last_slice": int(rows[-1]) if len(rows) else None,
            }
        )
    by_slice = labels.provenance.get("slice_confidence") or []
    areas = [int(np.count_nonzero(plane)) for plane in seen]
    judged = [k for k, value in enumerate(by_slice) if value is not None and areas[k] >= 0.1 * max(areas)]
    return {
        "slices": seen.shape[0],
        "spacing_known": volume.spacing_known,
        "segments": segments,
        "confidence": labels.provenance.get("confidence"),
        "slice_confidence": by_slice,
        "least_sure_slice": min(judged, key=lambda k: by_slice[k], default=None),
    }
