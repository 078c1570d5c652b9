"""Axial slices of a data set for training, read lazily and kept on disk within a budget."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from LiverMarginLib.datasets.model import Case, Dataset
from LiverMarginLib.datasets.sources import KittiMasks, LabelFile, PictureMasks, PictureStack
from LiverMarginLib.errors import InputError, ResourceError, technical
from LiverMarginLib.events import CancelToken, Notice, OnEvent, Progress, ignore
from LiverMarginLib.jsonable import read_json
from LiverMarginLib.preprocessing import SliceContext
from LiverMarginLib.training.data import SliceSample
from LiverMarginLib.volume import axial_view

_log = logging.getLogger(__name__)

_SCHEMA = 1
_OPEN_CASES = 8  # memory maps held open by one process; file handles are few on some systems
_ABANDONED_AFTER_S = 3600.0
_IMAGE, _MASK, _ABOUT = "image.npy", "mask.npy", "about.json"


class _Slice(NamedTuple):
    case: int
    inside: int


@dataclass(frozen=True)
class _About:
    """What is known of a case once it was read."""

    slices: int
    annotated: tuple[bool, ...]
    spacing: tuple[float, float]
    apart: float | None  # mm from slice to slice
    size_bytes: int


class SliceStore:
    """The slices of some cases, in the canonical axial view, as the trainer draws them.

    A case is decoded when a slice of it is first needed and is kept as two memory-mapped arrays, image in its native
    dtype and mask as uint8. When the folder would outgrow its budget the cases that were not used for longest go.
    Several processes may share the folder: what lies under a case's name is always complete.

    Parameters
    ----------
    dataset : Dataset
    cases : iterable of Case or str, or mapping of str to indices, optional
        Which cases, and which slices of their axial views (None for all). Default: every case with masks.
    folder : path-like
        Where the cache lies; may be shared by several stores and data sets.
    budget_bytes : int
        How much the folder may hold.
    with_tumour : bool
        Whether masks tell tumour (2) from liver (1). By default the tumour is liver, as in the paper's one mask.
    weight : float
        `SliceSample.weight` of all slices.
    on_event : callable
        Receives `Progress` while unknown cases are read for the first time, and a `Notice` if they exceed the budget.
    cancel : CancelToken, optional

    Raises
    ------
    InputError
        If there are no slices, or a case cannot be read.
    ResourceError
        If the disk is full or one case alone exceeds the budget.
    """

    def __init__(
        self,
        dataset: Dataset,
        cases: Iterable[Case | str] | Mapping[str, Sequence[int] | None] | None = None,
        *,
        folder: str | os.PathLike[str],
        budget_bytes: int = 20 << 30,
        with_tumour: bool = False,
        weight: float = 1.0,
        on_event: OnEvent = ignore,
        cancel: CancelToken | None = None,
    ) -> None:
        self._dataset = dataset
        self._folder = Path(folder)
        self._budget = budget_bytes
        self._with_tumour = with_tumour
        self._weight = weight
        self._open: OrderedDict[int, tuple[npt.NDArray[Any], npt.NDArray[np.uint8]]] = OrderedDict()
        wanted = _wanted(dataset, cases)
        self._cases = tuple(dataset.case(case_id) for case_id in wanted)
        self._keys = tuple(case_fingerprint(dataset, case) for case in self._cases)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ResourceError(
                "The folder for cached slices cannot be made; choose another.", technical(error)
            ) from error
        self._remove_abandoned()
        self._about = tuple(self._survey(on_event, cancel or CancelToken()))
        self._slices = tuple(
            _Slice(number, inside)
            for number, (case, about) in enumerate(zip(self._cases, self._about, strict=True))
            for inside in _checked(wanted[case.id], about.slices, case.id)
        )
        if not self._slices:
            raise InputError("There are no slices in the chosen cases; check the data set and its split.")
        needed = sum(about.size_bytes for about in self._about)
        if needed > budget_bytes:
            on_event(
                Notice(
                    f"The slices take {needed / 2**30:.1f} GB but the cache may hold {budget_bytes / 2**30:.1f} GB: "
                    "cases will be read again and again; raise the budget if the disk allows it."
                )
            )

    def __len__(self) -> int:
        """Number of slices."""
        return len(self._slices)

    def patient(self, index: int) -> str:
        """Whose slice it is, without reading it."""
        return self._cases[self._slices[index].case].patient

    def annotated(self, index: int) -> bool:
        """Whether somebody looked at the slice, without reading it."""
        case, inside = self._slices[index]
        return self._about[case].annotated[inside]

    def case_of(self, index: int) -> tuple[str, int]:
        """The case's id and the index in its axial view."""
        case, inside = self._slices[index]
        return self._cases[case].id, inside

    def fingerprint(self) -> str:
        """SHA-256 over the files' names, sizes and times, the reading options and the choice of slices."""
        digest = hashlib.sha256(repr((self._keys, self._with_tumour, self._weight)).encode())
        digest.update(np.asarray(self._slices, dtype=np.int64).tobytes())
        return digest.hexdigest()

    def read(self, index: int) -> SliceSample:
        """Read one slice.

        Raises
        ------
        InputError
            If its case must be decoded and a file of it is damaged or gone.
        ResourceError
            If the disk is full.
        """
        case, inside = self._slices[index]
        return self._sample(case, inside, inside)

    def read_with_context(self, index: int, context: SliceContext) -> SliceSample:
        """Read one slice with its neighbours in the volume, shape (c, h, w); raises what `read` does."""
        case, inside = self._slices[index]
        about = self._about[case]
        return self._sample(case, inside, context.rows(inside, about.slices, about.apart))

    def _sample(self, case: int, inside: int, shown: int | list[int]) -> SliceSample:
        image, mask = self._arrays(case)
        marked = np.array(mask[inside], dtype=np.uint8)
        if not self._with_tumour:
            marked = (marked > 0).astype(np.uint8)
        about = self._about[case]
        picture = np.array(image[shown], dtype=np.float32)
        return SliceSample(picture, marked, about.spacing, about.annotated[inside], self._weight)

    def __getstate__(self) -> dict[str, Any]:
        # Memory maps would be pickled as whole arrays; another process opens its own.
        return {**self.__dict__, "_open": OrderedDict()}

    def _survey(self, on_event: OnEvent, cancel: CancelToken) -> Iterable[_About]:
        for number, (case, key) in enumerate(zip(self._cases, self._keys, strict=True)):
            cancel.check()
            about = _read_about(self._folder / f"{key}.json")
            if about is None:
                on_event(Progress(number, len(self._cases), "read", case.id))
                self._decode(case, key)
                about = _read_about(self._folder / f"{key}.json")
                if about is None:
                    raise ResourceError("The folder for cached slices is changed by something else; choose another.")
            yield about
        on_event(Progress(len(self._cases), len(self._cases), "read"))

    def _arrays(self, case: int) -> tuple[npt.NDArray[Any], npt.NDArray[np.uint8]]:
        if case in self._open:
            self._open.move_to_end(case)
            return self._open[case]
        entry = self._folder / self._keys[case]
        arrays = _map(entry)
        if arrays is None:
            self._decode(self._cases[case], self._keys[case])
            arrays = _map(entry)
            if arrays is None:  # another process with a small budget has evicted it already
                raise ResourceError(
                    "The cache of slices is too small for the processes that share it; raise its budget."
                )
        self._open[case] = arrays
        while len(self._open) > _OPEN_CASES:
            self._open.popitem(last=False)
        return arrays

    def _decode(self, case: Case, key: str) -> None:
        volume, labels, annotated = self._dataset.load(case)
        view = axial_view(volume.geometry)
        image = view.to_view(volume.array)
        mask = np.zeros(image.shape, np.uint8) if labels is None else view.to_view(labels.array).astype(np.uint8)
        size = image.nbytes + mask.nbytes
        if size > self._budget:
            raise ResourceError(
                f"Case {case.id} takes {size / 2**20:.0f} MB but the cache may hold {self._budget / 2**20:.0f} MB; "
                "raise its budget."
            )
        between, *in_plane = view.geometry.spacing
        apart = between if volume.spacing_known else None
        about = _About(len(image), tuple(map(bool, annotated)), (in_plane[0], in_plane[1]), apart, size)
        try:
            self._make_room(size, keep=key)
            temporary = Path(tempfile.mkdtemp(prefix=f".{key}.", dir=self._folder))
            try:
                np.save(temporary / _IMAGE, np.ascontiguousarray(image))
                np.save(temporary / _MASK, np.ascontiguousarray(mask))
                note = temporary / _ABOUT
                note.write_text(json.dumps(about.__dict__), encoding="utf-8")
                # The note lies beside the arrays and stays when they are evicted: lengths need no second decoding.
                note.replace(self._folder / f"{key}.json")
                if not (self._folder / key).exists():
                    _rename_unless_there(temporary, self._folder / key)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        except OSError as error:
            raise ResourceError(
                "A case cannot be kept in the cache of slices; check the free space of its disk.", technical(error)
            ) from error

    def _make_room(self, size: int, keep: str) -> None:
        entries = []
        for entry in self._folder.iterdir():
            if entry.is_dir() and not entry.name.startswith("."):
                used, held = _last_use(entry), _held_bytes(entry)
                entries.append((used, held, entry))
        total = sum(held for _, held, _ in entries)
        for _, held, entry in sorted(entries):
            if total + size <= self._budget:
                return
            if entry.name == keep:
                continue
            doomed = self._folder / f".evicted.{entry.name}.{os.getpid()}"
            try:
                entry.rename(doomed)
            except OSError:  # in use (Windows), or another process was first
                continue
            shutil.rmtree(doomed, ignore_errors=True)
            total -= held

    def _remove_abandoned(self) -> None:
        """Delete what processes that were killed have left half-written."""
        for entry in self._folder.glob(".*"):
            try:
                if time.time() - entry.stat().st_mtime > _ABANDONED_AFTER_S:
                    shutil.rmtree(entry, ignore_errors=True)
            except OSError:
                continue


def _wanted(
    dataset: Dataset, cases: Iterable[Case | str] | Mapping[str, Sequence[int] | None] | None
) -> dict[str, Sequence[int] | None]:
    if isinstance(cases, Mapping):
        return dict(cases)
    if cases is None:
        cases = [case for case in dataset.cases if case.masks is not None]
    return {case if isinstance(case, str) else case.id: None for case in cases}


def _checked(indices: Sequence[int] | None, slices: int, case_id: str) -> Sequence[int]:
    if indices is None:
        return range(slices)
    if any(not 0 <= index < slices for index in indices):
        raise InputError(f"Case {case_id} has {slices} slices but others were asked for; make the split again.")
    return indices


def case_fingerprint(dataset: Dataset, case: Case) -> str:
    """Name of a case's cache entry: changes with its files, and with whatever changes how they are read."""
    parts: list[object] = [_SCHEMA, dataset.options]
    images, masks = case.images, case.masks
    if isinstance(images, PictureStack):
        parts += [images.names, images.spacing, images.superior_first, _stamps(images.tree.path, images.names)]
    else:
        parts.append(_stamps(images.path, ()))
    if isinstance(masks, KittiMasks):
        files = [
            name for frame in masks.frames if frame for name in (frame.instance, frame.semantic, frame.semantic_rgb)
        ]
        parts += [masks.frames, masks.choice, masks.export.labels, _stamps(masks.export.tree.path, files)]
    elif isinstance(masks, PictureMasks):
        parts += [masks.names, masks.choice, _stamps(masks.tree.path, masks.names)]
    elif isinstance(masks, LabelFile):
        parts += [masks.names, _stamps(masks.path, ())]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def _stamps(root: Path, names: Iterable[str | None]) -> list[tuple[str, int, int]]:
    """Name, size and time of files; of the zip where they lie in one, of all files of a DICOM folder."""
    files = [root] if root.is_file() else [root / name for name in names if name]
    if not files and root.is_dir():
        files = sorted(path for path in root.rglob("*") if path.is_file())
    stamps = []
    for path in files:
        try:
            status = path.stat()
        except OSError as error:
            raise InputError(f"{path.name} is gone; open the data set again.", technical(error)) from error
        stamps.append((str(path.absolute()), status.st_size, status.st_mtime_ns))
    return stamps


def _read_about(path: Path) -> _About | None:
    try:
        content = read_json(path)
        sy, sx = content["spacing"]
        flags = tuple(bool(flag) for flag in content["annotated"])
        apart = None if content["apart"] is None else float(content["apart"])
        return _About(int(content["slices"]), flags, (float(sy), float(sx)), apart, int(content["size_bytes"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _map(entry: Path) -> tuple[npt.NDArray[Any], npt.NDArray[np.uint8]] | None:
    try:
        arrays = np.load(entry / _IMAGE, mmap_mode="r"), np.load(entry / _MASK, mmap_mode="r")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        _log.warning("A cached case is damaged and is decoded again (%s).", error)
        shutil.rmtree(entry, ignore_errors=True)
        return None
    try:
        os.utime(entry)  # the time of the folder is the time of its last use
    except OSError:
        _log.debug("The time of use of a cached case cannot be set.")
    return arrays


def _last_use(entry: Path) -> float:
    try:
        return entry.stat().st_mtime
    except OSError:
        return 0.0


def _held_bytes(entry: Path) -> int:
    try:
        return sum(path.stat().st_size for path in entry.iterdir())
    except OSError:
        return 0


def _rename_unless_there(source: Path, target: Path) -> None:
    try:
        source.rename(target)
    except OSError:
        if not target.exists():  # else another process has decoded the same case meanwhile
            raise
