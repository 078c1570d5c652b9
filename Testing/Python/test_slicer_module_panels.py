"""The panels with stand-in widgets of their own .ui files, a stand-in worker and 3D Slicer's real scene."""

from __future__ import annotations

import importlib
import re
import shutil
import sys
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import slicer_stand_ins
from conftest import REPOSITORY
from LiverMarginPanels import model_choice
from LiverMarginPanels.detectron_install import DetectronInstall
from LiverMarginPanels.environment_report import diagnosis_lines
from LiverMarginPanels.export_logic import ExportLogic, ExportSettings
from LiverMarginPanels.segmentation_logic import SegmentationLogic
from LiverMarginPanels.segmentation_queue import SegmentationQueue
from LiverMarginPanels.worker_client import Command, WorkerClient
from slicer_stand_ins import CHECKED, COMMAND, READY, Clock, FakeProcess, Parameters, RealProcess
from test_mrml import SHAPE, add_volume, example, geometry

from LiverMarginLib import mrml
from LiverMarginLib.errors import InputError
from LiverMarginLib.events import Failure, Notice, Progress, Result, SliceReady
from LiverMarginLib.io.readers import read_labels
from LiverMarginLib.io.writers import formats
from LiverMarginLib.jobs import run
from LiverMarginLib.jobs.diagnose import DiagnoseJob
from LiverMarginLib.jobs.export import KITTI
from LiverMarginLib.volume import Modality

pytestmark = pytest.mark.slicer
UI = REPOSITORY / "LiverMargin" / "Resources" / "UI"


class Stage:
    """A scene, stand-ins, and a worker whose part the test plays."""

    def __init__(self, monkeypatch, tmp_path, settings=None) -> None:
        import slicer

        # The application registers it when it starts; segmentations know the rules that were there before them.
        rule = slicer.vtkBinaryLabelmapToClosedSurfaceConversionRule()
        slicer.vtkSegmentationConverterFactory.GetInstance().RegisterConverterRule(rule)
        self.scene = slicer.vtkMRMLScene()
        slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(self.scene)
        self.seen = slicer_stand_ins.install(monkeypatch, self.scene, settings)
        monkeypatch.setenv("LIVERMARGIN_MODELS", str(tmp_path / "models"))
        monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
        monkeypatch.setattr("LiverMarginLib.models.store._PACKAGE", tmp_path / "no shipped models")
        for name in ("runs", "temporary"):
            (tmp_path / name).mkdir()
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))  # of panels that make their own logic
        self.runs, self.clock, self.process = tmp_path / "runs", Clock(), FakeProcess()
        self.client = WorkerClient(lambda: self.process, self.clock.later)

    def panel(self, name: str, *arguments):
        kind = getattr(importlib.import_module(f"LiverMarginPanels.{name.lower()}_panel"), f"{name}Panel")
        return kind(UI / f"{name}Panel.ui", *arguments)


@pytest.fixture
def stage(monkeypatch, tmp_path) -> Stage:
    return Stage(monkeypatch, tmp_path)


def segment_panel(stage: Stage, **parameters):
    logic = SegmentationQueue(SegmentationLogic(stage.client, stage.clock.later, stage.clock, stage.runs))
    panel = stage.panel("Segment", logic, lambda: COMMAND, lambda: "", lambda: None)
    values = {
        "exportSegmentation": None,
        "inputVolume": add_volume(stage.scene, geometry("LPS")), "modality": "CT", "models": [], "denoiser": "",
        "ownModels": [], "device": "auto", "precision": "single", "outputSegmentation": None, "allSlices": True,
        "firstSlice": 0, "lastSlice": 0, "allowMismatch": False,
        "followSlices": True,
    }  # fmt: skip
    node = Parameters(**(values | parameters))
    panel.set_parameter_node(node)
    return panel, node


def test_without_a_model_the_segment_panel_says_why_it_cannot_run(stage):
    panel, node = segment_panel(stage)
    assert not panel.ui.applyButton.enabled
    assert "model" in panel.ui.statusLabel.text
    node.inputVolume = None
    node.changed()
    assert "Load a CT or MR" in panel.ui.statusLabel.text


def test_without_anything_that_runs_models_the_segment_panel_opens_and_says_why(stage, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    panel, _node = segment_panel(stage)
    assert panel.ui.missingBox.visible
    assert "ONNX Runtime" in panel.ui.missingLabel.text
    assert not panel.ui.applyButton.enabled


def test_a_click_segments_shows_slices_and_ends_with_numbers(stage, tiny_model, tmp_path):
    shutil.copytree(tiny_model.folder, tmp_path / "models" / "tiny")
    panel, node = segment_panel(stage)
    assert [item.data(0) for item in panel.ui.modelsList.items] == ["tiny 1.0.0 (CT)"]
    assert panel.ui.modelsList.item(0).checkState() == CHECKED and node.models == []  # proposed, not chosen
    panel.ui.applyButton.click()
    assert panel.ui.applyButton.text == "Cancel" and not panel.ui.settingsBox.enabled
    assert (stage.process.job["modality"], stage.process.job["slices"]) == ("CT", None)

    labels = example(geometry("LPS")).array * (example(geometry("LPS")).array == 1)
    live = np.memmap(stage.process.job["live"], np.uint8, "w+", shape=SHAPE)
    live[:] = labels
    stage.process.say(READY, Progress(1, 5, "segmenting").to_dict(), SliceReady(0).to_dict())
    stage.clock.pass_by(2)
    stage.process.say(Progress(2, 5, "segmenting").to_dict(), Notice("Careful.").to_dict())
    assert panel.ui.progressBar.visible and panel.ui.progressBar.range == (0, 5) and panel.ui.progressBar.value == 2
    assert panel.ui.statusLabel.text == "About 6 s left"
    segment = {"name": "Liver", "voxels": 9, "volume_ml": 12.345, "slices": 5}
    sure = {"confidence": 0.931, "slice_confidence": [None, 0.95, 0.71], "least_sure_slice": 2}
    values = {"segments": [segment], "seconds": {"segment": 3.21}, "device": "cpu", **sure}
    stage.process.say(Result(values).to_dict())
    stage.process.ended.emit(0, False)
    assert panel.ui.resultLabel.text == (
        "Liver: 12.3 ml in 5 slices\nConfidence 0.93, lowest in slice 2: 0.71\n3.2 s on the CPU"
    )
    assert panel.ui.resultBox.visible and not panel.ui.progressBar.visible and panel.ui.settingsBox.enabled
    assert "Careful." in panel.ui.messageLabel.text
    result = stage.scene.GetFirstNodeByName("volume liver by tiny")
    np.testing.assert_array_equal(mrml.labels_from_node(result).array, labels)

    panel.ui.show3DButton.emit("toggled(bool)", True)
    assert result.GetSegmentation().ContainsRepresentation("Closed surface")
    assert result.GetDisplayNode().GetVisibility3D()
    stage.scene.RemoveNode(result)
    panel.ui.show3DButton.emit("toggled(bool)", True)  # the user has deleted it meanwhile
    assert not panel.ui.resultBox.visible


def test_half_precision_is_asked_for_and_the_result_says_what_it_was(stage, tiny_model, tmp_path):
    shutil.copytree(tiny_model.folder, tmp_path / "models" / "tiny")
    panel, _node = segment_panel(stage, precision="half")
    panel.ui.applyButton.click()
    assert stage.process.job["precision"] == "half"
    np.memmap(stage.process.job["live"], np.uint8, "w+", shape=SHAPE)
    values = {"segments": [], "seconds": {"segment": 1.0}, "device": "cpu", "precision": "bfloat16"}
    stage.process.say(READY, Result(values).to_dict())
    stage.process.ended.emit(0, False)
    assert panel.ui.resultLabel.text == "1.0 s on the CPU, in bfloat16"


def test_the_axial_view_follows_the_slices(stage, tiny_model, tmp_path, monkeypatch):
    shutil.copytree(tiny_model.folder, tmp_path / "models" / "tiny")
    panel, node = segment_panel(stage)
    jumps = []
    red = types.SimpleNamespace(JumpSliceByOffsetting=lambda *ras: jumps.append(ras))
    import slicer

    monkeypatch.setattr(slicer, "mrmlScene", types.SimpleNamespace(GetNodeByID=lambda _: red))
    panel.ui.applyButton.click()
    np.memmap(stage.process.job["live"], np.uint8, "w+", shape=SHAPE)
    stage.process.say(READY, SliceReady(3).to_dict())
    grid = geometry("LPS")
    np.testing.assert_allclose(jumps, [(grid.ijk_to_ras @ (4, 3, 3, 1))[:3]])
    node.followSlices = False
    stage.process.say(SliceReady(4).to_dict())
    assert len(jumps) == 1


def test_cancel_brings_the_panel_back_and_a_failure_says_what_to_do(stage, tiny_model, tmp_path):
    shutil.copytree(tiny_model.folder, tmp_path / "models" / "tiny")
    panel, _node = segment_panel(stage)
    panel.ui.applyButton.click()
    stage.process.say(READY)
    panel.ui.applyButton.click()
    assert not panel.ui.applyButton.enabled and panel.ui.statusLabel.text == "Cancelling ..."
    stage.process.ended.emit(0, False)
    assert panel.ui.applyButton.enabled and panel.ui.applyButton.text == "Segment"
    assert panel.ui.messageLabel.text.startswith("Cancelled") and not panel.ui.detailsButton.visible

    stage.process = FakeProcess()
    panel.ui.applyButton.click()
    stage.process.say(READY, Failure("resource", "The disk is full; free some space.", "trace").to_dict())
    stage.process.ended.emit(0, False)
    assert panel.ui.messageLabel.visible and panel.ui.messageLabel.text == "The disk is full; free some space."
    panel.ui.detailsButton.click()
    assert stage.seen.windows[-1].shown_text == "trace"
    assert panel.ui.applyButton.enabled


def test_an_input_that_cannot_be_used_is_said_in_the_panel(stage, tiny_model, tmp_path):
    shutil.copytree(tiny_model.folder, tmp_path / "models" / "tiny")
    panel, node = segment_panel(stage, allSlices=False, firstSlice=3, lastSlice=2)
    assert not panel.ui.applyButton.enabled and "first slice" in panel.ui.applyButton.toolTip
    node.lastSlice = 4
    node.inputVolume.SetAndObserveTransformNodeID(stage.scene.AddNewNodeByClass("vtkMRMLLinearTransformNode").GetID())
    node.changed()
    panel.ui.applyButton.click()
    assert panel.ui.messageLabel.visible and "harden the transform" in panel.ui.messageLabel.text
    assert not panel.logic.running and panel.ui.applyButton.enabled


def test_the_model_that_was_made_for_the_image_is_proposed_until_the_user_ticks_one(stage, monkeypatch):
    segment = importlib.import_module("LiverMarginPanels.segment_panel")
    choices = [
        model_choice.ModelChoice(Path(name), name, name, types.SimpleNamespace(description="", modalities=(kind,)))
        for name, kind in (("liver-mr", Modality.MR), ("maskrcnn-ct", Modality.CT), ("unet-ct", Modality.CT))
    ]
    monkeypatch.setattr(segment, "segmentation_models", lambda _own: choices)
    panel, node = segment_panel(stage)

    def ticked() -> list[str]:
        return [choice.name for choice in panel._models.ticked()]

    assert ticked() == ["unet-ct"] and panel.ui.applyButton.enabled
    node.modality = "MR"
    node.changed()
    assert ticked() == ["liver-mr"]
    panel.ui.modelsList.tick(1)
    assert "maskrcnn-ct was not made for MR" in panel.ui.applyButton.toolTip and not panel.ui.applyButton.enabled
    node.modality = "CT"
    node.changed()
    assert ticked() == ["liver-mr", "maskrcnn-ct"] and "liver-mr was not made for CT" in panel.ui.applyButton.toolTip
    node.allowMismatch = True
    node.changed()
    assert panel.ui.applyButton.enabled
    node.inputVolume, node.models, node.modality = None, [], "auto"
    node.changed()
    assert ticked() == ["unet-ct"]  # whose image is not known
    assert model_choice.proposed_model(choices[:1], Modality.CT) is None


def test_a_model_folder_of_ones_own_is_taken_or_refused_with_the_reason(stage, tiny_model, tmp_path):
    panel, node = segment_panel(stage)
    stage.seen.folder = str(tmp_path)
    panel.ui.modelFolderButton.click()
    assert panel.ui.messageLabel.visible and not panel.ui.applyButton.enabled
    stage.seen.folder = str(tiny_model.folder)
    panel.ui.modelFolderButton.click()
    assert node.models == [str(tiny_model.folder)]
    assert panel.ui.applyButton.enabled and not panel.ui.messageLabel.visible
    assert panel.ui.modelLabel.text == "Random weights, for tests."
    panel.ui.modelCardButton.click()
    assert "## How it was trained" in stage.seen.windows[-1].shown_text

    again, _node = segment_panel(stage, models=node.models)  # restored with the scene
    assert again.ui.applyButton.enabled


def test_an_image_is_denoised_first_only_when_asked(stage, tiny_model, tmp_path, monkeypatch):
    segment = importlib.import_module("LiverMarginPanels.segment_panel")
    cleaner = types.SimpleNamespace(folder=tmp_path / "cleaner", title="cleaner 1.0.0 (CT)")
    monkeypatch.setattr(segment, "denoising_models", lambda: [cleaner])
    panel, node = segment_panel(stage, models=[str(tiny_model.folder)])
    assert panel.ui.denoiseBox.items == ["no", "cleaner 1.0.0 (CT)"] and panel.ui.denoiseBox.currentIndex == 0
    panel.ui.applyButton.click()
    assert stage.process.job["denoise"] is None
    stage.process.ended.emit(1, False)

    panel.ui.denoiseBox.currentIndex = 1
    panel.ui.denoiseBox.emit("currentIndexChanged(int)", 1)
    assert node.denoiser == str(tmp_path / "cleaner")
    stage.process = FakeProcess()
    panel.ui.applyButton.click()
    assert stage.process.job["denoise"] == str(tmp_path / "cleaner")
    stage.process.say(READY, Progress(2, 5, "denoising").to_dict())
    assert panel.ui.statusLabel.text == "Denoising ..." and panel.ui.progressBar.range == (0, 5)


def test_the_list_of_denoising_models_holds_no_model_that_segments(stage, tiny_model, tmp_path):
    from LiverMarginPanels.model_choice import denoising_models

    shutil.copytree(tiny_model.folder, tmp_path / "models" / "tiny")
    assert "tiny" not in {choice.manifest.name for choice in denoising_models()}


def test_closing_the_panel_ends_the_worker_and_lets_go_of_the_node(stage, tiny_model, tmp_path):
    shutil.copytree(tiny_model.folder, tmp_path / "models" / "tiny")
    panel, node = segment_panel(stage)
    panel.ui.applyButton.click()
    stage.process.say(READY)
    panel.cleanup()
    assert stage.process.killed and not list(stage.runs.iterdir())
    assert not node._observers


def export_parameters(stage: Stage, tmp_path, **parameters) -> Parameters:
    node = mrml.labels_to_node(example(geometry("oblique")), add_volume(stage.scene, geometry("oblique")), "r")
    fields = dict.fromkeys(importlib.import_module("LiverMarginPanels.export_panel").FORMATS.values(), False)
    values = {"exportSegmentation": node, "exportFolder": tmp_path / "out", "exportName": "liver"}
    values |= {"compareReference": None, "compareOrgan": ""}
    return Parameters(**(values | fields | parameters))


def test_the_export_panel_offers_what_the_library_writes(stage):
    offered = importlib.import_module("LiverMarginPanels.export_panel").FORMATS
    assert set(offered) <= {*formats(), KITTI, ".html"}


def test_the_export_panel_proposes_the_newest_result_of_a_model_and_not_the_reference(stage, tmp_path):
    panel, node = stage.panel("Export", stage.client, lambda: COMMAND), export_parameters(stage, tmp_path)
    reference, node.exportSegmentation = node.exportSegmentation, None
    panel.set_parameter_node(node)
    panel.opened()
    assert node.exportSegmentation is reference  # there is nothing else
    made = replace(example(geometry("oblique")), provenance={"model": {"name": "unet"}})
    results = [mrml.labels_to_node(made, add_volume(stage.scene, geometry("oblique")), name) for name in "ab"]
    panel.opened()
    assert node.exportSegmentation is reference  # the user's choice stays
    node.exportSegmentation = None
    panel.opened()
    assert node.exportSegmentation is results[1]


def test_the_export_panel_writes_what_is_ticked_and_lists_it(stage, tmp_path):
    panel = stage.panel("Export", stage.client, lambda: COMMAND)
    node = export_parameters(stage, tmp_path)
    panel.set_parameter_node(node)
    assert not panel.ui.applyButton.enabled and "format" in panel.ui.applyButton.toolTip
    assert not panel.ui.dicomCheck.enabled
    node.writeNifti = node.writeDicom = True
    node.changed()
    panel.ui.applyButton.click()
    target = tmp_path / "out" / "liver.nii.gz"
    assert stage.process.job["outputs"] == [str(target)]
    stage.process.say(READY, Progress(0, 1, "write").to_dict(), Result({"outputs": [str(target)]}).to_dict())
    stage.process.ended.emit(0, False)
    assert panel.ui.resultBox.visible
    links = re.findall(r'href="([^"]+)">([^<]+)<', panel.ui.writtenLabel.text)
    assert links == [((tmp_path / "out").as_uri(), "Open the folder"), (target.as_uri(), "liver.nii.gz")]


def test_the_export_panel_asks_before_it_replaces_files_and_says_what_failed(stage, tmp_path, monkeypatch):
    import slicer

    panel = stage.panel("Export", stage.client, lambda: COMMAND)
    node = export_parameters(stage, tmp_path, writeStl=True)
    panel.set_parameter_node(node)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "liver_Liver.stl").touch()
    monkeypatch.setattr(slicer.util, "confirmOkCancelDisplay", lambda _: False)
    panel.ui.applyButton.click()
    assert not panel.logic.running
    monkeypatch.setattr(slicer.util, "confirmOkCancelDisplay", lambda _: True)
    panel.ui.applyButton.click()
    assert panel.ui.applyButton.text == "Cancel"
    stage.process.say(READY, Failure("resource", "The disk is full; free some space.").to_dict())
    stage.process.ended.emit(0, False)
    assert panel.ui.messageLabel.text == "The disk is full; free some space."
    assert panel.ui.applyButton.text == "Export" and panel.ui.applyButton.enabled
    node.exportName = "../up"
    panel.ui.applyButton.click()
    assert "cannot be that of a file" in panel.ui.messageLabel.text


def test_exported_files_hold_the_voxels_of_the_scene(stage, tmp_path):
    import sys

    node = export_parameters(stage, tmp_path).exportSegmentation
    process = RealProcess()
    logic = ExportLogic(WorkerClient(lambda: process, stage.clock.later), stage.runs)
    written, failed = [], []
    logic.succeeded.connect(written.extend)
    logic.failed.connect(failed.append)
    settings = ExportSettings(tmp_path / "out", "liver", (".seg.nrrd", ".nii.gz", ".stl"))
    logic.start(node, settings, Command(sys.executable, REPOSITORY))
    process.wait()
    assert not failed and not list(stage.runs.iterdir())
    assert {path.name for path in written} == {path.name for path in (tmp_path / "out").iterdir()}
    assert sorted(path.suffix for path in written) == [".gz", ".nrrd", ".stl", ".stl"]  # a surface each segment
    for name in ("liver.seg.nrrd", "liver.nii.gz"):
        back = read_labels(tmp_path / "out" / name)
        np.testing.assert_array_equal(back.array, example(geometry("oblique")).array)
        assert back.geometry.agrees_with(geometry("oblique"), 1e-3)


@pytest.mark.parametrize("name", ["", " ", "a/b", "..", "a\\b"])
def test_names_that_are_no_file_names_are_refused(name, tmp_path):
    with pytest.raises(InputError):
        ExportSettings(tmp_path, name, (".stl",)).outputs()


def environment_panel(stage: Stage):
    changes = []
    panel = stage.panel(
        "Environment", stage.client, lambda: COMMAND, "requirements.txt",
        DetectronInstall(lambda: stage.process), lambda: changes.append(1),
    )  # fmt: skip
    return panel, changes


def test_the_environment_panel_shows_what_the_worker_found(stage):
    panel, _changes = environment_panel(stage)
    panel.ui.checkButton.click()
    assert not panel.ui.checkButton.enabled and not panel.ui.installButton.enabled
    stage.process.say(READY, Result(run(DiagnoseJob())).to_dict())
    stage.process.ended.emit(0, False)
    table = panel.ui.packagesTable
    shown = {table.item(row, 1).data(0): table.item(row, 2).data(0) for row in range(table.rows)}
    assert shown["numpy"] == np.__version__ and "works" in shown["cpu"]
    assert panel.ui.checkButton.enabled and panel.ui.messageLabel.visible


def test_missing_and_broken_packages_are_told_apart():
    package = {"name": "p", "purpose": "x", "required": True, "version": None, "problem": ""}
    found = {
        "executable": "python", "python": "3.12", "devices": [
            {"name": "cuda:0", "description": "card", "proved": False, "problem": "no kernel", "free_memory_gb": None},
            {"name": "cpu", "description": "chip", "proved": True, "problem": "", "free_memory_gb": 2.5},
        ],
        "packages": [
            package, package | {"required": False}, package | {"version": "1", "problem": "ImportError: x"},
            package | {"version": "1"},
        ],
    }  # fmt: skip
    assert [(line.state, line.good) for line in diagnosis_lines(found)] == [
        ("3.12", True), ("no kernel", False), ("works, 2.5 GB free", True), ("missing", False),
        ("not installed (optional)", True), ("ImportError: x", False), ("1", True),
    ]  # fmt: skip


def test_the_last_lines_of_a_failed_installation_are_shown(stage, monkeypatch):
    import slicer

    panel, changes = environment_panel(stage)
    panel.ui.installButton.click()
    assert "5.12" in panel.ui.messageLabel.text  # slicer-core has no slicer.packaging, as older Slicers
    asked = {}

    def pip_ensure(requirements, **options):
        asked.update(options, requirements=requirements)
        raise RuntimeError("\n".join(f"line {n}" for n in range(100)))

    packaging = types.SimpleNamespace(pip_ensure=pip_ensure, load_requirements=lambda path: [path])
    monkeypatch.setitem(sys.modules, "slicer.packaging", packaging)
    monkeypatch.setattr(slicer, "packaging", packaging, raising=False)
    panel.ui.installButton.click()
    assert "line 99" in panel.ui.messageLabel.text and "line 50" not in panel.ui.messageLabel.text
    assert {"SimpleITK", "numpy", "scipy", "torch"} <= set(asked["skip_packages"]) and changes
    panel.ui.torchButton.click()
    assert "Extensions Manager" in panel.ui.messageLabel.text


def test_another_python_is_remembered_and_its_packages_are_left_to_its_own_pip(stage):
    panel, changes = environment_panel(stage)
    panel.ui.pythonEdit.currentPath = "/opt/python"
    panel.ui.pythonEdit.emit("currentPathChanged(QString)", "/opt/python")
    assert stage.seen.settings == {"LiverMargin/workerPython": "/opt/python"} and changes
    assert not panel.ui.installButton.enabled and not panel.ui.torchButton.enabled


def test_detectron2_is_installed_into_the_workers_python_only_when_asked(stage, monkeypatch):
    import slicer

    panel, changes = environment_panel(stage)
    monkeypatch.setattr(slicer.util, "confirmOkCancelDisplay", lambda _: False)
    panel.ui.detectronButton.click()
    assert panel.ui.detectronButton.enabled
    monkeypatch.setattr(slicer.util, "confirmOkCancelDisplay", lambda _: True)
    panel.ui.detectronButton.click()
    (script,) = stage.process.command.arguments
    assert stage.process.command.program == COMMAND.program and Path(script).name == "install_detectron2.py"
    assert not panel.ui.detectronButton.enabled and not panel.ui.checkButton.enabled
    stage.process.output.emit(b"Fetching\nInsta")
    assert panel.ui.messageLabel.text == "Fetching"
    stage.process.errors.emit(b"lling\nERROR: no space left\n")
    stage.process.ended.emit(1, False)
    assert panel.ui.messageLabel.text.endswith("Fetching\nInstalling\nERROR: no space left")
    assert panel.ui.detectronButton.enabled and changes

    stage.process = FakeProcess()
    panel.ui.detectronButton.click()
    first, stage.process = stage.process, FakeProcess()
    first.ended.emit(0, False)
    assert stage.process.job == {"job": "diagnose"}  # the panel looks at what is there now


@pytest.mark.parametrize("way", ["crash", "never started", "closed"])
def test_an_installation_that_breaks_off_brings_the_panel_back(stage, way):
    panel, _changes = environment_panel(stage)
    panel.ui.detectronButton.click()
    if way == "closed":
        panel.cleanup()
        assert stage.process.killed
        return
    stage.process.ended.emit(-9, True) if way == "crash" else stage.process.not_started.emit("no such file")
    assert panel.ui.detectronButton.enabled and "did not end well" in panel.ui.messageLabel.text


def test_only_models_of_the_users_own_folder_can_be_removed_and_only_when_asked(stage, tiny_model, tmp_path):
    from LiverMarginLib.models.store import user_model_folder

    own = user_model_folder() / "mine"
    shutil.copytree(tiny_model.folder, own)
    other = tmp_path / "models" / "other"
    shutil.copytree(tiny_model.folder, other)
    manifest = (other / "model.json").read_text().replace('"tiny"', '"other"')
    (other / "model.json").write_text(manifest)
    panel, _changes = environment_panel(stage)
    table = panel.ui.modelsTable
    rows = {table.item(row, 0).data(0): row for row in range(table.rows)}
    assert set(rows) == {"tiny", "other"}
    for name, removable in (("other", False), ("tiny", True)):
        table.current = rows[name]
        table.emit("itemSelectionChanged()")
        assert panel.ui.removeButton.enabled is removable
    panel.ui.removeButton.click()
    assert not own.exists() and other.exists() and len(stage.seen.asked) == 1
    assert table.rows == 1


def test_the_folder_of_models_is_opened_and_made_if_need_be(stage):
    panel, _changes = environment_panel(stage)
    panel.ui.openFolderButton.click()
    assert Path(stage.seen.urls[0]).is_dir()
