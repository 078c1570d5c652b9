"""Compares segmentations of the scene with a reference, slice by slice, in the worker. Needs no window."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from LiverMarginLib import mrml
from LiverMarginLib.errors import InputError, LiverMarginError, ResourceError
from LiverMarginLib.io.volume_writers import write_volume
from LiverMarginLib.jobs.compare import SURFACES, CompareJob
from LiverMarginLib.volume import LabelMap, Volume
from LiverMarginPanels.compare_result import Comparison, read_models, read_slices
from LiverMarginPanels.label_box import cropped
from LiverMarginPanels.organ_choice import Organ, organ_labels
from LiverMarginPanels.run_logic import RunLogic
from LiverMarginPanels.slice_navigation import SlicePlaces
from LiverMarginPanels.worker_client import Command, WorkerClient

# The job's name of a single patient; nothing else of the patient gets into a file's name.
_CASE = "case"


@dataclass(frozen=True)
class Compared:
    """A node and which part of it is compared.

    Parameters
    ----------
    node : vtkMRMLSegmentationNode, vtkMRMLLabelMapVolumeNode or vtkMRMLScalarVolumeNode
    organ : Organ
    """

    node: Any
    organ: Organ


class CompareLogic(RunLogic[Comparison]):
    """Runs one comparison at a time; see `RunLogic`."""

    def __init__(self, client: WorkerClient, temporary: Path | None = None) -> None:
        super().__init__(client, temporary)
        self._results: Path | None = None
        self._kept = False
        self._masks: dict[str, LabelMap] = {}
        self._places: SlicePlaces | None = None

    def start(
        self,
        reference: Compared,
        predictions: Sequence[Compared],
        command: Command,
        image: Any = None,
        keep: Path | None = None,
    ) -> None:
        """Start to compare; the signals tell of everything that follows.

        Parameters
        ----------
        reference : Compared
        predictions : sequence of Compared
        command : Command
            How the worker is started.
        image : vtkMRMLScalarVolumeNode, optional
            The CT or MR for the pictures of the report.
        keep : Path, optional
            Folder that receives tables, report and pictures; without one they go with the next run.

        Raises
        ------
        LiverMarginError
            If something cannot be compared; nothing has happened then.
        """
        with self._preparing() as folder:
            self.forget()
            if not predictions:
                raise InputError("There is nothing to compare with the reference; tick at least one segmentation.")
            truth = organ_labels(reference.node, reference.organ)
            if not truth.array.any():
                raise InputError(f"{reference.organ.name!r} of the reference is empty; choose another.")
            files = {"": _write(truth, folder / "reference.nrrd")}
            self._places = SlicePlaces(truth)
            self._masks = {"": cropped(truth)}
            for number, (name, compared) in enumerate(_named(predictions).items()):
                labels = organ_labels(compared.node, compared.organ)
                files[name] = _write(labels, folder / f"{number}.nrrd")
                self._masks[name] = cropped(labels)
            background = None if image is None else self._write_image(image, folder / "image.nrrd")
            self._kept = keep is not None
            self._results = _new_folder(self._temporary) if keep is None else keep
            job = CompareJob(
                reference=files.pop(""),
                predictions=files,
                folder=str(self._results),
                label="1",
                prediction_label="1",
                image=background,
                surfaces=True,
            )
            self._client.start(command, job, disposable=not self._kept)

    def forget(self) -> None:
        """Drop what is known of the last comparison, with its folder if that is not the user's."""
        results, self._results = self._results, None
        if results is not None and not self._kept:
            shutil.rmtree(results, ignore_errors=True)
        self._masks, self._places = {}, None

    def abandon(self) -> None:
        """Stop the run at once and tell nobody, and leave nothing on the disk that the user did not ask for."""
        super().abandon()
        self.forget()

    def _write_image(self, node: Any, path: Path) -> str | None:
        try:
            return str(write_volume(mrml.volume_from_node(node), path, compress=False))
        except LiverMarginError as error:
            self.noticed.emit(f"The contours are drawn without the image: {error.message}")
            return None

    def _undo(self) -> None:
        self.forget()

    def _take(self, values: Mapping[str, Any]) -> Comparison:
        if values["failed"]:
            raise InputError(values["failed"][0]["message"])
        if self._results is None or self._places is None:
            raise ValueError("the comparison was forgotten")
        models = read_models(values)
        return Comparison(
            slices=read_slices(self._results),
            models=models,
            places=self._places,
            reference=self._masks[""],
            predictions={name: mask for name, mask in self._masks.items() if name},
            folder=self._results,
            kept=self._kept,
            surfaces=_surfaces(self._results, models),
            outputs=tuple(Path(path) for path in values["outputs"]),
        )


def _surfaces(results: Path, models: Mapping[str, Any]) -> dict[str, Path]:
    from LiverMarginLib.report.pictures import surface_path

    paths = {name: surface_path(results / SURFACES, _CASE, name) for name in models}
    return {name: path for name, path in paths.items() if path.is_file()}


def _write(labels: LabelMap, path: Path) -> str:
    """Write a mask; compressing would hold up the window for seconds."""
    return str(write_volume(Volume(labels.array, labels.geometry), path, compress=False))


def _new_folder(parent: Path | None) -> Path:
    try:
        return Path(tempfile.mkdtemp(prefix="LiverMargin-results-", dir=parent))
    except OSError as error:
        raise ResourceError(
            "No temporary folder can be made; free some space on the disk, or check its permissions.", repr(error)
        ) from error


def _named(predictions: Sequence[Compared]) -> dict[str, Compared]:
    """What is compared by the name of its node; the second of a name gets a number."""
    named: dict[str, Compared] = {}
    for compared in predictions:
        name, number = compared.node.GetName(), 2
        while name in named:
            name, number = f"{compared.node.GetName()} ({number})", number + 1
        named[name] = compared
    return named
