"""Stacks of pictures: a folder of PNG, JPG or TIFF slices, or one multi-page TIFF.

Pictures know nothing of the patient, so a convention says where the voxels lie, that of radiology's exports (and of
the data behind the liver-margin paper, whose image numbers run from the head down): columns run from the patient's
right to the left, rows from anterior to posterior, files from superior to inferior, sorted naturally by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from LiverMarginLib.errors import InputError, LiverMarginError, technical
from LiverMarginLib.events import OnEvent, Progress, ignore
from LiverMarginLib.io.detect import natural_key
from LiverMarginLib.io.intensities import interpret
from LiverMarginLib.io.limits import check_memory
from LiverMarginLib.io.notes import Notes
from LiverMarginLib.io.parallel import for_each
from LiverMarginLib.volume import Geometry, Modality, Volume

Array = npt.NDArray[Any]
Spacing = tuple[float, float, float]

_GREY_MODES = {"1": np.uint8, "L": np.uint8, "I;16": np.uint16, "I;16B": np.uint16, "I": np.int32, "F": np.float32}
_COLOUR_MODES = ("RGB", "RGBA", "LA", "P", "PA")


def stack_geometry(shape: tuple[int, int, int], spacing: Spacing | None) -> Geometry:
    """Grid of a stack under the module's convention.

    Parameters
    ----------
    shape : tuple of int
        Along (k, j, i): files, rows, columns.
    spacing : tuple of float, optional
        Along (k, j, i) in mm; 1 mm where it is not known.

    Raises
    ------
    InputError
        If a spacing is not a positive number.
    """
    k, j, i = spacing or (1.0, 1.0, 1.0)
    if not all(np.isfinite(s) and s > 0 for s in (k, j, i)):
        raise InputError(f"A voxel spacing of {k:g} x {j:g} x {i:g} mm is not possible; give three positive numbers.")
    return Geometry(shape, np.diag([-i, -j, -k, 1.0]))


def read_stack(
    files: Sequence[Path],
    modality: Modality | None,
    spacing: Spacing | None,
    notes: Notes,
    on_event: OnEvent = ignore,
) -> Volume:
    """Read pictures as a volume.

    8-bit pictures are `IntensityKind.EIGHT_BIT`; deeper ones are `ARBITRARY`, or HU if `modality` says CT.

    Parameters
    ----------
    files : sequence of Path
        Pictures of one size in any order, or one multi-page TIFF.
    modality : Modality, optional
    spacing : tuple of float, optional
        Along (k, j, i) in mm.
    notes : Notes
    on_event : callable

    Raises
    ------
    InputError
        If a picture cannot be read, is truly coloured, or differs in size from the first.
    """
    array = read_pictures(files, notes, on_event)
    if spacing is None:
        notes.add(
            "The spacing of the pictures is not known; 1 mm was taken, so millimetres and millilitres mean nothing."
        )
    geometry = stack_geometry(array.shape, spacing)
    if modality is None and array.dtype != np.uint8:
        notes.add("The pictures are deeper than 8 bits and do not say what their values mean; they are arbitrary.")
    array, modality, intensity = interpret(array, modality or Modality.UNKNOWN, notes)
    return Volume(array, geometry, modality, intensity, spacing is not None, notes.sentences)


def read_pictures(files: Sequence[Path], notes: Notes, on_event: OnEvent = ignore, *, as_labels: bool = False) -> Array:
    """Read pictures into one array, in natural order of their names.

    Parameters
    ----------
    files : sequence of Path
    notes : Notes
        Told about grey pictures stored as colours, and about jumps in the numbers of the files.
    on_event : callable
    as_labels : bool
        Take the index of a palette picture, not the grey of its colour.

    Returns
    -------
    ndarray, shape (file, row, column)
        uint8, uint16, int32 or float32.
    """
    ordered = sorted(files, key=lambda path: natural_key(path.name))
    pages = _page_count(ordered[0], 1) if len(ordered) == 1 else 1
    first, was_colour = _read_picture(ordered[0], 1, as_labels)
    count = pages if len(ordered) == 1 else len(ordered)
    check_memory((count, *first.shape), first.itemsize)
    array = np.empty((count, *first.shape), first.dtype)

    def read(n: int) -> tuple[int, bool]:
        path, page = (ordered[0], n) if len(ordered) == 1 else (ordered[n], 0)
        picture, colour = _read_picture(path, n + 1, as_labels, page)
        if picture.shape != first.shape:
            raise InputError(
                f"Picture {n + 1} has {picture.shape[1]} x {picture.shape[0]} pixels but the first has "
                f"{first.shape[1]} x {first.shape[0]}; keep one stack of equal size in the folder."
            )
        if picture.dtype != first.dtype:
            raise InputError(
                f"Picture {n + 1} has another depth ({picture.dtype}) than the first ({first.dtype}); export all "
                "pictures alike."
            )
        array[n] = picture
        return n, colour

    def report(outcome: tuple[int, bool]) -> None:
        nonlocal was_colour
        was_colour |= outcome[1]
        on_event(Progress(outcome[0] + 1, count, "read"))

    for_each(read, range(count), report)
    if was_colour:
        notes.add("The pictures are stored in colour but show only grey, and were read as grey.")
    jump = _first_jump(ordered)
    if jump:
        notes.add(
            f"The numbers in the file names jump from {jump[0]} to {jump[1]}; if slices are missing there, distances "
            "along the patient are wrong."
        )
    return array


def _first_jump(files: Sequence[Path]) -> tuple[int, int] | None:
    numbers = [re.findall(r"\d+", path.stem)[-1:] for path in files]
    values = [int(number[0]) for number in numbers if number]
    if len(values) != len(files) or len(values) < 3:
        return None
    steps = np.diff(values)
    usual = int(np.median(steps))
    odd = np.flatnonzero(steps != usual)
    # A numbering with many odd steps does not count slices, and says nothing about missing ones.
    if len(odd) == 0 or len(odd) > len(steps) // 4 + 1 or usual < 1:
        return None
    return values[odd[0]], values[odd[0] + 1]


@contextmanager
def _opened(path: Path, number: int) -> Iterator[Image.Image]:
    try:
        with Image.open(path) as picture:
            yield picture
    except LiverMarginError:
        raise
    except PermissionError as error:
        raise InputError(
            f"Picture {number} cannot be opened: permission denied; ask for the right to read it."
        ) from error
    except Image.DecompressionBombError as error:
        raise InputError(
            f"Picture {number} announces an impossible size; it is damaged, so export it again."
        ) from error
    # Pillow raises a dozen unrelated types on damaged files; each means that the picture cannot be used.
    except Exception as error:
        raise InputError(
            f"Picture {number} cannot be read; it is empty, truncated or damaged, so export it again.", technical(error)
        ) from error


def _page_count(path: Path, number: int) -> int:
    with _opened(path, number) as picture:
        return int(getattr(picture, "n_frames", 1))


def _read_picture(path: Path, number: int, as_labels: bool, page: int = 0) -> tuple[Array, bool]:
    """Grey values of one picture and whether it was stored in colour."""
    with _opened(path, number) as picture:
        if page:
            picture.seek(page)
        mode = picture.mode
        if mode in _GREY_MODES or (mode == "P" and as_labels):
            return np.array(picture, dtype=_GREY_MODES.get(mode, np.uint8)), False
        if mode not in _COLOUR_MODES:
            raise InputError(f"Picture {number} has an unusual kind of pixels ({mode}); export it as plain grey.")
        channels = np.asarray(picture.convert("RGB"))
    grey = channels[..., 0]
    if not (np.array_equal(grey, channels[..., 1]) and np.array_equal(grey, channels[..., 2])):
        what = "mask" if as_labels else "image"
        raise InputError(f"Picture {number} is in colour; export the {what} as grey values.")
    return grey.copy(), mode != "P"
