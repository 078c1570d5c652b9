"""Segments a volume of the scene in the worker, and shows the slices as they come. Needs no window.

The scene is either given the whole result or left as it was.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from LiverMarginLib import mrml
from LiverMarginLib.errors import GeometryError, InputError, LiverMarginError
from LiverMarginLib.events import Event, Failure, Notice, Progress, Result, SliceReady
from LiverMarginLib.io.volume_writers import write_volume
from LiverMarginLib.jobs.segment import SegmentJob
from LiverMarginLib.terminology import Segment
from LiverMarginLib.volume import Geometry, LabelMap, Modality
from LiverMarginPanels.run_folder import new_run_folder
from LiverMarginPanels.signals import Signal
from LiverMarginPanels.worker_client import Command, Later, WorkerClient

REDRAW_SECONDS = 0.1
_SEGMENTING = "segmenting"


@dataclass(frozen=True)
class SegmentSettings:
    """What a user chooses besides the volume.

    Parameters
    ----------
    model : str
        Folder of a bundle.
    segments : tuple of Segment
        What the model finds, from its manifest.
    name : str
        Of a new segmentation.
    modality : Modality, optional
        None asks the volume.
    device : str
        "auto", "cpu", "cuda" or "mps".
    slices : tuple of int, optional
        First and last axial slice, counted from 0 at the inferior end; None takes all.
    allow_mismatch : bool
        Run although the image is not of the model's kind.
    denoise : str, optional
        Folder of the bundle that cleans the image first.
    """

    model: str
    segments: tuple[Segment, ...]
    name: str
    modality: Modality | None = None
    device: str = "auto"
    slices: tuple[int, int] | None = None
    allow_mismatch: bool = False
    denoise: str | None = None


@dataclass(frozen=True)
class Step:
    """How far a run is.

    Parameters
    ----------
    stage : str
        "starting", "read", "denoising", "segmenting", "post-processing" or "write".
    done, total : int
        Slices while denoising or segmenting.
    remaining : float, optional
        Seconds until all slices are there; None while that cannot be told.
    """

    stage: str
    done: int = 0
    total: int = 0
    remaining: float | None = None


@dataclass(frozen=True)
class Finding:
    """The result of a run: the node, its new segments, and what the worker measured."""

    node: Any
    segment_ids: tuple[str, ...]
    values: dict[str, Any]


@dataclass
class _Run:
    """What one run has put into the scene and onto the disk."""

    volume: Any
    node: Any
    created: bool
    geometry: Geometry
    layers: mrml.SegmentLayers
    folder: Path
    labels: np.ndarray | None = None
    first_slice_at: float | None = None
    first_done: int = 0
    redraw_is_due: bool = False


class SegmentationLogic:
    """Runs one segmentation at a time.

    Parameters
    ----------
    client : WorkerClient
    later : callable
        As for `WorkerClient`; collects redraws.
    clock : callable
        Seconds that only grow.
    temporary : Path, optional
        Where the run's folder is made; None takes the system's place.
    """

    def __init__(
        self,
        client: WorkerClient,
        later: Later,
        clock: Callable[[], float] = time.monotonic,
        temporary: Path | None = None,
    ) -> None:
        self.progressed: Signal[[Step]] = Signal()
        self.slice_shown: Signal[[int]] = Signal()
        """An axial slice was written into the segments."""
        self.noticed: Signal[[str]] = Signal()
        self.succeeded: Signal[[Finding]] = Signal()
        self.failed: Signal[[Failure]] = Signal()
        """The scene is as it was; the kind is ``cancelled`` where the user wanted that."""

        self._client = client
        self._later = later
        self._clock = clock
        self._temporary = temporary
        self._run: _Run | None = None
        client.event.connect(self._hear)
        client.finished.connect(self._finished)

    @property
    def running(self) -> bool:
        """Whether a segmentation runs."""
        return self._run is not None

    def start(self, volume: Any, settings: SegmentSettings, command: Command, output: Any = None) -> None:
        """Start to segment; the signals tell of everything that follows.

        Parameters
        ----------
        volume : vtkMRMLScalarVolumeNode
        settings : SegmentSettings
        command : Command
            How the worker is started.
        output : vtkMRMLSegmentationNode, optional
            An existing segmentation that receives the segments; None makes a new one.

        Raises
        ------
        LiverMarginError
            If volume or output cannot be used; nothing has happened then.
        """
        if self._run is not None:
            raise InputError("A segmentation runs already; cancel it first.")
        image = mrml.volume_from_node(volume, settings.modality)
        folder = new_run_folder(self._temporary)
        node = None
        try:
            # Compressing would hold up the window for seconds.
            path = write_volume(image, folder / "volume.nrrd", compress=False)
            node = mrml.new_segmentation(volume, settings.name) if output is None else output
            layers = mrml.SegmentLayers(node, image.geometry, settings.segments)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            if output is None and node is not None:
                mrml.discard(node)
            raise
        self._run = _Run(volume, node, output is None, image.geometry, layers, folder)
        self.progressed.emit(Step("starting"))
        self._client.start(
            command,
            SegmentJob(
                input=str(path),
                model=settings.model,
                outputs=(),
                modality=None if image.modality is Modality.UNKNOWN else image.modality.value,
                device=settings.device,
                slices=settings.slices,
                allow_mismatch=settings.allow_mismatch,
                denoise=settings.denoise,
                live=str(folder / "labels.raw"),
            ),
        )

    def cancel(self) -> None:
        """Stop the run; `failed` tells when it is over."""
        self._client.cancel()

    def abandon(self) -> None:
        """Stop the run at once and tell nobody: the module is being closed or reloaded."""
        self._client.abandon()
        if self._run is not None:
            self._undo(self._run)
            self._clean()

    def _hear(self, event: Event) -> None:
        run = self._run
        if run is None:
            return
        if run.volume.GetScene() is None or run.node.GetScene() is None:
            self._client.cancel()  # the user closed the scene or deleted a node
        elif isinstance(event, SliceReady):
            self._show(run, event.index)
        elif isinstance(event, Progress):
            self.progressed.emit(self._step(run, event))
        elif isinstance(event, Notice):
            self.noticed.emit(event.message)

    def _show(self, run: _Run, index: int) -> None:
        if run.labels is None:
            run.labels = self._map(run)
        run.layers.show_slice(index, run.labels)
        if not run.redraw_is_due:
            run.redraw_is_due = True
            self._later(REDRAW_SECONDS, lambda: self._redraw(run))
        self.slice_shown.emit(index)

    def _redraw(self, run: _Run) -> None:
        run.redraw_is_due = False
        if run is self._run:
            run.layers.redraw()

    def _step(self, run: _Run, event: Progress) -> Step:
        if event.stage != _SEGMENTING:
            return Step(event.stage, event.done, event.total)
        now = self._clock()
        if run.first_slice_at is None:  # loading the model is over, and must not count for the rest
            run.first_slice_at, run.first_done = now, event.done
            return Step(event.stage, event.done, event.total)
        of_one = (now - run.first_slice_at) / max(1, event.done - run.first_done)
        return Step(event.stage, event.done, event.total, of_one * (event.total - event.done))

    def _map(self, run: _Run) -> np.ndarray:
        return np.memmap(run.folder / "labels.raw", np.uint8, "r", shape=run.geometry.shape)

    def _finished(self, outcome: Result | Failure) -> None:
        run = self._run
        if run is None:
            return
        found: Finding | None = None
        try:
            if isinstance(outcome, Result):
                found = self._take(run, outcome)
        except LiverMarginError as error:
            outcome = Failure(error.kind, error.message, error.details)
        except (OSError, ValueError) as error:
            outcome = Failure("resource", "The result of the worker could not be read; start again.", repr(error))
        finally:
            if found is None:
                self._undo(run)
            self._clean()
        if found is not None:
            self.succeeded.emit(found)
        elif isinstance(outcome, Failure):
            self.failed.emit(outcome)

    def _take(self, run: _Run, result: Result) -> Finding:
        if run.node.GetScene() is None or run.volume.GetScene() is None:
            raise GeometryError("The volume or the segmentation left the scene during the run; start again.")
        labels = self._map(run) if run.labels is None else run.labels
        values = dict(result.values)
        run.layers.finish(LabelMap(labels, run.geometry, run.layers.segments, values.get("provenance", {})))
        return Finding(run.node, run.layers.segment_ids, values)

    def _undo(self, run: _Run) -> None:
        if run.node.GetScene() is None:
            return
        if run.created:
            mrml.discard(run.node)
        else:
            run.layers.remove()

    def _clean(self) -> None:
        run, self._run = self._run, None
        if run is not None:
            run.labels = None  # Windows removes no file that is mapped
            shutil.rmtree(run.folder, ignore_errors=True)
