"""Segment a cohort."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from LiverMarginLib.errors import InputError
from LiverMarginLib.events import CancelToken, OnEvent
from LiverMarginLib.jobs.base import Job
from LiverMarginLib.jobs.segment import SegmentJob

# What decides about a segmentation, and what only about where and how fast it is computed.
_DECIDING = ("model", "precision", "threshold", "largest_component", "fill_holes", "denoise", "allow_mismatch")
_PLACE = ("device", "runtime", "batch_size", "threads")


@dataclass(frozen=True)
class BatchJob(Job):
    """Segment every case of a cohort; one bad case stops nothing.

    Parameters
    ----------
    inputs : tuple of str
        Folders (searched with their subfolders), image files, or CSV files that list cases.
    folder : str
        Receives ``cases/``, ``logs/``, ``cases.csv``, ``run.json`` and ``summary.html``. A second run in the same
        folder computes only what is missing, has changed or has failed.
    model : str
    formats : tuple of str
        Suffixes of the segmentations to write, such as "seg.nrrd", "nii.gz", "dcm", "stl".
    references : str, optional
        Folder of segmentations to measure against, named like the cases' files or folders.
    label : str, optional
        Value or name of the liver in the references; several separated by commas.
    device, runtime, batch_size, threads, precision
    threshold, largest_component, fill_holes, denoise, allow_mismatch
        As for `SegmentJob`.
    all_series : bool
        Take every usable series of a DICOM study instead of the one that suits best.
    min_slices : int
        Fewest slices of a DICOM series that was found in a folder.
    dry_run : bool
        Only say what would be done.
    retry_failed : bool
        Also do the cases that failed because of their files, although the files are the same.
    workers : int
        Cases that are computed at the same time on this machine.
    case_timeout : float
        Seconds of work that a case may take.
    memory_limit : float, optional
        GB that a worker process may grow to.
    shard : str, optional
        "i/n": do only the i-th of n parts, from 1; `MergeBatchJob` makes one table of them.
    scheduler : str, optional
        Address of a Dask scheduler whose cluster does the work instead of this machine.
    python : str, optional
        Interpreter of the workers.
    mapping : str, optional
        File to write that says which case is which image; it names patients if the files do.
    """

    kind: ClassVar[str] = "batch"

    inputs: tuple[str, ...]
    folder: str
    model: str = "unet-ct"
    formats: tuple[str, ...] = ("seg.nrrd",)
    references: str | None = None
    label: str | None = None
    device: str = "auto"
    runtime: str = "auto"
    batch_size: int | None = None
    threads: int | None = None
    precision: str = "single"
    threshold: float | None = None
    largest_component: bool | None = None
    fill_holes: str | None = None
    denoise: str | None = None
    allow_mismatch: bool = False
    all_series: bool = False
    min_slices: int = 10
    dry_run: bool = False
    retry_failed: bool = False
    workers: int = 1
    case_timeout: float = 3600.0
    memory_limit: float | None = None
    shard: str | None = None
    scheduler: str | None = None
    python: str | None = None
    mapping: str | None = None

    def execute(self, on_event: OnEvent, cancel: CancelToken) -> dict[str, Any]:
        """Run the batch; see `LiverMarginLib.jobs.run` and `LiverMarginLib.batch.run.run_batch`.

        The result holds ``cases`` (the rows of cases.csv), ``counts`` by status, ``computed``, ``outputs`` and
        ``exit_code``: 0 if every case has a result, 1 otherwise.
        """
        from LiverMarginLib.batch.run import run_batch

        if self.workers < 1:
            raise InputError("The number of workers must be 1 or more.")
        if not self.case_timeout > 0 or (self.memory_limit is not None and not self.memory_limit > 0):
            raise InputError("The time limit and the memory limit must be more than 0.")
        if self.min_slices < 1:
            raise InputError("The least number of slices must be 1 or more.")
        self.part()
        self.segment_job()
        return run_batch(self, on_event, cancel)

    def part(self) -> tuple[int, int] | None:
        """Which shard of how many.

        Raises
        ------
        InputError
            If `shard` is not "i/n" with 1 <= i <= n.
        """
        if self.shard is None:
            return None
        found = re.fullmatch(r"(\d{1,5})/(\d{1,5})", self.shard)
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise InputError(f"The shard {self.shard!r} cannot be used; write it as i/n, such as 2/8.")
        return int(found[1]), int(found[2])

    def segment_job(self) -> SegmentJob:
        """The `SegmentJob` of each case, without its input and outputs."""
        return SegmentJob(input="", outputs=(), **self.deciding_options(), **self._place_options())

    def deciding_options(self) -> dict[str, Any]:
        """Options that change a segmentation."""
        return {name: getattr(self, name) for name in _DECIDING}

    def worker_options(self) -> dict[str, Any]:
        """Fields of the `SegmentJob` that workers run: processors are divided among them."""
        from LiverMarginLib.inference.devices import available_threads

        options = {**self.deciding_options(), **self._place_options()}
        # A folder that was named from here is not found from where the workers are.
        for name in ("model", "denoise"):
            if options[name] is not None and Path(options[name]).is_dir():
                options[name] = str(Path(options[name]).absolute())
        if self.threads is None and self.scheduler is None and self.workers > 1:
            options["threads"] = max(1, available_threads() // self.workers)
        return options

    def _place_options(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _PLACE}


@dataclass(frozen=True)
class MergeBatchJob(Job):
    """Make one table and one summary out of the parts of a batch.

    Parameters
    ----------
    folder : str
        The output folder of all parts.
    """

    kind: ClassVar[str] = "batch-merge"

    folder: str

    def execute(self, on_event: OnEvent, cancel: CancelToken) -> dict[str, Any]:
        """Merge; see `LiverMarginLib.jobs.run`. The result is that of `BatchJob`."""
        from LiverMarginLib.batch.run import merge

        return merge(Path(self.folder))
