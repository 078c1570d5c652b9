"""Denoise a volume with DnCNN-SR into a new one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from LiverMarginLib.errors import InputError
from LiverMarginLib.events import CancelToken, OnEvent, Progress
from LiverMarginLib.jobs.base import Job, modality_named


@dataclass(frozen=True)
class DenoiseJob(Job):
    """Denoise; the input is never changed.

    Parameters
    ----------
    input, series, modality, device, runtime, threads, allow_mismatch
        As for `SegmentJob`.
    model : str
        Name or folder of a denoising bundle.
    output : str
        Image to write (``.nii.gz``, ``.nrrd``, ``.mha``; a folder name for DICOM).
    figure : str, optional
        A PNG of one slice before and after.
    """

    kind: ClassVar[str] = "denoise"

    input: str
    output: str
    model: str = "dncnn-sr"
    series: str | None = None
    modality: str | None = None
    device: str = "auto"
    runtime: str = "auto"
    threads: int | None = None
    figure: str | None = None
    allow_mismatch: bool = False

    def execute(self, on_event: OnEvent, cancel: CancelToken) -> dict[str, Any]:
        """Read, denoise, write; see `LiverMarginLib.jobs.run`."""
        from LiverMarginLib.inference.denoising import denoise_volume, load_denoiser
        from LiverMarginLib.io.readers import read_volume
        from LiverMarginLib.io.volume_writers import write_volume
        from LiverMarginLib.models.store import find_bundle

        source, target = Path(self.input), Path(self.output)
        if target.exists() and (target.is_dir() or target.samefile(source)):
            raise InputError(f"{target.name} exists already and is not overwritten; choose another name.")
        bundle = find_bundle(self.model)
        volume = read_volume(
            source,
            series=self.series,
            modality=modality_named(self.modality),
            on_event=on_event,
        )
        denoiser = load_denoiser(bundle, device=self.device, runtime=self.runtime, threads=self.threads)
        denoised = denoise_volume(volume, denoiser, on_event, cancel, allow_mismatch=self.allow_mismatch)
        on_event(Progress(0, 1, "write", target.name))
        outputs = [str(write_volume(denoised, target))]
        if self.figure is not None:
            outputs.append(str(self._draw(volume, denoised)))
        on_event(Progress(1, 1, "write"))
        return {"model": bundle.manifest.name, "outputs": outputs, "shape": list(denoised.geometry.shape)}

    def _draw(self, volume: Any, denoised: Any) -> Path:
        from LiverMarginLib.report.denoising import draw_denoising

        return Path(draw_denoising(volume, denoised, Path(str(self.figure))))
