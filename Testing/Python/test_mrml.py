"""Scene in, segmentation out: the bridge to 3D Slicer's scene, tried with its own data classes (slicer-core)."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from LiverMarginLib import mrml
from LiverMarginLib.errors import GeometryError, InputError, LiverMarginError
from LiverMarginLib.io.readers import read_labels
from LiverMarginLib.terminology import LIVER, LIVER_MASS, Terminology
from LiverMarginLib.volume import Geometry, IntensityKind, LabelMap, Modality, axial_view

pytestmark = pytest.mark.slicer

SHAPE = (5, 7, 9)
# The columns are the RAS directions of i, j and k.
ORIENTATIONS = {
    "LPS": np.diag([-1.0, -1.0, 1.0]),
    "RAS": np.eye(3),
    "RAI": np.diag([1.0, 1.0, -1.0]),
    "coronal": np.array([[-1.0, 0, 0], [0, 0, -1.0], [0, -1.0, 0]]),
    "sagittal": np.array([[0, 0, 1.0], [-1.0, 0, 0], [0, -1.0, 0]]),
    "swapped": np.array([[0, 1.0, 0], [1.0, 0, 0], [0, 0, -1.0]]),
    "oblique": Rotation.from_euler("xyz", (20, 10, 15), degrees=True).as_matrix(),
}


def geometry(name: str, shape=SHAPE) -> Geometry:
    matrix = np.eye(4)
    matrix[:3, :3] = ORIENTATIONS[name] @ np.diag([0.7, 0.9, 2.5])
    matrix[:3, 3] = 12.5, -40.25, 310.0
    return Geometry(shape, matrix)


def add_volume(scene, grid: Geometry, array=None, kind="vtkMRMLScalarVolumeNode"):
    """A volume node, made by VTK's and MRML's own means."""
    import vtk
    from vtk.util.numpy_support import numpy_to_vtk

    array = np.arange(np.prod(grid.shape), dtype=np.int16).reshape(grid.shape) if array is None else array
    image = vtk.vtkImageData()
    image.SetDimensions(*grid.shape[::-1])
    image.GetPointData().SetScalars(numpy_to_vtk(np.ascontiguousarray(array).ravel(), deep=True))
    matrix = vtk.vtkMatrix4x4()
    matrix.DeepCopy(grid.ijk_to_ras.ravel().tolist())
    node = scene.AddNewNodeByClass(kind, "volume")
    node.SetAndObserveImageData(image)
    node.SetIJKToRASMatrix(matrix)
    return node


@pytest.fixture
def scene():
    import slicer

    return slicer.vtkMRMLScene()


def example(grid: Geometry) -> LabelMap:
    array = np.random.default_rng(1).integers(0, 3, grid.shape).astype(np.uint8)
    return LabelMap(array, grid, (LIVER, LIVER_MASS), {"model": {"name": "tiny"}})


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_scene_in_and_segmentation_out_keep_every_voxel_in_its_place(name, scene, tmp_path):
    import slicer

    node = add_volume(scene, geometry(name))
    volume = mrml.volume_from_node(node)
    np.testing.assert_array_equal(volume.array, slicer.util.arrayFromVolume(node))
    np.testing.assert_allclose(volume.geometry.ijk_to_ras, geometry(name).ijk_to_ras, atol=1e-12)

    labels = example(volume.geometry)
    segmentation = mrml.labels_to_node(labels, node, "result")
    # Slicer's own export says where the voxels lie.
    exported = scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode")
    slicer.vtkSlicerSegmentationsModuleLogic.ExportAllSegmentsToLabelmapNode(segmentation, exported, 1)
    file = tmp_path / "r.seg.nrrd"
    storage = scene.AddNewNodeByClass("vtkMRMLSegmentationStorageNode")
    storage.SetFileName(str(file))
    assert storage.WriteData(segmentation) == 1
    read = read_labels(file)
    assert read.geometry.agrees_with(labels.geometry, 1e-4)
    np.testing.assert_array_equal(read.array, labels.array)
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(exported), labels.array)

    back = mrml.labels_from_node(segmentation)
    np.testing.assert_array_equal(back.array, labels.array)
    assert back.geometry.agrees_with(labels.geometry, 1e-6)
    assert back.segments == labels.segments


@pytest.mark.parametrize("name", ["coronal", "oblique"])
def test_slices_written_one_by_one_give_the_same_segmentation(name, scene):
    grid = geometry(name)
    segmentation = mrml.new_segmentation(add_volume(scene, grid), "live")
    labels = example(grid)
    layers = mrml.SegmentLayers(segmentation, grid, labels.segments)
    count = axial_view(grid).geometry.shape[0]
    for index in range(count - 1):
        layers.show_slice(index, labels.array)
    seen = axial_view(grid).to_view(mrml.labels_from_node(segmentation).array)
    wanted = axial_view(grid).to_view(labels.array)
    np.testing.assert_array_equal(seen[:-1], wanted[:-1])
    assert not seen[-1].any()
    layers.finish(labels)
    np.testing.assert_array_equal(mrml.labels_from_node(segmentation).array, labels.array)


def test_the_display_hears_of_new_slices_only_when_asked_to_redraw(scene):
    grid = geometry("RAS")
    segmentation = mrml.new_segmentation(add_volume(scene, grid), "live")
    layers = mrml.SegmentLayers(segmentation, grid, (LIVER,))
    heard = []
    segmentation.GetDisplayNode().AddObserver("ModifiedEvent", lambda *_: heard.append(1))
    layers.show_slice(0, np.ones(SHAPE, np.uint8))
    assert not heard
    layers.redraw()
    assert len(heard) == 1


def test_segments_carry_name_colour_terminology_and_provenance(scene):
    import slicer
    import vtk

    node = mrml.labels_to_node(example(geometry("LPS")), add_volume(scene, geometry("LPS")), "result")
    segment = node.GetSegmentation().GetNthSegment(0)
    assert segment.GetName() == "Liver"
    np.testing.assert_allclose(segment.GetColor(), np.array(LIVER.colour) / 255)
    text = vtk.mutable("")
    segment.GetTag(slicer.vtkSegment.GetTerminologyEntryTagName(), text)
    assert Terminology.from_slicer(str(text)) == LIVER.terminology
    segment.GetTag("LiverMargin.Provenance", text)
    assert "tiny" in str(text)
    assert node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole()).GetName() == "volume"


def test_each_segment_has_a_layer_of_its_own_and_older_segments_stay(scene):
    grid = geometry("LPS")
    volume = add_volume(scene, grid)
    node = mrml.labels_to_node(example(grid), volume, "result")
    before = mrml.labels_from_node(node)
    layers = mrml.SegmentLayers(node, grid, (LIVER,))
    assert node.GetSegmentation().GetNumberOfLayers() == 3
    assert len(set(layers.segment_ids)) == 1
    layers.show_slice(0, np.ones(SHAPE, np.uint8))
    ids = [node.GetSegmentation().GetNthSegmentID(n) for n in range(2)]
    np.testing.assert_array_equal(mrml.labels_from_node(node, ids).array, before.array)
    layers.remove()
    assert node.GetSegmentation().GetNumberOfSegments() == 2


def test_a_segment_that_was_removed_or_replaced_meanwhile_gets_the_result_all_the_same(scene):
    import slicer

    grid = geometry("LPS")
    node = mrml.new_segmentation(add_volume(scene, grid), "live")
    labels = example(grid)
    layers = mrml.SegmentLayers(node, grid, labels.segments)
    node.GetSegmentation().RemoveSegment(layers.segment_ids[0])
    other = slicer.vtkOrientedImageData()
    other.DeepCopy(node.GetSegmentation().GetSegment(layers.segment_ids[1]).GetRepresentation("Binary labelmap"))
    node.GetSegmentation().GetSegment(layers.segment_ids[1]).AddRepresentation("Binary labelmap", other)
    layers.show_slice(0, labels.array)
    layers.finish(labels)
    by_name = {segment.name: segment.label for segment in mrml.labels_from_node(node).segments}
    back = mrml.labels_from_node(node, layers.segment_ids)
    assert set(by_name) == {"Liver", "Mass in Liver"}
    np.testing.assert_array_equal(back.array, labels.array)


def test_a_segmentation_is_brought_to_the_grid_of_another_volume(scene):
    grid = geometry("RAS", (4, 4, 4))
    labels = LabelMap(np.ones(grid.shape, np.uint8), grid, (LIVER,))
    node = mrml.labels_to_node(labels, add_volume(scene, grid), "result")
    finer = Geometry((8, 8, 8), grid.ijk_to_ras @ np.array(
        [[0.5, 0, 0, -0.25], [0, 0.5, 0, -0.25], [0, 0, 0.5, -0.25], [0, 0, 0, 1]]
    ))  # fmt: skip
    back = mrml.labels_from_node(node, reference=add_volume(scene, finer))
    assert back.geometry.agrees_with(finer)
    assert back.array.mean() > 0.8  # half voxels at the border may fall on either side
    assert back.array[1:-1, 1:-1, 1:-1].all()


def test_overlapping_segments_are_said(scene):
    grid = geometry("RAS")
    volume = add_volume(scene, grid)
    everything = LabelMap(np.ones(SHAPE, np.uint8), grid, (LIVER,))
    node = mrml.labels_to_node(everything, volume, "result")
    mrml.labels_to_node(everything, volume, "", node)
    back = mrml.labels_from_node(node)
    assert (back.array == 2).all()
    assert "315 voxels belong to several segments" in back.provenance["notes"][0]


def test_label_values_of_volumes_are_kept_and_named_by_their_colour_table(scene):
    grid = geometry("LPS")
    array = np.zeros(SHAPE, np.int16)
    array[2] = 3
    labelmap = add_volume(scene, grid, array, "vtkMRMLLabelMapVolumeNode")
    table = scene.AddNewNodeByClass("vtkMRMLColorTableNode")
    table.SetTypeToUser()
    table.SetNumberOfColors(5)
    table.SetColor(3, "Spleen", 1.0, 0.0, 0.0, 1.0)
    labelmap.CreateDefaultDisplayNodes()
    labelmap.GetDisplayNode().SetAndObserveColorNodeID(table.GetID())
    back = mrml.labels_from_node(labelmap)
    np.testing.assert_array_equal(back.array, array)
    assert [(s.label, s.name, s.colour) for s in back.segments] == [(3, "Spleen", (255, 0, 0))]
    as_floats = mrml.labels_from_node(add_volume(scene, grid, array.astype(np.float32)))
    np.testing.assert_array_equal(as_floats.array, array)


def test_the_modality_comes_from_the_units_or_the_attribute_or_the_user(scene):
    import slicer

    node = add_volume(scene, geometry("LPS"))
    assert mrml.volume_from_node(node).modality is Modality.UNKNOWN
    assert mrml.volume_from_node(node, Modality.MR).intensity is IntensityKind.ARBITRARY
    node.SetAttribute("DICOM.Modality", "MR")
    assert mrml.modality_of(node) is Modality.MR
    units = slicer.vtkCodedEntry()
    units.SetValueSchemeMeaning("[hnsf'U]", "UCUM", "Hounsfield unit")
    node.SetVoxelValueUnits(units)
    assert (mrml.volume_from_node(node).modality, mrml.volume_from_node(node).intensity) == (
        Modality.CT,
        IntensityKind.HU,
    )


def test_nodes_that_a_transform_moves_are_refused_with_one_sentence(scene):
    grid = geometry("LPS")
    volume = add_volume(scene, grid)
    segmentation = mrml.labels_to_node(example(grid), volume, "result")
    transform = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    for node in (volume, segmentation):
        node.SetAndObserveTransformNodeID(transform.GetID())
    for refused in (
        lambda: mrml.volume_from_node(volume),
        lambda: mrml.labels_from_node(segmentation),
        lambda: mrml.SegmentLayers(segmentation, grid, (LIVER,)),
    ):
        with pytest.raises(GeometryError, match=r"harden the transform .*\.$"):
            refused()


def test_nodes_without_labels_are_refused_with_one_sentence(scene):
    import slicer
    import vtk

    grid = geometry("LPS")
    empty = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "nothing")
    filled = mrml.labels_to_node(example(grid), add_volume(scene, grid), "result")
    surface = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "surface")
    surface.GetSegmentation().SetSourceRepresentationName("Closed surface")  # or voxels are made where a rule is known
    segment = slicer.vtkSegment()
    segment.AddRepresentation("Closed surface", vtk.vtkPolyData())
    surface.GetSegmentation().AddSegment(segment, "s")
    colours = scene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", "colours")
    colours.SetAndObserveImageData(_colour_image())
    for refused in (
        lambda: mrml.labels_from_node(empty),
        lambda: mrml.labels_from_node(filled, ["no such"]),
        lambda: mrml.labels_from_node(filled, []),
        lambda: mrml.labels_from_node(surface, reference=add_volume(scene, grid)),
        lambda: mrml.labels_from_node(add_volume(scene, grid, np.full(SHAPE, 0.5, np.float32))),
        lambda: mrml.volume_from_node(scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "hollow")),
        lambda: mrml.volume_from_node(colours),
    ):
        with pytest.raises(InputError) as caught:
            refused()
        assert isinstance(caught.value, LiverMarginError)
        assert caught.value.message.endswith(".") and ". " not in caught.value.message


def _colour_image():
    import vtk

    image = vtk.vtkImageData()
    image.SetDimensions(2, 2, 2)
    image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 3)
    return image


def test_written_voxels_are_those_that_simpleitk_reads_in_the_same_place(scene, tmp_path):
    """The temporary input of the worker: written by us, read by an independent reader."""
    from LiverMarginLib.io.volume_writers import write_volume

    grid = geometry("oblique")
    volume = mrml.volume_from_node(add_volume(scene, grid), Modality.CT)
    image = sitk.ReadImage(str(write_volume(volume, tmp_path / "v.nrrd", compress=False)))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), volume.array)
    for index in ((0, 0, 0), (8, 6, 4)):
        lps = np.diag((-1, -1, 1, 1)) @ grid.ijk_to_ras @ (*index, 1)
        np.testing.assert_allclose(image.TransformIndexToPhysicalPoint(index), lps[:3], atol=1e-6)
