"""Look through a data set before anything is trained on it, and say what is odd in it."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from LiverMarginLib.datasets.model import Case, Dataset
from LiverMarginLib.datasets.orientation import orientation_doubts
from LiverMarginLib.datasets.report import CaseReport, DatasetReport, DuplicatePair
from LiverMarginLib.datasets.sources import KittiMasks, PictureMasks, PictureStack
from LiverMarginLib.errors import Cancelled, InputError, LiverMarginError
from LiverMarginLib.events import CancelToken, OnEvent, Progress, ignore
from LiverMarginLib.io.kitti import number_components
from LiverMarginLib.volume import axial_view

# A5 of the liver-margin protocol takes pieces from about 20 pixels on as liver; smaller ones are slips of the pen.
MIN_PIECE_PIXELS = 20
_THUMBNAIL = 128


@dataclass
class _Findings:
    """What is collected while the slices of a case go by, uppermost last."""

    images: int = 0
    annotated: int = 0
    liver: list[int] = field(default_factory=list)
    empty: int = 0
    fragmented: list[int] = field(default_factory=list)
    specks: int = 0
    disagreements: list[str] = field(default_factory=list)
    size_mismatches: list[str] = field(default_factory=list)
    colour_images: int = 0
    unreadable: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    hashes: list[str] = field(default_factory=list)
    sizes: set[tuple[int, int]] = field(default_factory=set)
    thumbnails: list[tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]] = field(default_factory=list)

    def take_image(self, image: npt.NDArray[Any]) -> None:
        self.sizes.add((image.shape[0], image.shape[1]))
        digest = slice_digest(image)
        if digest:
            self.hashes.append(digest)

    def take_mask(self, index: int, mask: npt.NDArray[np.uint8]) -> None:
        liver = mask > 0
        if not liver.any():
            self.empty += 1
            return
        self.liver.append(index)
        sizes = np.bincount(number_components(liver).ravel())[1:]
        if np.count_nonzero(sizes >= MIN_PIECE_PIXELS) > 1:
            self.fragmented.append(index)
        if np.any(sizes < MIN_PIECE_PIXELS) and len(sizes) > 1:
            self.specks += 1

    def take_thumbnail(self, image: npt.NDArray[Any], mask: npt.NDArray[np.uint8] | None) -> None:
        step = max(1, max(image.shape) // _THUMBNAIL)
        small = image[::step, ::step].astype(np.float32)
        seen = np.zeros(image.shape, dtype=bool) if mask is None or mask.shape != image.shape else mask > 0
        self.thumbnails.append((small, seen[::step, ::step]))


def check_dataset(dataset: Dataset, on_event: OnEvent = ignore, cancel: CancelToken | None = None) -> DatasetReport:
    """Read every image and mask once and report what is there and what is doubtful.

    A damaged case is a line of the report, not an error. At most one case is in memory; of pictures, one slice.

    Parameters
    ----------
    dataset : Dataset
    on_event : callable
        Receives `Progress` by case.
    cancel : CancelToken, optional

    Returns
    -------
    DatasetReport

    Raises
    ------
    Cancelled
    """
    cancel = cancel or CancelToken()
    reports, hashes = [], {}
    for number, case in enumerate(dataset.cases):
        cancel.check()
        on_event(Progress(number, len(dataset.cases), "check", case.id))
        report, hashes[case.id] = _check_case(dataset, case, cancel)
        reports.append(report)
    on_event(Progress(len(dataset.cases), len(dataset.cases), "check"))
    reports += [CaseReport(case, case, unreadable=(why,)) for case, why in dataset.left_out]
    patients = {case.id: case.patient for case in dataset.cases}
    return DatasetReport(dataset.layout.value, tuple(reports), _find_duplicates(hashes, patients), dataset.notes)


def find_duplicates(
    dataset: Dataset, on_event: OnEvent = ignore, cancel: CancelToken | None = None
) -> tuple[DuplicatePair, ...]:
    """Cases that share slices, by the content of the images.

    Images that cannot be read share nothing. Slices of one single value are left out: black is black everywhere.

    Parameters
    ----------
    dataset, on_event, cancel
        As in `check_dataset`.

    Returns
    -------
    tuple of DuplicatePair
    """
    cancel = cancel or CancelToken()
    hashes = {}
    for number, case in enumerate(dataset.cases):
        on_event(Progress(number, len(dataset.cases), "duplicates", case.id))
        hashes[case.id] = [slice_digest(image) for image in _readable_slices(dataset, case, cancel)]
    on_event(Progress(len(dataset.cases), len(dataset.cases), "duplicates"))
    return _find_duplicates(hashes, {case.id: case.patient for case in dataset.cases})


def slice_digest(image: npt.NDArray[Any]) -> str:
    """Hash of a slice's size and values, whatever its dtype; empty for a slice of one single value."""
    values = np.ascontiguousarray(image, dtype=np.float32)
    if values.size == 0 or (values == values.flat[0]).all():
        return ""
    digest = hashlib.blake2b(repr(values.shape).encode(), digest_size=16)
    digest.update(values.tobytes())
    return digest.hexdigest()


def _check_case(dataset: Dataset, case: Case, cancel: CancelToken) -> tuple[CaseReport, list[str]]:
    found = _Findings(notes=list(case.notes))
    try:
        if isinstance(case.images, PictureStack):
            _go_through_pictures(dataset, case, case.images, found, cancel)
        else:
            _go_through_volume(dataset, case, found)
    except Cancelled:
        raise
    except LiverMarginError as error:
        found.unreadable.append(error.message)
    thumbnails = found.thumbnails
    unknown_order = isinstance(case.images, PictureStack)
    doubts = orientation_doubts(thumbnails, order_is_assumed=unknown_order) if len(found.sizes) == 1 else ()
    if len(found.sizes) > 1:
        shown = ", ".join(f"{width} x {height}" for height, width in sorted(found.sizes))
        found.size_mismatches.append(f"images of several sizes: {shown}")
    masks = case.masks
    unmatched = masks.unmatched if isinstance(masks, KittiMasks | PictureMasks) else ()
    report = CaseReport(
        case=case.id,
        patient=case.patient,
        has_masks=masks is not None,
        images=found.images,
        annotated_slices=found.annotated,
        liver_slices=len(found.liver),
        empty_annotated_slices=found.empty,
        fragmented_slices=tuple(found.fragmented),
        slices_with_specks=found.specks,
        disagreements=tuple(found.disagreements),
        unmatched_masks=unmatched,
        size_mismatches=tuple(found.size_mismatches),
        colour_images=found.colour_images,
        repeated_slices=len(found.hashes) - len(set(found.hashes)),
        orientation_doubts=doubts,
        unreadable=tuple(found.unreadable),
        notes=tuple(dict.fromkeys(found.notes)),
        **dataclasses.asdict(case.info),
    )
    return report, found.hashes


def _go_through_pictures(
    dataset: Dataset, case: Case, stack: PictureStack, found: _Findings, cancel: CancelToken
) -> None:
    found.images = len(stack.names)
    found.annotated = int(dataset.annotated_slices(case, stack).sum())
    if not stack.names:
        found.unreadable.append("there are no images")
    order = range(len(stack.names))
    for index in reversed(order) if stack.superior_first else order:
        cancel.check()
        name = PurePosixPath(stack.names[index]).name
        image = _attempt(found, lambda index=index: stack.decode(index))
        if image is not None and image.ndim == 3:
            found.colour_images += 1
            image = _attempt(found, lambda index=index, image=image: stack.as_grey(index, image))
        mask = _read_mask(case, index, name, found)
        if image is not None:
            found.take_image(image)
            found.take_thumbnail(image, mask)
        if mask is not None:
            found.take_mask(index, mask)
            if image is not None and mask.shape != image.shape:
                (mask_height, mask_width), (height, width) = mask.shape, image.shape
                found.size_mismatches.append(f"{name}: mask {mask_width} x {mask_height}, image {width} x {height}")
    found.liver.sort()
    found.fragmented.sort()


def _read_mask(case: Case, index: int, name: str, found: _Findings) -> npt.NDArray[np.uint8] | None:
    masks = case.masks
    if isinstance(masks, KittiMasks):
        read = _attempt(found, lambda: masks.read_encodings(index))
        if read is None:
            return None
        if read.disagreements:
            found.disagreements.append(f"{name}: {', '.join(map(str, read.disagreements))}")
        found.notes += read.notes
        return masks.choice.apply(read.classes)
    if isinstance(masks, PictureMasks):
        return _attempt(found, lambda: masks.read(index))
    return None


def _go_through_volume(dataset: Dataset, case: Case, found: _Findings) -> None:
    volume, labels, annotated = dataset.load(case)
    view = axial_view(volume.geometry)
    images = view.to_view(volume.array)
    masks = None if labels is None else view.to_view(labels.array)
    found.images = len(images)
    found.annotated = int(annotated.sum()) if labels is not None else 0
    found.notes += volume.notes
    for index, image in enumerate(images):
        mask = None if masks is None else masks[index].astype(np.uint8)
        found.take_image(image)
        found.take_thumbnail(image, mask)
        if mask is not None:
            found.take_mask(index, mask)


def _readable_slices(dataset: Dataset, case: Case, cancel: CancelToken) -> Iterator[npt.NDArray[Any]]:
    if isinstance(case.images, PictureStack):
        for index in range(len(case.images.names)):
            cancel.check()
            try:
                yield case.images.read(index)
            except InputError:
                continue
        return
    cancel.check()
    try:
        volume = dataset.load_volume(case)
    except LiverMarginError:
        return
    yield from axial_view(volume.geometry).to_view(volume.array)


def _attempt(found: _Findings, read: Any) -> Any:
    try:
        return read()
    except InputError as error:
        found.unreadable.append(error.message)
        return None


def _find_duplicates(hashes: dict[str, list[str]], patients: dict[str, str]) -> tuple[DuplicatePair, ...]:
    owners: dict[str, list[str]] = defaultdict(list)
    for case, digests in hashes.items():
        for digest in set(digests) - {""}:
            owners[digest].append(case)
    shared: dict[tuple[str, str], int] = defaultdict(int)
    for cases in owners.values():
        for first, second in _pairs(cases):
            shared[first, second] += 1
    return tuple(
        DuplicatePair(first, second, count, patients[first] == patients[second])
        for (first, second), count in sorted(shared.items())
    )


def _pairs(items: Sequence[str]) -> Iterable[tuple[str, str]]:
    return ((first, second) for n, first in enumerate(items) for second in items[n + 1 :])
