"""Write masks as "KITTI 1.0", so that CVAT, datumaro and the readers of the liver-margin paper's data take them.

See `LiverMarginLib.io.kitti` for the format.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from LiverMarginLib.errors import GeometryError, InputError
from LiverMarginLib.io.atomic import atomic_path, write_error
from LiverMarginLib.io.kitti import (
    DEFAULT_SUBSET,
    IMAGE_FOLDER,
    INSTANCE,
    SEMANTIC,
    SEMANTIC_RGB,
    number_components,
)
from LiverMarginLib.io.kitti_labels import LABEL_TABLE, Colour, KittiLabel
from LiverMarginLib.io.png import encode_png
from LiverMarginLib.terminology import LIVER, LIVER_MASS
from LiverMarginLib.volume import IntensityKind, LabelMap, Volume, axial_view

# W 400 L 40: wide enough for a portal-phase liver, which the popular W 150 L 30 saturates.
DEFAULT_WINDOW_HU = (-160.0, 240.0)
_MAX_INSTANCE = 255
_PALETTE: tuple[Colour, ...] = (LIVER.colour, LIVER_MASS.colour)
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)  # the same content gives the same bytes

Write = Callable[[str, bytes], None]
Slices = Sequence[npt.NDArray[Any]] | npt.NDArray[Any]
Masks = Sequence[npt.NDArray[Any] | None] | npt.NDArray[Any]


def write_kitti(
    images: Volume | Slices | None,
    labels: LabelMap | Masks,
    path: str | os.PathLike[str],
    *,
    label_name: str | Mapping[int, str] = "liver",
    stems: Sequence[str] | None = None,
    subset: str = DEFAULT_SUBSET,
    window: tuple[float, float] | None = None,
    overwrite: bool = False,
) -> tuple[str, ...]:
    """Write one case as KITTI 1.0.

    Frames without a labelled pixel get no mask file, as CVAT does it; instance numbers 1, 2, ... go to the
    8-connected components of each class, the largest first (from the 255th on they share 255).

    Parameters
    ----------
    images : Volume, sequence of ndarray, or None
        A volume is written as its axial slices from superior to inferior, the order of the liver-margin paper's
        files; slices, shape (h, w), are written in the order given. None writes masks alone (no ``image_2``).
        uint8 and uint16 values are written as they are, others are windowed to 8 bits.
    labels : LabelMap or sequence of ndarray or None
        On the grid of `images`, or one mask, shape (h, w), a slice; None is a frame without annotation.
    path : path-like
        A name that ends in ``.zip``, or a folder.
    label_name : str or mapping of int to str
        One name makes labels 1 and 2 (liver, and tumour inside it) one class; a mapping names each value.
    stems : sequence of str, optional
        Names of the frames without suffix; leading zeros are kept. Default ``000000``, ``000001``, ...
    subset : str
        Name of the folder inside the export.
    window : (float, float), optional
        Lowest and highest value of the 8-bit images. Default -160 to 240 for HU, else the 0.5 and 99.5 percentiles.
    overwrite : bool
        Replace a file or folder of that name.

    Returns
    -------
    tuple of str
        The stems of the frames that got masks.

    Raises
    ------
    InputError
        If sizes, stems or label values do not fit, or the name is taken.
    GeometryError
        If the label map lies elsewhere than the volume.
    ResourceError
        If it cannot be written; nothing is left under the final name.
    """
    masks = _ordered_masks(labels)
    pictures = _ordered_images(images, labels, window)
    if pictures is not None and len(pictures) != len(masks):
        raise InputError(f"There are {len(pictures)} images but {len(masks)} masks; give one mask or None an image.")
    names = tuple(f"{number:06d}" for number in range(len(masks))) if stems is None else tuple(stems)
    _check_names(names, subset, len(masks))
    classes = _number_labels({1: label_name, 2: label_name} if isinstance(label_name, str) else label_name)
    index_of = {value: label.index for value, label in classes.items()}

    annotated = []
    with _writer(Path(path), overwrite) as write:
        table = {label.index: label for label in classes.values()}
        lines = ["0 0 0 background"]
        lines += ["{} {} {} {}".format(*_colour(table[index]), table[index].name) for index in sorted(table)]
        write(LABEL_TABLE, "".join(f"{line}\n" for line in lines).encode())
        for number, stem in enumerate(names):
            mask = masks[number]
            if pictures is not None:
                picture = pictures[number]
                if mask is not None and mask.shape != picture.shape:
                    raise InputError(f"Frame {stem} has a mask of another size than its image; resample it first.")
                write(f"{subset}/{IMAGE_FOLDER}/{stem}.png", encode_png(picture))
            if mask is None or not mask.any():
                continue
            semantic = _classes(mask, index_of)
            write(f"{subset}/{SEMANTIC}/{stem}.png", encode_png(semantic))
            write(f"{subset}/{SEMANTIC_RGB}/{stem}.png", encode_png(_paint(semantic, table)))
            write(f"{subset}/{INSTANCE}/{stem}.png", encode_png(_instances(semantic)))
            annotated.append(stem)
    return tuple(annotated)


class _Pictures(Sequence[npt.NDArray[Any]]):
    """Slices that are brought to 8 or 16 bits one at a time."""

    def __init__(self, slices: Slices, window: tuple[float, float] | None) -> None:
        self._slices = slices
        self._window = window

    def __len__(self) -> int:
        return len(self._slices)

    def __getitem__(self, index: Any) -> Any:
        picture = np.asarray(self._slices[index])
        if self._window is None:
            return picture
        low, high = self._window
        scaled = (picture.astype(np.float64) - low) / (high - low) * 255
        return np.rint(np.clip(np.nan_to_num(scaled), 0, 255)).astype(np.uint8)


def _ordered_images(
    images: Volume | Slices | None, labels: LabelMap | Masks, window: tuple[float, float] | None
) -> _Pictures | None:
    if images is None:
        return None
    if isinstance(images, Volume):
        if isinstance(labels, LabelMap) and not images.geometry.agrees_with(labels.geometry):
            raise GeometryError("The label map lies on another grid than the image; resample it to the image first.")
        slices: Slices = axial_view(images.geometry).to_view(images.array)[::-1]
        kind = images.intensity
    else:
        slices, kind = images, IntensityKind.ARBITRARY
    dtypes = {np.asarray(picture).dtype for picture in slices}
    if window is None and not dtypes <= {np.dtype(np.uint8), np.dtype(np.uint16)}:
        window = DEFAULT_WINDOW_HU if kind is IntensityKind.HU else _percentiles(slices)
    if window is not None and not window[0] < window[1]:
        raise InputError(f"The window {window[0]:g} to {window[1]:g} is empty; give the lower value first.")
    return _Pictures(slices, window)


def _percentiles(slices: Slices) -> tuple[float, float]:
    values = np.concatenate([np.asarray(picture)[::4, ::4].ravel() for picture in slices]).astype(np.float64)
    low, high = np.percentile(values[np.isfinite(values)], (0.5, 99.5))
    return float(low), float(high) if high > low else float(low) + 1.0


def _ordered_masks(labels: LabelMap | Masks) -> Masks:
    if isinstance(labels, LabelMap):
        return axial_view(labels.geometry).to_view(labels.array)[::-1]
    return labels


def _check_names(stems: Sequence[str], subset: str, frames: int) -> None:
    if len(stems) != frames:
        raise InputError(f"There are {len(stems)} frame names for {frames} frames; give one name a frame.")
    if len({stem.casefold() for stem in stems}) < frames:
        raise InputError("Two frames have the same name; give each its own.")
    for name in (subset, *stems):
        parts = name.split("/")
        if not name or "\\" in name or ":" in name or any(part in ("", ".", "..") for part in parts):
            raise InputError(f"{name!r} cannot be a file name; use letters, digits, - and _.")


def _number_labels(names: Mapping[int, str]) -> dict[int, KittiLabel]:
    """Class of each label value: sorted by name, as CVAT numbers them; names become one word each."""
    words = {value: "_".join(name.split()) for value, name in names.items()}
    ordered = sorted(set(words.values()))
    if not ordered or "" in ordered or 0 in words or "background" in (word.casefold() for word in ordered):
        raise InputError("Each label value above 0 needs a name other than background.")
    if len(ordered) > 254:
        raise InputError(f"{len(ordered)} labels do not fit into KITTI 1.0; it has room for 254.")
    # The colour follows the label value, so that liver is liver-coloured whatever else is written.
    colours: dict[str, Colour] = {}
    for value in sorted(words):
        colours.setdefault(words[value], _palette_colour(len(colours)))
    return {value: KittiLabel(ordered.index(word) + 1, word, colours[word]) for value, word in sorted(words.items())}


def _palette_colour(number: int) -> Colour:
    if number < len(_PALETTE):
        return _PALETTE[number]
    # The VOC colour map: the bits of the number spread over the high bits of the three channels; all differ.
    channels = [0, 0, 0]
    for bit in range(8):
        channels[bit % 3] |= ((number + 1) >> bit & 1) << (7 - bit // 3)
    return channels[0], channels[1], channels[2]


def _colour(label: KittiLabel) -> Colour:
    assert label.colour is not None  # `_number_labels` gave every label one
    return label.colour


def _classes(mask: npt.NDArray[Any], index_of: Mapping[int, int]) -> npt.NDArray[np.uint16]:
    values = np.unique(mask)
    unnamed = [int(value) for value in values if value and int(value) not in index_of]
    if unnamed:
        raise InputError(f"Label {unnamed[0]} has no name; say what each label is called.")
    # 16 bits, as CVAT writes it: readers that expect the original take these files for it.
    classes = np.zeros(mask.shape, dtype=np.uint16)
    for value in values[values > 0]:
        classes[mask == value] = index_of[int(value)]
    return classes


def _paint(semantic: npt.NDArray[np.uint16], table: Mapping[int, KittiLabel]) -> npt.NDArray[np.uint8]:
    colours = np.zeros((*semantic.shape, 3), dtype=np.uint8)
    for index, label in table.items():
        colours[semantic == index] = _colour(label)
    return colours


def _instances(semantic: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint16]:
    instances = np.zeros(semantic.shape, dtype=np.uint16)
    for index in np.unique(semantic[semantic > 0]):
        numbers = np.minimum(number_components(semantic == index), _MAX_INSTANCE)
        instances = np.where(numbers > 0, (int(index) << 8) + numbers, instances).astype(np.uint16)
    return instances


@contextmanager
def _writer(path: Path, overwrite: bool) -> Iterator[Write]:
    """Yield a function that writes a file of the export, which gets its final name when all files are written."""
    if path.suffix.casefold() == ".zip":
        with atomic_path(path, overwrite=overwrite) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            yield lambda name, content: _write_entry(archive, name, content)
        return
    if path.exists() and not (overwrite and path.is_dir()):
        raise InputError(f"{path.name} exists already; choose another name or allow it to be replaced.")
    workshop: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        workshop = Path(tempfile.mkdtemp(prefix=".kitti.", dir=path.parent))
        finished = workshop / "export"
        yield lambda name, content: _write_file(finished / name, content)
        if path.exists():
            path.rename(workshop / "replaced")
        finished.rename(path)
    except OSError as error:
        raise write_error(error, path.name) from error
    finally:
        if workshop is not None:
            shutil.rmtree(workshop, ignore_errors=True)


def _write_entry(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    entry = zipfile.ZipInfo(name, _ZIP_TIME)
    entry.external_attr = 0o644 << 16  # else unzip makes files that nobody may read
    archive.writestr(entry, content)


def _write_file(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
