"""Cases whose images and label maps are volumes: pairs told by their names, and Medical Decathlon's dataset.json."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from LiverMarginLib.datasets.model import Case
from LiverMarginLib.datasets.sources import LabelFile, VolumeFile
from LiverMarginLib.errors import InputError, technical
from LiverMarginLib.io.archive import FileTree, FolderTree
from LiverMarginLib.io.detect import natural_key
from LiverMarginLib.jsonable import read_json
from LiverMarginLib.volume import Modality

VOLUME_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")
_LABEL_WORDS = frozenset(
    {"label", "labels", "labelmap", "lbl", "seg", "segm", "segmentation", "segmentations", "mask", "masks", "gt",
     "truth", "groundtruth", "annotation", "annotations", "labelstr", "labelsts", "labelsval"}
)  # fmt: skip
_IMAGE_WORDS = frozenset(
    {"image", "images", "img", "imgs", "vol", "volume", "volumes", "ct", "mr", "mri", "scan", "scans", "orig",
     "original", "data", "imagestr", "imagests", "imagesval", "dicom", "dicoms", "dcm", "anon"}
)  # fmt: skip
_ORGAN_WORDS = frozenset({"liver"})
_FIRST_CHANNEL = "0000"
_DICOM_SUFFIXES = frozenset({".dcm", ".dicom", ".ima"})


@dataclass(frozen=True)
class _Volume:
    """A volume's place in the tree and what its name says: `key` is what image and label map have in common.

    `patient` is the folder where that is one patient's, else empty.
    """

    name: str
    is_label: bool
    key: tuple[str, ...]
    patient: str


def find_volumes(tree: FileTree, root: str = "") -> list[Path]:
    """Image volumes and DICOM folders below a folder of a tree; none in a zip."""
    if not isinstance(tree, FolderTree):
        return []
    below = f"{root}/" if root else ""
    return [tree.path / found.name for found in _volumes(tree) if found.name.startswith(below) and not found.is_label]


def pair_cases(tree: FolderTree) -> tuple[list[Case], list[str]]:
    """Pair images and label maps by their names.

    Image and label map belong together when their paths are equal but for words such as image, volume, ct on one
    side and label, segmentation, mask on the other: ``volume-3.nii`` and ``segmentation-3.nii``, ``3/ct.nii.gz`` and
    ``3/liver.nii.gz``, ``imagesTr/3_0000.nii.gz`` and ``labelsTr/3.nii.gz``.

    Returns
    -------
    list of Case
    list of str
        What was found and left out, one sentence each.
    """
    volumes = list(_volumes(tree))
    images: dict[tuple[str, ...], list[_Volume]] = defaultdict(list)
    labels: dict[tuple[str, ...], list[_Volume]] = defaultdict(list)
    for volume in volumes:
        (labels if volume.is_label else images)[volume.key].append(volume)
    cases, notes = [], []
    example = ""
    matched: set[tuple[str, ...]] = set()
    for key in sorted(images, key=lambda key: natural_key("-".join(key))):
        case_id = "-".join(key) or PurePosixPath(images[key][0].name).parent.name or tree.path.name
        if len(images[key]) > 1:
            notes.append(
                f"Case {case_id} was left out: {len(images[key])} images have the same name but for common words."
            )
            continue
        image = images[key][0]
        found = labels.get(key, [])
        if not found and key[-1:] == (_FIRST_CHANNEL,):  # nnU-Net: 3_0000.nii.gz is channel 0 of 3
            matched.add(key[:-1])
            found = labels.get(key[:-1], [])
            case_id = "-".join(key[:-1]) if found else case_id
        matched.add(key)
        if len(found) > 1:
            found = [label for label in found if _ORGAN_WORDS & set(_words(label.name))] or found
        if len(found) > 1:
            notes.append(f"Case {case_id} is taken without masks: {len(found)} label maps fit it.")
        mask = LabelFile(tree.path / found[0].name) if len(found) == 1 else None
        if mask is not None and not example:
            example = f"{PurePosixPath(image.name).name} with {PurePosixPath(found[0].name).name}"
        cases.append(Case(case_id, image.patient or case_id, VolumeFile(tree.path / image.name), mask))
    if example:
        notes.insert(0, f"Images and label maps were paired by their names, such as {example}.")
    lone = [key for key in labels if key not in matched]
    if lone:
        notes.append(
            f"{sum(len(labels[key]) for key in lone)} label maps have no image of their name and were left out."
        )
    return cases, notes


def decathlon_cases(path: Path) -> tuple[list[Case], list[str], Modality]:
    """Read a Medical Decathlon ``dataset.json``, or nnU-Net's of the same name.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    list of Case
        Training cases, and test cases without label maps.
    list of str
        What was left out, one sentence each.
    Modality
        What the file says.

    Raises
    ------
    InputError
        If the file is not of that kind, or names files outside its folder.
    """
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path.name} cannot be read as JSON; copy it again.", technical(error)) from error
    if not isinstance(content, dict) or not isinstance(content.get("labels"), dict):
        raise InputError(f"{path.name} is not a data set's description; it needs the entry labels.")
    names = _label_names(content["labels"], path.name)
    modality = _modality(content.get("modality") or content.get("channel_names"))
    notes: list[str] = []
    entries = [*_entries(content, "training"), *_entries(content, "validation"), *_entries(content, "test")]
    if not entries:
        cases, notes = pair_cases(FolderTree(path.parent))
        return [_with_names(case, names) for case in cases], notes, modality
    cases = []
    missing = 0
    for image, label in entries:
        image_path = _inside(path.parent, image, path.name)
        label_path = _inside(path.parent, label, path.name) if label else None
        if not _is_there(image_path) or (label_path is not None and not _is_there(label_path)):
            missing += 1
            continue
        case_id = _stem(PurePosixPath(image).name).removesuffix(f"_{_FIRST_CHANNEL}")
        mask = None if label_path is None else LabelFile(label_path, names)
        cases.append(Case(case_id, case_id, VolumeFile(image_path), mask))
    if missing:
        notes.append(f"{missing} cases of {path.name} were left out because a file of theirs is missing.")
    return cases, notes, modality


def _volumes(tree: FolderTree) -> Iterable[_Volume]:
    dicom_folders: set[str] = set()
    for name in tree.names:
        path = PurePosixPath(name)
        if path.name.casefold().endswith(VOLUME_SUFFIXES):
            yield _describe(name, _stem(path.name))
        elif path.parent.as_posix() not in dicom_folders and _is_dicom(tree, path):
            words = set(re.split(r"[^a-z]+", path.stem.casefold()))
            if words & _LABEL_WORDS:
                continue  # a DICOM SEG among the images
            dicom_folders.add(path.parent.as_posix())
            yield _describe(path.parent.as_posix(), "" if path.parent.as_posix() == "." else path.parent.name)


def _describe(name: str, stem: str) -> _Volume:
    folders = [part for part in PurePosixPath(name).parts[:-1] if part != "."]
    words = [word for word in re.split(r"[^A-Za-z0-9]+", stem) if word]
    folder_words = {word for part in folders for word in re.split(r"[^a-z]+", part.casefold())}
    plain = {word.casefold() for word in words}
    if plain & _LABEL_WORDS:
        is_label = True
    elif plain & _IMAGE_WORDS:
        is_label = False
    elif folder_words & _LABEL_WORDS:
        is_label = True
    else:
        is_label = bool(plain & _ORGAN_WORDS) and not any(map(_has_digit, plain))
    common = _LABEL_WORDS | _IMAGE_WORDS
    own_folders = [part for part in folders if not set(_split(part)) <= common]
    own_words = [word for word in words if word.casefold() not in common]
    if is_label and own_folders:
        own_words = [word for word in own_words if word.casefold() not in _ORGAN_WORDS]
    key = (*own_folders, *own_words)
    # A folder of many patients' files is not a patient; a folder of one patient's phases is.
    of_patient = own_folders and (_has_digit(own_folders[0]) or not any(map(_has_digit, own_words)))
    return _Volume(name, is_label, tuple(part.casefold() for part in key), own_folders[0] if of_patient else "")


def _has_digit(name: str) -> bool:
    return any(character.isdigit() for character in name)


def _split(name: str) -> list[str]:
    return [word for word in re.split(r"[^a-z0-9]+", name.casefold()) if word]


def _words(name: str) -> list[str]:
    return _split(_stem(PurePosixPath(name).name))


def _stem(file_name: str) -> str:
    for suffix in VOLUME_SUFFIXES:
        if file_name.casefold().endswith(suffix):
            return file_name[: -len(suffix)].removesuffix(".seg")
    return file_name


def _is_dicom(tree: FolderTree, path: PurePosixPath) -> bool:
    if path.suffix.casefold() in _DICOM_SUFFIXES:
        return True
    if path.suffix and not path.suffix[1:].isdigit():
        return False
    try:
        with (tree.path / path).open("rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _entries(content: Mapping[str, Any], part: str) -> list[tuple[str, str | None]]:
    found: list[tuple[str, str | None]] = []
    listed = content.get(part)
    for entry in listed if isinstance(listed, list) else []:
        if isinstance(entry, str):
            found.append((entry, None))
        elif isinstance(entry, dict) and isinstance(entry.get("image"), str):
            label = entry.get("label")
            found.append((entry["image"], label if isinstance(label, str) else None))
        else:
            raise InputError(f"An entry of {part} in dataset.json names no image; correct the file.")
    return found


def _label_names(labels: Mapping[str, Any], shown: str) -> tuple[tuple[int, str], ...]:
    """Values and names from {"1": "liver"} (Decathlon) or {"liver": 1}, {"liver": [1, 2]} (nnU-Net)."""
    names: dict[int, str] = {}
    try:
        for key, value in labels.items():
            if isinstance(value, str):
                names[int(key)] = value
            else:
                values = value if isinstance(value, list) else [value]
                for one in values:
                    # Regions overlap: the narrower one, which nnU-Net lists with fewer values, names the value.
                    if int(one) not in names or len(values) == 1:
                        names[int(one)] = key
    except (TypeError, ValueError) as error:
        raise InputError(
            f"The labels in {shown} are not numbers with names; correct the file.", technical(error)
        ) from error
    return tuple(sorted(names.items()))


def _modality(said: object) -> Modality:
    first = str(next(iter(said.values()), "")) if isinstance(said, dict) else ""
    if first.casefold() == "ct":
        return Modality.CT
    return Modality.MR if first.casefold().startswith("mr") else Modality.UNKNOWN


def _with_names(case: Case, names: tuple[tuple[int, str], ...]) -> Case:
    if not isinstance(case.masks, LabelFile):
        return case
    return Case(case.id, case.patient, case.images, LabelFile(case.masks.path, names), case.info, case.notes)


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # no possible name of a file
        return False


def _inside(folder: Path, name: str, shown: str) -> Path:
    try:
        inside = (folder / name).resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError):
        inside = False
    if not inside:
        raise InputError(f"{shown} names a file outside its folder; move the files together.")
    return folder / name
