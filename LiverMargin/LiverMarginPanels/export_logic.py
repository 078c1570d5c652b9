"""Writes a segmentation of the scene in any number of formats, in the worker. Needs no window."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from LiverMarginLib import mrml
from LiverMarginLib.errors import InputError
from LiverMarginLib.io.writers import check_output, write_labelmap
from LiverMarginLib.jobs.export import ExportJob
from LiverMarginPanels.run_logic import RunLogic
from LiverMarginPanels.worker_client import Command


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


class ExportLogic(RunLogic[list[Path]]):
    """Runs one export at a time; see `RunLogic`. Files that are complete stay when it is cancelled."""

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
        with self._preparing() as folder:
            outputs = settings.outputs()
            for output in outputs:
                check_output(output, source=settings.source)
            labels = mrml.labels_from_node(node, segments)
            write_labelmap(labels, folder / "labels.seg.nrrd")
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

    def _take(self, values: Mapping[str, Any]) -> list[Path]:
        return [Path(path) for path in values.get("outputs", ())]
