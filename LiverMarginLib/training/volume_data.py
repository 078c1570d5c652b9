"""Whole volumes as training data: what a source gives, and its images prepared once and kept on disk."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from LiverMarginLib.errors import InputError, technical
from LiverMarginLib.events import CancelToken, OnEvent, Progress, ignore
from LiverMarginLib.io.atomic import atomic_path
from LiverMarginLib.network_grid import fit_grid
from LiverMarginLib.training.compat_preparation import liver_cube
from LiverMarginLib.training.data import InMemorySource, Source
from LiverMarginLib.training.volume_config import Preparation, VolumeConfig
from LiverMarginLib.volume import Modality

_SCHEMA = 2  # 2: what is annotated, drawn by a model, and which case it is


@dataclass(frozen=True, eq=False)
class VolumeSample:
    """One image in the axial view with its labels.

    Parameters
    ----------
    image : ndarray, shape (k, j, i)
        HU or whatever the source's values are; any real dtype, perhaps a memory map.
    labels : ndarray of uint8, shape (k, j, i)
        0 is background.
    spacing : tuple of float
        mm along (k, j, i).
    modality : Modality
    weight : float
        Share of this volume in the loss, such as 0.5 for a pseudo-label.
    annotated : bool
        Whether somebody looked at it.
    known : tuple of int, optional
        The label values that were looked for; None if all of them were. Another label may be there unmarked.
    pseudo : tuple of int
        Label values that a model has drawn, not a person.
    case : str
        What tells this patient's image from all others without saying whose it is (see `case_hash`).

    Raises
    ------
    InputError
        If image and labels differ in shape.
    """

    image: npt.NDArray[Any]
    labels: npt.NDArray[np.uint8]
    spacing: tuple[float, float, float]
    modality: Modality = Modality.UNKNOWN
    weight: float = 1.0
    annotated: bool = True
    known: tuple[int, ...] | None = None
    pseudo: tuple[int, ...] = ()
    case: str = ""

    def __post_init__(self) -> None:
        if self.image.ndim != 3 or self.image.shape != self.labels.shape:
            raise InputError(
                f"A volume has {self.image.shape} voxels and its labels {self.labels.shape}; both need the same three "
                "axes."
            )


def case_hash(image: npt.NDArray[Any] | str) -> str:
    """Name a case by its voxels (in the axial view), or by what made them: SHA-256, the first 16 digits.

    Copies and renamed files of one image have the same name, and nothing of the patient is in it.
    """
    if isinstance(image, str):
        return hashlib.sha256(image.encode()).hexdigest()[:16]
    digest = hashlib.sha256(repr(image.shape).encode())
    for plane in image:
        digest.update(np.ascontiguousarray(plane, dtype=np.float32).tobytes())
    return digest.hexdigest()[:16]


class VolumeSource(Source, Protocol):
    """A source of volumes with labels."""

    def read(self, index: int) -> VolumeSample:
        """Read volume `index`; raises `InputError` with a sentence fit for the user where that fails."""
        ...

    def key(self, index: int) -> str:
        """Return what identifies the content of volume `index`, without reading it."""
        ...


class InMemoryVolumes(InMemorySource[VolumeSample]):
    """Volumes that already are in memory, as a `VolumeSource`."""

    def key(self, index: int) -> str:
        """SHA-256 of the volume's voxels."""
        sample = self.read(index)
        digest = hashlib.sha256(repr((sample.image.shape, sample.image.dtype.str, sample.spacing)).encode())
        digest.update(np.ascontiguousarray(sample.image).tobytes())
        digest.update(np.ascontiguousarray(sample.labels).tobytes())
        return digest.hexdigest()

    def fingerprint(self) -> str:
        """SHA-256 over all volumes."""
        return hashlib.sha256("".join(self.key(n) for n in range(len(self))).encode()).hexdigest()


class PreparedVolumes:
    """Volumes as patches are cut from them: resampled, perhaps cropped, kept on disk as memory maps.

    Each volume is prepared when it is first read, or all of them by `prepare`.

    Parameters
    ----------
    source : VolumeSource
    config : VolumeConfig
    folder : path
        May be shared by several sources and trainings.
    """

    def __init__(self, source: VolumeSource, config: VolumeConfig, folder: str | os.PathLike[str]) -> None:
        self._source = source
        self._config = config
        self._folder = Path(folder)
        how: dict[str, Any] = {"schema": _SCHEMA, "preparation": config.preparation.value, "spacing": config.spacing}
        if config.preparation is Preparation.MLF_CORE:
            how["patch"] = config.patch
        elif config.localiser is not None:
            how["margin"] = config.margin_mm
        self._how = repr(how)

    def __len__(self) -> int:
        return len(self._source)

    def patient(self, index: int) -> str:
        """Whose volume it is."""
        return self._source.patient(index)

    def key(self, index: int) -> str:
        """What identifies the prepared volume."""
        return hashlib.sha256(f"{self._how} {self._source.key(index)}".encode()).hexdigest()

    def annotated(self, index: int) -> bool:
        """Whether somebody looked at volume `index`; only those are given to sources of volumes."""
        return True

    def cases(self) -> list[str]:
        """`VolumeSample.case` of all volumes, each once, in alphabetical order."""
        return sorted({case for n in range(len(self)) if (case := self.read(n).case)})

    def modality(self, index: int) -> Modality:
        """What made volume `index`."""
        return self.read(index).modality

    def fingerprint(self) -> str:
        """SHA-256 over the voxels of all volumes, as they were prepared."""
        digest = hashlib.sha256()
        for index in range(len(self)):
            self.read(index)
            digest.update(str(np.load(self._note(index))["sha256"]).encode())
        return digest.hexdigest()

    def prepare(self, on_event: OnEvent = ignore, cancel: CancelToken | None = None) -> None:
        """Prepare what is not there yet, so that the training does not wait for it.

        Raises
        ------
        InputError
            If a volume cannot be read.
        ResourceError
            If the disk is full.
        Cancelled
            If `cancel` was raised; what was prepared stays.
        """
        cancel = cancel or CancelToken()
        for index in range(len(self)):
            cancel.check()
            on_event(Progress(index, len(self), "prepare"))
            if not self._note(index).exists():
                self.read(index)
        on_event(Progress(len(self), len(self), "prepare"))

    def read(self, index: int) -> VolumeSample:
        """Read a prepared volume, whose arrays are memory maps; errors as `prepare`."""
        note = self._note(index)
        if not note.exists():
            self._make(index, note)
        try:
            values = np.load(note)
            image, labels = (np.load(path, mmap_mode="r") for path in self._arrays(index))
        except (OSError, ValueError) as error:
            raise InputError(
                "A prepared volume is damaged; delete the cache of the training and start again.", technical(error)
            ) from error
        k, j, i = (float(value) for value in values["spacing"])
        known, pseudo = (tuple(int(value) for value in values[name]) for name in ("known", "pseudo"))
        return VolumeSample(
            image,
            labels,
            (k, j, i),
            Modality(str(values["modality"])),
            float(values["weight"]),
            known=known if bool(values["partly"]) else None,
            pseudo=pseudo,
            case=str(values["case"]),
        )

    def _make(self, index: int, note: Path) -> None:
        prepared = prepare_volume(self._source.read(index), self._config)
        image_path, labels_path = self._arrays(index)
        # The note last: where it is, the arrays are.
        for path, array in ((image_path, prepared.image), (labels_path, prepared.labels)):
            with atomic_path(path) as beside, beside.open("wb") as file:
                np.save(file, np.ascontiguousarray(array))
        digest = hashlib.sha256()
        for array in (prepared.image, prepared.labels):
            digest.update(np.ascontiguousarray(array).tobytes())
        about: dict[str, Any] = {"spacing": prepared.spacing, "modality": prepared.modality.value}
        about |= {"weight": prepared.weight, "sha256": digest.hexdigest(), "case": prepared.case}
        about |= {"partly": prepared.known is not None, "known": prepared.known or (), "pseudo": prepared.pseudo}
        with atomic_path(note) as beside, beside.open("wb") as file:
            np.savez(file, **about)

    def _note(self, index: int) -> Path:
        return self._folder / f"{self.key(index)[:32]}.prepared.npz"

    def _arrays(self, index: int) -> tuple[Path, Path]:
        stem = self.key(index)[:32]
        return self._folder / f"{stem}.volume.npy", self._folder / f"{stem}.labels.npy"


def prepare_volume(sample: VolumeSample, config: VolumeConfig) -> VolumeSample:
    """Resample, and crop where the network will be used behind a localiser.

    Parameters
    ----------
    sample : VolumeSample
    config : VolumeConfig

    Returns
    -------
    VolumeSample
        Values of integer images are rounded to integers again.
    """
    if config.preparation is Preparation.MLF_CORE:
        image, labels = liver_cube(sample.image, sample.labels, config.patch)
        doubled = tuple(2 * s for s in sample.spacing)
        return replace(sample, image=image, labels=labels, spacing=doubled)  # type: ignore[arg-type]  # three of them
    if config.localiser is not None:
        sample = _cropped(sample, config.margin_mm)
    k, j, i = sample.image.shape
    grid = fit_grid((k, j, i), sample.spacing, config.spacing)
    if grid.shape == (k, j, i) and all(axis.there is None for axis in grid.axes):
        return sample
    image = grid.to_network(sample.image)
    if sample.image.dtype.kind in "iu":
        image = np.rint(image).astype(sample.image.dtype)
    return replace(sample, image=image, labels=grid.labels_to_network(sample.labels), spacing=config.spacing)


def _cropped(sample: VolumeSample, margin_mm: float) -> VolumeSample:
    """The reference's box with a margin: what a good localiser would let the network see."""
    box = []
    for axis, spacing in enumerate(sample.spacing):
        others = tuple(n for n in range(3) if n != axis)
        used = np.flatnonzero(np.asarray(sample.labels > 0).any(axis=others))
        margin = int(np.ceil(margin_mm / spacing))
        length = sample.labels.shape[axis]
        box.append(slice(max(0, used[0] - margin), min(length, used[-1] + 1 + margin)) if len(used) else slice(None))
    place = tuple(box)
    return replace(sample, image=sample.image[place], labels=sample.labels[place])
