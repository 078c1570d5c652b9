"""Cases whose images and masks are pictures: KITTI 1.0 exports, the liver-margin paper's case folders, plain masks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TypeVar

from LiverMarginLib.datasets.labels import LabelChoice, choose_labels
from LiverMarginLib.datasets.matching import match_masks, number_prefix, trailing_number
from LiverMarginLib.datasets.model import Case, ReadingOptions
from LiverMarginLib.datasets.sources import KittiMasks, MaskSource, PictureMasks, PictureStack, VolumeFile
from LiverMarginLib.datasets.volume_layouts import find_volumes
from LiverMarginLib.errors import InputError
from LiverMarginLib.io.archive import FileTree, FolderTree, ZipTree
from LiverMarginLib.io.detect import natural_key
from LiverMarginLib.io.kitti import ENCODINGS, IMAGE_FOLDER, KittiExport, KittiSubset, read_kitti
from LiverMarginLib.io.png import PICTURE_SUFFIXES

IMAGE_FOLDERS = frozenset(
    {IMAGE_FOLDER, "image", "images", "img", "imgs", "ct", "slices", "frames", "original", "scans"}
)
MASK_FOLDERS = frozenset(
    {"mask", "masks", "label", "labels", "seg", "segmentation", "segmentations", "gt", "ground", "groundtruth",
     "ground_truth", "annotation", "annotations"}
)  # fmt: skip

Item = TypeVar("Item")
# The masks of a series, from the indices of its images and the names of masks that no image fits.
MasksOf = Callable[[tuple[int, ...], tuple[str, ...]], MaskSource | None]


@dataclass(frozen=True)
class StackOptions:
    """How a stack of pictures is to be taken.

    Parameters
    ----------
    reading : ReadingOptions
    spacing : tuple of float, optional
        mm along (k, j, i).
    superior_first : bool
        Whether the first picture is the uppermost slice.
    frame_offset : int, optional
        Number of an image minus number of its mask.
    images : FileTree, optional
        Where the images of exports without images lie.
    """

    reading: ReadingOptions
    spacing: tuple[float, float, float] | None = None
    superior_first: bool = True
    frame_offset: int | None = None
    images: FileTree | None = None


@dataclass(frozen=True)
class _Images:
    """Pictures and the part of their names that masks are matched by."""

    tree: FileTree
    names: tuple[str, ...]
    stems: tuple[str, ...]


@dataclass(frozen=True)
class _Series:
    """Indices of the images of one series; `name` is empty where there is only one."""

    name: str
    members: tuple[int, ...]


def is_picture(name: str) -> bool:
    """Whether a file name is that of a picture."""
    return PurePosixPath(name).suffix.casefold() in PICTURE_SUFFIXES


def has_masks(names: Iterable[str]) -> bool:
    """Whether any picture lies in a folder named as mask folders are."""
    return any(is_picture(name) and _lies_in(name, {*ENCODINGS, *MASK_FOLDERS}) for name in names)


def picture_cases(tree: FileTree, root: str, owner: str | None, options: StackOptions) -> list[Case]:
    """The cases below one folder of pictures.

    Parameters
    ----------
    tree : FileTree
    root : str
        The folder in the tree; empty for all of it.
    owner : str, optional
        The patient, where the folder is known to be one patient's. None where series, told apart by folder or by
        the start of their names, are taken as patients.
    options : StackOptions

    Returns
    -------
    list of Case
        One for each series of images; empty where there are neither images nor masks.

    Raises
    ------
    InputError
        If an export cannot be understood or there are two of them.
    """
    names = [name for name in tree.names if name.startswith(f"{root}/" if root else "")]
    export = _find_export(tree, root, names, owner)
    beside = _images_beside(tree, root, names)
    if not beside.names and options.images is not None:
        beside = _images_beside(options.images, "", options.images.names)
    if export is None:
        return _cases_with_plain_masks(tree, root, names, beside, owner, options)
    cases: list[Case] = []
    several = len(export.subsets) > 1
    for subset in export.subsets:
        own = _images_of_subset(export, subset)
        images = own if own.names else beside
        cases += _cases_of_subset(export, subset, images, owner, _name_of(tree), several, options)
    if not any(case.images.names for case in cases if isinstance(case.images, PictureStack)):
        volumes = find_volumes(tree, root)
        if len(volumes) == 1 and len(cases) == 1:
            return [Case(cases[0].id, cases[0].patient, VolumeFile(volumes[0]), cases[0].masks, notes=cases[0].notes)]
    return cases


def _find_export(tree: FileTree, root: str, names: Sequence[str], owner: str | None) -> KittiExport | None:
    exports = []
    if any(is_picture(name) and _lies_in(name, ENCODINGS) for name in names):
        exports.append(read_kitti(tree, under=root))
    if isinstance(tree, FolderTree):
        for name in names:
            if name.casefold().endswith(".zip"):
                packed = ZipTree(tree.path / name)
                if any(is_picture(entry) and _lies_in(entry, ENCODINGS) for entry in packed.names):
                    exports.append(read_kitti(packed))
    if len(exports) > 1:
        raise InputError(f"{owner or root or tree.path.name} holds {len(exports)} mask exports; keep one of them.")
    return exports[0] if exports else None


def _images_beside(tree: FileTree, root: str, names: Sequence[str]) -> _Images:
    pictures = [name for name in names if is_picture(name)]
    pictures = [name for name in pictures if not _lies_in(_below(name, root), {*ENCODINGS, *MASK_FOLDERS})]
    in_folder = [name for name in pictures if _lies_in(_below(name, root), IMAGE_FOLDERS)]
    chosen = sorted(in_folder or pictures, key=natural_key)
    return _Images(tree, tuple(chosen), tuple(_stem_below(_below(name, root), IMAGE_FOLDERS) for name in chosen))


def _images_of_subset(export: KittiExport, subset: KittiSubset) -> _Images:
    names = tuple(sorted(subset.images, key=natural_key))
    return _Images(export.tree, names, tuple(_stem_below(name, {IMAGE_FOLDER}) for name in names))


def _cases_of_subset(
    export: KittiExport,
    subset: KittiSubset,
    images: _Images,
    owner: str | None,
    default: str,
    several_subsets: bool,
    options: StackOptions,
) -> list[Case]:
    reading = options.reading
    choice = choose_labels(
        {label.index: label.name for label in export.labels}, label=reading.label, tumour=reading.tumour
    )
    matching = match_masks(images.stems, [frame.stem for frame in subset.frames], offset=options.frame_offset)
    unmatched = tuple(subset.frames[index].stem for index in matching.unmatched)
    notes = (*export.notes, *([_sentence(matching.note)] if matching.note else []))
    prefix = subset.name if several_subsets else ""

    def masks(members: tuple[int, ...], left: tuple[str, ...]) -> KittiMasks | None:
        frames = tuple(_pick(subset.frames, matching.of_image[index]) for index in members)
        return KittiMasks(export, frames, choice, left) if left or any(frames) else None

    return _assemble(images, owner, prefix, default, notes, unmatched, masks, options)


def _cases_with_plain_masks(
    tree: FileTree, root: str, names: Sequence[str], images: _Images, owner: str | None, options: StackOptions
) -> list[Case]:
    files = [name for name in names if is_picture(name) and _lies_in(_below(name, root), MASK_FOLDERS)]
    files.sort(key=natural_key)
    if not files and not images.names:
        return []
    label = options.reading.label
    if isinstance(label, str) and not label.isdigit():
        raise InputError(f"Plain masks have no label names; give the value of {label} (label).")
    choice = None if label is None else LabelChoice((int(label),))
    matching = match_masks(
        images.stems, [_stem_below(_below(name, root), MASK_FOLDERS) for name in files], offset=options.frame_offset
    )
    unmatched = tuple(PurePosixPath(files[index]).stem for index in matching.unmatched)
    notes = (_sentence(matching.note),) if matching.note and files else ()

    def masks(members: tuple[int, ...], left: tuple[str, ...]) -> PictureMasks | None:
        found = tuple(_pick(files, matching.of_image[index]) for index in members)
        return PictureMasks(tree, found, choice, left) if left or any(found) else None

    return _assemble(images, owner, "", _name_of(tree), notes, unmatched, masks, options)


def _assemble(
    images: _Images,
    owner: str | None,
    prefix: str,
    default: str,
    notes: tuple[str, ...],
    unmatched: tuple[str, ...],
    masks: MasksOf,
    options: StackOptions,
) -> list[Case]:
    series = _find_series(images.stems)
    if len(series) > 1:
        whose = "of one patient" if owner else "of as many patients; a case table can say otherwise"
        notes = (*notes, f"The images are {len(series)} series by their names, taken as {whose}.")
    cases = []
    for number, one in enumerate(series):
        parts = [part for part in (owner, prefix, one.name) if part]
        stack = PictureStack(
            images.tree, tuple(images.names[index] for index in one.members), options.spacing, options.superior_first
        )
        found = masks(one.members, unmatched if number == 0 else ())
        cases.append(Case("/".join(parts) or default, owner or one.name or default, stack, found, notes=notes))
    return cases


def _find_series(image_stems: Sequence[str]) -> list[_Series]:
    """Tell series apart by folder, then by what precedes the number: IM-0001-0007 is slice 7 of series IM-0001.

    Names are only split by their beginnings where each begins at least two numbered images.
    """
    keys = [PurePosixPath(stem).parent.as_posix() for stem in image_stems]
    bases = [PurePosixPath(stem).name for stem in image_stems]
    prefixes = [f"{key}/{number_prefix(base)}" for key, base in zip(keys, bases, strict=True)]
    if all(trailing_number(base) is not None for base in bases) and min(Counter(prefixes).values(), default=0) > 1:
        keys = prefixes
    if len(set(keys)) <= 1:
        return [_Series("", tuple(range(len(image_stems))))]
    return [
        _Series(
            key.removeprefix("./").strip("/-_. ") or "unnamed",
            tuple(n for n, other in enumerate(keys) if other == key),
        )
        for key in sorted(set(keys), key=natural_key)
    ]


def _name_of(tree: FileTree) -> str:
    return tree.path.name if isinstance(tree, FolderTree) else tree.path.stem


def _pick(items: Sequence[Item], index: int | None) -> Item | None:
    return None if index is None else items[index]


def _lies_in(name: str, folders: Iterable[str]) -> bool:
    return not {part.casefold() for part in PurePosixPath(name).parts[:-1]}.isdisjoint(folders)


def _below(name: str, root: str) -> str:
    return name.removeprefix(f"{root}/") if root else name


def _stem_below(name: str, folders: Iterable[str]) -> str:
    """The name without suffix and without everything up to the last of `folders`."""
    path = PurePosixPath(name)
    at = max((n + 1 for n, part in enumerate(path.parts[:-1]) if part.casefold() in set(folders)), default=0)
    return "/".join([*path.parts[at:-1], path.stem])


def _sentence(note: str) -> str:
    return f"{note[0].upper()}{note[1:]}."
