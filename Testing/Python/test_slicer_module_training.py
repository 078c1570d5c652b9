"""The Train panel, its logic and its curves, with 3D Slicer's scene, a stand-in worker and the real one."""

from __future__ import annotations

import importlib
import math
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY
from LiverMarginPanels.train_logic import CheckLogic, TrainLogic, TrainSettings, read_history
from LiverMarginPanels.worker_client import Command, WorkerClient
from slicer_stand_ins import COMMAND, READY, FakeProcess, Parameters, RealProcess
from test_slicer_module_panels import Stage

from LiverMarginLib.errors import InputError
from LiverMarginLib.events import Failure, Metric, Notice, Progress, Result
from LiverMarginLib.jobs import job_from_dict
from LiverMarginLib.training.profiles import PROFILES

pytestmark = pytest.mark.slicer

STOPPED = {"ending": "stopped", "bundle": None, "epochs": 0, "best_epoch": None, "scores": {}}


@pytest.fixture
def stage(monkeypatch, tmp_path) -> Stage:
    stage = Stage(monkeypatch, tmp_path)
    import slicer

    arrangement = types.SimpleNamespace(now=3, known={})
    layout = types.SimpleNamespace(
        GetViewArrangement=lambda: arrangement.now,
        AddLayoutDescription=lambda number, xml: arrangement.known.setdefault(number, xml) is xml,
    )
    manager = types.SimpleNamespace(
        layoutLogic=lambda: types.SimpleNamespace(GetLayoutNode=lambda: layout),
        setLayout=lambda number: setattr(arrangement, "now", number),
    )
    monkeypatch.setattr(slicer, "app", types.SimpleNamespace(layoutManager=lambda: manager), raising=False)
    for tag in ("LiverMarginLoss", "LiverMarginScore"):
        view = slicer.vtkMRMLPlotViewNode()
        view.SetSingletonTag(tag)
        stage.scene.AddNode(view)
    stage.arrangement = arrangement
    monkeypatch.setattr("LiverMarginPanels.train_logic.NEEDED", ())
    return stage


def train_panel(stage: Stage, **parameters):
    models = []
    clients = iter([stage.client, WorkerClient(lambda: stage.process, stage.clock.later)])
    panel = stage.panel("Train", lambda: next(clients), lambda: COMMAND, lambda: "", models.append)
    values = {
        "trainData": ".", "trainLabel": "", "trainWithPhantoms": False, "trainPhantoms": 16, "trainDataWeight": 1.0,
        "trainModel": "unet", "trainProfile": "robust", "trainInitial": "", "trainModality": "CT", "trainDevice": "cpu",
        "trainEpochs": 3, "trainName": "mine", "trainFolder": str(stage.runs.parent / "out"),
    }  # fmt: skip
    node = Parameters(**(values | parameters))
    panel.set_parameter_node(node)
    return panel, node, models


def begun(folder: Path, name: str = "mine") -> Path:
    work = folder / f"{name}.training"
    work.mkdir(parents=True)
    (work / "checkpoint.pt").touch()
    return work


def test_the_job_says_what_was_chosen_and_is_one_that_the_worker_takes(stage, tmp_path):
    panel, _node, _models = train_panel(stage)
    assert panel.ui.applyButton.text == "Train"
    panel.ui.applyButton.click()
    job = job_from_dict(stage.process.job)
    assert (job.model, job.profile, job.phantoms, job.data) == ("unet", "robust", 16, "")
    assert (job.config().epochs, job.config().device) == (3, "cpu")
    assert (job.out, job.config().out) == (str(tmp_path / "out" / "mine"), str(tmp_path / "out" / "mine.training"))
    assert not job.resume and not job.overwrite and job.bundle_when_stopped
    assert panel.ui.applyButton.text == "Stop" and not panel.ui.settingsBox.enabled


def test_losses_and_scores_become_curves_and_the_model_is_handed_on(stage, tmp_path):
    panel, _node, models = train_panel(stage)
    panel.ui.applyButton.click()
    assert stage.arrangement.now != 3 and panel.ui.curvesButton.checked
    assert stage.arrangement.known[stage.arrangement.now].count("vtkMRMLPlotViewNode") == 2
    stage.process.say(
        READY, Progress(1, 30, "train", "epoch 1 of 3, loss 0.5").to_dict(), Metric("loss", 0.5, 1, "train").to_dict(),
        Metric("mask_iou", 0.1, 1, "train").to_dict(), Metric("loss", 0.25, 2, "train").to_dict(),
        Metric("loss", 0.75, 2, "validation").to_dict(), Metric("mask_iou", 0.625, 2, "validation").to_dict(),
        Metric("slice_mask_iou", 0.5, 2, "validation").to_dict(), Notice("Careful.").to_dict(),
    )  # fmt: skip
    assert "epoch 1 of 3, loss 0.5" in panel.ui.statusLabel.text and panel.ui.progressBar.range == (0, 30)
    table = panel._curves.table.GetTable()
    columns = {table.GetColumnName(n): table.GetColumn(n) for n in range(table.GetNumberOfColumns())}
    shown = {name: [column.GetValue(row) for row in range(2)] for name, column in columns.items()}
    np.testing.assert_equal(
        shown,
        {
            "Epoch": [1, 2], "Training loss": [0.5, 0.25], "Validation loss": [math.nan, 0.75],
            "Training score": [0.1, math.nan], "Validation score": [math.nan, 0.625],
        },
    )  # fmt: skip
    views = [
        stage.scene.GetSingletonNode(tag, "vtkMRMLPlotViewNode") for tag in ("LiverMarginLoss", "LiverMarginScore")
    ]
    charts = [stage.scene.GetNodeByID(view.GetPlotChartNodeID()) for view in views]
    assert [chart.GetTitle() for chart in charts] == ["Loss", "IoU"]
    for chart, highest in zip(charts, (0.75, 1.0), strict=True):  # axes that hold the points, and no more
        assert chart.GetXAxisRange()[1] >= 2 and highest < chart.GetYAxisRange()[1] < 2 * highest
    series = [charts[1].GetNthPlotSeriesNode(n) for n in range(charts[1].GetNumberOfPlotSeriesNodes())]
    assert [(each.GetXColumnName(), each.GetYColumnName()) for each in series] == [
        ("Epoch", "Training score"), ("Epoch", "Validation score"),
    ]  # fmt: skip
    bundle = tmp_path / "out" / "mine"
    result = {"ending": "finished", "bundle": str(bundle), "epochs": 3, "best_epoch": 2, "scores": {"mask_iou": 0.625}}
    stage.process.say(Result(result).to_dict())
    stage.process.ended.emit(0, False)
    assert models == [bundle] and "Best epoch 2: mask iou 0.625" in panel.ui.resultLabel.text
    assert not list(stage.runs.iterdir()) and "Careful." in panel.ui.messageLabel.text
    panel.exit()
    assert stage.arrangement.now == 3 and not panel.ui.curvesButton.checked


def test_a_first_click_lets_the_training_save_itself_and_a_second_one_ends_it(stage):
    panel, _node, models = train_panel(stage)
    panel.ui.applyButton.click()
    stage.process.say(READY, Progress(1, 30, "train").to_dict())
    panel.ui.applyButton.click()
    assert stage.process.written.endswith(b'\n{"cancel": true}\n') and not stage.process.closed
    assert panel.ui.applyButton.text == "Stop at once" and panel.ui.applyButton.enabled
    panel.ui.applyButton.click()
    assert stage.process.closed
    stage.process.ended.emit(130, False)
    assert panel.ui.messageLabel.text.startswith("Cancelled") and panel.ui.applyButton.text == "Train" and not models


def test_a_training_that_was_stopped_says_whether_there_is_a_model(stage):
    panel, _node, models = train_panel(stage)
    panel.ui.applyButton.click()
    stage.process.say(READY)
    panel.ui.applyButton.click()
    stage.process.say(Result(STOPPED).to_dict())
    stage.process.ended.emit(0, False)
    assert "no model yet" in panel.ui.resultLabel.text and not models
    assert panel.ui.applyButton.text == "Train" and not panel._stopping


def test_a_worker_that_has_not_answered_yet_is_cancelled_by_stop(stage):
    panel, _node, _models = train_panel(stage)
    panel.ui.applyButton.click()
    panel.ui.applyButton.click()
    assert stage.process.closed and b"cancel" not in stage.process.written


def test_a_training_of_the_same_name_is_resumed_with_its_earlier_curves(stage, tmp_path):
    work = begun(tmp_path / "out")
    (work / "log.csv").write_text(
        "epoch,step,learning_rate,train_loss,validation_mask_iou,seconds\n1,5,0.1,0.5,,3\n2,10,0.1,0.4,0.75,6\n"
    )
    (tmp_path / "out" / "mine").mkdir()  # the model of the first half
    panel, _node, _models = train_panel(stage)
    assert panel.ui.applyButton.text == "Resume"
    panel.ui.applyButton.click()
    assert (stage.process.job["resume"], stage.process.job["overwrite"]) == (True, True)
    table = panel._curves.table.GetTable()
    assert table.GetNumberOfRows() == 2 and table.GetColumnByName("Validation score").GetValue(1) == 0.75


@pytest.mark.parametrize("text", ["", "epoch,train_loss\n1,many\n", "train_loss\n0.5\n", "\x00"])
def test_a_log_that_cannot_be_read_makes_no_curves_and_no_trouble(tmp_path, text):
    (tmp_path / "log.csv").write_text(text)
    assert read_history(tmp_path) == [] and read_history(tmp_path / "none") == []


def test_a_model_that_is_there_already_is_not_overwritten(stage, tmp_path):
    (tmp_path / "out" / "mine").mkdir(parents=True)
    panel, _node, _models = train_panel(stage)
    panel.ui.applyButton.click()
    assert "choose another name" in panel.ui.messageLabel.text
    assert not panel.logic.running and not stage.process.written and not list(stage.runs.iterdir())


@pytest.mark.parametrize("name", ["a/b", "..", ". ", "a\\b"])
def test_names_that_are_no_folder_names_are_refused(name, tmp_path):
    with pytest.raises(InputError):
        TrainSettings(tmp_path, name).job()


def test_without_what_training_needs_the_panel_opens_and_says_so(stage, monkeypatch):
    monkeypatch.setattr("LiverMarginPanels.train_logic.NEEDED", ("no_such_package",))
    panel, _node, _models = train_panel(stage)
    assert not panel.ui.applyButton.enabled and "no_such_package" in panel.ui.statusLabel.text


def test_the_profiles_are_those_of_the_network(stage):
    panel, node, _models = train_panel(stage)
    assert panel.ui.profileBox.items == list(PROFILES["unet"])
    node.trainModel = "dncnn-sr"
    node.changed()
    assert panel.ui.profileBox.items == list(PROFILES["dncnn-sr"])
    panel.ui.profileBox.emit("currentIndexChanged(int)", 1)
    assert node.trainProfile == list(PROFILES["dncnn-sr"])[1]


def test_phantoms_are_trained_on_beside_a_data_set_whose_slices_count_less(stage):
    panel, _node, _models = train_panel(stage, trainData="data", trainWithPhantoms=True, trainDataWeight=0.5)
    assert panel.ui.withPhantomsCheck.enabled and panel.ui.phantomsBox.enabled and panel.ui.dataWeightBox.enabled
    panel.ui.applyButton.click()
    job = job_from_dict(stage.process.job)
    assert (job.data, job.with_phantoms, job.data_weight) == ("data", True, 0.5)
    assert (job.phantoms, job.validation_phantoms) == (16, 2)


@pytest.mark.parametrize(
    ("data", "beside", "model", "offered", "weight"),
    [
        ("data", True, "unet", {"withPhantomsCheck", "phantomsBox", "dataWeightBox"}, 0.5),
        ("data", False, "unet", {"withPhantomsCheck", "dataWeightBox"}, 0.5),
        ("data", True, "unet3d", {"withPhantomsCheck", "phantomsBox"}, 1.0),
        ("data", True, "detectron2", {"withPhantomsCheck", "phantomsBox"}, 1.0),
        (".", True, "unet", {"phantomsBox"}, 1.0),  # a weight from before the data set was taken away
    ],
)
def test_what_a_training_cannot_heed_is_greyed_out_and_not_asked_for(stage, data, beside, model, offered, weight):
    panel, node, _models = train_panel(stage, trainDataWeight=0.5)
    node.trainData, node.trainWithPhantoms, node.trainModel = data, beside, model
    node.changed()
    boxes = ("withPhantomsCheck", "phantomsBox", "dataWeightBox")
    assert {name for name in boxes if getattr(panel.ui, name).enabled} == offered
    assert panel._settings().job().data_weight == weight


def test_a_training_starts_from_a_model_of_the_same_kind_only(stage, tiny_model, tmp_path):
    import shutil

    shutil.copytree(tiny_model.folder, tmp_path / "models" / "tiny")
    panel, node, _models = train_panel(stage)
    assert panel.ui.initialBox.items == ["random", "tiny"]
    panel.ui.initialBox.emit("currentIndexChanged(int)", 1)
    assert (
        node.trainInitial == str(tmp_path / "models" / "tiny") and panel._settings().job().initial == node.trainInitial
    )
    node.trainModel = "dncnn-sr"
    node.changed()
    assert panel.ui.initialBox.items == ["random"] and panel._settings().job().initial is None


def test_the_networks_on_offer_are_those_that_can_be_trained():
    import ast

    tree = ast.parse((REPOSITORY / "LiverMargin" / "LiverMarginPanels" / "parameter_node.py").read_text())
    (field,) = [n for n in ast.walk(tree) if isinstance(n, ast.AnnAssign) and n.target.id == "trainModel"]
    offered = [n.value for n in ast.walk(field.annotation) if isinstance(n, ast.Constant)]
    assert offered == list(PROFILES)


def ways_to_end():
    return {
        "crash": ("crash", lambda process: process.ended.emit(9, True)),
        "garbage": ("crash", lambda process: (process.output.emit(b"\x00{\n"), process.ended.emit(1, False))),
        "never started": ("dependency", lambda process: process.not_started.emit("no")),
        "error": (
            "input", lambda process: (process.say(Failure("input", "Bad.").to_dict()), process.ended.emit(0, False)),
        ),
        "result without values": (
            "resource", lambda process: (process.say(READY, Result({}).to_dict()), process.ended.emit(0, False)),
        ),
    }  # fmt: skip


@pytest.mark.parametrize("way", ways_to_end())
def test_however_the_worker_ends_the_panel_is_ready_again(stage, way):
    kind, end = ways_to_end()[way]
    panel, _node, models = train_panel(stage)
    failures = []
    panel.logic.failed.connect(failures.append)
    panel.ui.applyButton.click()
    end(stage.process)
    assert [failure.kind for failure in failures] == [kind] and not models
    assert panel.ui.applyButton.enabled and panel.ui.settingsBox.enabled and panel.ui.messageLabel.visible
    assert not list(stage.runs.iterdir())


def test_a_worker_that_starts_too_slowly_is_given_up(stage):
    panel, _node, _models = train_panel(stage)
    panel.ui.applyButton.click()
    stage.clock.pass_by(61)
    assert stage.process.closed
    stage.clock.pass_by(100)
    assert stage.process.killed and "did not start" in panel.ui.messageLabel.text


def test_closing_the_scene_takes_the_curves_and_leaves_the_training(stage):
    panel, node, _models = train_panel(stage)
    panel.ui.applyButton.click()
    panel.set_parameter_node(None)
    stage.scene.Clear(0)
    panel.set_parameter_node(node)
    stage.process.say(READY, Metric("loss", 0.5, 1, "train").to_dict())
    assert panel.logic.running and not panel.ui.curvesButton.enabled


def test_closing_the_panel_ends_training_and_check(stage):
    panel, node, _models = train_panel(stage)
    panel.ui.applyButton.click()
    stage.process.say(READY)
    panel.cleanup()
    assert stage.process.killed and stage.arrangement.now == 3 and not node._observers


def test_a_data_set_is_checked_by_the_real_worker(stage, tmp_path):
    from LiverMarginLib.io.volume_writers import write_volume
    from LiverMarginLib.phantom import PhantomOptions, make_phantom

    data = tmp_path / "data"
    phantom = make_phantom(0, PhantomOptions(shape=(6, 64, 64), spacing=(25.0, 6.0, 6.0)))
    (data / "images").mkdir(parents=True)
    (data / "labels").mkdir()
    write_volume(phantom.volume, data / "images" / "p0.nii.gz")
    process = stage.process = RealProcess()
    panel, _node, _models = train_panel(stage, trainData=str(data))
    panel._command = lambda: Command(sys.executable, REPOSITORY)
    assert panel.ui.checkButton.enabled and not panel.ui.phantomsBox.enabled
    panel.ui.checkButton.click()
    assert panel.ui.checkButton.text == "Cancel the check" and not panel.ui.applyButton.enabled
    process.wait()
    assert panel.ui.messageLabel.visible and panel.ui.checkButton.text == "Check the data set"
    assert panel.ui.applyButton.enabled


def test_a_check_that_is_cancelled_or_fails_brings_the_panel_back(stage):
    panel, _node, _models = train_panel(stage, trainData="somewhere")
    panel.ui.checkButton.click()
    assert stage.process.job["data"] == "somewhere"
    stage.process.say(READY)
    panel.ui.checkButton.click()
    stage.process.ended.emit(0, False)
    assert panel.ui.messageLabel.text.startswith("Cancelled")
    stage.process = FakeProcess()
    panel.ui.checkButton.click()
    report = {"cases": [{}, {}], "problems": ["p0 has no liver."], "text": "the whole table"}
    stage.process.say(READY, Result(report).to_dict())
    stage.process.ended.emit(0, False)
    assert panel.ui.messageLabel.text == "2 cases. To look at: 1.\np0 has no liver."
    panel.ui.detailsButton.click()
    assert stage.seen.windows[-1].shown_text == "the whole table"


def test_labels_of_a_data_set_are_values_or_names(stage, tmp_path):
    logic = CheckLogic(stage.client, stage.runs)
    for text, label in (("3", 3), ("liver", "liver"), ("", None)):
        logic.start("data", text, COMMAND)
        assert stage.process.job["label"] == label
        assert TrainSettings(tmp_path, "m", data="d", label=text).job().label == label
        stage.process.ended.emit(0, False)
        stage.process = FakeProcess()


@pytest.fixture
def tiny_training(monkeypatch):
    """Settings so small that a training takes seconds."""
    job = TrainSettings.job

    def small(self):
        import dataclasses

        more = {
            "size": "64",
            "batch": "4",
            "steps_per_epoch": "3",
            "workers": "0",
            "model_options.widths": "[4, 8, 16]",
        }
        full = job(self)
        return dataclasses.replace(
            full, phantoms=2, validation_phantoms=1, phantom_shape=(8, 64, 64), phantom_spacing=(20.0, 6.0, 6.0),
            settings={**full.settings, **more},
        )  # fmt: skip

    monkeypatch.setattr(TrainSettings, "job", small)


def test_a_stopped_training_leaves_its_best_model_and_goes_on(stage, tmp_path, tiny_training):
    """The real worker: stopped after the second epoch, then resumed to its end."""
    settings = TrainSettings(tmp_path / "models", "tiny", model="unet", device="cpu", epochs=500)
    process = RealProcess()
    logic = TrainLogic(WorkerClient(lambda: process, stage.clock.later), stage.runs)
    points, ends = [], []

    def measured(point: Metric) -> None:
        points.append(point)
        if point.step == 2:
            logic.stop()

    logic.measured.connect(measured)
    logic.succeeded.connect(ends.append)
    logic.failed.connect(ends.append)
    logic.start(settings, Command(sys.executable, REPOSITORY))
    process.wait()
    (first,) = ends
    assert (first.ending, first.bundle) == ("stopped", tmp_path / "models" / "tiny") and 2 <= first.epochs < 500
    choice = importlib.import_module("LiverMarginPanels.model_choice").own_model(first.bundle)
    assert choice.manifest is not None and not list(stage.runs.iterdir())

    process, known = RealProcess(), len(points)
    settings = TrainSettings(tmp_path / "models", "tiny", device="cpu", epochs=first.epochs + 1)
    assert settings.resumes
    logic.start(settings, Command(sys.executable, REPOSITORY))
    assert {point.step for point in points[known:]} == set(range(1, first.epochs + 1))
    process.wait()
    assert (ends[1].ending, ends[1].epochs) == ("finished", first.epochs + 1) and ends[1].bundle == first.bundle
