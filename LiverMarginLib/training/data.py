"""What the trainer draws from: sources of slices or volumes, read one at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
import numpy.typing as npt

from LiverMarginLib.errors import InputError
from LiverMarginLib.preprocessing import SliceContext


@dataclass(frozen=True, eq=False)
class SliceSample:
    """One axial slice in the canonical view (patient's right on the left, anterior up) with its mask.

    Parameters
    ----------
    image : ndarray of float32, shape (h, w), or (c, h, w) with its neighbours
        HU, or 8-bit grey values as stored. With neighbours: lowest first, the slice itself in the middle.
    mask : ndarray of uint8, shape (h, w)
        1 where the liver is.
    spacing : tuple of float
        mm along (y, x).
    annotated : bool
        Whether somebody looked at this slice; an empty mask means "no liver" only where this is true.
    weight : float
        Share of this slice in the loss, such as 0.5 for a pseudo-label.
    """

    image: npt.NDArray[np.float32]
    mask: npt.NDArray[np.uint8]
    spacing: tuple[float, float]
    annotated: bool = True
    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.mask.ndim != 2 or self.image.ndim not in (2, 3) or self.image.shape[-2:] != self.mask.shape:
            raise InputError(
                f"A slice has {self.image.shape} pixels and its mask {self.mask.shape}; both need the same two axes."
            )


class Sample(Protocol):
    """What a source gives."""

    @property
    def annotated(self) -> bool:
        """Whether somebody looked at it."""
        ...


_Sample = TypeVar("_Sample", bound=Sample)


class Source(Protocol):
    """What the trainer draws from: slices or volumes, read lazily.

    Implementations must be picklable, so that loader processes can have a copy.
    """

    def __len__(self) -> int:
        """Return the number of items."""
        ...

    def patient(self, index: int) -> str:
        """Return whose item it is, without reading it. Used to compare and to group, never written anywhere."""
        ...

    def read(self, index: int) -> Any:
        """Read item `index`; raises `InputError` with a sentence fit for the user where that fails."""
        ...


class SliceSource(Source, Protocol):
    """A source of slices with masks."""

    def read(self, index: int) -> SliceSample:
        """Read slice `index`; raises `InputError` with a sentence fit for the user where that fails."""
        ...


@runtime_checkable
class KnowsAnnotation(Protocol):
    """A source that can tell without reading whether a slice was annotated."""

    def annotated(self, index: int) -> bool:
        """Return `SliceSample.annotated` of slice `index`."""
        ...


@runtime_checkable
class ReadsContext(Protocol):
    """A source that knows which volumes its slices are of, and so their neighbours."""

    def read_with_context(self, index: int, context: SliceContext) -> SliceSample:
        """Read slice `index` with its neighbours, which nobody need have annotated: an image of shape (c, h, w)."""
        ...


@runtime_checkable
class Fingerprinted(Protocol):
    """A source that can say what it holds, for the manifest."""

    def fingerprint(self) -> str:
        """Return a SHA-256 (hexadecimal) over the data or what generates them."""
        ...


@runtime_checkable
class NamesCases(Protocol):
    """A source that can name its cases without saying whose they are, so that no case is learnt and tested on."""

    def cases(self) -> list[str]:
        """Return the name of each case once, in alphabetical order."""
        ...


class InMemorySource(Generic[_Sample]):
    """Slices or volumes that already are in memory.

    Parameters
    ----------
    samples : sequence of SliceSample or VolumeSample
    patients : sequence of str
        Whose each one is.

    Raises
    ------
    InputError
        If there are more of the ones than of the others.
    """

    def __init__(self, samples: Sequence[_Sample], patients: Sequence[str]) -> None:
        if len(samples) != len(patients):
            raise InputError(f"{len(samples)} samples were given with {len(patients)} patients; give one for each.")
        self._samples = list(samples)
        self._patients = list(patients)

    def __len__(self) -> int:
        return len(self._samples)

    def patient(self, index: int) -> str:
        """Whose sample it is."""
        return self._patients[index]

    def annotated(self, index: int) -> bool:
        """Whether somebody looked at sample `index`."""
        return self._samples[index].annotated

    def read(self, index: int) -> _Sample:
        """Sample `index`."""
        return self._samples[index]


class JoinedSource:
    """Several sources as one.

    Parameters
    ----------
    sources : sequence of Source
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = list(sources)
        self._starts = np.cumsum([0, *(len(source) for source in self._sources)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def _find(self, index: int) -> tuple[Source, int]:
        n = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self._sources[n], index - int(self._starts[n])

    def patient(self, index: int) -> str:
        """Whose item it is."""
        source, index = self._find(index)
        return source.patient(index)

    def annotated(self, index: int) -> bool:
        """Whether item `index` was annotated; reads it where its source cannot tell otherwise."""
        source, index = self._find(index)
        return bool(source.annotated(index) if isinstance(source, KnowsAnnotation) else source.read(index).annotated)

    def cases(self) -> list[str]:
        """Cases of all sources that name them."""
        return sorted({case for source in self._sources if isinstance(source, NamesCases) for case in source.cases()})

    def fingerprint(self) -> str:
        """Return a SHA-256 over the fingerprints of the sources; those without one count by their length."""
        parts = [s.fingerprint() if isinstance(s, Fingerprinted) else str(len(s)) for s in self._sources]
        return hashlib.sha256(" ".join(parts).encode()).hexdigest()

    def read(self, index: int) -> Any:
        """Item `index`."""
        source, index = self._find(index)
        return source.read(index)

    def read_with_context(self, index: int, context: SliceContext) -> SliceSample:
        """Slice `index` with its neighbours; see `read_slice`."""
        source, index = self._find(index)
        return read_slice(source, index, context)


def read_slice(source: Source, index: int, context: SliceContext) -> SliceSample:
    """Read a slice, with its neighbours where there are to be any.

    Raises
    ------
    InputError
        If it cannot be read, or the source does not know its neighbours.
    """
    if not context.slices:
        sample: SliceSample = source.read(index)
        return sample
    if not isinstance(source, ReadsContext):
        raise InputError("These slices are not known to be of volumes, so they have no neighbours; set context to 0.")
    return source.read_with_context(index, context)


def usable_slices(source: Source, unannotated_as_empty: bool) -> list[int]:
    """Return the indices of the slices that a training may use.

    Slices that nobody annotated are left out unless they count as empty. A source that cannot tell without reading
    (`KnowsAnnotation`) is read through once.
    """
    if unannotated_as_empty:
        return list(range(len(source)))
    if isinstance(source, KnowsAnnotation):
        return [index for index in range(len(source)) if source.annotated(index)]
    return [index for index in range(len(source)) if source.read(index).annotated]


def check_split(train: Source, validation: Source | None, unannotated_as_empty: bool = False) -> None:
    """Refuse sources that a training must not use.

    Raises
    ------
    InputError
        If there is nothing to train on, or a patient is in both sources: neighbouring slices are near-duplicates,
        so that the validation would measure memory.
    """
    if len(train) == 0:
        raise InputError("There is nothing to train on; check the data set and its split.")
    if validation is None:
        return
    common = {train.patient(n) for n in range(len(train))} & {validation.patient(n) for n in range(len(validation))}
    if common:
        raise InputError(
            f"{len(common)} patient(s) are in both the training and the validation data; split the data by patient."
        )
