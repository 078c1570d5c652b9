"""Make a synthetic abdomen with exact labels, as files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from LiverMarginLib.events import CancelToken, OnEvent, Progress
from LiverMarginLib.jobs.base import Job


@dataclass(frozen=True)
class PhantomJob(Job):
    """Write a procedural CT of the abdomen and its labels.

    Parameters
    ----------
    folder : str
        Receives the CT (`ct/` for DICOM, otherwise `ct.<suffix>`), `liver.<suffix>` (1 liver, 2 lesions) and
        `organs.<suffix>` (every organ).
    seed : int
        The same seed gives the same patient.
    shape : tuple of int
        (k, j, i) voxels.
    spacing : tuple of float
        (k, j, i) spacing in mm.
    phase : str, optional
        "native", "arterial", "portal" or "delayed"; None draws one.
    lesions : int, optional
        Number of liver lesions; None draws it.
    noise : float, optional
        Standard deviation of the noise in HU; None draws it.
    format : str
        "dicom", "nii.gz", "nrrd" or "mha"; labels of a DICOM phantom are seg.nrrd.
    """

    kind: ClassVar[str] = "phantom"

    folder: str
    seed: int = 0
    shape: tuple[int, int, int] = (64, 512, 512)
    spacing: tuple[float, float, float] = (4.0, 0.8, 0.8)
    phase: str | None = "portal"
    lesions: int | None = None
    noise: float | None = None
    format: str = "dicom"

    def execute(self, on_event: OnEvent, cancel: CancelToken) -> dict[str, Any]:
        """Draw and write; see `LiverMarginLib.jobs.run`."""
        from LiverMarginLib.io.volume_writers import write_volume
        from LiverMarginLib.io.writers import write_labelmap
        from LiverMarginLib.phantom import PhantomOptions, liver_target, make_phantom

        on_event(Progress(0, 3, "phantom", "anatomy"))
        options = PhantomOptions(
            shape=self.shape, spacing=self.spacing, phase=self.phase, lesions=self.lesions, noise_hu=self.noise
        )
        phantom = make_phantom(self.seed, options)
        cancel.check()
        on_event(Progress(1, 3, "phantom", "writing the CT"))
        folder = Path(self.folder)
        is_dicom = self.format == "dicom"
        ct = folder / ("ct" if is_dicom else f"ct.{self.format}")
        write_volume(phantom.volume, ct)
        on_event(Progress(2, 3, "phantom", "writing the labels"))
        suffix = "seg.nrrd" if is_dicom else self.format
        liver = write_labelmap(liver_target(phantom.labels, tumour=True), folder / f"liver.{suffix}")
        organs = write_labelmap(phantom.labels, folder / f"organs.{suffix}")
        on_event(Progress(3, 3, "phantom"))
        return {"volume": str(ct), "liver": str(liver[0]), "organs": str(organs[0]), "seed": self.seed}
