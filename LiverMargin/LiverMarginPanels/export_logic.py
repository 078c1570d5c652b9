"""Writes a segmentation of the scene in any number of formats, in the worker. Needs no window."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from LiverMarginLib import mrml
from LiverMarginLib.errors import InputError
from LiverMarginLib.events import Event, Failure, Notice, Progress, Result
from LiverMarginLib.io.writers import check_output, write_labelmap
from LiverMarginLib.jobs.export import ExportJob
from LiverMarginPanels.run_folder import new_run_folder
from LiverMarginPanels.signals import Signal
from LiverMarginPanels.worker_client import Command, WorkerClient


@dataclass(frozen=True)
class ExportSettings:
    """What a user chooses.

    Parameters
    ----------
    folder : Path
    name : str
        Of the files, without suffix.
    suffixes : tuple of str
        Formats, as in `LiverMarginLib.io.writers.formats`.
    source : Path, optional
        Folder of the DICOM series that was segmented, which a DICOM SEG refers to.
    """

    folder: Path
    name: str
    suffixes: tuple[str, ...]
    source: Path | None = None

    def outputs(self) -> list[Path]:
        """The files as they are asked for; surfaces add the segments' names where there are several.

        Raises
        ------
        InputError
            If nothing is chosen, or the name is none.
        """
        if not self.suffixes:
            raise InputError("No format is chosen; tick at least one.")
        if not self.name.strip(" .") or Path(self.name).name != self.name or "\\" in self.name:
            raise InputError(f"The name {self.name!r} cannot be that of a file; use letters and digits.")
        return [self.folder / f"{self.name}{suffix}" for suffix in self.suffixes]

    def in_the_way(self) -> list[Path]:
        """Existing files that would be, or might be, replaced."""
        if not self.folder.is_dir():
            return []
        names = tuple(path.name for path in self.outputs())
        surfaces = tuple(suffix for suffix in self.suffixes if suffix in (".stl", ".obj", ".ply"))
        return sorted(
            path
            for path in self.folder.iterdir()
            if path.name in names or (path.name.startswith(f"{self.name}_") and path.name.endswith(surfaces or ("\0",)))
        )


class ExportLogic:
    """Runs one export at a time.

    Parameters
    ----------
    client : WorkerClient
    temporary : Path, optional
        Where the run's folder is made; None takes the system's place.
    """

    def __init__(self, client: WorkerClient, temporary: Path | None = None) -> None:
        self.progressed: Signal[[Progress]] = Signal()
        self.noticed: Signal[[str]] = Signal()
        self.written: Signal[[list[Path]]] = Signal()
        self.failed: Signal[[Failure]] = Signal()
        self._client = client
        self._temporary = temporary
        self._folder: Path | None = None
        client.event.connect(self._hear)
        client.finished.connect(self._finished)

    @property
    def running(self) -> bool:
        """Whether an export runs."""
        return self._folder is not None

    def start(
        self, node: Any, settings: ExportSettings, command: Command, segments: Sequence[str] | None = None
    ) -> None:
        """Start to write; the signals tell of everything that follows.

        Parameters
        ----------
        node : vtkMRMLSegmentationNode
        settings : ExportSettings
        command : Command
            How the worker is started.
        segments : sequence of str, optional
            Segment IDs; None takes all.

        Raises
        ------
        LiverMarginError
            If something cannot be written; nothing has happened then.
        """
        if self._folder is not None:
            raise InputError("An export runs already; cancel it first.")
        outputs = settings.outputs()
        for output in outputs:
            check_output(output, source=settings.source)
        labels = mrml.labels_from_node(node, segments)
        folder = new_run_folder(self._temporary)
        try:
            write_labelmap(labels, folder / "labels.seg.nrrd")
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        self._folder = folder
        for note in labels.provenance.get("notes", ()):
            self.noticed.emit(note)
        self._client.start(
            command,
            ExportJob(
                str(folder / "labels.seg.nrrd"),
                tuple(str(output) for output in outputs),
                source=None if settings.source is None else str(settings.source),
            ),
        )

    def cancel(self) -> None:
        """Stop the run; files that are complete stay."""
        self._client.cancel()

    def abandon(self) -> None:
        """Stop the run at once and tell nobody."""
        self._client.abandon()
        self._clean()

    def _hear(self, event: Event) -> None:
        if isinstance(event, Progress):
            self.progressed.emit(event)
        elif isinstance(event, Notice):
            self.noticed.emit(event.message)

    def _finished(self, outcome: Result | Failure) -> None:
        self._clean()
        if isinstance(outcome, Failure):
            self.failed.emit(outcome)
        else:
            self.written.emit([Path(path) for path in outcome.values.get("outputs", ())])

    def _clean(self) -> None:
        folder, self._folder = self._folder, None
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
