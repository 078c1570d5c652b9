"""Where whole volumes come from: labelled cases of a data set, and phantoms."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

from LiverMarginLib.datasets.model import Case, Dataset
from LiverMarginLib.datasets.slice_store import case_fingerprint
from LiverMarginLib.errors import InputError
from LiverMarginLib.training.phantom_source import PhantomStore
from LiverMarginLib.training.volume_data import VolumeSample, case_hash
from LiverMarginLib.volume import Modality, axial_view


class CaseVolumes:
    """The labelled cases of a data set as a `VolumeSource`; wrap it in `PreparedVolumes`, for reading is slow.

    Parameters
    ----------
    dataset : Dataset
    cases : iterable of Case or str
        Those with label maps or with masks on every slice.

    Raises
    ------
    InputError
        If there are none, or one has no masks.
    """

    def __init__(self, dataset: Dataset, cases: Iterable[Case | str]) -> None:
        self._dataset = dataset
        self._cases = [dataset.case(case) if isinstance(case, str) else case for case in cases]
        if not self._cases:
            raise InputError("There are no volumes in the chosen cases; check the data set and its split.")
        for case in self._cases:
            if case.masks is None:
                raise InputError(f"Case {case.id} has no masks, so nothing can be learnt from it; leave it out.")

    def __len__(self) -> int:
        return len(self._cases)

    def patient(self, index: int) -> str:
        """Whose volume it is."""
        return self._cases[index].patient

    def key(self, index: int) -> str:
        """SHA-256 over the files' names, sizes and times and the reading options."""
        return case_fingerprint(self._dataset, self._cases[index])

    def read(self, index: int) -> VolumeSample:
        """Read a case.

        Raises
        ------
        InputError
            If a file is damaged, slices were not annotated, or the spacing is not known.
        """
        case = self._cases[index]
        volume, labels, annotated = self._dataset.load(case)
        if labels is None or not annotated.all():
            raise InputError(
                f"Case {case.id} has slices that nobody annotated, which a volumetric network cannot learn from; leave "
                "it out, or read it with --empty-outside."
            )
        if not volume.spacing_known:
            raise InputError(f"The voxel spacing of case {case.id} is not known; give it with --spacing.")
        view = axial_view(volume.geometry)
        image, mask = view.to_view(volume.array), view.to_view(labels.array).astype(np.uint8)
        return VolumeSample(image, mask, view.geometry.spacing, volume.modality, case=case_hash(image))


class PhantomVolumes:
    """Scans of phantom patients as a `VolumeSource`, with masses as label 2.

    Parameters
    ----------
    store : PhantomStore
        Prepared.
    """

    def __init__(self, store: PhantomStore) -> None:
        self._store = store

    def __len__(self) -> int:
        return len(self._store.stacks)

    def patient(self, index: int) -> str:
        """Whose scan it is."""
        return f"phantom {self._store.stacks[index][0]}"

    def key(self, index: int) -> str:
        """SHA-256 over the options, the generator's source, and the scan's seeds."""
        return hashlib.sha256(f"{self._store.key} {self._store.stacks[index]}".encode()).hexdigest()

    def read(self, index: int) -> VolumeSample:
        """Read a scan."""
        image, labels = self._store.arrays(index)
        # Whatever it was scanned with, it is the same patient.
        case = case_hash(self.patient(index))
        options = self._store.options
        return VolumeSample(image, labels, options.spacing, Modality(options.modality), case=case)
