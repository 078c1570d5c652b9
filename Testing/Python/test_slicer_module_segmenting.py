"""The logic behind the Segment panel: scene in, worker, scene out; with a stand-in worker and with the real one."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from conftest import REPOSITORY
from LiverMarginPanels.run_logic import Step
from LiverMarginPanels.segmentation_logic import SegmentationLogic, SegmentSettings
from LiverMarginPanels.worker_client import Command, WorkerClient
from slicer_stand_ins import COMMAND, READY, Clock, FakeProcess, RealProcess
from test_mrml import SHAPE, add_volume, example, geometry

from LiverMarginLib import mrml
from LiverMarginLib.errors import GeometryError, InputError, ResourceError
from LiverMarginLib.events import Failure, Notice, Progress, Result, SliceReady
from LiverMarginLib.io.readers import read_volume
from LiverMarginLib.terminology import LIVER, LIVER_MASS
from LiverMarginLib.volume import Geometry, Modality, axial_view

pytestmark = pytest.mark.slicer

SETTINGS = SegmentSettings("a model", (LIVER, LIVER_MASS), "result", "m", Modality.CT, slices=(1, 3))


class Room:
    """A scene with a volume, the logic, a stand-in worker, and what the logic told."""

    def __init__(self, temporary, orientation="LPS") -> None:
        import slicer

        self.scene = slicer.vtkMRMLScene()
        slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(self.scene)  # there from the start, as in Slicer
        self.volume = add_volume(self.scene, geometry(orientation))
        self.clock, self.temporary = Clock(), temporary
        self.process = FakeProcess()
        client = WorkerClient(lambda: self.process, self.clock.later)
        self.logic = SegmentationLogic(client, self.clock.later, self.clock, temporary)
        self.steps, self.notices, self.findings, self.failures, self.slices = [], [], [], [], []
        self.logic.progressed.connect(self.steps.append)
        self.logic.noticed.connect(self.notices.append)
        self.logic.succeeded.connect(self.findings.append)
        self.logic.failed.connect(self.failures.append)
        self.logic.slice_shown.connect(self.slices.append)

    def nodes(self) -> list[str]:
        return sorted(self.scene.GetNthNode(n).GetID() for n in range(self.scene.GetNumberOfNodes()))

    def left_behind(self) -> list:
        return list(self.temporary.iterdir())

    def start(self, **kwargs) -> None:
        self.logic.start(self.volume, SETTINGS, COMMAND, **kwargs)
        self.process.say(READY)

    def grow(self, labels: np.ndarray) -> np.ndarray:
        """Make the live file as the worker does."""
        live = np.memmap(self.process.job["live"], np.uint8, "w+", shape=labels.shape)
        live[:] = labels
        return live


@pytest.fixture
def room(tmp_path) -> Room:
    return Room(tmp_path)


def test_the_volume_is_handed_over_as_it_is_and_the_job_says_what_was_chosen(room):
    room.start()
    job = room.process.job
    assert (job["job"], job["model"], job["modality"], job["slices"]) == ("segment", "a model", "CT", [1, 3])
    handed = read_volume(job["input"])
    np.testing.assert_array_equal(handed.array, mrml.volume_from_node(room.volume).array)
    assert handed.geometry.agrees_with(geometry("LPS"), 1e-4)


@pytest.mark.parametrize("orientation", ["LPS", "coronal", "oblique"])
def test_slices_appear_while_the_worker_works_and_the_result_is_exact(tmp_path, orientation):
    room = Room(tmp_path, orientation)
    room.start()
    labels = example(geometry(orientation)).array
    live = room.grow(labels)
    room.process.say(Progress(1, 3, "segmenting").to_dict(), SliceReady(1).to_dict())
    node = room.scene.GetFirstNodeByName("result")
    seen = axial_view(geometry(orientation)).to_view(mrml.labels_from_node(node).array)
    np.testing.assert_array_equal(seen[1], axial_view(geometry(orientation)).to_view(labels)[1])
    assert not seen[2].any()
    assert room.slices == [1]

    live[0] = 0  # post-processing
    room.process.say(Result({"provenance": {"model": {"name": "m"}}, "device": "cpu"}).to_dict())
    room.process.ended.emit(0, False)
    (finding,) = room.findings
    np.testing.assert_array_equal(mrml.labels_from_node(finding.node).array, live)
    assert finding.values["device"] == "cpu" and not room.failures
    assert not room.left_behind() and not room.logic.running


def test_remaining_time_counts_slices_and_not_the_loading_of_the_model(room):
    room.start()
    room.clock.pass_by(50)
    room.process.say(Progress(1, 11, "segmenting").to_dict())
    assert room.steps[-1] == Step("segmenting", 1, 11, None)
    room.clock.pass_by(4)
    room.process.say(Progress(3, 11, "segmenting").to_dict())
    assert room.steps[-1] == Step("segmenting", 3, 11, pytest.approx(16))


def test_no_time_is_told_for_what_follows_a_finished_stage(room):
    room.start()
    room.clock.pass_by(3)
    room.process.say(Progress(1, 1, "read").to_dict())
    assert room.steps[-1] == Step("read", 1, 1, None)


def test_redraws_are_collected(room):
    room.start()
    room.grow(np.ones(SHAPE, np.uint8))
    drawn = []
    node = room.scene.GetFirstNodeByName("result")
    node.GetDisplayNode().AddObserver("ModifiedEvent", lambda *_: drawn.append(1))
    room.process.say(*[SliceReady(n).to_dict() for n in range(5)])
    assert not drawn
    room.clock.pass_by(0.2)
    assert len(drawn) == 1


def ways_to_fail():
    return {
        "cancelled": lambda room: (room.logic.cancel(), room.process.ended.emit(0, False)),
        "crash": lambda room: room.process.ended.emit(11, True),
        "garbage": lambda room: (room.process.output.emit(b"\x00nonsense\n"), room.process.ended.emit(0, False)),
        "error": lambda room: (
            room.process.say(Failure("bundle", "Bad; choose another.").to_dict()),
            room.process.ended.emit(0, False),
        ),
        "killed": lambda room: (room.logic.cancel(), room.clock.pass_by(100)),
        "never started": lambda room: room.process.not_started.emit("no"),
        "result without labels": lambda room: (
            _remove(room.process.job["live"]),
            room.process.say(Result({}).to_dict()),
            room.process.ended.emit(0, False),
        ),
    }


def _remove(path) -> None:
    from pathlib import Path

    Path(path).unlink(missing_ok=True)


@pytest.mark.parametrize("way", ways_to_fail())
@pytest.mark.parametrize("existing", [False, True])
def test_a_run_that_fails_leaves_the_scene_as_it_was_and_no_folder(room, way, existing):
    older = mrml.labels_to_node(example(geometry("LPS")), room.volume, "older") if existing else None
    before, contents = room.nodes(), older and mrml.labels_from_node(older).array
    room.start(output=older)
    assert room.left_behind()
    if way != "result without labels":
        room.grow(np.ones(SHAPE, np.uint8))
        room.process.say(SliceReady(0).to_dict())
    ways_to_fail()[way](room)
    assert len(room.failures) == 1 and not room.findings
    assert room.nodes() == before
    if existing:
        np.testing.assert_array_equal(mrml.labels_from_node(older).array, contents)
    assert not room.left_behind() and not room.logic.running


def test_a_scene_that_is_closed_during_the_run_cancels_it(room):
    room.start()
    room.grow(np.ones(SHAPE, np.uint8))
    room.scene.Clear(0)
    room.process.say(SliceReady(0).to_dict())
    assert room.process.closed
    room.process.ended.emit(0, False)
    assert [failure.kind for failure in room.failures] == ["cancelled"]
    assert not room.left_behind()


def test_a_scene_that_is_closed_with_the_last_event_gets_no_result(room):
    room.start()
    room.grow(np.ones(SHAPE, np.uint8))
    room.process.say(Result({}).to_dict())
    room.scene.Clear(0)
    room.process.ended.emit(0, False)
    assert [failure.kind for failure in room.failures] == ["geometry"] and not room.left_behind()


def test_what_cannot_be_used_is_refused_before_anything_happens(room):
    transform = room.scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    moved = room.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "moved")
    moved.SetAndObserveTransformNodeID(transform.GetID())
    before = room.nodes()
    with pytest.raises(GeometryError):
        room.start(output=moved)
    room.volume.SetAndObserveTransformNodeID(transform.GetID())
    with pytest.raises(GeometryError):
        room.start()
    room.volume.SetAndObserveTransformNodeID(None)
    assert room.nodes() == before and not room.left_behind() and not room.process.written
    room.start()
    with pytest.raises(InputError):
        room.start()


def test_a_disk_without_room_is_told_in_one_sentence(room, monkeypatch):
    before = room.nodes()
    monkeypatch.setattr("tempfile.mkdtemp", lambda **_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(ResourceError, match=r"\.$"):
        room.start()
    assert room.nodes() == before and not room.logic.running


def test_notices_of_the_worker_are_passed_on(room):
    room.start()
    room.process.say(Notice("Careful.").to_dict())
    assert room.notices == ["Careful."]


def test_closing_the_module_during_a_run_leaves_no_process_no_folder_and_no_segmentation(room):
    before = room.nodes()
    room.start()
    room.logic.abandon()
    assert room.process.killed == [4711] and room.nodes() == before and not room.left_behind()


@pytest.mark.parametrize("cancel", [False, True])
def test_the_real_worker_segments_a_volume_of_the_scene(tiny_model, tmp_path, cancel):
    from model_tools import ct

    from LiverMarginLib.inference.segmenter import load_segmenter
    from LiverMarginLib.inference.slicewise import segment_volume

    room = Room(tmp_path)
    grid = Geometry((6, 32, 32), np.diag([0.8, 0.8, 2.5, 1.0]))
    room.volume = add_volume(room.scene, grid, ct().array)
    before = room.nodes()
    process = RealProcess()
    client = WorkerClient(lambda: process, room.clock.later)
    logic = SegmentationLogic(client, room.clock.later, room.clock, tmp_path)
    shown = []
    logic.slice_shown.connect(shown.append)
    logic.succeeded.connect(room.findings.append)
    logic.failed.connect(room.failures.append)
    if cancel:
        logic.slice_shown.connect(lambda _: logic.cancel())
    settings = SegmentSettings(str(tiny_model.folder), (LIVER,), "result", "m", Modality.CT, "cpu")
    logic.start(room.volume, settings, Command(sys.executable, REPOSITORY))
    process.wait()
    assert not room.left_behind()
    if cancel:
        assert [failure.kind for failure in room.failures] == ["cancelled"] and room.nodes() == before
        return
    assert not room.failures
    (finding,) = room.findings
    assert shown == list(range(6))
    expected = segment_volume(
        mrml.volume_from_node(room.volume, Modality.CT), tiny_model, load_segmenter(tiny_model, device="cpu")
    )
    assert expected.array.any()
    np.testing.assert_array_equal(mrml.labels_from_node(finding.node).array, expected.array)
    assert finding.values["provenance"]["model"]["name"] == "tiny"
