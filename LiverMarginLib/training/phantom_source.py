"""Procedural phantoms as training data: made once in parallel, kept on disk, read scan by scan or slice by slice."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import multiprocessing
import os
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import numpy.typing as npt

import LiverMarginLib.phantom
from LiverMarginLib.errors import InputError, ResourceError, technical
from LiverMarginLib.events import CancelToken, OnEvent, Progress, ignore
from LiverMarginLib.inference.devices import available_threads
from LiverMarginLib.io.atomic import atomic_path
from LiverMarginLib.phantom import PhantomOptions, liver_target, make_anatomy, render
from LiverMarginLib.phantom.grafts import Donor, grafted_options, transplant
from LiverMarginLib.preprocessing import SliceContext
from LiverMarginLib.training.data import SliceSample
from LiverMarginLib.training.interruption import ignore_interrupts
from LiverMarginLib.volume import axial_view

_SCHEMA = 2  # 2: masks tell masses from liver
_BYTES_A_VOXEL = 3  # int16 image, uint8 mask
_SCANS_APART = 1_000_003
_NOT_THE_GENERATOR = {"__init__.py", "sheet.py"}  # may change without changing a phantom


class PhantomStore:
    """Scans of phantom patients on disk.

    The patients are made by `prepare`; those that the folder holds already, from whatever earlier run with the same
    options and the same generator, are not made again.

    Parameters
    ----------
    seeds : iterable of int
        One patient each; give validation other ones.
    options : PhantomOptions
        What all patients have in common.
    folder : path
        Where they are kept.
    scans : int
        Scans of each patient that differ in contrast and noise; much cheaper than patients.
    budget_bytes : int
        What the folder may hold. Patients of other options make room, the least recently used first.
    donor : Donor, optional
        Whose organs, deformed by each seed, the patients have.

    Raises
    ------
    InputError
        If there are no patients, or they do not fit into the budget.
    """

    def __init__(
        self,
        seeds: Iterable[int],
        options: PhantomOptions,
        folder: str | os.PathLike[str],
        *,
        scans: int = 1,
        budget_bytes: int = 10 << 30,
        donor: Donor | None = None,
    ) -> None:
        self._seeds = tuple(seeds)
        self.options = options if donor is None else grafted_options(options)
        self._donor = donor
        self._folder = Path(folder)
        self._scans = scans
        self._budget = budget_bytes
        if not self._seeds or scans < 1:
            raise InputError("There are no phantoms to train on; ask for at least one patient and one scan.")
        self.stacks = [(seed, scan) for seed in self._seeds for scan in range(scans)]
        needed = self._size()
        if needed > budget_bytes:
            raise InputError(
                f"These phantoms take {needed / 2**30:.1f} GB but the cache may hold {budget_bytes / 2**30:.1f} GB; "
                "raise the budget or ask for fewer."
            )
        self.key = _options_key(self.options, donor)

    def arrays(self, stack: int) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.uint8]]:
        """Memory maps of a scan's image in HU and its labels (1 liver, 2 mass), in the axial view.

        Raises
        ------
        InputError
            If its patient was not made or the file is damaged.
        """
        try:
            image, labels = (np.load(path, mmap_mode="r") for path in self._paths(*self.stacks[stack]))
        except (OSError, ValueError) as error:
            raise InputError(
                "A phantom is missing from the cache or damaged; delete the folder of phantoms and start again.",
                technical(error),
            ) from error
        return image, labels

    def fingerprint(self) -> str:
        """SHA-256 over seeds, scans, options and the generator's source."""
        return hashlib.sha256(f"{self.key} {self._seeds} {self._scans}".encode()).hexdigest()

    def prepare(
        self, workers: int | None = None, on_event: OnEvent = ignore, cancel: CancelToken | None = None
    ) -> None:
        """Make the patients that are not there yet.

        Parameters
        ----------
        workers : int, optional
            Processes that make them; as many as there are processors if not given.
        on_event : callable
            Hears `Progress`, stage ``phantoms``.
        cancel : CancelToken, optional

        Raises
        ------
        ResourceError
            If the disk is full, or a process ended without a word.
        Cancelled
            If `cancel` was raised; the patients that were made stay.
        """
        cancel = cancel or CancelToken()
        missing = [seed for seed in self._seeds if not self._is_there(seed)]
        done = len(self._seeds) - len(missing)
        on_event(Progress(done, len(self._seeds), "phantoms"))
        if not missing:
            return
        self._make_room()
        # Spawned, because a forked copy of a process that runs torch's threads may hang.
        pool = ProcessPoolExecutor(
            workers or available_threads(), multiprocessing.get_context("spawn"), ignore_interrupts
        )
        try:
            pending: set[Future[None]] = {pool.submit(self._make, seed) for seed in missing}
            while pending:
                cancel.check()
                finished, pending = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
                for future in finished:
                    future.result()
                    done += 1
                    on_event(Progress(done, len(self._seeds), "phantoms"))
        except BrokenProcessPool as error:
            raise ResourceError(
                "A process that makes phantoms ended; there may be too little memory for so many at once.",
                technical(error),
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)

    def _make(self, seed: int) -> None:
        if self._is_there(seed):
            return  # another process of a distributed training was faster
        anatomy = make_anatomy(seed, self.options, None if self._donor is None else transplant(self._donor, seed))
        view = axial_view(anatomy.geometry)
        mask = view.to_view(liver_target(anatomy.labels(), tumour=True).array)
        for scan in range(self._scans):
            volume, _ = render(anatomy, seed + _SCANS_APART * scan, self.options)
            image_path, mask_path = self._paths(seed, scan)
            # The image last: where it is, the mask is.
            for path, array in ((mask_path, mask), (image_path, view.to_view(volume.array))):
                with atomic_path(path) as beside, beside.open("wb") as file:
                    np.save(file, np.ascontiguousarray(array))

    def _paths(self, seed: int, scan: int) -> tuple[Path, Path]:
        stem = f"{self.key[:16]}-{seed}-{scan}"
        return self._folder / f"{stem}.image.npy", self._folder / f"{stem}.mask.npy"

    def _is_there(self, seed: int) -> bool:
        return all(self._paths(seed, scan)[0].exists() for scan in range(self._scans))

    def _size(self) -> int:
        return len(self.stacks) * _BYTES_A_VOXEL * int(np.prod(self.options.shape))

    def _make_room(self) -> None:
        mine = {path for seed, scan in self.stacks for path in self._paths(seed, scan)}
        others = sorted(
            (path for path in self._folder.glob("*.npy") if path not in mine), key=lambda path: path.stat().st_atime
        )
        excess = self._size() + sum(path.stat().st_size for path in others) - self._budget
        for path in others:
            if excess <= 0:
                return
            excess -= path.stat().st_size
            path.unlink(missing_ok=True)


class PhantomSource:
    """Slices of phantom patients, a `SliceSource`; masses count as liver.

    Parameters
    ----------
    seeds, options, folder, scans, budget_bytes, donor
        See `PhantomStore`.
    """

    def __init__(
        self,
        seeds: Iterable[int],
        options: PhantomOptions,
        folder: str | os.PathLike[str],
        *,
        scans: int = 1,
        budget_bytes: int = 10 << 30,
        donor: Donor | None = None,
    ) -> None:
        self.store = PhantomStore(seeds, options, folder, scans=scans, budget_bytes=budget_bytes, donor=donor)

    def __len__(self) -> int:
        return len(self.store.stacks) * self.store.options.shape[0]

    def patient(self, index: int) -> str:
        """Whose slice it is."""
        return f"phantom {self.store.stacks[index // self.store.options.shape[0]][0]}"

    def annotated(self, index: int) -> bool:
        """Always: the labels of phantoms are exact."""
        return True

    def fingerprint(self) -> str:
        """SHA-256 over seeds, scans, options and the generator's source."""
        return self.store.fingerprint()

    def read(self, index: int) -> SliceSample:
        """Read one slice; raises `InputError` if its patient was not made or the file is damaged."""
        stack, k = divmod(index, self.store.options.shape[0])
        return self._sample(stack, k, k)

    def read_with_context(self, index: int, context: SliceContext) -> SliceSample:
        """Read one slice with its neighbours, shape (c, h, w)."""
        depth, apart = self.store.options.shape[0], self.store.options.spacing[0]
        stack, k = divmod(index, depth)
        return self._sample(stack, k, context.rows(k, depth, apart))

    def _sample(self, stack: int, k: int, shown: int | list[int]) -> SliceSample:
        image, labels = self.store.arrays(stack)
        mask = (labels[k] > 0).astype(np.uint8)
        return SliceSample(image[shown].astype(np.float32), mask, self.store.options.spacing[1:])


def _options_key(options: PhantomOptions, donor: Donor | None) -> str:
    """SHA-256 of the options, the donor and the generator's source: any of them changed, the pictures are others."""
    digest = hashlib.sha256(f"{_SCHEMA} {json.dumps(dataclasses.asdict(options), sort_keys=True)}".encode())
    generator = Path(LiverMarginLib.phantom.__path__[0])
    sources = [path for path in sorted(generator.glob("*.py")) if path.name not in _NOT_THE_GENERATOR]
    if donor is not None:
        digest.update(donor.fingerprint.encode())
        sources += sorted((generator / "grafts").glob("*.py"))
    for path in sources:
        digest.update(path.read_bytes())
    return digest.hexdigest()
