"""Several models one after another: what each finds is kept, what fails is told, and cancelling stops them all."""

from __future__ import annotations

import numpy as np
import pytest
from LiverMarginPanels.segmentation_logic import SegmentationLogic, SegmentSettings
from LiverMarginPanels.segmentation_queue import SegmentationQueue
from LiverMarginPanels.worker_client import WorkerClient
from slicer_stand_ins import COMMAND, READY, Clock, FakeProcess
from test_mrml import SHAPE, add_volume, example, geometry

from LiverMarginLib import mrml
from LiverMarginLib.errors import GeometryError, InputError
from LiverMarginLib.events import Failure, Progress, Result, SliceReady
from LiverMarginLib.terminology import LIVER
from LiverMarginLib.volume import LabelMap, Modality

pytestmark = pytest.mark.slicer


class Row:
    """A scene with a volume, a queue of models, and the process of each model."""

    def __init__(self, temporary) -> None:
        import slicer

        self.scene = slicer.vtkMRMLScene()
        slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(self.scene)
        self.volume = add_volume(self.scene, geometry("LPS"))
        self.clock, self.temporary = Clock(), temporary
        self.processes: list[FakeProcess] = []
        client = WorkerClient(self._new_process, self.clock.later)
        self.queue = SegmentationQueue(SegmentationLogic(client, self.clock.later, self.clock, temporary))
        self.steps, self.missed, self.ends = [], [], []
        self.queue.progressed.connect(self.steps.append)
        self.queue.missed.connect(self.missed.append)
        self.queue.succeeded.connect(self.ends.append)
        self.queue.failed.connect(self.ends.append)

    def _new_process(self) -> FakeProcess:
        self.processes.append(FakeProcess())
        return self.processes[-1]

    def start(self, *models: str, output=None) -> None:
        settings = [SegmentSettings(name, (LIVER,), f"by {name}", name, Modality.CT) for name in models]
        self.queue.start(self.volume, settings, COMMAND, output)

    def answer(self, value: int) -> None:
        """The present model labels one slice and ends well."""
        process = self.processes[-1]
        live = np.memmap(process.job["live"], np.uint8, "w+", shape=SHAPE)
        live[value] = 1
        process.say(READY, SliceReady(value).to_dict(), Result({"model": process.job["model"]}).to_dict())
        process.ended.emit(0, False)

    def fail(self, kind: str = "bundle") -> None:
        self.processes[-1].say(READY, Failure(kind, "Bad; choose another.", "trace").to_dict())
        self.processes[-1].ended.emit(0, False)


@pytest.fixture
def row(tmp_path) -> Row:
    return Row(tmp_path)


def labelled_slices(node, number: int = 0) -> list[int]:
    ids = [node.GetSegmentation().GetNthSegmentID(number)]
    return np.flatnonzero(mrml.labels_from_node(node, ids).array.any(axis=(1, 2))).tolist()


def test_each_model_gets_a_segmentation_of_its_own(row):
    row.start("a", "b")
    assert [process.job["model"] for process in row.processes] == ["a"]
    row.answer(1)
    assert [process.job["model"] for process in row.processes] == ["a", "b"] and not row.ends and row.queue.running
    row.answer(3)
    (findings,) = row.ends
    assert [finding.node.GetName() for finding in findings] == ["by a", "by b"]
    assert [labelled_slices(finding.node) for finding in findings] == [[1], [3]]
    assert not row.queue.running and not list(row.temporary.iterdir()) and not row.missed


def test_progress_says_which_model_of_how_many_runs(row):
    row.start("a", "b")
    row.processes[-1].say(READY, Progress(1, 5, "segmenting").to_dict())
    assert row.steps[-1].title == "a (1/2)"
    row.answer(1)
    row.processes[-1].say(READY, Progress(1, 5, "segmenting").to_dict())
    assert row.steps[-1].title == "b (2/2)"


def test_a_single_model_is_not_numbered(row):
    row.start("a")
    assert row.steps[-1].title == ""


@pytest.mark.parametrize("order", ["first", "last"])
def test_a_model_that_fails_leaves_the_others_their_results(row, order):
    row.start("a", "b")
    for number, end in enumerate(("fail", "answer") if order == "first" else ("answer", "fail")):
        row.fail() if end == "fail" else row.answer(number)
    ((finding,),) = row.ends
    assert finding.node.GetName() == ("by b" if order == "first" else "by a")
    (missed,) = row.missed
    assert missed.message == f"{'a' if order == 'first' else 'b'}: Bad; choose another." and missed.details == "trace"
    assert row.scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 1


def test_where_all_models_fail_the_scene_is_as_it_was(row):
    row.start("a", "b")
    row.fail()
    row.fail("resource")
    (failure,) = row.ends
    assert failure.kind == "resource" and failure.message.startswith("b: ")
    assert row.scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 0


def test_cancelling_lets_no_model_follow_and_keeps_what_was_found(row):
    row.start("a", "b", "c")
    row.answer(2)
    row.processes[-1].say(READY)
    row.queue.cancel()
    row.processes[-1].ended.emit(0, False)
    assert len(row.processes) == 2 and not row.queue.running
    ((finding,),) = row.ends
    assert finding.node.GetName() == "by a" and [failure.kind for failure in row.missed] == ["cancelled"]


def test_closing_the_scene_stops_all_models(row):
    row.start("a", "b")
    row.scene.Clear(0)
    row.processes[-1].say(READY, Progress(1, 5, "segmenting").to_dict())
    row.processes[-1].ended.emit(0, False)
    assert len(row.processes) == 1 and [end.kind for end in row.ends] == ["cancelled"]


def test_a_volume_that_leaves_the_scene_between_two_models_ends_the_row(row):
    row.start("a", "b")
    row.queue.missed.connect(lambda _: None)
    row.scene.RemoveNode(row.volume)
    row.fail()
    assert len(row.processes) == 1 and not row.queue.running and not list(row.temporary.iterdir())


def test_closing_the_module_ends_the_row_at_once(row):
    row.start("a", "b")
    row.queue.abandon()
    assert row.processes[0].killed and not row.queue.running and not row.ends
    assert row.scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 0


def test_a_second_request_is_refused_while_one_runs(row):
    row.start("a")
    with pytest.raises(InputError, match="cancel"):
        row.start("b")


def test_into_an_existing_segmentation_every_model_adds_segments_that_bear_its_name(row):
    older = mrml.labels_to_node(example(geometry("LPS")), row.volume, "older")
    before = older.GetSegmentation().GetNumberOfSegments()
    row.start("a", "b", output=older)
    row.answer(1)
    row.answer(3)
    segmentation = older.GetSegmentation()
    names = [segmentation.GetNthSegment(n).GetName() for n in range(before, segmentation.GetNumberOfSegments())]
    assert names == ["Liver (a)", "Liver (b)"]
    assert [labelled_slices(older, before), labelled_slices(older, before + 1)] == [[1], [3]]


def test_a_segmentation_on_another_grid_is_refused_as_output_and_an_empty_one_takes_the_volumes(row):
    other = geometry("LPS", (6, 7, 9))
    elsewhere = mrml.labels_to_node(
        LabelMap(np.ones(other.shape, np.uint8), other, (LIVER,)), add_volume(row.scene, other), "elsewhere"
    )
    with pytest.raises(GeometryError, match="another grid"):
        row.start("a", output=elsewhere)
    assert not row.queue.running and not row.processes and not list(row.temporary.iterdir())
    empty = row.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "empty")
    row.start("a", output=empty)
    row.answer(2)
    assert mrml.labels_from_node(empty).geometry.agrees_with(geometry("LPS"))
