"""A data set: cases of patients, each with images and, mostly, masks, read one case at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from LiverMarginLib.datasets.align import labels_on_grid
from LiverMarginLib.datasets.case_table import CaseInfo, CaseRow, find_row
from LiverMarginLib.datasets.labels import choose_labels
from LiverMarginLib.datasets.sources import (
    ImageSource,
    KittiMasks,
    LabelFile,
    MaskSource,
    PictureMasks,
    PictureStack,
    VolumeFile,
)
from LiverMarginLib.errors import InputError
from LiverMarginLib.io.intensities import interpret
from LiverMarginLib.io.notes import Notes
from LiverMarginLib.io.readers import read_labels, read_volume
from LiverMarginLib.terminology import LIVER, LIVER_MASS
from LiverMarginLib.volume import Geometry, LabelMap, Modality, Volume, axial_view

BoolArray = npt.NDArray[np.bool_]


class Layout(StrEnum):
    """How the files of a data set lie."""

    CASE_FOLDERS = "case folders with images and masks"
    KITTI = "KITTI 1.0 export"
    PICTURES = "folders of images and masks"
    PAIRS = "volumes with label maps"
    DECATHLON = "Medical Decathlon dataset.json"


@dataclass(frozen=True)
class Case:
    """One image series of one patient.

    Parameters
    ----------
    id : str
        Unique in the data set; a folder or file name.
    patient : str
        Cases of one patient never part in a split. The data set's own name for the patient, not an identity.
    images : ImageSource
    masks : MaskSource, optional
        None where nobody annotated the case.
    info : CaseInfo
        From the case table.
    notes : tuple of str
        What was odd and how it was read.
    """

    id: str
    patient: str
    images: ImageSource
    masks: MaskSource | None
    info: CaseInfo = field(default_factory=CaseInfo)
    notes: tuple[str, ...] = ()


class LoadedCase(NamedTuple):
    """A case in memory.

    `annotated`, shape (n,), tells for each slice of the volume's axial view (`LiverMarginLib.volume.axial_view`)
    whether somebody looked at it; in other slices an empty mask means nothing. `labels` (1 liver, 2 tumour) lie on
    the volume's grid.
    """

    volume: Volume
    labels: LabelMap | None
    annotated: BoolArray


@dataclass(frozen=True)
class ReadingOptions:
    """What the user said about a data set.

    Parameters
    ----------
    label, tumour : int, str or None
        Value or name of the liver's and of the tumour's label; None finds out.
    empty_outside : bool
        Whether slices without a mask are known to hold no liver, rather than not annotated.
    modality : Modality
        Of pictures, and of volumes that do not say it.
    """

    label: int | str | None = None
    tumour: int | str | None = None
    empty_outside: bool = False
    modality: Modality = Modality.UNKNOWN


@dataclass(frozen=True)
class Dataset:
    """The cases of a data set.

    Parameters
    ----------
    path : Path
    layout : Layout
    cases : tuple of Case
        In natural order of their ids.
    options : ReadingOptions
    notes : tuple of str
        How the files were understood, one sentence each.
    left_out : tuple of (str, str)
        Folders or zips that could not be understood, and why.
    """

    path: Path
    layout: Layout
    cases: tuple[Case, ...]
    options: ReadingOptions = field(default_factory=ReadingOptions)
    notes: tuple[str, ...] = ()
    left_out: tuple[tuple[str, str], ...] = ()

    def case(self, case_id: str) -> Case:
        """The case of that id; `InputError` where there is none."""
        for case in self.cases:
            if case.id == case_id:
                return case
        raise InputError(
            f"There is no case {case_id} in the data set {self.path.name}; see `livermargin dataset check`."
        )

    @property
    def patients(self) -> tuple[str, ...]:
        """The patients, in the order of their first case."""
        return tuple(dict.fromkeys(case.patient for case in self.cases))

    def with_table(self, rows: Mapping[str, CaseRow]) -> Dataset:
        """This data set with what a case table says; cases that the table leaves out stay as they are."""
        cases = []
        for case in self.cases:
            row = find_row(rows, case.id)
            cases.append(case if row is None else replace(case, info=row.info, patient=row.patient or case.patient))
        return replace(self, cases=tuple(cases))

    def load(self, case: Case | str) -> LoadedCase:
        """Read one case into memory.

        Parameters
        ----------
        case : Case or str
            Or its id.

        Returns
        -------
        LoadedCase

        Raises
        ------
        InputError
            If a file is damaged, or sizes do not fit.
        GeometryError
            If image and label map lie in different places.
        """
        case = self.case(case) if isinstance(case, str) else case
        if isinstance(case.images, PictureStack):
            return self._load_pictures(case, case.images)
        volume = self._read_volume(case.images)
        slices = axial_view(volume.geometry).geometry.shape[0]
        if case.masks is None:
            return LoadedCase(volume, None, np.full(slices, self.options.empty_outside))
        if not isinstance(case.masks, LabelFile):
            raise InputError(f"Case {case.id} has a volume but masks as pictures; give both as volumes or as pictures.")
        labels, note = self._read_label_file(case.masks, volume)
        if note:
            volume = replace(volume, notes=(*volume.notes, note))
        return LoadedCase(volume, labels, np.ones(slices, dtype=bool))

    def load_volume(self, case: Case) -> Volume:
        """Read a case's image alone; errors as `load`."""
        return self._read_volume(case.images) if isinstance(case.images, VolumeFile) else self.load(case).volume

    def _read_volume(self, source: VolumeFile) -> Volume:
        return read_volume(source.path, modality=self._said_modality)

    @property
    def _said_modality(self) -> Modality | None:
        return None if self.options.modality is Modality.UNKNOWN else self.options.modality

    def _read_label_file(self, source: LabelFile, volume: Volume) -> tuple[LabelMap, str]:
        found = read_labels(source.path)
        names = dict(source.names) or {segment.label: segment.name for segment in found.segments}
        values = tuple(int(value) for value in np.unique(found.array) if value > 0)
        choice = choose_labels(names, label=self.options.label, tumour=self.options.tumour, values=values)
        chosen = _label_map(choice.apply(found.array), found.geometry)
        return labels_on_grid(chosen, volume.geometry)

    def _load_pictures(self, case: Case, stack: PictureStack) -> LoadedCase:
        if not stack.names:
            raise InputError(f"Case {case.id} has no images; put them beside its masks.")
        first = stack.read(0)
        array = np.zeros((len(stack.names), *first.shape), dtype=first.dtype)
        masks = case.masks if isinstance(case.masks, KittiMasks | PictureMasks) else None
        marked = np.zeros(array.shape, dtype=np.uint8) if masks else None
        for index in range(len(stack.names)):
            picture = first if index == 0 else stack.read(index)
            if picture.shape != first.shape:
                raise InputError(f"Case {case.id} has images of several sizes; keep one series a case.")
            if picture.dtype != array.dtype:
                array = array.astype(np.promote_types(array.dtype, picture.dtype))
            array[index] = picture
            mask = masks.read(index) if masks else None
            if mask is not None and marked is not None:
                if mask.shape != picture.shape:
                    raise InputError(
                        f"Case {case.id} has a mask of {mask.shape[1]} x {mask.shape[0]} pixels for an image of "
                        f"{picture.shape[1]} x {picture.shape[0]}; export the masks in the image's size."
                    )
                marked[index] = mask
        geometry = stack.geometry(*first.shape)
        notes = Notes()
        array, modality, intensity = interpret(array, self._said_modality, notes)
        known = stack.spacing is not None
        volume = Volume(array, geometry, modality, intensity, known, (*case.notes, *notes.sentences))
        return LoadedCase(
            volume, None if marked is None else _label_map(marked, geometry), self.annotated_slices(case, stack)
        )

    def annotated_slices(self, case: Case, stack: PictureStack) -> BoolArray:
        """`LoadedCase.annotated` of a case of pictures, without reading one."""
        flags = np.full(len(stack.names), self.options.empty_outside)
        if isinstance(case.masks, KittiMasks | PictureMasks):
            flags |= np.array(case.masks.annotated, dtype=bool)
        return flags[::-1].copy() if stack.superior_first else flags


def _label_map(array: npt.NDArray[np.uint8], geometry: Geometry) -> LabelMap:
    segments = (LIVER, LIVER_MASS) if (array == LIVER_MASS.label).any() else (LIVER,)
    return LabelMap(array, geometry, segments)
