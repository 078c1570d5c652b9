"""Segmentations: label map files, seg.nrrd, DICOM SEG and mask pictures."""

from __future__ import annotations

import highdicom as hd
import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_makers import SECRET, ct_slice, save, write_series
from highdicom.sr.coding import CodedConcept
from PIL import Image
from pydicom.sr.codedict import codes

from LiverMarginLib.errors import GeometryError, InputError
from LiverMarginLib.events import Notice
from LiverMarginLib.io.readers import list_images, read_labels, read_volume, resolve_label
from LiverMarginLib.terminology import LIVER, LIVER_MASS, Code, Segment
from LiverMarginLib.volume import Geometry, LabelMap

AFFINE = np.array([[-0.8, 0, 0, 12], [0, -0.9, 0, -30], [0, 0, 2.5, 7], [0, 0, 0, 1.0]])
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def label_values(shape=(5, 12, 10)):
    labels = np.zeros(shape, np.uint8)
    labels[1:4, 2:9, 2:8] = 1
    labels[2:3, 4:6, 3:5] = 2
    return labels


def refusal(path, kind=InputError, **options):
    with pytest.raises(kind) as caught:
        read_labels(path, **options)
    message = caught.value.message
    assert message.endswith(".") and "\n" not in message and SECRET not in message
    return message


def write_nifti(path, values):
    nib.save(nib.Nifti1Image(values.T, AFFINE), path)
    return path


# -- label map files ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64, np.int64])
def test_label_maps_keep_every_label_whatever_number_type_holds_them(tmp_path, dtype):
    image = nib.Nifti1Image(label_values().T.astype(dtype), AFFINE, dtype=dtype)
    nib.save(image, tmp_path / "l.nii.gz")
    labels = read_labels(tmp_path / "l.nii.gz")
    assert np.array_equal(labels.array, label_values())
    assert labels.array.dtype == np.uint8
    assert np.allclose(labels.geometry.ijk_to_ras, AFFINE)
    assert labels.segments == ()


@pytest.mark.parametrize("name", ["l.nrrd", "l.mha"])
def test_label_maps_of_itk_formats_are_read(tmp_path, name):
    sitk.WriteImage(sitk.GetImageFromArray(label_values().astype(np.uint16) * 300), str(tmp_path / name))
    labels = read_labels(tmp_path / name)
    assert np.array_equal(labels.array, label_values().astype(int) * 300)
    assert labels.array.dtype == np.uint16


def test_masks_of_0_and_255_keep_their_value(tmp_path):
    labels = read_labels(write_nifti(tmp_path / "l.nii", np.where(label_values() > 0, 255, 0).astype(np.uint8)))
    assert resolve_label(labels, None) == 255


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        (label_values() * 0.5, "not whole numbers"),
        (np.where(label_values() > 0, np.nan, 0.0), "not whole numbers"),
        (label_values().astype(np.int16) - 1, "negative"),
        (label_values().astype(np.float64) * 1e12, "small whole numbers"),
    ],
    ids=["fractions", "nan", "negative", "huge"],
)
def test_values_that_are_no_labels_are_refused(tmp_path, values, complaint):
    assert complaint in refusal(write_nifti(tmp_path / "l.nii", values))


def test_labels_named_in_a_nifti_header_are_named_where_they_occur(tmp_path):
    table = (
        "<?xml version='1.0'?><CaretExtension><VolumeInformation Index='0'><LabelTable>"
        "<Label Key='1' Red='1.0' Green='0.5' Blue='0.0' Alpha='1'><![CDATA[liver]]></Label>"
        "<Label Key='7' Red='0' Green='0' Blue='1' Alpha='1'><![CDATA[spleen]]></Label>"
        "</LabelTable></VolumeInformation></CaretExtension>"
    )
    image = nib.Nifti1Image(label_values().T, AFFINE)
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", table.encode()))
    nib.save(image, tmp_path / "l.nii.gz")
    labels = read_labels(tmp_path / "l.nii.gz")
    assert labels.segments == (Segment(1, "liver", (255, 128, 0)),)
    assert resolve_label(labels, "Liver") == 1


def test_a_truncated_label_map_and_an_image_are_refused(tmp_path):
    path = write_nifti(tmp_path / "l.nii.gz", np.random.default_rng(0).integers(0, 9, (9, 20, 20)).astype(np.uint8))
    path.write_bytes(path.read_bytes()[:-200])
    assert "truncated" in refusal(path)
    write_series(tmp_path / "ct")
    assert "holds no segmentation, only: 1: CT" in refusal(tmp_path / "ct")


# -- choosing a label -----------------------------------------------------------------------------------------------


def test_a_label_is_chosen_by_value_or_name_and_a_wrong_one_lists_those_present():
    labels = LabelMap(label_values(), Geometry((5, 12, 10), AFFINE), (LIVER, LIVER_MASS))
    assert [resolve_label(labels, choice) for choice in (2, "1", "LIVER", " mass in liver ")] == [1 + 1, 1, 1, 2]
    for wrong in (3, "kidney", "3", None):
        with pytest.raises(InputError, match=r"1 \(Liver\), 2 \(Mass in Liver\)"):
            resolve_label(labels, wrong)


def test_the_only_label_needs_no_choice_and_an_empty_map_has_none():
    geometry = Geometry((5, 12, 10), AFFINE)
    assert resolve_label(LabelMap((label_values() == 2) * np.uint16(9), geometry), None) == 9
    assert resolve_label(LabelMap(label_values() == 2, geometry), None) == 1
    empty = np.zeros((5, 12, 10), np.uint8)
    assert resolve_label(LabelMap(empty, geometry, (LIVER,)), None) == 1
    with pytest.raises(InputError, match="empty"):
        resolve_label(LabelMap(empty, geometry), None)


# -- seg.nrrd -------------------------------------------------------------------------------------------------------


@pytest.fixture
def slicer_writes(tmp_path):
    """Write segments (name, mask, colour, terminology tag) as seg.nrrd with 3D Slicer's own code."""
    import slicer
    import vtk
    from vtk.util.numpy_support import numpy_to_vtk

    def image_of(mask):
        image = slicer.vtkOrientedImageData()
        k, j, i = mask.shape
        image.SetDimensions(i, j, k)
        image.GetPointData().SetScalars(numpy_to_vtk(mask.astype(np.uint8).ravel(), deep=True))
        matrix = vtk.vtkMatrix4x4()
        for row in range(4):
            for column in range(4):
                matrix.SetElement(row, column, AFFINE[row, column])
        image.SetGeometryFromImageToWorldMatrix(matrix)
        return image

    def write(segments, collapse=False):
        scene = slicer.vtkMRMLScene()
        node = slicer.vtkMRMLSegmentationNode()
        scene.AddNode(node)
        segmentation = node.GetSegmentation()
        segmentation.SetSourceRepresentationName("Binary labelmap")
        for name, mask, colour, tag in segments:
            segment = slicer.vtkSegment()
            segment.SetName(name)
            segment.SetColor(*(c / 255 for c in colour))
            if tag:
                segment.SetTag("TerminologyEntry", tag)
            segment.AddRepresentation("Binary labelmap", image_of(mask))
            segmentation.AddSegment(segment)
        if collapse:
            segmentation.CollapseBinaryLabelmaps(False)
        storage = slicer.vtkMRMLSegmentationStorageNode()
        scene.AddNode(storage)
        storage.SetFileName(str(tmp_path / "s.seg.nrrd"))
        assert storage.WriteData(node)
        return tmp_path / "s.seg.nrrd"

    return write


def full_extent(labels, shape=(5, 12, 10)):
    """Labels of a map that Slicer may have cropped, as an array on the grid of AFFINE."""
    reference = sitk.GetImageFromArray(np.zeros(shape, np.uint8))
    lps = LPS_TO_RAS @ AFFINE
    reference.SetSpacing((0.8, 0.9, 2.5))
    reference.SetDirection((lps[:3, :3] / (0.8, 0.9, 2.5)).ravel().tolist())
    reference.SetOrigin(lps[:3, 3].tolist())
    index = np.linalg.inv(AFFINE) @ labels.geometry.ijk_to_ras
    out = np.zeros(shape, labels.array.dtype)
    for k, j, i in np.argwhere(labels.array):
        a, b, c, _ = np.rint(index @ (i, j, k, 1)).astype(int)
        out[c, b, a] = labels.array[k, j, i]
    return out


@pytest.mark.slicer
def test_a_segmentation_of_slicer_keeps_names_colours_terminology_and_voxels(slicer_writes):
    array = label_values()
    path = slicer_writes(
        [
            ("Liver", array == 1, LIVER.colour, LIVER.terminology.to_slicer()),
            ("Mass in Liver", array == 2, LIVER_MASS.colour, LIVER_MASS.terminology.to_slicer()),
        ],
        collapse=True,
    )
    labels = read_labels(path)
    assert labels.segments == (LIVER, LIVER_MASS)
    assert np.array_equal(full_extent(labels), array)
    (info,) = list_images(path)
    assert (info.kind, info.segments) == ("seg.nrrd", ("Liver", "Mass in Liver"))


@pytest.mark.slicer
def test_overlapping_segments_of_slicer_are_flattened_later_ones_on_top(slicer_writes):
    array = label_values()
    events = []
    path = slicer_writes([("whole", array > 0, (1, 2, 3), ""), ("inner", array == 2, (4, 5, 6), "")])
    labels = read_labels(path, on_event=events.append)
    assert [segment.name for segment in labels.segments] == ["whole", "inner"]
    by_name = {segment.name: segment.label for segment in labels.segments}
    flattened = full_extent(labels)
    assert np.array_equal(flattened == by_name["inner"], array == 2)
    assert np.array_equal(flattened == by_name["whole"], array == 1)
    assert any("4 voxels belong to several segments" in e.message for e in events if isinstance(e, Notice))
    assert any("several segments" in note for note in labels.provenance["notes"])


@pytest.mark.slicer
def test_a_segmentation_is_not_taken_for_an_image(slicer_writes):
    path = slicer_writes([("Liver", label_values() > 0, (1, 2, 3), "")])
    with pytest.raises(InputError, match="is a segmentation"):
        read_volume(path)


# -- DICOM SEG ------------------------------------------------------------------------------------------------------


@pytest.fixture
def source_images(tmp_path):
    write_series(tmp_path / "ct")
    images = [pydicom.dcmread(path) for path in (tmp_path / "ct").iterdir()]
    for image in images:
        image.PatientBirthDate = image.PatientSex = image.StudyDate = image.StudyTime = image.StudyID = ""
        image.ReferringPhysicianName = image.PositionReferenceIndicator = ""
        image.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    return sorted(images, key=lambda image: image.ImagePositionPatient[2])


def write_seg(path, images, pixels, kind, numbers=(1, 2), **extra):
    liver = CodedConcept("10200004", "SCT", "Liver")
    mass = CodedConcept("4147007", "SCT", "Mass")
    concepts = {1: ("Liver", codes.SCT.Organ, liver), 2: ("Tumour", codes.SCT.MorphologicallyAbnormalStructure, mass)}
    descriptions = [
        hd.seg.SegmentDescription(
            n,
            concepts[n][0],
            concepts[n][1],
            concepts[n][2],
            hd.seg.SegmentAlgorithmTypeValues.MANUAL,
            display_color=hd.color.CIELabColor.from_rgb(221, 130, 101),
        )
        for n in numbers
    ]
    seg = hd.seg.Segmentation(
        images,
        pixels,
        kind,
        descriptions,
        hd.UID(),
        1,
        hd.UID(),
        1,
        "maker",
        "model",
        "1",
        "serial",
        **extra,
    )
    seg.save_as(path)
    return path


TYPES = hd.seg.SegmentationTypeValues


@pytest.mark.parametrize("kind", [TYPES.BINARY, TYPES.LABELMAP])
@pytest.mark.parametrize("omit_empty", [True, False])
def test_a_dicom_segmentation_lies_on_its_source_slices(tmp_path, source_images, kind, omit_empty):
    path = write_seg(tmp_path / "s.dcm", source_images, label_values(), kind, omit_empty_frames=omit_empty)
    labels = read_labels(path)
    image = read_volume(tmp_path / "ct")
    offset = 0
    if labels.array.shape[0] != 5:  # empty planes at the ends have no frames
        offset = int(np.rint((np.linalg.inv(image.geometry.ijk_to_ras) @ labels.geometry.ijk_to_ras[:, 3])[2]))
    expected = label_values()[offset : offset + labels.array.shape[0]]
    assert np.array_equal(labels.array, expected) and label_values().sum() == expected.sum()
    assert labels.geometry.spacing == pytest.approx(image.geometry.spacing)
    first = (image.geometry.ijk_to_ras @ (0, 0, offset, 1))[:3]
    assert np.allclose(labels.geometry.ijk_to_ras[:3, 3], first)
    assert [(s.label, s.name) for s in labels.segments] == [(1, "Liver"), (2, "Tumour")]
    assert labels.segments[0].terminology.type == Code("10200004", "Liver")
    assert np.abs(np.subtract(labels.segments[0].colour, (221, 130, 101))).max() <= 1


def test_planes_without_frames_inside_a_dicom_segmentation_are_empty(tmp_path, source_images):
    array = np.zeros((5, 12, 10), np.uint8)
    array[0, 2:5, 2:5] = array[1, 3:6, 3:6] = array[4, 4:7, 4:7] = 1
    labels = read_labels(write_seg(tmp_path / "s.dcm", source_images, array, TYPES.BINARY, (1,)))
    assert np.array_equal(labels.array, array)


def test_planes_two_slices_apart_are_placed_by_the_spacing_that_the_object_states(tmp_path, source_images):
    for image in source_images:
        image.SpacingBetweenSlices = 2.0
    array = np.zeros((5, 12, 10), np.uint8)
    array[0, 2:5, 2:5] = array[2, 3:6, 3:6] = array[4, 4:7, 4:7] = 1
    labels = read_labels(write_seg(tmp_path / "s.dcm", source_images, array, TYPES.BINARY, (1,)))
    assert np.array_equal(labels.array, array)
    assert labels.geometry.spacing[0] == pytest.approx(2.0)


def test_overlapping_segments_of_a_dicom_segmentation_keep_the_later_and_say_it(tmp_path, source_images):
    array = label_values()
    pixels = np.stack([array > 0, array == 2], -1).astype(np.uint8)
    labels = read_labels(write_seg(tmp_path / "s.dcm", source_images, pixels, TYPES.BINARY))
    assert np.array_equal(labels.array, array[1:4])
    assert "4 voxels belong to several segments" in labels.provenance["notes"][0]


def test_a_fractional_segmentation_is_cut_at_one_half_and_said(tmp_path, source_images):
    fractions = np.zeros((5, 12, 10))
    fractions[:, 2, 2:8] = (0.1, 0.4, 0.49, 0.51, 0.8, 1.0)
    path = write_seg(tmp_path / "s.dcm", source_images, fractions, TYPES.FRACTIONAL, (1,), max_fractional_value=200)
    labels = read_labels(path)
    assert np.array_equal(labels.array, fractions >= 0.5)
    assert "0.5" in labels.provenance["notes"][0]


def test_a_segmentation_beside_its_images_is_found_and_is_no_volume(tmp_path, source_images):
    write_seg(tmp_path / "ct" / "seg.dcm", source_images, label_values(), TYPES.BINARY)
    assert read_labels(tmp_path / "ct").volume_ml(2) == pytest.approx(4 * 0.8 * 0.7 * 2 / 1000)
    assert read_volume(tmp_path / "ct").array.shape == (5, 12, 10)
    with pytest.raises(InputError, match="holds no image, only: 1: DICOM SEG"):
        read_volume(tmp_path / "ct" / "seg.dcm")


def test_two_segmentations_are_told_apart(tmp_path, source_images):
    for n in range(2):
        write_seg(tmp_path / f"{n}.dcm", source_images, label_values(), TYPES.BINARY)
    assert "--series" in refusal(tmp_path)
    assert read_labels(tmp_path, series="2").segments[0].name == "Liver"


def test_a_damaged_dicom_segmentation_is_refused(tmp_path, source_images):
    path = write_seg(tmp_path / "s.dcm", source_images, label_values(), TYPES.BINARY)
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    refusal(path)
    dataset = pydicom.dcmread(write_seg(tmp_path / "s.dcm", source_images, label_values(), TYPES.BINARY))
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        del frame.PlanePositionSequence
    dataset.save_as(path)
    assert "do not say where they lie" in refusal(path, GeometryError)


def test_an_image_that_calls_itself_a_segmentation_is_refused(tmp_path):
    dataset = ct_slice(label_values()[0], SOPClassUID="1.2.840.10008.5.1.4.1.1.66.4")
    assert "no segments" in refusal(save(dataset, tmp_path / "s.dcm"))


# -- pictures -------------------------------------------------------------------------------------------------------


def test_mask_pictures_share_the_convention_of_image_stacks(tmp_path):
    for k, picture in enumerate(label_values()):
        Image.fromarray(picture).save(tmp_path / f"m{k}.png")
    labels = read_labels(tmp_path, spacing=(2.0, 0.8, 0.7))
    assert np.array_equal(labels.array, label_values())
    assert np.allclose(labels.geometry.ijk_to_ras, np.diag([-0.7, -0.8, -2.0, 1.0]))
    assert labels.provenance["spacing_known"] is True


def test_palette_masks_are_read_by_index(tmp_path):
    picture = Image.fromarray(label_values()[2])
    picture.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    assert picture.mode == "P"
    picture.save(tmp_path / "m.png")
    assert np.array_equal(read_labels(tmp_path / "m.png").array[0], label_values()[2])


def test_one_bit_masks_are_0_and_1(tmp_path):
    Image.fromarray(label_values()[2] > 0).save(tmp_path / "m.png")
    assert np.array_equal(read_labels(tmp_path / "m.png").array[0], label_values()[2] > 0)


def test_jpeg_masks_are_thresholded_and_said(tmp_path):
    mask = np.zeros((40, 40), np.uint8)
    mask[10:30, 8:32] = 255
    Image.fromarray(mask).save(tmp_path / "m.jpg", quality=60)
    labels = read_labels(tmp_path / "m.jpg")
    assert np.array_equal(labels.array[0], mask)
    assert "JPEG" in labels.provenance["notes"][0]


def test_coloured_masks_are_refused(tmp_path):
    colours = np.zeros((4, 4, 3), np.uint8)
    colours[1, 1] = (255, 0, 0)
    Image.fromarray(colours).save(tmp_path / "m.png")
    assert "in colour" in refusal(tmp_path / "m.png")


# -- real segmentations ---------------------------------------------------------------------------------------------


@pytest.mark.realdata
def test_the_real_dicom_seg_and_nrrd_agree_in_patient_space_and_with_highdicom(real_data):
    folder = real_data / "ct_three_slices"
    seg, nrrd = read_labels(folder / "liver_seg.dcm"), read_labels(folder / "liver.nrrd")
    assert seg.geometry.agrees_with(nrrd.geometry, tolerance=0.01)
    assert np.array_equal(seg.array, nrrd.array)
    expected = hd.seg.segread(folder / "liver_seg.dcm").get_volume(combine_segments=True)
    assert np.count_nonzero(expected.array) == np.count_nonzero(seg.array)
    ct = read_volume(folder / "dicom")
    assert ct.geometry.agrees_with(seg.geometry, tolerance=0.01)
    assert seg.segments[0].name == "Liver"


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "label", "millilitres"),
    [
        ("ct_portal_slab", "liver", 699),
        ("mr_slab", "liver", 499),
        ("mr_amos_0540", 6, 1311),
        ("labels_amos_0013", 6, 1139),
    ],
)
def test_real_label_maps_have_the_volume_that_is_known(real_data, name, label, millilitres):
    labels = read_labels(real_data / name / "labels.nii.gz")
    assert labels.volume_ml(resolve_label(labels, label)) == pytest.approx(millilitres, abs=0.6)
    expected = nib.load(real_data / name / "labels.nii.gz")
    assert np.allclose(labels.geometry.ijk_to_ras, expected.affine, atol=1e-4)


@pytest.mark.realdata
def test_the_flipped_label_file_of_the_portal_series_lies_on_it(real_data):
    image = read_volume(real_data / "ct_portal_slab" / "dicom")
    labels = read_labels(real_data / "ct_portal_slab" / "labels.nii.gz")
    assert image.geometry.overlap_fraction(labels.geometry) == pytest.approx(1, abs=1e-3)
    index = np.linalg.inv(image.geometry.ijk_to_ras) @ labels.geometry.ijk_to_ras
    assert np.allclose(index[:3, :3], np.rint(index[:3, :3]), atol=1e-3)
    liver = np.argwhere(labels.mask(resolve_label(labels, "liver")))[::97]
    i, j, k = (np.rint(index @ np.c_[liver[:, ::-1], np.ones(len(liver))].T).astype(int))[:3]
    assert 60 < np.median(image.array[k, j, i]) < 200
