"""NIfTI, NRRD and MetaImage as volumes, checked against nibabel and SimpleITK."""

from __future__ import annotations

import gzip
import itertools
import struct
import zlib

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from LiverMarginLib.errors import GeometryError, InputError, LiverMarginError, ResourceError
from LiverMarginLib.events import Notice
from LiverMarginLib.io.readers import list_images, read_volume
from LiverMarginLib.volume import IntensityKind, Modality

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
AFFINE = np.array([[-0.8, 0, 0, 12], [0, -0.9, 0, -30], [0, 0, 2.5, 7], [0, 0, 0, 1.0]])


def ct_values(shape=(6, 9, 8), dtype=np.int16):
    rng = np.random.default_rng(5)
    values = rng.integers(-150, 200, shape)
    values[:, :3] = rng.integers(-1020, -960, (shape[0], 3, shape[2]))
    return values.astype(dtype)


def refusal(path, kind=InputError, **options):
    with pytest.raises(kind) as caught:
        read_volume(path, **options)
    message = caught.value.message
    assert message.endswith(".") and "\n" not in message
    return message


def write_nifti(path, values, affine=AFFINE, kind=nib.Nifti1Image):
    nib.save(kind(values.T, affine), path)
    return path


def write_itk(path, values, compress=False):
    image = sitk.GetImageFromArray(values)
    image.SetSpacing((0.8, 0.9, 2.5)[: image.GetDimension()])
    sitk.WriteImage(image, str(path), compress)
    return path


NRRD_HEADER = (
    "NRRD0004\ntype: {type}\ndimension: {dimension}\nspace: left-posterior-superior\nsizes: {sizes}\n"
    "space directions: {directions}\nkinds: {kinds}\nendian: little\nencoding: raw\nspace origin: (1,2,3)\n\n"
)


def write_nrrd(path, values, directions="(0.8,0,0) (0,0.9,0) (0,0,2.5)", kinds="domain domain domain", sizes=None):
    header = NRRD_HEADER.format(
        type={"int16": "short", "uint8": "uchar", "float32": "float"}[values.dtype.name],
        dimension=values.ndim,
        sizes=" ".join(map(str, sizes or values.shape[::-1])),
        directions=directions,
        kinds=kinds,
    )
    path.write_bytes(header.encode() + values.tobytes())
    return path


# -- geometry -------------------------------------------------------------------------------------------------------


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(
    order=st.sampled_from(list(itertools.permutations(range(3)))),
    signs=st.tuples(*[st.sampled_from([1, -1])] * 3),
    angles=st.tuples(*[st.floats(-40, 40)] * 3),
    forms=st.sampled_from(["sform", "qform", "both"]),
    kind=st.sampled_from([nib.Nifti1Image, nib.Nifti2Image]),
)
def test_any_nifti_lies_where_nibabel_puts_it(tmp_path, order, signs, angles, forms, kind):
    directions = np.zeros((3, 3))
    for axis in range(3):
        directions[order[axis], axis] = signs[axis]
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() @ directions * (0.8, 0.9, 2.5)
    affine[:3, 3] = (12, -30, 7)
    image = kind(ct_values().T, affine)
    image.set_sform(affine, 0 if forms == "qform" else 1)
    image.set_qform(affine, 0 if forms == "sform" else 1)
    nib.save(image, tmp_path / "image.nii")
    volume = read_volume(tmp_path / "image.nii")
    expected = nib.load(tmp_path / "image.nii")
    assert np.allclose(volume.geometry.ijk_to_ras, expected.affine, atol=1e-4)
    assert np.array_equal(volume.array, np.asarray(expected.dataobj).T)
    assert not any("disagree" in note for note in volume.notes)


def test_disagreeing_transforms_are_said_and_the_sform_is_used_as_nibabel_does(tmp_path):
    image = nib.Nifti1Image(ct_values().T, AFFINE)
    other = AFFINE.copy()
    other[:3, 3] += 40
    image.set_qform(other, 1)
    image.set_sform(AFFINE, 2)
    nib.save(image, tmp_path / "image.nii.gz")
    volume = read_volume(tmp_path / "image.nii.gz")
    assert np.allclose(volume.geometry.ijk_to_ras, nib.load(tmp_path / "image.nii.gz").affine)
    assert any("disagree (by up to 40.0 mm); the sform was used" in note for note in volume.notes)


def test_a_sheared_nifti_grid_is_kept(tmp_path):
    affine = AFFINE.copy()
    affine[1, 2] = 0.5
    image = nib.Nifti1Image(ct_values().T, affine)
    image.set_qform(None, 0)
    nib.save(image, tmp_path / "image.nii")
    volume = read_volume(tmp_path / "image.nii")
    assert np.allclose(volume.geometry.ijk_to_ras, affine)


def test_a_nifti_without_orientation_is_said_to_be_perhaps_mirrored(tmp_path):
    image = nib.Nifti1Image(ct_values().T, None)
    image.header.set_zooms((0.8, 0.9, 2.5))
    nib.save(image, tmp_path / "image.nii")
    volume = read_volume(tmp_path / "image.nii")
    assert volume.geometry.spacing == pytest.approx((2.5, 0.9, 0.8))
    assert any("mirrored" in note for note in volume.notes)


def test_metres_and_micrometres_become_millimetres(tmp_path):
    affine = AFFINE.copy()
    affine[:3] /= 1000
    image = nib.Nifti1Image(ct_values().T, affine)
    image.header.set_xyzt_units("meter")
    nib.save(image, tmp_path / "image.nii")
    assert np.allclose(read_volume(tmp_path / "image.nii").geometry.ijk_to_ras, AFFINE)


@pytest.mark.parametrize("name", ["image.nrrd", "image.mha", "image.mhd"])
@pytest.mark.parametrize("compress", [False, True])
def test_itk_images_lie_where_itk_puts_them(tmp_path, name, compress):
    image = sitk.GetImageFromArray(ct_values())
    image.SetSpacing((0.8, 0.9, 2.5))
    image.SetOrigin((5, -6, 7))
    image.SetDirection(Rotation.from_euler("xyz", (10, -20, 30), degrees=True).as_matrix().ravel().tolist())
    sitk.WriteImage(image, str(tmp_path / name), compress)
    volume = read_volume(tmp_path / name)
    assert np.array_equal(volume.array, ct_values())
    assert volume.array.dtype == np.int16
    for index in ((0, 0, 0), (7, 0, 0), (0, 8, 0), (0, 0, 5), (7, 8, 5)):
        expected = LPS_TO_RAS @ (*image.TransformIndexToPhysicalPoint(index), 1)
        assert np.allclose(volume.geometry.ijk_to_ras @ (*index, 1), expected, atol=1e-6)


def test_a_sheared_nrrd_grid_is_kept(tmp_path):
    path = write_nrrd(tmp_path / "image.nrrd", ct_values(), "(0.8,0,0) (0,0.9,0) (0,0.5,2.5)")
    step = read_volume(path).geometry.ijk_to_ras[:3, 2]
    assert np.allclose(step, (0, -0.5, 2.5))


def test_an_nrrd_without_coordinate_system_is_said_to_be_perhaps_mirrored(tmp_path):
    text = "NRRD0004\ntype: short\ndimension: 3\nsizes: 8 9 6\nspacings: 0.8 0.9 2.5\nendian: little\nencoding: raw\n\n"
    (tmp_path / "image.nrrd").write_bytes(text.encode() + ct_values().tobytes())
    volume = read_volume(tmp_path / "image.nrrd")
    assert volume.geometry.spacing == pytest.approx((2.5, 0.9, 0.8))
    assert any("mirrored" in note for note in volume.notes)


def test_the_voxels_outlive_the_image_they_came_from_and_can_be_written_to(tmp_path):
    array = read_volume(write_itk(tmp_path / "image.nrrd", ct_values())).array
    junk = [np.zeros(1 << 16) for _ in range(8)]
    assert np.array_equal(array, ct_values())
    array[0, 0, 0] = 7
    assert junk and array[0, 0, 0] == 7


def test_the_listing_agrees_with_what_is_read(tmp_path):
    write_nifti(tmp_path / "a.nii.gz", ct_values())
    write_itk(tmp_path / "b.mha", ct_values())
    first, second = list_images(tmp_path)
    assert (first.kind, first.shape, first.orientation, first.voxel_type) == ("NIfTI", (6, 9, 8), "LPS", "int16")
    assert (second.kind, second.shape, second.orientation) == ("MetaImage", (6, 9, 8), "LPS")
    middle = ct_values()[3]
    assert first.value_range == second.value_range == (middle.min(), middle.max())
    assert "'a.nii.gz'" in refusal(tmp_path)
    assert np.array_equal(read_volume(tmp_path, series="2").array, ct_values())


# -- what the values mean -------------------------------------------------------------------------------------------


def test_values_like_hounsfield_units_are_taken_as_ct_and_said(tmp_path):
    events = []
    volume = read_volume(write_nifti(tmp_path / "i.nii", ct_values()), on_event=events.append)
    assert (volume.modality, volume.intensity) == (Modality.CT, IntensityKind.HU)
    assert "taken as CT" in volume.notes[-1]
    assert [e.message for e in events if isinstance(e, Notice)] == list(volume.notes)


@pytest.mark.parametrize(
    "values", [ct_values() + 1024, np.abs(ct_values()), ct_values()[:, 3:]], ids=["stored", "positive", "no air"]
)
def test_other_values_are_arbitrary_and_said(tmp_path, values):
    volume = read_volume(write_nifti(tmp_path / "i.nii", values))
    assert (volume.modality, volume.intensity) == (Modality.UNKNOWN, IntensityKind.ARBITRARY)
    assert "arbitrary" in volume.notes[-1]


def test_eight_bit_images_are_marked_as_such_even_if_told_to_be_ct(tmp_path):
    path = write_nifti(tmp_path / "i.nii", np.arange(6 * 9 * 8).reshape(6, 9, 8).astype(np.uint8))
    assert read_volume(path).intensity is IntensityKind.EIGHT_BIT
    told = read_volume(path, modality=Modality.CT)
    assert (told.modality, told.intensity) == (Modality.CT, IntensityKind.EIGHT_BIT)


def test_the_modality_that_is_told_overrides_the_guess(tmp_path):
    path = write_nifti(tmp_path / "i.nii", ct_values())
    assert read_volume(path, modality=Modality.MR).intensity is IntensityKind.ARBITRARY
    path = write_nifti(tmp_path / "j.nii", ct_values() + 1024)
    told = read_volume(path, modality=Modality.CT)
    assert told.intensity is IntensityKind.HU
    assert "may not be Hounsfield units" in told.notes[0]


@pytest.mark.parametrize("name", ["i.nii.gz", "i.nrrd"])
def test_padding_is_raised_to_air(tmp_path, name):
    values = ct_values()
    values[:, 0] = -3024
    write = write_nifti if name.endswith("gz") else write_itk
    volume = read_volume(write(tmp_path / name, values))
    assert (volume.array[:, 0] == -1024).all()
    assert np.array_equal(volume.array[:, 1:], values[:, 1:])


def test_integer_scaling_stays_in_16_bits_and_fractional_scaling_gives_float32(tmp_path):
    for slope, inter, dtype in ((1, -1024, np.int16), (0.5, 0, np.float32)):
        image = nib.Nifti1Image((ct_values() + 1024).astype(np.uint16).T, AFFINE)
        image.header.set_slope_inter(slope, inter)
        image.to_filename(tmp_path / "i.nii")
        raw = bytearray((tmp_path / "i.nii").read_bytes())
        raw[112:120] = struct.pack("<ff", slope, inter)
        (tmp_path / "i.nii").write_bytes(raw)
        volume = read_volume(tmp_path / "i.nii")
        assert volume.array.dtype == dtype
        assert np.allclose(volume.array, nib.load(tmp_path / "i.nii").get_fdata().T)


def test_big_endian_and_double_precision_files_are_read(tmp_path):
    header = nib.Nifti1Header(endianness=">")
    nib.save(nib.Nifti1Image(ct_values().astype(">f8").T, AFFINE, header), tmp_path / "i.nii")
    volume = read_volume(tmp_path / "i.nii")
    assert volume.array.dtype == np.float32 and volume.array.dtype.isnative
    assert np.array_equal(volume.array, ct_values())


def test_a_header_and_image_pair_is_read(tmp_path):
    nib.save(nib.Nifti1Pair(ct_values().T, AFFINE), tmp_path / "i.hdr")
    volume = read_volume(tmp_path / "i.hdr")
    assert np.array_equal(volume.array, ct_values())
    assert np.allclose(volume.geometry.ijk_to_ras, AFFINE)


@pytest.mark.parametrize("name", ["i.nii", "i.mha"])
def test_broken_numbers_are_mended_and_said(tmp_path, name):
    values = ct_values(dtype=np.float32)
    values[0, 0, 0], values[1, 1, 1] = np.nan, np.inf
    write = write_nifti if name.endswith("nii") else write_itk
    volume = read_volume(write(tmp_path / name, values), modality=Modality.CT)
    assert volume.array[0, 0, 0] == volume.array[1, 1, 1] == -1024
    assert "NaN or infinite" in volume.notes[0]


def test_an_image_of_nothing_but_nan_is_refused(tmp_path):
    assert "NaN" in refusal(write_nifti(tmp_path / "i.nii", np.full((3, 4, 5), np.nan, np.float32)))


def test_a_ct_of_air_is_refused(tmp_path):
    air = np.random.default_rng(0).integers(-1020, -980, (3, 4, 5)).astype(np.int16)
    path = write_nifti(tmp_path / "i.nii", air)
    assert "nothing but air" in refusal(path)
    assert "nothing but air" in refusal(path, modality=Modality.CT)


# -- dimensions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["i.nii.gz", "i.nrrd", "i.mha"])
def test_a_fourth_axis_of_one_is_dropped(tmp_path, name):
    if name.endswith("gz"):
        nib.save(nib.Nifti1Image(ct_values().T[..., None], AFFINE), tmp_path / name)
    else:
        sitk.WriteImage(sitk.JoinSeries([sitk.GetImageFromArray(ct_values())]), str(tmp_path / name))
    assert np.array_equal(read_volume(tmp_path / name).array, ct_values())


@pytest.mark.parametrize("name", ["i.nii.gz", "i.nrrd", "i.mha"])
def test_time_points_are_refused(tmp_path, name):
    if name.endswith("gz"):
        nib.save(nib.Nifti1Image(np.stack([ct_values().T] * 2, -1), AFFINE), tmp_path / name)
    else:
        image = sitk.GetImageFromArray(ct_values())
        sitk.WriteImage(sitk.JoinSeries([image, image]), str(tmp_path / name))
    assert "4 dimensions" in refusal(tmp_path / name)


@pytest.mark.parametrize("name", ["i.nrrd", "i.mha"])
def test_colour_images_are_refused(tmp_path, name):
    image = sitk.GetImageFromArray(np.zeros((3, 4, 5, 3), np.uint8), isVector=True)
    sitk.WriteImage(image, str(tmp_path / name))
    assert "colour" in refusal(tmp_path / name)


def test_a_nifti_in_colours_is_refused(tmp_path):
    colours = np.zeros((4, 5, 6), np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
    nib.save(nib.Nifti1Image(colours, AFFINE), tmp_path / "i.nii")
    assert "colours" in refusal(tmp_path / "i.nii")


@pytest.mark.parametrize("name", ["i.nii", "i.nrrd", "i.mha"])
def test_one_slice_in_two_dimensions_is_a_volume_of_one_slice(tmp_path, name):
    if name.endswith("nii"):
        nib.save(nib.Nifti1Image(ct_values()[0].T, AFFINE), tmp_path / name)
    else:
        write_itk(tmp_path / name, ct_values()[0])
    assert np.array_equal(read_volume(tmp_path / name).array, ct_values()[:1])


# -- damaged files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["i.nii", "i.nii.gz", "i.nrrd", "i.mha", "i.mhd"])
@pytest.mark.parametrize("share", [0.5, 0.98])
def test_a_truncated_image_is_refused_with_one_sentence(tmp_path, name, share):
    values = np.random.default_rng(1).integers(-1000, 1000, (20, 30, 30)).astype(np.int16)
    path = tmp_path / name
    if ".nii" in name:
        write_nifti(path, values)
    else:
        write_itk(path, values, compress=name == "i.nrrd")
    cut = tmp_path / "i.raw" if name == "i.mhd" else path
    cut.write_bytes(cut.read_bytes()[: int(share * cut.stat().st_size)])
    message = refusal(path)
    assert "truncated" in message or "damaged" in message


def test_a_nifti_with_a_flipped_bit_is_refused_by_its_checksum(tmp_path):
    path = write_nifti(tmp_path / "i.nii.gz", ct_values((20, 30, 30)))
    raw = bytearray(path.read_bytes())
    body = bytearray(gzip.decompress(raw))
    body[5000] ^= 1
    # The same deflated stream with the checksum of other contents.
    wrong = zlib.compress(bytes(body), wbits=31)[:-8] + bytes(raw[-8:])
    path.write_bytes(wrong)
    assert "damaged" in refusal(path)


@pytest.mark.parametrize("name", ["i.nii.gz", "i.nii", "i.nrrd", "i.mha", "i.dcm", "i.png"])
def test_a_text_file_with_an_image_name_is_refused(tmp_path, name):
    (tmp_path / name).write_text("Dear colleague, please find the scan attached. " * 20)
    message = refusal(tmp_path / name)
    assert "is named like" in message


@pytest.mark.parametrize("name", ["i.nii.gz", "i.nrrd", "i.mha", "i.dcm", "i.unknown"])
def test_an_empty_file_is_refused(tmp_path, name):
    (tmp_path / name).touch()
    assert "empty (0 bytes)" in refusal(tmp_path / name)


def test_a_path_that_does_not_exist_is_refused(tmp_path):
    assert "does not exist" in refusal(tmp_path / "nothing.nii.gz")


def test_the_content_decides_not_the_name(tmp_path):
    write_nifti(tmp_path / "i.nii", ct_values())
    (tmp_path / "i.nii").rename(tmp_path / "image.dat")
    assert np.array_equal(read_volume(tmp_path / "image.dat").array, ct_values())


def _patch(path, offset, data):
    raw = bytearray(path.read_bytes())
    raw[offset : offset + len(data)] = data
    path.write_bytes(raw)
    return path


def test_sizes_that_no_machine_holds_are_refused_at_once(tmp_path):
    path = _patch(write_nifti(tmp_path / "i.nii", ct_values()), 40, struct.pack("<4h", 3, 30000, 30000, 30000))
    refusal(path, ResourceError)
    refusal(write_nrrd(tmp_path / "i.nrrd", ct_values(), sizes=(100000, 100000, 100000)), ResourceError)
    mha = write_itk(tmp_path / "i.mha", ct_values())
    mha.write_bytes(mha.read_bytes().replace(b"DimSize = 8 9 6", b"DimSize = 100000 100000 100000"))
    refusal(mha, ResourceError)


def test_sizes_that_the_file_cannot_hold_are_refused_before_any_allocation(tmp_path):
    path = write_nifti(tmp_path / "i.nii.gz", ct_values())
    body = bytearray(gzip.decompress(path.read_bytes()))
    body[40:48] = struct.pack("<4h", 3, 1000, 1000, 1000)
    path.write_bytes(gzip.compress(bytes(body)))
    assert "truncated" in refusal(path)
    assert "truncated" in refusal(write_nrrd(tmp_path / "i.nrrd", ct_values(), sizes=(1000, 1000, 1000)))


@pytest.mark.parametrize("spacing", [0.0, float("nan")])
def test_a_nifti_spacing_of_zero_is_refused(tmp_path, spacing):
    image = nib.Nifti1Image(ct_values().T, AFFINE)
    image.set_sform(None, 0)
    image.set_qform(AFFINE, 1)
    nib.save(image, tmp_path / "i.nii")
    refusal(_patch(tmp_path / "i.nii", 76 + 12, struct.pack("<f", spacing)), GeometryError)


def test_an_nrrd_spacing_of_zero_is_refused(tmp_path):
    path = write_nrrd(tmp_path / "i.nrrd", ct_values(), "(0.8,0,0) (0,0.9,0) (0,0,0)")
    refusal(path, GeometryError)


def test_a_header_cut_short_or_full_of_nonsense_is_refused(tmp_path):
    path = write_nifti(tmp_path / "i.nii", ct_values())
    raw = path.read_bytes()
    path.write_bytes(raw[:300])
    refusal(path)
    path.write_bytes(raw)
    refusal(_patch(path, 40, struct.pack("<h", 77)))
    (tmp_path / "i.nrrd").write_bytes(b"NRRD0004\ntype: wisdom\n\n")
    refusal(tmp_path / "i.nrrd")
    (tmp_path / "i.mha").write_bytes(b"ObjectType = Image\nNDims = many\n")
    refusal(tmp_path / "i.mha")


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=100, derandomize=True
)
@given(st.integers(0, 351), st.binary(min_size=1, max_size=8))
@example(117, b"\x00\x00_")  # an intercept beyond 64 bits
def test_any_damage_to_a_nifti_header_ends_in_a_volume_or_in_one_of_our_errors(tmp_path, offset, data):
    path = _patch(write_nifti(tmp_path / "i.nii", ct_values()), offset, data)
    try:
        volume = read_volume(path)
    except LiverMarginError as error:
        assert error.message.endswith(".")
    else:
        assert volume.array.shape == volume.geometry.shape


# -- real images ----------------------------------------------------------------------------------------------------


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "modality"),
    [
        ("mr_slab/image.nii.gz", Modality.UNKNOWN),
        ("mr_amos_0540/image.nii.gz", Modality.UNKNOWN),
        ("ct_unlabelled/crlm_1004.nii.gz", Modality.CT),
        ("ct_unlabelled/cptac_pda_c3n_00249.nii.gz", Modality.CT),
    ],
)
def test_real_images_agree_with_nibabel(real_data, name, modality):
    volume = read_volume(real_data / name)
    expected = nib.load(real_data / name)
    assert volume.modality is modality
    assert np.allclose(volume.geometry.ijk_to_ras, expected.affine, atol=1e-4)
    assert np.allclose(volume.array, np.asarray(expected.dataobj).T, rtol=1e-6)
