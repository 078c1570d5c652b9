"""Segments a volume of the scene in the worker, and shows the slices as they come. Needs no window.

The scene is either given the whole result or left as it was.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from LiverMarginLib import mrml
from LiverMarginLib.errors import GeometryError, InputError
from LiverMarginLib.events import Event, SliceReady
from LiverMarginLib.io.volume_writers import write_volume
from LiverMarginLib.jobs.segment import SegmentJob
from LiverMarginLib.terminology import Segment
from LiverMarginLib.volume import Geometry, LabelMap, Modality
from LiverMarginPanels.run_logic import RunLogic, Step
from LiverMarginPanels.signals import Signal
from LiverMarginPanels.worker_client import Command, Later, WorkerClient

REDRAW_SECONDS = 0.1


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
    title : str
        Of the model: it tells the segments that are added to an existing segmentation from those of other models.
    modality : Modality, optional
        None asks the volume.
    device : str
        "auto", "cpu", "cuda" or "mps".
    precision : str
        "single" or "half".
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
    title: str
    modality: Modality | None = None
    device: str = "auto"
    precision: str = "single"
    slices: tuple[int, int] | None = None
    allow_mismatch: bool = False
    denoise: str | None = None


@dataclass(frozen=True)
class Finding:
    """The result of a run: the node, its new segments, and what the worker measured."""

    node: Any
    segment_ids: tuple[str, ...]
    values: dict[str, Any]


@dataclass
class _Run:
    """What one run has put into the scene."""

    volume: Any
    node: Any
    created: bool
    geometry: Geometry
    layers: mrml.SegmentLayers
    live: Path
    labels: np.ndarray | None = None
    redraw_is_due: bool = False


class SegmentationLogic(RunLogic[Finding]):
    """Runs one segmentation at a time.

    Parameters
    ----------
    client : WorkerClient
    later : callable
        As for `WorkerClient`; collects redraws.
    clock, temporary
        See `RunLogic`.
    """

    def __init__(
        self,
        client: WorkerClient,
        later: Later,
        clock: Callable[[], float] = time.monotonic,
        temporary: Path | None = None,
    ) -> None:
        super().__init__(client, temporary, clock)
        self.slice_shown: Signal[[int]] = Signal()
        """An axial slice was written into the segments."""

        self._later = later
        self._run: _Run | None = None

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
        with self._preparing() as folder:
            if volume.GetScene() is None:
                raise InputError("The volume has left the scene; choose another.")
            image = mrml.volume_from_node(volume, settings.modality)
            # Compressing would hold up the window for seconds.
            path = write_volume(image, folder / "volume.nrrd", compress=False)
            self._run = self._new_run(volume, image.geometry, settings, output, folder / "labels.raw")
            self.progressed.emit(Step("starting"))
            self._client.start(
                command,
                SegmentJob(
                    input=str(path),
                    model=settings.model,
                    outputs=(),
                    modality=None if image.modality is Modality.UNKNOWN else image.modality.value,
                    device=settings.device,
                    precision=settings.precision,
                    slices=settings.slices,
                    allow_mismatch=settings.allow_mismatch,
                    denoise=settings.denoise,
                    live=str(folder / "labels.raw"),
                ),
                disposable=True,
            )

    def _new_run(self, volume: Any, geometry: Geometry, settings: SegmentSettings, output: Any, live: Path) -> _Run:
        """Add the empty segments to the scene."""
        segments = settings.segments
        if output is not None:
            mrml.check_output(output, volume)
            segments = tuple(replace(segment, name=f"{segment.name} ({settings.title})") for segment in segments)
        node = mrml.new_segmentation(volume, settings.name) if output is None else output
        try:
            layers = mrml.SegmentLayers(node, geometry, segments)
        except BaseException:
            if output is None:
                mrml.discard(node)
            raise
        return _Run(volume, node, output is None, geometry, layers, live)

    def _heard(self, event: Event) -> None:
        run = self._run
        if run is not None and (run.volume.GetScene() is None or run.node.GetScene() is None):
            self._client.cancel()  # the user closed the scene or deleted a node
        else:
            super()._heard(event)

    def _hear(self, event: Event) -> None:
        if self._run is not None and isinstance(event, SliceReady):
            self._show(self._run, event.index)

    def _show(self, run: _Run, index: int) -> None:
        if run.labels is None:
            run.labels = _map(run)
        run.layers.show_slice(index, run.labels)
        if not run.redraw_is_due:
            run.redraw_is_due = True
            self._later(REDRAW_SECONDS, lambda: self._redraw(run))
        self.slice_shown.emit(index)

    def _redraw(self, run: _Run) -> None:
        run.redraw_is_due = False
        if run is self._run:
            run.layers.redraw()

    def _take(self, values: Mapping[str, Any]) -> Finding:
        run = self._run
        if run is None or run.node.GetScene() is None or run.volume.GetScene() is None:
            raise GeometryError("The volume or the segmentation left the scene during the run; start again.")
        labels = _map(run) if run.labels is None else run.labels
        run.layers.finish(LabelMap(labels, run.geometry, run.layers.segments, values.get("provenance", {})))
        return Finding(run.node, run.layers.segment_ids, dict(values))

    def _undo(self) -> None:
        run = self._run
        if run is None or run.node.GetScene() is None:
            return
        if run.created:
            mrml.discard(run.node)
        else:
            run.layers.remove()

    def _clean(self) -> None:
        run, self._run = self._run, None
        if run is not None:
            run.labels = None  # Windows removes no file that is mapped
        super()._clean()


def _map(run: _Run) -> np.ndarray:
    """The labels that the worker writes, as they are now."""
    return np.memmap(run.live, np.uint8, "r", shape=run.geometry.shape)
