"""NIfTI, NRRD and MetaImage label maps, read back by nibabel and ITK."""

from __future__ import annotations

import json

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from example_labels import affine, axis_orders, example, in_patient_space, reorder

from LiverMarginLib.io.writers import write_labelmap
from LiverMarginLib.terminology import LIVER
from LiverMarginLib.volume import Geometry, LabelMap

SHEAR = np.eye(3) + np.array([[0, 0, 0], [0, 0, 0.3], [0, 0, 0]])


def itk_affine(image: sitk.Image) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    matrix[:3, 3] = image.GetOrigin()
    return np.diag((-1.0, -1.0, 1.0, 1.0)) @ matrix


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_nibabel_reads_the_same_labels_in_the_same_place_for_every_axis_order(tmp_path, suffix):
    labels = example()
    expected = in_patient_space(labels.array, labels.geometry.ijk_to_ras)
    for axes, flips in axis_orders():
        other = reorder(labels, axes, flips)
        (path,) = write_labelmap(other, tmp_path / f"a{suffix}")
        image = nibabel.load(path)
        sform, sform_code = image.get_sform(coded=True)
        qform, qform_code = image.get_qform(coded=True)
        assert (int(sform_code), int(qform_code)) == (1, 1)
        np.testing.assert_allclose(sform, other.geometry.ijk_to_ras, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(qform, other.geometry.ijk_to_ras, rtol=1e-5, atol=1e-5)
        found = np.asarray(image.dataobj).T
        np.testing.assert_array_equal(found, other.array)
        assert in_patient_space(found, other.geometry.ijk_to_ras) == expected


def test_the_nifti_header_says_what_the_file_is(tmp_path):
    (path,) = write_labelmap(example(), tmp_path / "a.nii.gz")
    header = nibabel.load(path).header
    assert header.get_xyzt_units()[0] == "mm"
    assert header.get_intent()[0] == "label"
    assert header.get_slope_inter() == (1.0, 0.0) or header.get_slope_inter() == (None, None)
    assert header.get_data_dtype() == np.uint8
    np.testing.assert_allclose(header.get_zooms(), example().geometry.spacing[::-1], rtol=1e-6)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_itk_reads_the_same_labels_in_the_same_place_for_every_axis_order(tmp_path, suffix):
    for axes, flips in axis_orders():
        labels = reorder(example(), axes, flips)
        (path,) = write_labelmap(labels, tmp_path / f"a{suffix}")
        image = sitk.ReadImage(str(path))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(image), labels.array)
        tolerance = 1e-5 if suffix == ".nii.gz" else 1e-12
        np.testing.assert_allclose(itk_affine(image), labels.geometry.ijk_to_ras, rtol=tolerance, atol=tolerance)


def test_the_sheared_axes_of_a_tilted_gantry_survive(tmp_path):
    labels = LabelMap(example().array, Geometry(example().array.shape, affine(SHEAR)))
    (path,) = write_labelmap(labels, tmp_path / "a.nii.gz")
    image = nibabel.load(path)
    np.testing.assert_allclose(image.affine, labels.geometry.ijk_to_ras, rtol=1e-6)
    assert int(image.header["qform_code"]) == 0  # a quaternion cannot hold it
    for suffix in (".nrrd", ".mha"):
        (path,) = write_labelmap(labels, tmp_path / f"a{suffix}")
        np.testing.assert_allclose(itk_affine(sitk.ReadImage(str(path))), labels.geometry.ijk_to_ras, rtol=1e-12)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha", ".seg.nrrd"])
@pytest.mark.parametrize(("largest", "dtype"), [(1, np.uint8), (255, np.uint8), (256, np.uint16), (65535, np.uint16)])
def test_the_smallest_integer_type_that_holds_every_label_is_used(tmp_path, suffix, largest, dtype):
    array = example().array.astype(np.int64)
    array[array > 0] = largest
    (path,) = write_labelmap(LabelMap(array, example().geometry), tmp_path / f"a{suffix}")
    found = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, array)


def test_a_boolean_mask_is_a_label_map_too(tmp_path):
    mask = example().array == 1
    for suffix in (".nii", ".nrrd", ".seg.nrrd"):
        (path,) = write_labelmap(LabelMap(mask, example().geometry, (LIVER,)), tmp_path / f"a{suffix}")
        np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(path))), mask)


def test_the_ending_may_be_in_capitals(tmp_path):
    (path,) = write_labelmap(example(), tmp_path / "A.NII.GZ")
    assert path.name == "A.NII.GZ"
    (small,) = write_labelmap(example(), tmp_path / "a.nii.gz")
    assert path.read_bytes() == small.read_bytes()


def test_a_plain_nrrd_carries_the_provenance(tmp_path):
    (path,) = write_labelmap(example(), tmp_path / "a.nrrd")
    text = sitk.ReadImage(str(path)).GetMetaData("LiverMargin.Provenance")
    assert json.loads(text) == example().provenance
