"""Open a data set: find out how its files lie, and say so."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from LiverMarginLib.datasets.case_table import TABLE_NAMES, read_case_table
from LiverMarginLib.datasets.model import Case, Dataset, Layout, ReadingOptions
from LiverMarginLib.datasets.picture_layouts import (
    IMAGE_FOLDERS,
    MASK_FOLDERS,
    StackOptions,
    has_masks,
    is_picture,
    picture_cases,
)
from LiverMarginLib.datasets.volume_layouts import decathlon_cases, pair_cases
from LiverMarginLib.errors import InputError
from LiverMarginLib.io.archive import FileTree, FolderTree, ZipLimits, ZipTree, open_tree
from LiverMarginLib.io.detect import natural_key
from LiverMarginLib.io.folders import links_note
from LiverMarginLib.io.kitti import ENCODINGS, IMAGE_FOLDER
from LiverMarginLib.io.kitti_labels import LABEL_TABLE
from LiverMarginLib.volume import Modality

_SUBSET_NAMES = frozenset({"default", "train", "training", "val", "validation", "test", "testing"})
_KITTI_FOLDERS = frozenset({*ENCODINGS, IMAGE_FOLDER})


def open_dataset(
    path: str | os.PathLike[str],
    *,
    label: int | str | None = None,
    tumour: int | str | None = None,
    empty_outside: bool = False,
    spacing: tuple[float, float, float] | None = None,
    superior_first: bool = True,
    frame_offset: int | None = None,
    images: str | os.PathLike[str] | None = None,
    case_table: str | os.PathLike[str] | None = None,
    modality: Modality = Modality.UNKNOWN,
    limits: ZipLimits | None = None,
) -> Dataset:
    """Open a data set; only names are read until a case is loaded.

    Understood are: the liver-margin paper's layout (a folder a case, with images and masks), KITTI 1.0 exports
    (folder, zip, or a folder of zips), folders of images and masks, volumes with label maps, and Medical Decathlon's
    or nnU-Net's ``dataset.json``.

    Parameters
    ----------
    path : path-like
        A folder, a zip or a dataset.json.
    label, tumour : int or str, optional
        Value or name of the liver's and the tumour's label where it cannot be told from the names.
    empty_outside : bool
        Take slices without a mask file as slices without a liver. By default they count as not annotated: the
        annotators may never have looked at them.
    spacing : tuple of float, optional
        mm along (k, j, i) of pictures, which carry none.
    superior_first : bool
        Whether the first picture of a stack is the uppermost slice, as in the paper's data.
    frame_offset : int, optional
        Number of an image minus number of its mask, where both are counted from different starts.
    images : path-like, optional
        Where the images of an export without images lie.
    case_table : path-like, optional
        See `LiverMarginLib.datasets.case_table`. Default: ``cases.csv`` in the data set's folder, if there is one.
    modality : Modality
        Of images that do not say it.
    limits : ZipLimits, optional
        When to refuse a zip as too large.

    Returns
    -------
    Dataset

    Raises
    ------
    InputError
        If there is nothing at the path that is understood.
    """
    path = Path(path)
    if spacing is not None and (len(spacing) != 3 or not all(0 < step < 1000 for step in spacing)):
        raise InputError("The spacing must be three positive lengths in mm, of slices, rows and columns.")
    options = ReadingOptions(label, tumour, empty_outside, modality)
    image_tree = None if images is None else open_tree(images, limits)
    stack = StackOptions(options, spacing, superior_first, frame_offset, image_tree)

    description = path if path.suffix.casefold() == ".json" else path / "dataset.json"
    if description.is_file():
        cases, notes, said = decathlon_cases(description)
        if modality is Modality.UNKNOWN:
            options = replace(options, modality=said)
        return _finish(description.parent, Layout.DECATHLON, cases, options, notes, case_table)
    if path.is_file() and path.suffix.casefold() != ".zip":
        raise InputError(f"{path.name} is a single file; give the folder, zip or dataset.json of a data set.")

    tree = open_tree(path, limits)
    base = _base(tree)
    pictures = _picture_layout(tree, base)
    left_out: list[tuple[str, str]] = []
    first_error: InputError | None = None
    if pictures is not None:
        layout, roots = pictures
        cases, notes = [], []
        for root, owner in roots:
            try:
                here = ZipTree(tree.path / root, limits or ZipLimits()) if root.casefold().endswith(".zip") else tree
                cases += picture_cases(here, "" if here is not tree else root, owner, stack)
            except InputError as error:
                left_out.append((owner or root, error.message))
                first_error = first_error or error
        if first_error is not None and not cases:
            raise first_error
    elif isinstance(tree, FolderTree):
        layout = Layout.PAIRS
        cases, notes = pair_cases(tree)
    else:
        raise InputError(f"{path.name} holds no pictures with masks; unpack a zip of volumes and give the folder.")
    if isinstance(tree, FolderTree) and tree.links_leading_out:
        notes.append(links_note(tree.links_leading_out))
    if left_out:
        names = ", ".join(name for name, _ in left_out)
        notes.append(f"{len(left_out)} could not be understood and are left out: {names}.")
    return replace(_finish(path, layout, cases, options, notes, case_table), left_out=tuple(left_out))


def _finish(
    path: Path,
    layout: Layout,
    cases: Sequence[Case],
    options: ReadingOptions,
    notes: Sequence[str],
    case_table: str | os.PathLike[str] | None,
) -> Dataset:
    if not cases:
        wanted = "case folders with images and masks, a KITTI 1.0 export, volumes with label maps, or a dataset.json"
        sentence = f"{path.name or path} holds no data set that is understood; it needs {wanted}."
        raise InputError(" ".join([sentence, *notes]))
    ids = [case.id for case in cases]
    twice = sorted({case_id for case_id in ids if ids.count(case_id) > 1})
    if twice:
        raise InputError(f"Two cases are called {twice[0]}; rename one of them.")
    ordered = tuple(sorted(cases, key=lambda case: natural_key(case.id)))
    said = [f"Layout: {layout.value}, {len(ordered)} case{'s' if len(ordered) > 1 else ''}.", *notes]
    dataset = Dataset(path, layout, ordered, options, tuple(said))
    table = Path(case_table) if case_table else next((path / n for n in TABLE_NAMES if (path / n).is_file()), None)
    if table is None:
        return dataset
    rows = read_case_table(table)
    described = dataset.with_table(rows)
    found = sum(new is not old for new, old in zip(described.cases, dataset.cases, strict=True))
    note = f"{table.name} describes {found} of {len(ordered)} cases."
    return replace(described, notes=(*described.notes, note))


def _base(tree: FileTree) -> str:
    """The folder in which the data set begins: single folders around everything else are stepped into."""
    base = ""
    while True:
        files, folders = _children(tree, base)
        files = [name for name in files if PurePosixPath(name).suffix.casefold() not in (".md", ".txt", ".csv", ".pdf")]
        if files or len(folders) != 1 or _holds_label_table(tree, base) or folders[0].casefold() in _SUBSET_NAMES:
            return base
        inner = f"{base}/{folders[0]}".lstrip("/")
        _, below = _children(tree, inner)
        if not below or {name.casefold() for name in [*below, folders[0]]} & {*_KITTI_FOLDERS, *IMAGE_FOLDERS}:
            return base
        base = inner


def _picture_layout(tree: FileTree, base: str) -> tuple[Layout, list[tuple[str, str | None]]] | None:
    """The layout of a data set of pictures and, for each part, its folder and its patient; None for volumes."""
    files, folders = _children(tree, base)
    below = {name: [entry for entry in tree.names if entry.startswith(_join(base, name) + "/")] for name in folders}
    plain = {name.casefold() for name in folders}
    in_subsets = bool(folders) and all(
        name.casefold() in _SUBSET_NAMES
        and {part.casefold() for part in _children(tree, _join(base, name))[1]} & _KITTI_FOLDERS
        for name in folders
    )
    if _holds_label_table(tree, base) or plain & set(ENCODINGS) or in_subsets:
        return Layout.KITTI, [(base, None)]
    zips = [name for name in files if name.casefold().endswith(".zip")] if isinstance(tree, FolderTree) else []
    images_here = bool(plain & IMAGE_FOLDERS) or any(map(is_picture, files))
    masks_here = bool(plain & MASK_FOLDERS) and has_masks(entry for part in below.values() for entry in part)
    if images_here and (masks_here or (len(zips) == 1 and not plain - IMAGE_FOLDERS)):
        return Layout.PICTURES, [(base, None)]
    with_masks = [
        name
        for name, entries in below.items()
        if has_masks(entries) or any(e.casefold().endswith(".zip") for e in entries)
    ]
    if with_masks:
        roots: list[tuple[str, str | None]] = [
            (_join(base, name), name)
            for name, entries in below.items()
            if name in with_masks or any(map(is_picture, entries))
        ]
        return Layout.CASE_FOLDERS, roots
    if zips:
        return Layout.KITTI, [(_join(base, name), PurePosixPath(name).stem) for name in zips]
    return None


def _children(tree: FileTree, base: str) -> tuple[list[str], list[str]]:
    prefix = f"{base}/" if base else ""
    files, folders = [], set()
    for name in tree.names:
        if name.startswith(prefix):
            first, slash, _ = name.removeprefix(prefix).partition("/")
            if slash:
                folders.add(first)
            else:
                files.append(first)
    return sorted(files, key=natural_key), sorted(folders, key=natural_key)


def _holds_label_table(tree: FileTree, base: str) -> bool:
    return any(name.casefold() == LABEL_TABLE for name in _children(tree, base)[0])


def _join(base: str, name: str) -> str:
    return f"{base}/{name}" if base else name
