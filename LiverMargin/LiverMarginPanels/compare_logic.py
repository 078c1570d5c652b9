"""Compares segmentations of the scene with a reference, slice by slice, in the worker. Needs no window."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from LiverMarginLib import mrml
from LiverMarginLib.errors import InputError
from LiverMarginLib.io.writers import write_labelmap
from LiverMarginLib.jobs.compare import CompareJob
from LiverMarginLib.terminology import LIVER, Segment
from LiverMarginLib.volume import LabelMap, axial_view
from LiverMarginPanels.run_logic import RunLogic
from LiverMarginPanels.worker_client import Command, WorkerClient

SCORES = ("dice", "mask_iou", "boundary_iou", "margin_abs_mm", "margin_beyond_mm", "margin_short_mm")
"""Columns of per_slice.csv that are shown, as docs/metrics.md defines them."""

PATIENT_SCORES = ("dice", "boundary_iou", "hd95_mm", "assd_mm", "rvd")


@dataclass(frozen=True)
class Organ:
    """One segment or label of a node.

    Parameters
    ----------
    key : str
        Segment ID of a segmentation, label value of a label map.
    name : str
    is_liver : bool
        Whether its terminology says so.
    """

    key: str
    name: str
    is_liver: bool = False


@dataclass(frozen=True)
class SliceScore:
    """How one model did in one axial slice; scores that are not defined there are missing."""

    model: str
    index: int
    status: str
    scores: Mapping[str, float]


@dataclass(frozen=True)
class Comparison:
    """What a run found.

    Parameters
    ----------
    slices : tuple of SliceScore
        Worst Boundary IoU first, without slices that neither reference nor prediction touches.
    models : mapping of str to mapping of str to float
        The patient's numbers by model.
    files : tuple of Path
        What was written; empty if no folder was named.
    """

    slices: tuple[SliceScore, ...]
    models: Mapping[str, Mapping[str, float | None]]
    files: tuple[Path, ...]


def organs_of(node: Any) -> list[Organ]:
    """List what a node holds, for the user to choose from.

    Raises
    ------
    LiverMarginError
        If it holds no labels.
    """
    if node.IsA("vtkMRMLSegmentationNode"):
        segmentation = node.GetSegmentation()
        found = []
        for n in range(segmentation.GetNumberOfSegments()):
            described = mrml.describe_segment(segmentation.GetNthSegment(n), n + 1)
            is_liver = described.terminology == LIVER.terminology
            found.append(Organ(segmentation.GetNthSegmentID(n), described.name, is_liver))
        return found
    labels = mrml.labels_from_node(node)
    names = {segment.label: segment.name for segment in labels.segments}
    values = (int(value) for value in np.unique(labels.array) if value)
    return [Organ(str(value), names.get(value, str(value))) for value in values]


def counterpart(node: Any, name: str) -> Organ:
    """Find in a prediction what is called like the reference's organ, or else the liver, or else the only one.

    Raises
    ------
    InputError
        If none of these decides.
    """
    organs = organs_of(node)
    for fits in (
        [organ for organ in organs if organ.name.lower() == name.lower()],
        [organ for organ in organs if organ.is_liver],
        organs,
    ):
        if len(fits) == 1:
            return fits[0]
    raise InputError(f"{node.GetName()!r} has no single segment {name!r}; name the segment to compare like that.")


def organ_labels(node: Any, organ: Organ) -> LabelMap:
    """Take one organ out of the scene, as label 1."""
    if node.IsA("vtkMRMLSegmentationNode"):
        return mrml.labels_from_node(node, [organ.key])
    labels = mrml.labels_from_node(node)
    mask = labels.mask(int(organ.key)).astype(np.uint8)
    return replace(labels, array=mask, segments=(Segment(1, organ.name, LIVER.colour),))


class CompareLogic(RunLogic[Comparison]):
    """Runs one comparison at a time; see `RunLogic`."""

    def __init__(self, client: WorkerClient, temporary: Path | None = None) -> None:
        super().__init__(client, temporary)
        self._kept: Path | None = None
        self._reference: LabelMap | None = None

    def start(
        self, reference: Any, organ: Organ, predictions: list[Any], command: Command, keep: Path | None = None
    ) -> None:
        """Start to compare; the signals tell of everything that follows.

        Parameters
        ----------
        reference : vtkMRMLSegmentationNode or vtkMRMLLabelMapVolumeNode
        organ : Organ
            Which part of it.
        predictions : list of vtkMRMLSegmentationNode or vtkMRMLLabelMapVolumeNode
            Of each, the `counterpart` of `organ` is taken.
        command : Command
            How the worker is started.
        keep : Path, optional
            Folder that receives tables and pictures.

        Raises
        ------
        LiverMarginError
            If something cannot be compared; nothing has happened then.
        """
        with self._preparing() as folder:
            if not predictions:
                raise InputError("There is nothing to compare with the reference; tick at least one segmentation.")
            files = {}
            for number, (name, node) in enumerate(_named(predictions).items()):
                labels = organ_labels(node, counterpart(node, organ.name))
                files[name] = str(write_labelmap(labels, folder / f"{number}.seg.nrrd")[0])
            truth = organ_labels(reference, organ)
            write_labelmap(truth, folder / "reference.seg.nrrd")
            self._kept, self._reference = keep, truth
            job = CompareJob(
                str(folder / "reference.seg.nrrd"), files, str(folder / "tables" if keep is None else keep)
            )
            self._client.start(command, job)

    def place_of(self, index: int) -> tuple[float, float, float]:
        """Where to look in an axial slice of the last comparison: RAS mm of the middle of the reference in it."""
        if self._reference is None:
            raise InputError("Nothing was compared yet; compare first.")
        view = axial_view(self._reference.geometry)
        plane = view.to_view(self._reference.array)[index]
        rows, columns = np.nonzero(plane) if plane.any() else np.indices(plane.shape)
        r, a, s, _one = view.geometry.ijk_to_ras @ (columns.mean(), rows.mean(), index, 1)
        return float(r), float(a), float(s)

    def _take(self, values: Mapping[str, Any]) -> Comparison:
        if values["failed"]:
            raise ValueError(values["failed"][0]["message"])
        with (Path(values["folder"]) / "per_slice.csv").open(newline="", encoding="utf-8") as stream:
            slices = [_slice_score(row) for row in csv.DictReader(stream) if row["status"] != "neither"]
        slices.sort(key=lambda row: (row.scores.get("boundary_iou", 0.0), row.index))
        models = {
            name: {score: numbers.get(score) for score in PATIENT_SCORES} for name, numbers in values["models"].items()
        }
        files = () if self._kept is None else tuple(Path(path) for path in values["outputs"])
        return Comparison(tuple(slices), models, files)


def _slice_score(row: Mapping[str, str]) -> SliceScore:
    scores = {name: float(row[name]) for name in SCORES if row[name]}
    return SliceScore(row["model"].removeprefix("'"), int(row["index"]), row["status"], scores)


def _named(nodes: list[Any]) -> dict[str, Any]:
    """Nodes by name; the second of a name gets a number."""
    named: dict[str, Any] = {}
    for node in nodes:
        name, number = node.GetName(), 2
        while name in named:
            name, number = f"{node.GetName()} ({number})", number + 1
        named[name] = node
    return named
