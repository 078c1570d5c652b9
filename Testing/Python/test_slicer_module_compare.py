"""The Compare panel and the logic behind it, with 3D Slicer's real scene and the real worker."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from compare_stage import CompareStage, table_rows
from conftest import REPOSITORY
from LiverMarginPanels.compare_logic import Compared, CompareLogic
from LiverMarginPanels.compare_result import SCORES
from LiverMarginPanels.model_titles import model_titles
from LiverMarginPanels.organ_choice import Organ, counterpart, needed_counterpart, organ_labels, organs_of
from LiverMarginPanels.worker_client import Command, WorkerClient
from slicer_stand_ins import COMMAND, READY, FakeProcess, Parameters, RealProcess, Shortcut
from test_mrml import add_volume, geometry

from LiverMarginLib import mrml
from LiverMarginLib.errors import InputError
from LiverMarginLib.events import Failure, Progress, Result
from LiverMarginLib.io.volume_writers import write_volume
from LiverMarginLib.jobs import run as run_job
from LiverMarginLib.jobs.compare import CompareJob
from LiverMarginLib.terminology import LIVER, LIVER_MASS, Segment
from LiverMarginLib.volume import LabelMap, Volume, axial_view

pytestmark = pytest.mark.slicer
SHAPE = (12, 14, 16)
WORKER = Command(sys.executable, REPOSITORY)


@pytest.fixture
def stage(monkeypatch, tmp_path) -> CompareStage:
    return CompareStage(monkeypatch, tmp_path)


def box(orientation: str, start=(2, 3, 4), stop=(9, 10, 12), label=1) -> np.ndarray:
    """A box of label values in the axial view, stored in the array order of an orientation."""
    grid = geometry(orientation, SHAPE)
    array = np.zeros(SHAPE, np.uint8)
    axial_view(grid).to_view(array)[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = label
    return array


def add(stage: CompareStage, name: str, array: np.ndarray, orientation="LPS", segments=(LIVER,), provenance=None):
    grid = geometry(orientation, SHAPE)
    volume = stage.scene.GetFirstNodeByName("volume") or add_volume(stage.scene, grid, np.zeros(SHAPE, np.int16))
    return mrml.labels_to_node(LabelMap(array, grid, segments, provenance or {}), volume, name)


def whole(node) -> Compared:
    (organ,) = organs_of(node)
    return Compared(node, organ)


def logic_of(stage: CompareStage):
    process = RealProcess()
    logic = CompareLogic(WorkerClient(lambda: process, stage.clock.later), stage.runs)
    ends: list = []
    logic.succeeded.connect(ends.append)
    logic.failed.connect(ends.append)
    return logic, process, ends


@pytest.mark.parametrize(("orientation", "folder"), [("coronal", None), ("oblique", "kept")])
def test_slices_are_measured_and_lead_to_their_places(stage, orientation, folder, tmp_path):
    truth = box(orientation)
    reference = add(stage, "truth", truth, orientation)
    exact = add(stage, "same", truth, orientation)
    shorter = add(stage, "same", box(orientation, stop=(7, 10, 12)), orientation)  # two slices are missed
    logic, process, ends = logic_of(stage)
    image = stage.scene.GetFirstNodeByName("volume")
    keep = tmp_path / folder if folder else None
    logic.start(whole(reference), [whole(exact), whole(shorter)], WORKER, image, keep)
    process.wait()
    (comparison,) = ends
    assert comparison.kept == bool(folder)
    assert comparison.models["same"]["dice"] == 1
    assert comparison.models["same (2)"]["dice"] == pytest.approx(2 * 5 / (5 + 7))
    names = {path.name for path in comparison.outputs}
    assert names >= {"per_slice.csv", "per_patient.csv", "summary.json", "report.html"}
    assert all(path.is_file() for path in comparison.surfaces.values()) and len(comparison.surfaces) == 2
    missed = [row for row in comparison.slices if row.status == "missed"]
    assert {(row.model, row.index) for row in missed} == {("same (2)", 7), ("same (2)", 8)}
    assert {row.index for row in comparison.slices} == set(range(2, 9))

    view = axial_view(geometry(orientation, SHAPE)).geometry
    middle = view.ijk_to_ras @ (7.5, 6, 5, 1)  # of i 4..11, j 3..9
    np.testing.assert_allclose(comparison.places.place(5), middle[:3], atol=1e-9)
    np.testing.assert_allclose(comparison.places.place(0), (view.ijk_to_ras @ (7.5, 6, 0, 1))[:3], atol=1e-9)
    if orientation == "coronal":  # the table's own position, computed from the reference by the library
        (row,) = [row for row in comparison.slices if (row.model, row.index) == ("same", 5)]
        assert comparison.places.place(5)[2] == pytest.approx(row.position_mm)

    comparison.save(tmp_path / "saved")
    assert {path.name for path in (tmp_path / "saved").rglob("*") if path.is_file()} == names
    assert {path.name for path in stage.runs.iterdir()} == (set() if folder else {comparison.folder.name})
    logic.abandon()
    assert not list(stage.runs.iterdir()) and comparison.report.is_file() == bool(folder)  # what is the user's stays


def test_a_run_that_fails_or_is_refused_leaves_no_folder(stage):
    process = stage.process
    logic = CompareLogic(stage.client, stage.runs)
    failures = []
    logic.failed.connect(failures.append)
    reference = whole(add(stage, "truth", box("LPS")))
    with pytest.raises(InputError, match="nothing to compare"):
        logic.start(reference, [], COMMAND)
    with pytest.raises(InputError, match="is empty"):
        logic.start(whole(add(stage, "empty", box("LPS", label=0))), [reference], COMMAND)
    assert not list(stage.runs.iterdir())
    logic.start(reference, [reference], COMMAND)
    assert len(list(stage.runs.iterdir())) == 2
    process.ended.emit(1, True)
    assert failures[0].kind == "crash" and not list(stage.runs.iterdir())


def test_an_image_that_cannot_be_drawn_on_does_not_stop_the_comparison(stage):
    logic = CompareLogic(stage.client, stage.runs)
    said = []
    logic.noticed.connect(said.append)
    reference = whole(add(stage, "truth", box("LPS")))
    image = stage.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "nothing in it")
    logic.start(reference, [reference], COMMAND, image)
    assert stage.process.job["image"] is None and "holds no voxels" in said[0]
    logic.abandon()


def test_the_organ_of_a_prediction_is_found_by_name_then_by_meaning_and_never_by_order(stage):
    array = box("LPS") + box("LPS", (10, 0, 0), (12, 3, 3), 2)
    both = add(stage, "both", array, segments=(LIVER, LIVER_MASS))
    mass_first = (Segment(1, "Mass in Liver", (1, 2, 3)), Segment(2, "Leber", (1, 2, 3), LIVER.terminology))
    swapped = add(stage, "swapped", array, segments=mass_first)
    single = add(stage, "single", box("LPS"), segments=(Segment(1, "AB", (1, 2, 3)),))
    assert [(organ.name, organ.is_liver) for organ in organs_of(both)] == [("Liver", True), ("Mass in Liver", False)]
    assert counterpart(organs_of(both), "liver").name == "Liver"
    assert counterpart(organs_of(swapped), "liver").name == "Leber"
    assert organ_labels(swapped, counterpart(organs_of(swapped), "liver")).array.sum() == 2 * 9
    assert counterpart(organs_of(single), "liver").name == "AB"
    two = add(stage, "two", array, segments=(Segment(1, "A", (1, 2, 3)), Segment(2, "B", (1, 2, 3))))
    assert counterpart(organs_of(two), "liver") is None
    with pytest.raises(InputError, match="no single segment"):
        needed_counterpart(two, "liver")


@pytest.mark.parametrize("kind", ["vtkMRMLLabelMapVolumeNode", "vtkMRMLScalarVolumeNode"])
def test_labels_of_label_maps_and_plain_volumes_are_offered_by_value(stage, kind):
    array = box("LPS", label=5)
    node = add_volume(stage.scene, geometry("LPS", SHAPE), array.astype(np.int16), kind)
    assert organs_of(node) == [Organ("5", "5")]
    np.testing.assert_array_equal(organ_labels(node, Organ("5", "5")).array, array // 5)


def test_an_image_is_not_taken_for_labels(stage, worked):
    grid = geometry("LPS", SHAPE)
    ct = add_volume(stage.scene, grid, np.full(SHAPE, -1000, np.int16))
    with pytest.raises(InputError, match="an image, not a label map"):
        organs_of(ct)
    mr = add_volume(stage.scene, grid, np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE))
    with pytest.raises(InputError, match="is an image"):
        organs_of(mr)


PARAMETERS = {
    "compareReference": None, "compareOrgan": "", "compareFolder": "", "compareImage": None,
    "comparePredictions": [], "comparePredictionOrgans": {},
}  # fmt: skip


def compare_panel(stage: CompareStage, **parameters):
    panel = stage.panel("Compare", stage.client, lambda: COMMAND, lambda: "", stage.clock.later)
    panel.logic._temporary = stage.runs
    node = Parameters(**(PARAMETERS | parameters))
    panel.set_parameter_node(node)
    return panel, node


def tick(panel, *nodes) -> None:
    panel.ui.predictionsBox.items = list(nodes)
    panel.ui.predictionsBox.emit("checkedNodesChanged()")


@pytest.fixture(scope="module")
def worked(tmp_path_factory) -> tuple[Path, dict]:
    """What the worker makes of `two_readers`: the folder and the job's result."""
    folder = tmp_path_factory.mktemp("worked")
    grid = geometry("LPS", SHAPE)
    masks = {"reference": box("LPS"), "B": box("LPS", stop=(7, 10, 12)), "C": box("LPS")}
    files = {
        name: str(write_volume(Volume(mask, grid), folder / f"{name}.nrrd", compress=False))
        for name, mask in masks.items()
    }
    job = CompareJob(
        files["reference"], {"reader B": files["B"], "reader C": files["C"]}, str(folder / "out"), surfaces=True
    )
    return folder / "out", run_job(job)


def run(stage: CompareStage, panel, worked) -> None:
    """Click, and play the worker with what it made once."""
    folder, values = worked
    process = stage.process = FakeProcess()
    panel.ui.applyButton.click()
    assert panel.ui.applyButton.text == "Cancel" and process.job["surfaces"]
    shutil.copytree(folder, process.job["folder"], dirs_exist_ok=True)
    moved = json.loads(json.dumps(values).replace(str(folder), process.job["folder"]))
    process.say(READY, Progress(1, 2, "compare").to_dict(), Result(moved).to_dict())
    process.ended.emit(0, False)
    stage.clock.pass_by(1)
    assert panel.ui.resultBox.visible, panel.ui.messageLabel.text


def two_readers(stage: CompareStage, worked, entered: bool = True):
    """A panel that has compared readers, with no model at all; the first has missed two slices."""
    panel, node = compare_panel(stage, compareReference=add(stage, "reader A", box("LPS")))
    if entered:
        panel.enter()
    tick(panel, add(stage, "reader B", box("LPS", stop=(7, 10, 12))), add(stage, "reader C", box("LPS")))
    run(stage, panel, worked)
    return panel, node


def test_the_compare_panel_says_what_is_still_to_be_chosen(stage):
    panel, node = compare_panel(stage)
    assert "reference" in panel.ui.applyButton.toolTip
    node.compareReference = add(stage, "truth", box("LPS"))
    node.changed()
    assert panel.ui.organBox.items == ["Liver"] and "Tick" in panel.ui.applyButton.toolTip
    assert node.compareImage.GetName() == "volume"  # the one that the reference was made on
    tick(panel, node.compareReference, None)  # the reference itself, and a node that has left the scene
    assert not panel.ui.applyButton.enabled
    tick(panel, add(stage, "model", box("LPS")))
    assert panel.ui.applyButton.enabled


def test_each_prediction_has_its_own_segment_and_the_choice_is_kept(stage):
    array = box("LPS") + box("LPS", (10, 0, 0), (12, 3, 3), 2)
    unnamed = (Segment(1, "A", (1, 2, 3)), Segment(2, "B", (1, 2, 3)))
    model = add(stage, "model", array, segments=unnamed)
    labels = add_volume(stage.scene, geometry("LPS", SHAPE), box("LPS", label=7), "vtkMRMLLabelMapVolumeNode")
    panel, node = compare_panel(stage, compareReference=add(stage, "truth", box("LPS")))
    tick(panel, model, labels)
    table = panel.ui.predictionsTable
    assert [table.item(row, 1).items for row in range(2)] == [["A", "B"], ["7"]]
    assert panel.ui.applyButton.toolTip == "Choose the segment of model." and table.item(1, 1).currentIndex == 0
    table.item(0, 1).choose_index(0)
    assert panel.ui.applyButton.enabled and len(node.comparePredictionOrgans) == 1
    again, _node = compare_panel(stage, **{name: getattr(node, name) for name in PARAMETERS})  # as from a saved scene
    assert again.ui.predictionsBox.items == [model, labels] and again.ui.applyButton.enabled
    assert again.ui.predictionsTable.item(0, 1).currentIndex == 0
    panel.ui.applyButton.click()
    assert list(stage.process.job["predictions"]) == ["model", "volume"]
    panel.cleanup()


def test_the_reference_and_new_results_of_models_are_proposed_when_the_panel_is_opened(stage):
    truth = add(stage, "truth", box("LPS"))
    first = add(stage, "first", box("LPS"), provenance={"model": {"name": "unet"}})
    panel, node = compare_panel(stage)
    panel.opened()
    assert node.compareReference is truth and panel.ui.predictionsBox.items == [first]
    panel.ui.predictionsBox.items.clear()  # the user unticks it, and it is not proposed again
    second = add(stage, "second", box("LPS"), provenance={"model": {"name": "mask-rcnn"}})
    panel.opened()
    assert panel.ui.predictionsBox.items == [second]
    node.compareReference = None
    add(stage, "another reader", box("LPS"))  # which of the two is the reference, only the user knows
    panel.opened()
    assert node.compareReference is None


def test_a_prediction_that_leaves_the_scene_leaves_the_list(stage):
    panel, node = compare_panel(stage, compareReference=add(stage, "truth", box("LPS")))
    gone, stays = add(stage, "gone", box("LPS")), add(stage, "stays", box("LPS"))
    tick(panel, gone, stays)
    panel.ui.predictionsBox.items = [None, stays]  # what the box holds then
    stage.scene.RemoveNode(gone)
    panel.node_removed()
    assert panel.ui.predictionsTable.rowCount == 1 and node.comparePredictions == [stays]
    panel.cleanup()
    panel.node_removed()
    assert node.comparePredictions == [stays]


def test_what_the_box_forgets_while_a_scene_is_loaded_is_not_written_into_it(stage):
    model = add(stage, "model", box("LPS"))
    panel, node = compare_panel(stage, compareReference=add(stage, "truth", box("LPS")), comparePredictions=[model])
    panel.set_loading(True)
    tick(panel)
    assert node.comparePredictions == [model]
    panel.set_loading(False)
    tick(panel)
    assert node.comparePredictions == []


def test_a_prediction_that_is_an_image_is_said_and_not_compared(stage):
    panel, _node = compare_panel(stage, compareReference=add(stage, "truth", box("LPS")))
    tick(panel, add_volume(stage.scene, geometry("LPS", SHAPE), np.full(SHAPE, -5, np.int16)))
    assert "not a label map" in panel.ui.applyButton.toolTip and not panel.ui.applyButton.enabled


def test_a_click_on_a_row_moves_all_views_of_the_comparison_to_the_slice_and_no_other(stage, worked):
    panel, _node = two_readers(stage, worked)
    table = panel.ui.slicesTable
    assert table_rows(table, 0)[:2] == [7, 8] and table_rows(table, 9)[:2] == ["reference only"] * 2
    assert table.headings[table.sorted_by] == "Boundary IoU" and table.order == 0
    assert panel.ui.modelsTable.item(0, 0).data(0) == "1  reader B"
    red = stage.slice_node("Red").GetSliceOffset()
    table.cells[0, 0], table.cells[3, 0] = table.cells[3, 0], table.cells[0, 0]  # the user has sorted
    table.emit("cellClicked(int,int)", 3, 1)
    place = panel.results._comparison.places.place(7)
    for tag in ("LiverMarginAll", "LiverMargin1", "LiverMargin2"):
        assert stage.slice_node(tag).GetSliceOffset() == pytest.approx(place[2])
    assert stage.slice_node("Red").GetSliceOffset() == red
    table.emit("currentCellChanged(int,int,int,int)", -1, -1, 0, 0)  # the table is being emptied
    assert panel.ui.placeLabel.text == "4 of 14: slice 7, 1  reader B"


def test_segmentations_are_called_by_the_number_of_their_view_and_by_what_tells_them_apart():
    assert model_titles(["reader B", "reader C"]) == {"reader B": "1  reader B", "reader C": "2  reader C"}
    results = ["Abdomen CT portal liver by unet-ct", "Abdomen CT portal liver by mask-rcnn"]
    assert list(model_titles(results).values()) == ["1  unet-ct", "2  mask-rcnn"]
    assert list(model_titles([results[0], "Abdomen CT portal"]).values()) == ["1  portal liver by unet-ct", "2  portal"]
    assert list(model_titles(results[:1]).values()) == ["1  ... liver by unet-ct"]


def test_the_tables_show_a_square_of_each_segmentations_colour_and_no_nan(stage, worked):
    panel, _node = two_readers(stage, worked)
    colours = {panel.ui.modelsTable.item(row, 0).data(1) for row in range(panel.ui.modelsTable.rowCount)}
    assert len(colours) == 2 and all(re.fullmatch("#[0-9a-f]{6}", colour) for colour in colours)
    comparison, plot = panel.results._comparison, panel.results.view._plot
    plot.fill(dataclasses.replace(comparison, slices=comparison.slices[1:]), SCORES[0])  # one reader lacks a slice
    texts = plot.shown_table.GetTable()
    cells = [texts.GetValue(row, column).ToString() for row in range(texts.GetNumberOfRows()) for column in (2, 3)]
    assert "nan" not in cells and cells.count("\N{EN DASH}") == 1
    assert plot.shown_table.GetColumnTitle("reader B") == "1  reader B"
    panel.cleanup()


def test_without_the_compare_layout_a_click_moves_the_users_own_views(stage, worked):
    panel, _node = two_readers(stage, worked)
    before = stage.manager.history[0]
    panel.ui.layoutCheck.toggle(False)
    assert stage.manager.layout == before
    panel.ui.slicesTable.emit("cellClicked(int,int)", 0, 1)
    place = panel.results._comparison.places.place(7)
    assert stage.slice_node("Red").GetSliceOffset() == pytest.approx(place[2])
    panel.ui.layoutCheck.toggle(True)
    assert stage.manager.layout != before


def test_keys_and_buttons_walk_through_the_slices_from_the_worst_on(stage, worked):
    panel, _node = two_readers(stage, worked)
    following, previous = Shortcut.made
    assert (following.name, previous.name) == ("Alt+Down", "Alt+Up")
    offset = stage.slice_node("LiverMargin1").GetSliceOffset
    following.press()
    following.press()
    places = panel.results._comparison.places
    assert panel.ui.slicesTable.currentRow() == 1 and offset() == pytest.approx(places.place(8)[2])
    previous.press()
    previous.press()  # the first row is the end
    assert panel.ui.slicesTable.currentRow() == 0 and offset() == pytest.approx(places.place(7)[2])
    panel.ui.nextButton.click()
    assert panel.ui.slicesTable.currentRow() == 1
    panel.exit()
    following.press()
    assert panel.ui.slicesTable.currentRow() == 1
    panel.cleanup()
    assert not Shortcut.made


def test_the_keys_of_the_module_are_free_in_slicer():
    """Taken, as tried in the application; a key that two things have does nothing at all, silently."""
    from LiverMarginPanels import shortcuts

    taken = {f"Ctrl+{key}" for key in (*"0123456CFGHOSVWXYZ", "Left", "Right")}
    taken |= {"Alt+Left", "Alt+Right"}  # the module history, beside Ctrl
    taken |= {f"Ctrl+Shift+{key}" for key in ("A", "T", "Space", "Down", "Left", "Right")}
    ours = [shortcuts.NEXT, shortcuts.PREVIOUS]
    assert len(set(ours)) == len(ours) and not set(ours) & taken


def test_the_list_can_be_narrowed_and_sorted_by_another_score(stage, worked):
    panel, _node = two_readers(stage, worked)
    ui = panel.ui
    assert ui.showBox.items == ["all slices", "the worst of each", "slices with two regions"]
    ui.modelBox.choose_index(1)
    assert set(table_rows(ui.slicesTable, 1)) == {"1  reader B"}
    ui.showBox.choose_index(2)
    assert ui.slicesTable.rows == 0 and not ui.nextButton.enabled
    ui.showBox.choose_index(0)
    ui.scoreBox.choose_index(ui.scoreBox.items.index("HD95 (mm)"))
    assert ui.slicesTable.headings[ui.slicesTable.sorted_by] == "HD95 (mm)" and ui.slicesTable.order == 1
    assert table_rows(ui.slicesTable, 0)[0] == 8  # two slices away from what was found
    chart = stage.scene.GetFirstNodeByClass("vtkMRMLPlotChartNode")
    assert chart.GetYAxisTitle() == "HD95 (mm)"


def test_the_files_are_shown_opened_and_saved(stage, worked, tmp_path):
    panel, _node = two_readers(stage, worked)
    ui, seen = panel.ui, stage.seen
    assert "until the next comparison" in ui.filesLabel.text and Path(ui.reportButton.toolTip).is_file()
    ui.reportButton.click()
    ui.folderButton.click()
    assert seen.urls == [ui.reportButton.toolTip, ui.folderButton.toolTip]
    seen.folder = str(tmp_path / "saved")
    ui.saveButton.click()
    assert (tmp_path / "saved" / "per_slice.csv").is_file() and str(tmp_path / "saved") in ui.filesLabel.text
    (tmp_path / "file").touch()
    seen.folder = str(tmp_path / "file")
    ui.saveButton.click()
    assert "Not everything could be saved" in ui.messageLabel.text
    panel.cleanup()
    assert not list(stage.runs.iterdir())


def test_leaving_the_module_brings_the_users_layout_back_and_entering_it_the_comparison(stage, worked):
    panel, _node = two_readers(stage, worked)
    before, ours = stage.manager.history[0], stage.manager.layout
    assert ours != before
    panel.exit()
    assert stage.manager.layout == before
    panel.enter()
    assert stage.manager.layout == ours


def test_a_comparison_that_ends_while_another_module_is_shown_waits(stage, worked):
    panel, _node = two_readers(stage, worked, entered=False)
    assert stage.manager.layout == stage.manager.history[0]
    assert not any(shortcut.enabled for shortcut in Shortcut.made)
    panel.enter()
    assert stage.manager.layout != stage.manager.history[0]


def test_a_comparison_that_fails_or_is_cancelled_brings_the_panel_back(stage):
    panel, node = compare_panel(stage, compareReference=add(stage, "truth", box("LPS")))
    tick(panel, add(stage, "model", box("LPS")))
    panel.ui.applyButton.click()
    stage.process.say(READY, Progress(0, 2).to_dict(), Failure("input", "Bad; choose another.").to_dict())
    stage.process.ended.emit(0, False)
    assert panel.ui.messageLabel.text == "Bad; choose another." and panel.ui.applyButton.enabled
    assert not panel.ui.progressBar.visible
    stage.process = FakeProcess()
    panel.ui.applyButton.click()
    panel.ui.applyButton.click()
    stage.process.ended.emit(0, False)
    assert panel.ui.messageLabel.text.startswith("Cancelled") and panel.ui.applyButton.text == "Compare"
    panel.cleanup()
    assert not node._observers


def test_the_scene_can_be_closed_while_a_comparison_runs(stage):
    panel, _node = compare_panel(stage, compareReference=add(stage, "truth", box("LPS")))
    tick(panel, add(stage, "model", box("LPS")))
    process = stage.process = FakeProcess()
    panel.ui.applyButton.click()
    process.say(READY, Progress(1, 2, "compare").to_dict())
    panel.set_parameter_node(None)  # as the module does when the scene starts to close
    stage.scene.Clear(0)
    assert process.killed and not panel.logic.running and not list(stage.runs.iterdir())
    process.ended.emit(9, True)
    assert not panel.ui.messageLabel.visible and not panel.ui.progressBar.visible
    panel.set_parameter_node(Parameters(**PARAMETERS))
    assert "reference" in panel.ui.applyButton.toolTip


def test_closing_the_scene_ends_the_compare_view(stage, worked):
    panel, _node = two_readers(stage, worked)
    before = stage.manager.history[0]
    assert stage.manager.layout != before
    panel.set_parameter_node(None)
    stage.scene.Clear(0)
    stage.clock.pass_by(1)
    assert stage.manager.layout == before
    assert not panel.ui.resultBox.visible and not list(stage.runs.iterdir())


def test_a_gui_that_lacks_packages_says_so(stage, monkeypatch):
    import importlib.util

    panel, _node = compare_panel(stage, compareReference=add(stage, "truth", box("LPS")))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    tick(panel, add(stage, "model", box("LPS")))
    assert "Environment panel" in panel.ui.applyButton.toolTip
