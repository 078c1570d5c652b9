"""Where the images and the masks of a case come from. Nothing is read before it is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from LiverMarginLib.datasets.labels import LabelChoice
from LiverMarginLib.errors import InputError
from LiverMarginLib.io.archive import FileTree
from LiverMarginLib.io.kitti import KittiExport, KittiFrame, KittiMask
from LiverMarginLib.io.png import decode_indices, decode_picture
from LiverMarginLib.volume import Geometry


@dataclass(frozen=True)
class PictureStack:
    """Pictures of one series, in the order of the slices.

    Parameters
    ----------
    tree : FileTree
    names : tuple of str
        Files of the tree, first slice first.
    spacing : tuple of float, optional
        mm along (k, j, i); None where nobody knows it.
    superior_first : bool
        Whether the first picture is the uppermost slice, as in the liver-margin paper's folders.
    """

    tree: FileTree
    names: tuple[str, ...]
    spacing: tuple[float, float, float] | None = None
    superior_first: bool = True

    def read(self, index: int) -> npt.NDArray[Any]:
        """Decode picture `index`: shape (h, w), native dtype.

        Raises
        ------
        InputError
            If it is damaged, or a colour picture whose channels differ.
        """
        return self.as_grey(index, self.decode(index))

    def decode(self, index: int) -> npt.NDArray[Any]:
        """Decode picture `index` as it is stored: shape (h, w), or (h, w, 3) where it has three channels."""
        name = self.names[index]
        return decode_picture(self.tree.read(name), PurePosixPath(name).name)

    def as_grey(self, index: int, picture: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """What `decode` gave for picture `index` as shape (h, w); `InputError` where its channels differ."""
        return _as_grey(picture, self.names[index])

    def geometry(self, height: int, width: int) -> Geometry:
        """The grid of the stack: rows run to posterior, columns to the patient's left, as radiologists see it.

        Pictures carry no position: the first voxel is at the origin and the spacing is 1 mm where it is not known.
        """
        sk, sj, si = self.spacing or (1.0, 1.0, 1.0)
        step = -sk if self.superior_first else sk
        return Geometry((len(self.names), height, width), np.diag([-si, -sj, step, 1.0]))


@dataclass(frozen=True)
class VolumeFile:
    """A volume that `LiverMarginLib.io.readers` reads: a NIfTI, NRRD or MetaImage file or a folder of DICOM files."""

    path: Path


@dataclass(frozen=True)
class KittiMasks:
    """The frames of a KITTI 1.0 export, one or None for each picture of the stack."""

    export: KittiExport
    frames: tuple[KittiFrame | None, ...]
    choice: LabelChoice
    unmatched: tuple[str, ...] = ()

    @property
    def annotated(self) -> tuple[bool, ...]:
        """Which pictures have a mask."""
        return tuple(frame is not None for frame in self.frames)

    def read(self, index: int) -> npt.NDArray[np.uint8] | None:
        """Mask of picture `index`, values 0, 1 and 2; None where it has none."""
        found = self.read_encodings(index)
        return None if found is None else self.choice.apply(found.classes)

    def read_encodings(self, index: int) -> KittiMask | None:
        """What the encodings of picture `index` say, and where they differ."""
        frame = self.frames[index]
        return None if frame is None else self.export.read_mask(frame)


@dataclass(frozen=True)
class PictureMasks:
    """One picture of class numbers (or of black and white), or None, for each picture of the stack."""

    tree: FileTree
    names: tuple[str | None, ...]
    choice: LabelChoice | None = None
    unmatched: tuple[str, ...] = ()

    @property
    def annotated(self) -> tuple[bool, ...]:
        """Which pictures have a mask."""
        return tuple(name is not None for name in self.names)

    def read(self, index: int) -> npt.NDArray[np.uint8] | None:
        """Mask of picture `index`, values 0, 1 and 2; None where it has none.

        Without a choice of labels every non-zero pixel is liver.
        """
        name = self.names[index]
        if name is None:
            return None
        content, shown = self.tree.read(name), PurePosixPath(name).name
        try:
            values = decode_indices(content, shown)
        except InputError:
            values = _as_grey(decode_picture(content, shown), name).astype(np.int64)
        if self.choice is None:
            # JPEG leaves a veil of small values around a white mask.
            threshold = int(values.max()) // 2 if PurePosixPath(name).suffix.casefold() in (".jpg", ".jpeg") else 0
            return (values > threshold).astype(np.uint8)
        return self.choice.apply(values)


@dataclass(frozen=True)
class LabelFile:
    """A label map that `LiverMarginLib.io.readers` reads, and what the data set says its values mean."""

    path: Path
    names: tuple[tuple[int, str], ...] = ()


ImageSource = PictureStack | VolumeFile
MaskSource = KittiMasks | PictureMasks | LabelFile


def _as_grey(picture: npt.NDArray[Any], name: str) -> npt.NDArray[Any]:
    if picture.ndim == 2:
        return picture.astype(np.uint8) if picture.dtype == bool else picture
    if (picture == picture[..., :1]).all():
        return np.ascontiguousarray(picture[..., 0])
    raise InputError(
        f"{PurePosixPath(name).name} is a colour picture; export the images as greyscale, without drawings on them."
    )
