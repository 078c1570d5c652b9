"""Writes a segmentation of the scene in any number of formats, in the worker. Needs no window."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from LiverMarginLib import mrml
from LiverMarginLib.errors import LiverMarginError
from LiverMarginLib.events import Failure, Result
from LiverMarginLib.io.volume_writers import write_volume
from LiverMarginLib.io.writers import check_output, check_place, write_labelmap
from LiverMarginLib.jobs.compare import CompareJob
from LiverMarginLib.jobs.export import KITTI, ExportJob
from LiverMarginLib.volume import Modality
from LiverMarginPanels.file_names import check_file_name
from LiverMarginPanels.organ_choice import Organ, needed_counterpart, organ_labels
from LiverMarginPanels.run_logic import RunLogic
from LiverMarginPanels.slicer_dicom_seg import export_by_plugin
from LiverMarginPanels.worker_client import Command, WorkerClient

DICOM = ".dcm"
REPORT = ".html"

DicomExporter = Callable[[Any, Path], Path]


@dataclass(frozen=True)
class ExportSettings:
    """What a user chooses.

    Parameters
    ----------
    folder : Path
    name : str
        Of the files, without suffix.
    suffixes : tuple of str
        Formats: those of `LiverMarginLib.io.writers.formats`, `KITTI`, and `REPORT` of a comparison.
    source : Path, optional
        Folder of the DICOM series that was segmented, which a DICOM SEG refers to.
    by_slicer : bool
        Whether 3D Slicer itself knows the series and is to write the DICOM SEG.
    reference : tuple of node and Organ, optional
        What the report compares with.
    """

    folder: Path
    name: str
    suffixes: tuple[str, ...]
    source: Path | None = None
    by_slicer: bool = False
    reference: tuple[Any, Organ] | None = None

    def outputs(self) -> list[Path]:
        """The files as they are asked for; surfaces add the segments' names where there are several.

        Raises
        ------
        InputError
            If the name is none.
        """
        check_file_name(self.name)
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
    """Runs one export at a time; see `RunLogic`. Files that are complete stay when it is cancelled.

    Parameters
    ----------
    client, temporary
        See `RunLogic`.
    export_dicom : callable
        Writes a DICOM SEG by 3D Slicer itself; where it raises, the worker writes it.
    """

    def __init__(
        self, client: WorkerClient, temporary: Path | None = None, export_dicom: DicomExporter = export_by_plugin
    ) -> None:
        super().__init__(client, temporary)
        self._export_dicom = export_dicom
        self._written: list[Path] = []
        self._report: tuple[Path, CompareJob] | None = None
        self._command: Command | None = None

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
            self._written, self._report, self._command = [], None, command
            outputs = settings.outputs()
            for output in outputs:
                if output.name.endswith((KITTI, REPORT)):
                    check_place(output)
                elif not (output.suffix == DICOM and settings.by_slicer):
                    check_output(output, source=settings.source)
            labels = mrml.labels_from_node(node, segments)
            for note in labels.provenance.get("notes", ()):
                self.noticed.emit(note)
            write_labelmap(labels, folder / "labels.seg.nrrd")
            image, modality = None, Modality.UNKNOWN
            if {KITTI, REPORT} & set(settings.suffixes):
                image, modality = self._write_image(node, folder)
            reports = [output for output in outputs if output.name.endswith(REPORT)]
            if reports and settings.reference is not None:
                self._report = reports[0], _report_job(node, *settings.reference, folder, image)
            by_worker = [
                output
                for output in outputs
                if output not in reports and not self._written_by_slicer(node, output, settings)
            ]
            self._client.start(
                command,
                ExportJob(
                    str(folder / "labels.seg.nrrd"),
                    tuple(str(output) for output in by_worker),
                    source=None if settings.source is None else str(settings.source),
                    image=image,
                    modality=None if modality is Modality.UNKNOWN else modality.value,
                ),
            )

    def _written_by_slicer(self, node: Any, output: Path, settings: ExportSettings) -> bool:
        """Try the application's own way to a DICOM SEG; say so where the worker has to do it."""
        if output.suffix != DICOM or not settings.by_slicer:
            return False
        try:
            self._written.append(self._export_dicom(node, output))
        except Exception as error:  # a plugin of the application raises anything
            check_output(output, source=settings.source)
            reason = error.message if isinstance(error, LiverMarginError) else type(error).__name__
            self.noticed.emit(f"The DICOM SEG is written by LiverMargin itself: {reason}")
            return False
        return True

    def _write_image(self, node: Any, folder: Path) -> tuple[str | None, Modality]:
        """Write the volume that was segmented, if it is still in the scene."""
        volume = node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole())
        if volume is None:
            return None, Modality.UNKNOWN
        image = mrml.volume_from_node(volume)
        return str(write_volume(image, folder / "image.nrrd", compress=False)), image.modality

    def _go_on(self, values: Mapping[str, Any]) -> bool:
        """After the export comes the comparison of the report."""
        if self._report is None:
            return False
        path, job = self._report
        if "folder" in values:  # this was the comparison
            _move(Path(values["folder"]) / "report.html", path)
            self._written.append(path)
            self._report = None
            return False
        self._written += [Path(output) for output in values["outputs"]]
        assert self._command is not None
        self._client.start(self._command, job)
        return True

    def _finished(self, outcome: Result | Failure) -> None:
        if isinstance(outcome, Failure) and self._written:  # what is there is told all the same
            self.noticed.emit(outcome.message)
            self._report, outcome = None, Result({"outputs": ()})
        super()._finished(outcome)

    def _take(self, values: Mapping[str, Any]) -> list[Path]:
        outputs = [] if "folder" in values else [Path(output) for output in values["outputs"]]
        return [*self._written, *outputs]


def _report_job(node: Any, reference: Any, organ: Organ, folder: Path, image: str | None) -> CompareJob:
    """The comparison of a segmentation with a reference, whose page is the report."""
    labels = organ_labels(node, needed_counterpart(node, organ.name))
    prediction = write_labelmap(labels, folder / "prediction.seg.nrrd")[0]
    truth = write_labelmap(organ_labels(reference, organ), folder / "reference.seg.nrrd")[0]
    return CompareJob(str(truth), {node.GetName(): str(prediction)}, str(folder / "comparison"), image=image)


def _move(source: Path, target: Path) -> None:
    """Move a file between disks so that it appears complete or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}.part")
    shutil.copyfile(source, beside)
    beside.replace(target)
