"""Read the "KITTI 1.0" masks that CVAT exports: three PNGs a frame, nothing for a frame without a mask.

::

    label_colors.txt             one line a label: R G B name
    default/                     a subset; CVAT calls it "default" where a task has none
        image_2/<frame>.png      the image, only if "save images" was ticked
        semantic/<frame>.png     class number of each pixel
        semantic_rgb/<frame>.png the same in the label's colour
        instance/<frame>.png     class number x 256 + instance number, 16-bit

The format is that of CVAT's exporter "KITTI 1.0" (datumaro's ``kitti`` plug-in). The three encodings say the same
thing three times; this reader accepts any of them, compares those that are there, and says where they differ.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from LiverMarginLib.errors import InputError
from LiverMarginLib.io.archive import FileTree, ZipLimits, open_tree
from LiverMarginLib.io.kitti_labels import LABEL_TABLE, KittiLabel, parse_label_table
from LiverMarginLib.io.png import PICTURE_SUFFIXES, decode_colours, decode_indices

IMAGE_FOLDER = "image_2"
INSTANCE, SEMANTIC, SEMANTIC_RGB = ENCODINGS = ("instance", "semantic", "semantic_rgb")
DEFAULT_SUBSET = "default"
_EIGHT_CONNECTED = np.ones((3, 3), dtype=bool)
_FRAMES_TO_PROBE = 5

IndexImage = npt.NDArray[np.int64]


@dataclass(frozen=True)
class KittiFrame:
    """The mask files of one frame; None where an encoding has no file.

    `stem` is the frame's name in its subset, without suffix and with its leading zeros, perhaps with folders.
    """

    stem: str
    instance: str | None = None
    semantic: str | None = None
    semantic_rgb: str | None = None


@dataclass(frozen=True)
class KittiSubset:
    """The images (file names in the tree) and the annotated frames of one subset, each sorted by name."""

    name: str
    images: tuple[str, ...]
    frames: tuple[KittiFrame, ...]


@dataclass(frozen=True)
class Disagreement:
    """Two encodings of one frame that differ in `pixels` pixels."""

    first: str
    second: str
    pixels: int

    def __str__(self) -> str:
        return f"{self.first} and {self.second} differ in {self.pixels} pixels"


@dataclass(frozen=True, eq=False)
class KittiMask:
    """What one frame's masks say.

    Parameters
    ----------
    classes : ndarray of uint8, shape (h, w)
        Class number of each pixel, 0 is background.
    instances : ndarray of uint8, shape (h, w)
        Instance number of each pixel, 1 to 255; 0 is background. Where the file has none (CVAT writes 0 for
        polygons) these are the 8-connected components of each class.
    disagreements : tuple of Disagreement
        Between the encodings.
    notes : tuple of str
        What was odd and how it was read.
    """

    classes: npt.NDArray[np.uint8]
    instances: npt.NDArray[np.uint8]
    disagreements: tuple[Disagreement, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class KittiExport:
    """A KITTI 1.0 export whose files are read when they are asked for.

    Parameters
    ----------
    tree : FileTree
        The folder or the zip.
    labels : tuple of KittiLabel
        In the order of their class numbers, background first; empty where label_colors.txt is missing.
    subsets : tuple of KittiSubset
    notes : tuple of str
        What was odd and how it was read.
    """

    tree: FileTree
    labels: tuple[KittiLabel, ...]
    subsets: tuple[KittiSubset, ...]
    notes: tuple[str, ...] = ()

    def read_mask(self, frame: KittiFrame) -> KittiMask:
        """Decode a frame and compare its encodings.

        Where three encodings are there and two agree, these two count; otherwise the first readable one of
        instance, semantic, semantic_rgb does. A damaged file is left out, with a note, as long as another is good.

        Raises
        ------
        InputError
            If no encoding can be read.
        """
        notes: list[str] = []
        readings: dict[str, IndexImage] = {}
        instances: IndexImage | None = None
        failure: InputError | None = None
        trusted: list[str] = []
        for encoding in ENCODINGS:
            name = getattr(frame, encoding)
            if name is None:
                continue
            try:
                content = self.tree.read(name)
                remarks: list[str] = []
                if encoding == SEMANTIC_RGB:
                    classes = self._classes_of_colours(decode_colours(content, name), remarks)
                elif encoding == SEMANTIC:
                    classes = self._classes_of_semantic(decode_indices(content, name), remarks)
                else:
                    classes, instances = self._classes_of_instances(decode_indices(content, name), remarks)
            except InputError as error:
                failure = error
                notes.append(f"{encoding}: {error.message}")
                continue
            readings[encoding] = classes
            notes += [f"{encoding}: {remark}" for remark in remarks]
            if not remarks:
                trusted.append(encoding)
        if not readings:
            raise failure or InputError(f"Frame {frame.stem} has no mask file; export the masks again.")

        sizes = {encoding: classes.shape for encoding, classes in readings.items()}
        if len(set(sizes.values())) > 1:
            said = ", ".join(f"{encoding} {w} x {h}" for encoding, (h, w) in sizes.items())
            raise InputError(f"The masks of frame {frame.stem} differ in size ({said}); export them again.")
        disagreements = tuple(_disagreements(readings))
        winner = _elect(readings, disagreements, trusted)
        elected = np.clip(readings[winner], 0, 255).astype(np.uint8)
        return KittiMask(elected, _instance_numbers(elected, instances), disagreements, tuple(notes))

    @property
    def _foreground(self) -> tuple[KittiLabel, ...]:
        return tuple(label for label in self.labels if label.index > 0)

    def _classes_of_semantic(self, values: IndexImage, remarks: list[str]) -> IndexImage:
        if len(self._foreground) <= 1 and values.max() == 255 and set(np.unique(values)) == {0, 255}:
            remarks.append("255 is read as class 1")
            return (values == 255).astype(np.int64)
        self._remark_on_unknown_classes(values, remarks)
        return values

    def _classes_of_instances(self, values: IndexImage, remarks: list[str]) -> tuple[IndexImage, IndexImage | None]:
        if 0 < values.max() < 256:
            # No class byte: an 8-bit file, or one that passed through a reader that divides by 256.
            remarks.append("the file has 8 bits and no class numbers; every non-zero pixel is read as class 1")
            return (values > 0).astype(np.int64), None
        classes, instances = values >> 8, values & 255
        self._remark_on_unknown_classes(classes, remarks)
        return classes, instances

    def _remark_on_unknown_classes(self, classes: IndexImage, remarks: list[str]) -> None:
        highest = int(classes.max())
        if self.labels and highest > self.labels[-1].index:
            remarks.append(f"class {highest} is not in {LABEL_TABLE} (instance numbers over 255 run into the class)")

    def _classes_of_colours(self, colours: npt.NDArray[np.uint8], remarks: list[str]) -> IndexImage:
        packed = _pack(colours)
        if not self.labels or any(label.colour is None for label in self.labels):
            # Without named colours, one colour can only be the one label; more cannot be told apart.
            if len(np.unique(packed[packed > 0])) > 1:
                raise InputError(f"The masks have colours that no {LABEL_TABLE} names; export them again with it.")
            return (packed > 0).astype(np.int64)
        table = {_pack(np.array(label.colour)).item(): label.index for label in self.labels}
        unknown = set(np.unique(packed).tolist()) - set(table)
        if unknown:
            swapped = _pack(colours[..., ::-1])
            if set(np.unique(swapped).tolist()) <= set(table):
                remarks.append("red and blue are exchanged")
                packed, unknown = swapped, set()
        classes = np.zeros(packed.shape, dtype=np.int64)
        for colour, index in table.items():
            classes[packed == colour] = index
        if unknown:
            count = int(np.isin(packed, list(unknown)).sum())
            remarks.append(f"{count} pixels have a colour that {LABEL_TABLE} does not name; read as background")
        return classes


def read_kitti(
    path: str | os.PathLike[str] | FileTree, *, under: str = "", limits: ZipLimits | None = None
) -> KittiExport:
    """Open a KITTI 1.0 export; masks and images are read later, one at a time.

    Parameters
    ----------
    path : path-like or FileTree
        The zip, or the folder it was unpacked to.
    under : str
        Look only at the files below this folder of the tree.
    limits : ZipLimits, optional
        When to refuse a zip as too large.

    Returns
    -------
    KittiExport

    Raises
    ------
    InputError
        If there is no KITTI 1.0 mask in it, or label_colors.txt cannot be understood.
    """
    tree = open_tree(path, limits) if isinstance(path, str | os.PathLike) else path
    prefix = f"{under.strip('/')}/" if under.strip("/") else ""
    names = [name for name in tree.names if name.startswith(prefix)]
    subsets = _find_subsets(names, prefix)
    shown = PurePosixPath(under).name or tree.path.name
    if not any(subset.frames for subset in subsets):
        raise InputError(
            f"{shown} holds no KITTI 1.0 masks; it needs PNGs in folders named instance, semantic or semantic_rgb."
        )
    tables = [name for name in names if PurePosixPath(name).name.casefold() == LABEL_TABLE]
    contents = {tree.read(name) for name in tables}
    if len(contents) > 1:
        raise InputError(f"{shown} holds several exports with different labels; open each of them by itself.")
    if not contents:
        note = f"{LABEL_TABLE} is missing: class 1 is taken as the liver and colours are not checked."
        return KittiExport(tree, (), subsets, (note,))
    labels = parse_label_table(contents.pop().decode("utf-8-sig", errors="replace"), shown)
    return _settle_label_order(KittiExport(tree, labels, subsets))


def number_components(mask: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
    """Number the 8-connected components of a 2-D mask by size, the largest first; 0 is background."""
    components, count = ndimage.label(mask, structure=_EIGHT_CONNECTED)
    sizes = np.bincount(components.ravel(), minlength=count + 1)[1:]
    rank = np.zeros(count + 1, dtype=np.int32)
    rank[1 + np.argsort(-sizes, kind="stable")] = np.arange(1, count + 1)
    return rank[components]


def _find_subsets(names: Iterable[str], prefix: str) -> tuple[KittiSubset, ...]:
    images: dict[str, list[str]] = defaultdict(list)
    frames: dict[str, dict[str, KittiFrame]] = defaultdict(dict)
    for name in names:
        path = PurePosixPath(name)
        if path.suffix.casefold() not in PICTURE_SUFFIXES:
            continue
        parts = name.removeprefix(prefix).split("/")
        kinds = [part.casefold() for part in parts[:-1]]
        at = next((n for n, kind in enumerate(kinds) if kind == IMAGE_FOLDER or kind in ENCODINGS), None)
        if at is None:
            continue
        subset = "/".join(parts[:at])
        if kinds[at] == IMAGE_FOLDER:
            images[subset].append(name)
        else:
            stem = "/".join([*parts[at + 1 : -1], path.stem])
            frame = frames[subset].get(stem, KittiFrame(stem))
            frames[subset][stem] = replace(frame, **{kinds[at]: name})
    return tuple(
        KittiSubset(
            PurePosixPath(subset).name or DEFAULT_SUBSET,
            tuple(sorted(images[subset])),
            tuple(frames[subset][stem] for stem in sorted(frames[subset])),
        )
        for subset in sorted(set(images) | set(frames))
    )


def _settle_label_order(export: KittiExport) -> KittiExport:
    """Number the labels as the masks do: in the order of the lines, or, where only that fits, sorted by name.

    Some versions of the exporter number the classes by the sorted names and write the table in another order; the
    colours tell which of the two it was.
    """
    background, *rest = export.labels
    by_name = tuple(
        replace(label, index=index) for index, label in enumerate(sorted(rest, key=lambda label: label.name), start=1)
    )
    if len(rest) < 2 or by_name == tuple(rest):
        return export
    alternative = replace(export, labels=(background, *by_name))
    frames = [frame for subset in export.subsets for frame in subset.frames if frame.semantic_rgb]
    frames = [frame for frame in frames if frame.semantic or frame.instance][:_FRAMES_TO_PROBE]
    if _disagreeing_pixels(export, frames) > _disagreeing_pixels(alternative, frames) == 0:
        note = f"The classes are numbered by the labels' names, not by the lines of {LABEL_TABLE}: the colours say so."
        return replace(alternative, notes=(*export.notes, note))
    return export


def _disagreeing_pixels(export: KittiExport, frames: Sequence[KittiFrame]) -> int:
    total = 0
    for frame in frames:
        try:
            total += sum(found.pixels for found in export.read_mask(frame).disagreements)
        except InputError:
            continue  # a damaged frame has no say; it is reported when it is read
    return total


def _disagreements(readings: dict[str, IndexImage]) -> Iterable[Disagreement]:
    encodings = list(readings)
    for n, first in enumerate(encodings):
        for second in encodings[n + 1 :]:
            pixels = int(np.count_nonzero(readings[first] != readings[second]))
            if pixels:
                yield Disagreement(first, second, pixels)


def _elect(readings: dict[str, IndexImage], disagreements: Sequence[Disagreement], trusted: Sequence[str]) -> str:
    differing = {(found.first, found.second) for found in disagreements}
    if len(readings) == 3 and len(differing) == 2:
        pair = next(
            (first, second)
            for first in ENCODINGS
            for second in ENCODINGS
            if ENCODINGS.index(first) < ENCODINGS.index(second) and (first, second) not in differing
        )
        return pair[0]
    return next(iter([*trusted, *readings]))


def _instance_numbers(classes: npt.NDArray[np.uint8], instances: IndexImage | None) -> npt.NDArray[np.uint8]:
    numbers = np.zeros(classes.shape, dtype=np.uint8)
    if instances is not None and (instances[classes > 0] > 0).all():
        numbers[classes > 0] = instances[classes > 0]
        return numbers
    highest = 0
    for value in np.unique(classes[classes > 0]):
        components = number_components(classes == value)
        numbers = np.where(components > 0, np.minimum(components + highest, 255), numbers).astype(np.uint8)
        highest += int(components.max())
    return numbers


def _pack(colours: npt.NDArray[Any]) -> IndexImage:
    wide = colours.astype(np.int64)
    return (wide[..., 0] << 16) | (wide[..., 1] << 8) | wide[..., 2]
