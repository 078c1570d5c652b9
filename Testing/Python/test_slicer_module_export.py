"""What the Export panel writes beyond plain files: DICOM SEG by Slicer or by us, KITTI, and the report."""

from __future__ import annotations

import html
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
from conftest import REPOSITORY
from LiverMarginPanels import export_logic
from LiverMarginPanels.export_logic import ExportLogic, ExportSettings
from LiverMarginPanels.image_loading import load_image
from LiverMarginPanels.organ_choice import organs_of
from LiverMarginPanels.worker_client import Command, WorkerClient
from slicer_stand_ins import READY, RealProcess
from test_mrml import example, geometry
from test_slicer_module_loading import write_dicom
from test_slicer_module_panels import Stage, export_parameters

from LiverMarginLib import mrml
from LiverMarginLib.errors import InputError
from LiverMarginLib.events import Failure, Result
from LiverMarginLib.io.png import encode_png
from LiverMarginLib.io.readers import read_labels
from LiverMarginLib.jobs import run
from LiverMarginLib.jobs.export import ExportJob
from LiverMarginLib.volume import IntensityKind, Modality, Volume

pytestmark = pytest.mark.slicer
COMMAND = Command(sys.executable, REPOSITORY)
SHAPE = (5, 8, 16)


@pytest.fixture
def stage(monkeypatch, tmp_path) -> Stage:
    return Stage(monkeypatch, tmp_path)


class Export:
    """An export logic with real workers, and what it told."""

    def __init__(self, stage: Stage, **options) -> None:
        self.processes: list[RealProcess] = []
        client = WorkerClient(self._new_process, stage.clock.later)
        self.logic = ExportLogic(client, stage.runs, **options)
        self.written, self.failures, self.notices = [], [], []
        self.logic.succeeded.connect(self.written.append)
        self.logic.failed.connect(self.failures.append)
        self.logic.noticed.connect(self.notices.append)

    def _new_process(self) -> RealProcess:
        self.processes.append(RealProcess())
        return self.processes[-1]

    def run(self, node, settings: ExportSettings) -> list[Path]:
        self.logic.start(node, settings, COMMAND)
        done = 0
        while done < len(self.processes):
            self.processes[done].wait()
            done += 1
        assert not self.failures and not self.logic.running
        return self.written[0]


def result_on_dicom(stage: Stage, folder: Path, orientation="oblique"):
    """A segmentation of a DICOM series that the Segment panel has loaded."""
    grid = geometry(orientation, SHAPE)
    array = np.random.default_rng(0).integers(-200, 300, SHAPE).astype(np.int16)
    write_dicom(Volume(array, grid, Modality.CT, IntensityKind.HU), folder)
    volume = load_image(folder, stage.scene, lambda _: None)
    return mrml.labels_to_node(example(mrml.geometry_of(volume)), volume, "result")


def test_a_dicom_seg_of_a_dropped_series_refers_to_it(stage, tmp_path):
    node = result_on_dicom(stage, tmp_path / "series")
    panel = stage.panel("Export", stage.client, lambda: COMMAND)
    panel.set_parameter_node(export_parameters(stage, tmp_path, exportSegmentation=node, writeDicom=True))
    assert panel.ui.dicomCheck.enabled
    settings = panel.settings()
    assert settings.source == tmp_path / "series" and not settings.by_slicer
    (path,) = Export(stage).run(node, settings)
    found = pydicom.dcmread(path)
    instances = {pydicom.dcmread(file).SOPInstanceUID for file in (tmp_path / "series").iterdir()}
    named = {item.ReferencedSOPInstanceUID for item in found.ReferencedSeriesSequence[0].ReferencedInstanceSequence}
    assert named == instances
    back = read_labels(path)
    assert sum(back.mask(1).ravel()) == sum(example(geometry("oblique", SHAPE)).mask(1).ravel())


def test_slicer_writes_the_dicom_seg_of_what_its_own_database_has_loaded(stage, tmp_path, monkeypatch):
    node = export_parameters(stage, tmp_path).exportSegmentation
    exported = []

    class Plugin:
        def examineForExport(self, item):
            return [types.SimpleNamespace(item=item, directory=None)]

        def export(self, exportables):
            exported.extend(exportables)
            (Path(exportables[0].directory) / "1.2.3.dcm").write_text("SEG")
            return ""

    monkeypatch.setitem(
        sys.modules, "DICOMSegmentationPlugin", types.SimpleNamespace(DICOMSegmentationPluginClass=Plugin)
    )
    export = Export(stage)
    settings = ExportSettings(tmp_path / "out", "liver", (".dcm", ".nii.gz"), by_slicer=True)
    written = export.run(node, settings)
    assert [path.name for path in written] == ["liver.dcm", "liver.nii.gz"]
    assert (tmp_path / "out" / "liver.dcm").read_text() == "SEG" and len(exported) == 1
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"liver.dcm", "liver.nii.gz"}


def test_where_slicers_plugin_fails_the_worker_writes_the_dicom_seg_and_the_user_is_told(stage, tmp_path):
    node = result_on_dicom(stage, tmp_path / "series", "LPS")

    def fail(node, path):
        raise RuntimeError("dcmqi")

    export = Export(stage, export_dicom=fail)
    settings = ExportSettings(tmp_path / "out", "liver", (".dcm",), tmp_path / "series", by_slicer=True)
    (path,) = export.run(node, settings)
    assert read_labels(path).mask(1).any() and any("RuntimeError" in notice for notice in export.notices)
    with pytest.raises(InputError):  # and where it cannot either, nothing is started
        export.logic.start(node, ExportSettings(tmp_path, "liver", (".dcm",), by_slicer=True), COMMAND)
    assert not export.logic.running and not list(stage.runs.iterdir())


def test_kitti_holds_the_slices_beside_their_masks(stage, tmp_path):
    node = result_on_dicom(stage, tmp_path / "series", "LPS")
    (path,) = Export(stage).run(node, ExportSettings(tmp_path / "out", "liver", (".zip",)))
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    masks = [name for name in names if "/semantic/" in name]
    assert len([name for name in names if "/image_2/" in name]) == SHAPE[0]
    assert len(masks) == np.count_nonzero(example(geometry("LPS", SHAPE)).array.any(axis=(1, 2)))


def test_kitti_from_the_command_line_needs_no_image(tmp_path):
    from LiverMarginLib.io.writers import write_labelmap

    write_labelmap(example(geometry("LPS")), tmp_path / "labels.nii.gz")
    result = run(ExportJob(str(tmp_path / "labels.nii.gz"), (str(tmp_path / "case.zip"),)))
    assert result["outputs"] == [str(tmp_path / "case.zip")]
    with zipfile.ZipFile(tmp_path / "case.zip") as archive:
        assert not any("image_2" in name for name in archive.namelist())
        assert (
            archive.read(next(n for n in archive.namelist() if "/semantic/" in n))[:4]
            == encode_png(np.zeros((2, 2), np.uint8))[:4]
        )


def test_the_report_compares_with_the_reference_of_the_compare_panel(stage, tmp_path):
    parameters = export_parameters(stage, tmp_path, writeReport=True, writeStl=True)
    panel = stage.panel("Export", stage.client, lambda: COMMAND)
    panel.set_parameter_node(parameters)
    assert not panel.ui.reportCheck.enabled and panel.settings().suffixes == (".stl",)
    volume = parameters.exportSegmentation.GetNodeReference(
        parameters.exportSegmentation.GetReferenceImageGeometryReferenceRole()
    )
    parameters.compareReference = mrml.labels_to_node(example(geometry("oblique")), volume, "truth")
    parameters.changed()
    assert panel.ui.reportCheck.enabled and panel.settings().suffixes == (".stl", ".html")
    written = Export(stage).run(parameters.exportSegmentation, panel.settings())
    assert [path.suffix for path in written][-1] == ".html" and all(path.is_file() for path in written)
    page = html.unescape(written[-1].read_text(encoding="utf-8"))
    assert "Dice" in page and "1.000" in page
    assert not list(stage.runs.iterdir()) and not list((tmp_path / "out").glob(".*"))


def test_a_report_that_fails_does_not_hide_what_was_written(stage, tmp_path):
    parameters = export_parameters(stage, tmp_path)
    node = parameters.exportSegmentation
    volume = node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole())
    truth = mrml.labels_to_node(example(geometry("oblique")), volume, "truth")
    panel = stage.panel("Export", stage.client, lambda: COMMAND)
    panel.set_parameter_node(parameters)
    ends = []
    panel.logic.succeeded.connect(ends.append)
    settings = ExportSettings(tmp_path, "liver", (".stl", ".html"), reference=(truth, organs_of(truth)[0]))
    panel.logic.start(node, settings, COMMAND)
    stl = str(tmp_path / "liver_Liver.stl")
    first, stage.process = stage.process, type(stage.process)()
    first.say(READY, Result({"outputs": [stl]}).to_dict())
    first.ended.emit(0, False)
    assert stage.process.job["job"] == "compare" and panel.logic.running
    stage.process.say(READY, Failure("dependency", "matplotlib is missing; install it.").to_dict())
    stage.process.ended.emit(0, False)
    assert ends == [[Path(stl)]] and "matplotlib is missing" in panel.ui.messageLabel.text
    assert not panel.logic.running and not list(stage.runs.iterdir())


def test_names_in_the_list_of_what_was_written_are_text_and_not_markup(stage, tmp_path):
    panel = stage.panel("Export", stage.client, lambda: COMMAND)
    panel.set_parameter_node(export_parameters(stage, tmp_path))
    panel._show([tmp_path / "a&b <i>.stl"])
    assert "a&amp;b &lt;i&gt;.stl" in panel.ui.writtenLabel.text and "<i>" not in panel.ui.writtenLabel.text


def test_the_endings_of_the_two_extra_formats_are_those_of_nothing_else():
    from LiverMarginLib.io.writers import formats

    assert not {export_logic.KITTI, export_logic.REPORT} & set(formats())
