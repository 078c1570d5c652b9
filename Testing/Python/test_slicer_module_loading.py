"""Images that are dropped on the Segment panel, and the phantom of Sample Data."""

from __future__ import annotations

import shutil
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from LiverMarginPanels.image_loading import SOURCE, load_image
from LiverMarginPanels.sample_data import NAME, add_phantom, register
from test_mrml import geometry

from LiverMarginLib import mrml
from LiverMarginLib.errors import InputError
from LiverMarginLib.io.volume_writers import write_volume
from LiverMarginLib.volume import IntensityKind, Modality, Volume

pytestmark = pytest.mark.slicer
SHAPE = (6, 20, 24)


@pytest.fixture
def scene():
    import slicer

    return slicer.vtkMRMLScene()


def ct(orientation: str, seed: int = 0) -> Volume:
    array = np.random.default_rng(seed).integers(-1000, 1000, SHAPE).astype(np.int16)
    return Volume(array, geometry(orientation, SHAPE), Modality.CT, IntensityKind.HU)


def write_dicom(volume: Volume, folder: Path) -> Path:
    write_volume(volume, folder)
    for number, path in enumerate(sorted(folder.rglob("*.dcm"))):  # the order of the names is not that of the slices
        path.rename(path.with_name(f"{(number * 5) % 7}-{number}.dcm"))
    return folder


@pytest.mark.parametrize("orientation", ["LPS", "oblique"])
def test_a_dicom_folder_is_loaded_in_the_order_of_its_slices_whatever_its_files_are_called(
    scene, orientation, tmp_path
):
    image = ct(orientation)
    folder = write_dicom(image, tmp_path / "MUSTER^ERIKA")
    node = load_image(folder, scene, lambda _: None)
    loaded = mrml.volume_from_node(node)
    assert loaded.modality is Modality.CT and Path(node.GetAttribute(SOURCE)) == folder
    assert "MUSTER" not in node.GetName()
    assert loaded.geometry.agrees_with(image.geometry, 1e-3)
    np.testing.assert_array_equal(loaded.array, image.array)
    assert node.GetDisplayNode().GetWindow() == 400


def test_a_nifti_file_is_loaded_where_it_lies(scene, tmp_path):
    write_volume(ct("coronal"), tmp_path / "patient.nii.gz")
    node = load_image(tmp_path / "patient.nii.gz", scene, lambda _: None)
    loaded = mrml.volume_from_node(node)
    assert node.GetName() == "patient" and node.GetAttribute(SOURCE) is None
    corners = [image.geometry.ijk_to_ras @ (3, 4, 5, 1) for image in (loaded, ct("coronal"))]
    np.testing.assert_allclose(*corners, atol=1e-3)


def test_of_several_series_the_largest_is_loaded_and_the_user_is_told(scene, tmp_path):
    small = ct("LPS", 1)
    grid = geometry("LPS", (3, 20, 24))
    write_dicom(Volume(small.array[:3], grid, Modality.CT, IntensityKind.HU), tmp_path / "a")
    write_dicom(ct("LPS"), tmp_path / "b")
    notices = []
    node = load_image(tmp_path, scene, notices.append)
    np.testing.assert_array_equal(mrml.volume_from_node(node).array, ct("LPS").array)
    assert any("2 images" in notice for notice in notices)


def test_a_folder_without_images_changes_nothing(scene, tmp_path):
    (tmp_path / "letter.txt").write_text("dear colleague")
    before = scene.GetNumberOfNodes()
    with pytest.raises(InputError):
        load_image(tmp_path, scene, lambda _: None)
    assert scene.GetNumberOfNodes() == before


@pytest.mark.parametrize("kind", [np.bool_, np.uint16, np.float16, np.float64, np.int64])
def test_every_type_of_voxel_finds_its_way_into_the_scene(scene, kind):
    array = np.arange(np.prod(SHAPE)).reshape(SHAPE).astype(kind)
    node = mrml.volume_to_node(Volume(array, geometry("RAI", SHAPE)), scene, "v")
    back = mrml.volume_from_node(node)
    np.testing.assert_array_equal(back.array, array)
    assert back.geometry.agrees_with(geometry("RAI", SHAPE), 1e-9)


def test_the_phantom_has_a_liver_where_its_reference_says(scene):
    volume, reference = add_phantom(scene)
    image, labels = mrml.volume_from_node(volume), mrml.labels_from_node(reference)
    assert volume.GetName() == NAME and image.modality is Modality.CT
    assert labels.geometry.agrees_with(image.geometry)
    assert [segment.name for segment in labels.segments] == ["Liver", "Mass in Liver"]
    assert 90 < image.array[labels.mask(1)].mean() < 150  # portal phase
    assert 800 < labels.volume_ml(1) < 2500


def test_sample_data_gets_a_source_with_a_button(monkeypatch):
    registered = {}
    logic = types.SimpleNamespace(registerCustomSampleDataSource=lambda **fields: registered.update(fields))
    monkeypatch.setitem(sys.modules, "SampleData", types.SimpleNamespace(SampleDataLogic=logic))
    register()
    assert (registered["category"], registered["sampleName"]) == ("LiverMargin", NAME)
    assert registered["uris"] and callable(registered["customDownloader"])


def test_what_is_dropped_becomes_the_input_or_is_refused_with_a_sentence(monkeypatch, tmp_path, tiny_model):
    import slicer
    from test_slicer_module_panels import Stage, segment_panel

    stage = Stage(monkeypatch, tmp_path)
    shutil.copytree(tiny_model.folder, tmp_path / "models" / "tiny")
    panel, node = segment_panel(stage)
    before = node.inputVolume
    shown = []
    monkeypatch.setattr(slicer.util, "setSliceViewerLayers", lambda background, fit: shown.append(background))
    url = types.SimpleNamespace(isLocalFile=lambda: True, toLocalFile=lambda: str(tmp_path / "image.nrrd"))
    event = types.SimpleNamespace(mimeData=lambda: types.SimpleNamespace(urls=lambda: [url]))
    event.acceptProposedAction = lambda: None
    panel._drop_area.dropEvent(event)
    assert panel.ui.messageLabel.visible and node.inputVolume is before
    write_volume(ct("LPS"), tmp_path / "image.nrrd")
    panel._drop_area.dropEvent(event)
    assert node.inputVolume.GetName() == "image" and shown == [node.inputVolume]
    panel.refresh()
    assert (node.firstSlice, node.lastSlice) == (0, SHAPE[0] - 1)
