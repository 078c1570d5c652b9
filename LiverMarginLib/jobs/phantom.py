"""Make a synthetic abdomen with exact labels, as files, or a picture of many."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from LiverMarginLib.errors import InputError
from LiverMarginLib.events import CancelToken, OnEvent, Progress
from LiverMarginLib.jobs.base import Job, modality_named
from LiverMarginLib.volume import Modality

if TYPE_CHECKING:
    from LiverMarginLib.phantom import Phantom, PhantomOptions
    from LiverMarginLib.phantom.grafts import Donor

SHEET_FILE = "contact_sheet.png"
_MOST_ON_A_SHEET = 200


@dataclass(frozen=True)
class PhantomJob(Job):
    """Write a procedural CT or MR of the abdomen and its labels.

    Parameters
    ----------
    folder : str
        Receives the image (`ct/` or `mr/` for DICOM, otherwise `ct.<suffix>` or `mr.<suffix>`), `liver.<suffix>`
        (1 liver, 2 lesions) and `organs.<suffix>` (every organ).
    seed : int
        The same seed gives the same patient.
    shape : tuple of int
        (k, j, i) voxels.
    spacing : tuple of float
        (k, j, i) spacing in mm.
    modality : str
        "CT" or "MR".
    phase : str, optional
        "native", "arterial", "portal" or "delayed"; None draws one.
    sequence : str, optional
        "t1" or "t2" of an MR; None draws one.
    lesions : int, optional
        Number of liver lesions; None draws it.
    lesion_kinds : tuple of str, optional
        "hypovascular", "hypervascular", "rim", "capsule", "cyst": what each lesion may be; None draws it.
    lesion_mm : tuple of float, optional
        Smallest and largest radius of the lesions.
    lesions_at_border : float
        Share of the lesions that touch the surface of the liver.
    noise : float, optional
        Standard deviation of the noise, in HU for a CT and as a share of the liver's signal for an MR; None draws it.
    format : str
        "dicom", "nii.gz", "nrrd" or "mha"; labels of a DICOM phantom are seg.nrrd.
    contact_sheet : int
        Number of phantoms, from `seed` on, whose slices are laid out in one picture, `contact_sheet.png`; nothing else
        is written then. 0 for none.
    outlines : bool
        Whether the liver and its lesions are outlined in the picture.
    from_labels : str, optional
        A label map whose organs, deformed by the seed, take the place of drawn ones.
    label_names : tuple of str
        What its values mean: "amos", "totalsegmentator", or "liver=1", "spleen=2" and so on.
    """

    kind: ClassVar[str] = "phantom"

    folder: str
    seed: int = 0
    shape: tuple[int, int, int] = (64, 512, 512)
    spacing: tuple[float, float, float] = (4.0, 0.8, 0.8)
    modality: str = "CT"
    phase: str | None = "portal"
    sequence: str | None = None
    lesions: int | None = None
    lesion_kinds: tuple[str, ...] | None = None
    lesion_mm: tuple[float, float] | None = None
    lesions_at_border: float = 0.0
    noise: float | None = None
    format: str = "dicom"
    contact_sheet: int = 0
    outlines: bool = False
    from_labels: str | None = None
    label_names: tuple[str, ...] = ()

    def execute(self, on_event: OnEvent, cancel: CancelToken) -> dict[str, Any]:
        """Draw and write; see `LiverMarginLib.jobs.run`."""
        if not 0 <= self.contact_sheet <= _MOST_ON_A_SHEET:
            raise InputError(f"A contact sheet shows 1 to {_MOST_ON_A_SHEET} phantoms, not {self.contact_sheet}.")
        options = self._options()
        donor = None if self.from_labels is None else read_donor(self.from_labels, self.label_names)
        write = self._sheet if self.contact_sheet else self._files
        return write(options, donor, on_event, cancel)

    def _options(self) -> PhantomOptions:
        from LiverMarginLib.phantom import PhantomOptions

        modality = modality_named(self.modality)
        assert modality is not None
        return PhantomOptions(
            shape=self.shape,
            spacing=self.spacing,
            modality=modality,
            phase=self.phase,
            sequence=self.sequence,
            lesions=self.lesions,
            lesion_kinds=self.lesion_kinds,
            lesion_mm=self.lesion_mm,
            lesions_at_border=self.lesions_at_border,
            noise_hu=self.noise if modality is Modality.CT else None,
            noise_share=self.noise if modality is Modality.MR else None,
        )

    def _sheet(
        self, options: PhantomOptions, donor: Donor | None, on_event: OnEvent, cancel: CancelToken
    ) -> dict[str, Any]:
        from LiverMarginLib.io.atomic import atomic_path
        from LiverMarginLib.io.png import encode_png
        from LiverMarginLib.phantom import preview_row, stack_rows

        seeds = range(self.seed, self.seed + self.contact_sheet)
        rows = []
        for done, seed in enumerate(seeds):
            cancel.check()
            on_event(Progress(done, len(seeds), "phantom", f"seed {seed}"))
            rows.append(preview_row(_make(seed, options, donor), outlines=self.outlines))
        picture = Path(self.folder) / SHEET_FILE
        with atomic_path(picture) as beside:
            beside.write_bytes(encode_png(stack_rows(rows)))
        on_event(Progress(len(seeds), len(seeds), "phantom"))
        return {"sheet": str(picture), "seeds": list(seeds)}

    def _files(
        self, options: PhantomOptions, donor: Donor | None, on_event: OnEvent, cancel: CancelToken
    ) -> dict[str, Any]:
        from LiverMarginLib.io.volume_writers import write_volume
        from LiverMarginLib.io.writers import write_labelmap
        from LiverMarginLib.phantom import liver_target

        on_event(Progress(0, 3, "phantom", "anatomy"))
        phantom = _make(self.seed, options, donor)
        cancel.check()
        name = options.modality.lower()
        on_event(Progress(1, 3, "phantom", f"writing the {name.upper()}"))
        folder = Path(self.folder)
        is_dicom = self.format == "dicom"
        image = folder / (name if is_dicom else f"{name}.{self.format}")
        write_volume(phantom.volume, image)
        on_event(Progress(2, 3, "phantom", "writing the labels"))
        suffix = "seg.nrrd" if is_dicom else self.format
        liver = write_labelmap(liver_target(phantom.labels, tumour=True), folder / f"liver.{suffix}")
        organs = write_labelmap(phantom.labels, folder / f"organs.{suffix}")
        on_event(Progress(3, 3, "phantom"))
        return {"volume": str(image), "liver": str(liver[0]), "organs": str(organs[0]), "seed": self.seed}


def read_donor(path: str, names: tuple[str, ...]) -> Donor:
    """Read the label map of a phantom's real organs.

    Parameters
    ----------
    path : str
        A label map in any format that `LiverMarginLib.io.readers.read_labels` reads.
    names : tuple of str
        See `LiverMarginLib.phantom.grafts.organs_named`.

    Raises
    ------
    InputError
        If it cannot be read, the names are wrong, or there is no liver in it.
    """
    from LiverMarginLib.io.readers import read_labels
    from LiverMarginLib.phantom.grafts import Donor, organs_named

    organs = organs_named(names)
    return Donor.from_labels(read_labels(path), organs)


def _make(seed: int, options: PhantomOptions, donor: Donor | None) -> Phantom:
    from LiverMarginLib.phantom import make_phantom
    from LiverMarginLib.phantom.grafts import grafted_options, transplant

    if donor is None:
        return make_phantom(seed, options)
    return make_phantom(seed, grafted_options(options), transplant(donor, seed))
