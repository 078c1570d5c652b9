"""The Compare panel and the logic behind it, with 3D Slicer's real scene and the real worker."""

from __future__ import annotations

import csv
import sys
import types

import numpy as np
import pytest
from conftest import REPOSITORY
from LiverMarginPanels.compare_logic import CompareLogic, Organ, counterpart, organ_labels, organs_of
from LiverMarginPanels.worker_client import Command, WorkerClient
from slicer_stand_ins import COMMAND, READY, Parameters, RealProcess
from test_mrml import add_volume, geometry
from test_slicer_module_panels import Stage

from LiverMarginLib import mrml
from LiverMarginLib.errors import InputError
from LiverMarginLib.events import Failure, Progress
from LiverMarginLib.terminology import LIVER, LIVER_MASS, Segment
from LiverMarginLib.volume import LabelMap, axial_view

pytestmark = pytest.mark.slicer
SHAPE = (12, 14, 16)


@pytest.fixture
def stage(monkeypatch, tmp_path) -> Stage:
    return Stage(monkeypatch, tmp_path)


def box(orientation: str, start=(2, 3, 4), stop=(9, 10, 12), label=1) -> np.ndarray:
    """A box of label values in the axial view, stored in the array order of an orientation."""
    grid = geometry(orientation, SHAPE)
    array = np.zeros(SHAPE, np.uint8)
    axial_view(grid).to_view(array)[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = label
    return array


def add(stage: Stage, name: str, array: np.ndarray, orientation="LPS", segments=(LIVER,)):
    grid = geometry(orientation, SHAPE)
    volume = stage.scene.GetFirstNodeByName("volume") or add_volume(stage.scene, grid, np.zeros(SHAPE, np.int16))
    return mrml.labels_to_node(LabelMap(array, grid, segments), volume, name)


@pytest.mark.parametrize("orientation", ["LPS", "coronal", "oblique"])
def test_slices_are_measured_and_a_row_leads_to_the_place(stage, orientation, tmp_path):
    truth = box(orientation)
    reference = add(stage, "truth", truth, orientation)
    exact = add(stage, "same", truth, orientation)
    shorter = add(stage, "same", box(orientation, stop=(7, 10, 12)), orientation)  # two slices are missed
    process = RealProcess()
    logic = CompareLogic(WorkerClient(lambda: process, stage.clock.later), stage.runs)
    ends = []
    logic.succeeded.connect(ends.append)
    logic.failed.connect(ends.append)
    organ = organs_of(reference)[0]
    command = Command(sys.executable, REPOSITORY)
    logic.start(reference, organ, [exact, shorter], command, tmp_path / "kept")
    process.wait()
    (comparison,) = ends
    assert not list(stage.runs.iterdir())
    assert comparison.models["same"]["dice"] == 1
    assert comparison.models["same (2)"]["dice"] == pytest.approx(2 * 5 / (5 + 7))
    assert {path.name for path in comparison.files} >= {"per_slice.csv", "per_patient.csv", "summary.json"}
    missed = [row for row in comparison.slices if row.status == "missed"]
    assert {(row.model, row.index) for row in missed} == {("same (2)", 7), ("same (2)", 8)}
    assert comparison.slices[0] in missed  # the worst come first
    assert {row.index for row in comparison.slices} == set(range(2, 9))

    # The table's own position of the slice, computed from the reference by the library.
    with (tmp_path / "kept" / "per_slice.csv").open(newline="") as stream:
        positions = {int(row["index"]): float(row["position_mm"]) for row in csv.DictReader(stream)}
    view = axial_view(geometry(orientation, SHAPE)).geometry
    middle = view.ijk_to_ras @ (7.5, 6, 5, 1)  # of i 4..11, j 3..9
    np.testing.assert_allclose(logic.place_of(5), middle[:3], atol=1e-9)
    if orientation != "oblique":
        assert logic.place_of(5)[2] == pytest.approx(positions[5])


def test_the_organ_of_a_prediction_is_found_by_name_then_by_meaning_and_never_by_order(stage):
    array = box("LPS") + box("LPS", (10, 0, 0), (12, 3, 3), 2)
    both = add(stage, "both", array, segments=(LIVER, LIVER_MASS))
    mass_first = (Segment(1, "Mass in Liver", (1, 2, 3)), Segment(2, "Leber", (1, 2, 3), LIVER.terminology))
    swapped = add(stage, "swapped", array, segments=mass_first)
    single = add(stage, "single", box("LPS"), segments=(Segment(1, "AB", (1, 2, 3)),))
    assert [(organ.name, organ.is_liver) for organ in organs_of(both)] == [("Liver", True), ("Mass in Liver", False)]
    assert counterpart(both, "liver").name == "Liver"
    assert counterpart(swapped, "liver").name == "Leber"
    assert organ_labels(swapped, counterpart(swapped, "liver")).array.sum() == 2 * 9
    assert counterpart(single, "liver").name == "AB"
    two = add(stage, "two", array, segments=(Segment(1, "A", (1, 2, 3)), Segment(2, "B", (1, 2, 3))))
    with pytest.raises(InputError, match="no single segment"):
        counterpart(two, "liver")


def test_labels_of_a_label_map_are_offered_by_value(stage):
    array = box("LPS", label=5)
    node = add_volume(stage.scene, geometry("LPS", SHAPE), array.astype(np.int16), "vtkMRMLLabelMapVolumeNode")
    assert organs_of(node) == [Organ("5", "5")]
    np.testing.assert_array_equal(organ_labels(node, Organ("5", "5")).array, array // 5)


def compare_panel(stage: Stage, **parameters):
    panel = stage.panel("Compare", stage.client, lambda: COMMAND, lambda: "")
    node = Parameters(**({"compareReference": None, "compareOrgan": "", "compareFolder": ""} | parameters))
    panel.set_parameter_node(node)
    return panel, node


def tick(panel, *nodes) -> None:
    panel.ui.predictionsBox.items = list(nodes)
    panel.ui.predictionsBox.emit("checkedNodesChanged()")


def test_the_compare_panel_says_what_is_still_to_be_chosen(stage):
    panel, node = compare_panel(stage)
    assert "reference" in panel.ui.applyButton.toolTip
    node.compareReference = add(stage, "truth", box("LPS"))
    node.changed()
    assert panel.ui.organBox.items == ["Liver"] and "Tick" in panel.ui.applyButton.toolTip
    tick(panel, node.compareReference, None)  # the reference itself, and a node that has left the scene
    assert not panel.ui.applyButton.enabled
    tick(panel, add(stage, "model", box("LPS")))
    assert panel.ui.applyButton.enabled


def test_a_click_on_a_row_moves_all_views_to_the_slice(stage, monkeypatch):
    import slicer

    panel, _node = compare_panel(stage, compareReference=add(stage, "truth", box("LPS")))
    tick(panel, add(stage, "model", box("LPS", stop=(8, 10, 12))))
    process = stage.process = RealProcess()
    panel._command = lambda: Command(sys.executable, REPOSITORY)
    panel.ui.applyButton.click()
    assert panel.ui.applyButton.text == "Cancel"
    process.wait()
    assert panel.ui.resultBox.visible, panel.ui.messageLabel.text
    table = panel.ui.slicesTable
    assert (table.item(0, 0).data(0), table.item(0, 2).data(0)) == (8, "missed")
    assert table.headings[table.sorted_by] == "Boundary IoU"
    assert panel.ui.modelsTable.item(0, 0).data(0) == "model"
    jumps = []
    slice_node = types.SimpleNamespace(OffsetJumpSlice=0, JumpAllSlices=lambda scene, *place: jumps.append(place))
    monkeypatch.setattr(slicer, "vtkMRMLSliceNode", slice_node)
    table.cells[0, 0], table.cells[3, 0] = table.cells[3, 0], table.cells[0, 0]  # the user has sorted
    table.emit("cellClicked(int,int)", 3, 1)
    assert jumps == [(*panel.logic.place_of(8), 0)]
    table.emit("currentCellChanged(int,int,int,int)", -1, -1, 0, 0)  # the table is being emptied
    assert len(jumps) == 1


def test_a_comparison_that_fails_or_is_cancelled_brings_the_panel_back(stage):
    panel, node = compare_panel(stage, compareReference=add(stage, "truth", box("LPS")))
    tick(panel, add(stage, "model", box("LPS")))
    panel.ui.applyButton.click()
    stage.process.say(READY, Progress(0, 2).to_dict(), Failure("input", "Bad; choose another.").to_dict())
    stage.process.ended.emit(0, False)
    assert panel.ui.messageLabel.text == "Bad; choose another." and panel.ui.applyButton.enabled
    assert not panel.ui.progressBar.visible
    panel.ui.applyButton.click()
    panel.ui.applyButton.click()
    stage.process.ended.emit(0, False)
    assert panel.ui.messageLabel.text.startswith("Cancelled") and panel.ui.applyButton.text == "Compare"
    panel.cleanup()
    assert not node._observers


def test_segmentations_without_a_common_organ_are_refused_in_the_panel(stage):
    panel, _node = compare_panel(stage, compareReference=add(stage, "truth", box("LPS")))
    two = (Segment(1, "A", (1, 2, 3)), Segment(2, "B", (1, 2, 3)))
    tick(panel, add(stage, "model", box("LPS"), segments=two))
    panel.ui.applyButton.click()
    assert "no single segment" in panel.ui.messageLabel.text and not panel.logic.running
