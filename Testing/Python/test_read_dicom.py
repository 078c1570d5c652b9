"""DICOM series as volumes: order, geometry, selection and every repair or refusal."""

from __future__ import annotations

import logging
import shutil
import tracemalloc

import highdicom as hd
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_makers import SECRET, ct_slice, enhanced, mr_slice, save, stored_ct, write_series
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydicom.fileset import FileSet
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    EncapsulatedPDFStorage,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    RLELossless,
    generate_uid,
)

from LiverMarginLib.errors import Cancelled, GeometryError, InputError, LiverMarginError
from LiverMarginLib.events import Notice, Progress
from LiverMarginLib.io.readers import list_images, read_source_headers, read_volume
from LiverMarginLib.volume import IntensityKind, Modality

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
OBLIQUE = tuple(np.array([[0.8, 0.6, 0.0], [-0.6 * 0.8, 0.8 * 0.8, -0.6]]).ravel())


def refusal(path, kind=InputError, **options):
    """The one sentence with which reading is refused."""
    with pytest.raises(kind) as caught:
        read_volume(path, **options)
    message = caught.value.message
    assert message.endswith(".") and "\n" not in message and SECRET not in message
    return message


def datasets(folder):
    return [pydicom.dcmread(path) for path in sorted(folder.rglob("*.dcm"))]


# -- order and geometry ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", [(1.0, 0, 0, 0, 1, 0), OBLIQUE, (0, 1.0, 0, 0, 0, -1)])
def test_slices_lie_where_highdicom_puts_them_whatever_their_names(tmp_path, orientation):
    normal = np.cross(orientation[:3], orientation[3:])
    write_series(tmp_path, stored_ct(11), step=2.0 * normal, orientation=orientation)
    volume = read_volume(tmp_path)
    expected = hd.get_volume_from_series(datasets(tmp_path))
    to_ours = np.linalg.inv(LPS_TO_RAS @ expected.affine) @ volume.geometry.ijk_to_ras
    # highdicom indexes (slice, row, column) and may run along either side of the normal: compare voxel by voxel.
    k, j, i = np.indices(volume.array.shape)
    index = np.rint(np.stack([i, j, k, np.ones_like(i)], -1) @ to_ours.T).astype(int)
    assert np.array_equal(volume.array, expected.array[index[..., 0], index[..., 1], index[..., 2]])
    assert np.allclose(np.sort(volume.geometry.spacing), np.sort(expected.spacing))
    assert volume.geometry.spacing == pytest.approx((2.0, 0.8, 0.7))
    assert volume.notes == ()


def test_a_series_agrees_with_simpleitk_when_that_is_given_the_right_order(tmp_path):
    write_series(tmp_path, stored_ct(6))
    volume = read_volume(tmp_path)
    files = sorted(tmp_path.iterdir(), key=lambda p: pydicom.dcmread(p).ImagePositionPatient[2])
    image = sitk.ReadImage([str(p) for p in files])
    assert np.array_equal(volume.array, sitk.GetArrayFromImage(image))
    assert np.allclose(volume.geometry.spacing[::-1], image.GetSpacing())
    assert np.allclose((LPS_TO_RAS @ volume.geometry.ijk_to_ras)[:3, 3], image.GetOrigin())


def test_ct_stays_in_16_bits_and_says_what_it_is(tmp_path):
    stored = write_series(tmp_path)
    volume = read_volume(tmp_path)
    assert volume.array.dtype == np.int16
    assert np.array_equal(volume.array, stored.astype(int) - 1024)
    assert (volume.modality, volume.intensity, volume.spacing_known) == (Modality.CT, IntensityKind.HU, True)


def test_one_file_stands_for_its_series_in_the_same_folder(tmp_path):
    write_series(tmp_path)
    write_series(tmp_path, stored_ct(3), series="9.9", prefix="other")
    assert read_volume(tmp_path / "IM2.dcm").array.shape[0] == 5


def test_a_nested_folder_is_searched(tmp_path):
    write_series(tmp_path / "study" / "series")
    (tmp_path / "study" / "notes.txt").write_text("nothing")
    assert read_volume(tmp_path).array.shape[0] == 5


def test_a_single_slice_is_a_volume_of_one_slice_as_thick_as_its_header_says(tmp_path):
    save(ct_slice(stored_ct()[0]), tmp_path / "one.dcm")
    volume = read_volume(tmp_path / "one.dcm")
    assert volume.array.shape == (1, 12, 10)
    assert volume.geometry.spacing == pytest.approx((2.0, 0.8, 0.7))


def test_a_single_slice_without_thickness_is_taken_as_1_mm_and_said(tmp_path):
    save(ct_slice(stored_ct()[0], SliceThickness=None), tmp_path / "one.dcm")
    volume = read_volume(tmp_path)
    assert volume.geometry.spacing[0] == 1.0
    assert "1 mm" in volume.notes[0]


def test_a_tilted_gantry_keeps_every_slice_where_it_was_measured(tmp_path):
    angle = np.radians(15)
    write_series(tmp_path, stored_ct(8), step=(0.0, 2.0 * np.tan(angle), 2.0))
    volume = read_volume(tmp_path)
    for k in range(8):
        position = (LPS_TO_RAS @ volume.geometry.ijk_to_ras @ (0, 0, k, 1))[:3]
        assert np.allclose(position, (-10, -20 + 2 * k * np.tan(angle), 30 + 2 * k))
    assert volume.geometry.voxel_volume == pytest.approx(0.8 * 0.7 * 2.0)
    assert "tilted by 15.0 degrees" in volume.notes[0]


def test_rounded_positions_are_not_taken_for_a_tilt(tmp_path):
    write_series(tmp_path, stored_ct(8), step=(0.001, -0.001, 2.0))
    volume = read_volume(tmp_path)
    assert volume.notes == ()
    assert np.allclose(volume.geometry.directions[:, 2], (0, 0, 1), atol=1e-9)


def test_multi_frame_images_are_ordered_by_position_as_highdicom_does(tmp_path):
    stored, order = stored_ct(6), [3, 0, 5, 1, 4, 2]
    dataset = enhanced(stored[order], [(-10, -20, 30 + 2.0 * k) for k in order], slopes=[1, 1, 2, 1, 1, 1])
    volume = read_volume(save(dataset, tmp_path / "multi.dcm"))
    expected = stored.astype(int) - 1024
    expected[5] = 2 * stored[5].astype(int) - 1024
    assert np.array_equal(volume.array, expected)
    positions = [[-10, -20, 30 + 2.0 * k] for k in order]
    spacing, places = hd.spatial.get_volume_positions(positions, [1, 0, 0, 0, 1, 0], sort=True)
    assert spacing == pytest.approx(volume.geometry.spacing[0])
    assert list(places) == order or list(places) == [5 - k for k in order]
    assert volume.geometry.ijk_to_ras[:3, 3] == pytest.approx((10, 20, 30))
    assert volume.geometry.spacing == pytest.approx((2.0, 0.8, 0.7))


def test_a_multi_frame_image_without_positions_is_refused(tmp_path):
    dataset = ct_slice(stored_ct(4), NumberOfFrames=4)
    dataset.SOPClassUID = MultiFrameGrayscaleWordSecondaryCaptureImageStorage
    save(dataset, tmp_path / "multi.dcm")
    assert "do not say where they lie" in refusal(tmp_path, GeometryError)


def test_a_multi_frame_image_with_several_phases_is_refused(tmp_path):
    dataset = enhanced(stored_ct(6), [(0, 0, 2.0 * (k % 3)) for k in range(6)])
    assert "different images at 3 of 3 positions" in refusal(save(dataset, tmp_path / "multi.dcm"))


# -- selection ------------------------------------------------------------------------------------------------------


def test_several_series_are_listed_by_keys_that_carry_no_identity(tmp_path):
    write_series(tmp_path, SeriesNumber=2)
    write_series(tmp_path, stored_ct(3), series="9.9", prefix="other", SeriesNumber=7)
    message = refusal(tmp_path)
    assert "--series" in message
    assert "1: CT, 5 slices, 0.70 x 0.80 x 2.00 mm, series number 2" in message
    assert "2: CT, 3 slices" in message
    assert read_volume(tmp_path, series="2").array.shape[0] == 3
    assert read_volume(tmp_path, series="1.2.3.4").array.shape[0] == 5
    assert "no series '3'" in refusal(tmp_path, series="3")


def test_the_listing_tells_what_a_person_needs_and_nothing_of_the_patient(tmp_path):
    write_series(tmp_path / "a")
    (info,) = list_images(tmp_path)
    assert (info.kind, info.modality, info.shape, info.files) == ("DICOM series", Modality.CT, (5, 12, 10), 5)
    assert info.spacing == pytest.approx((2.0, 0.8, 0.7))
    assert (info.orientation, info.voxel_type, info.problem) == ("LPS", "uint16", "")
    middle = stored_ct()[2].astype(int) - 1024
    assert info.value_range == (middle.min(), middle.max())
    assert SECRET not in repr(info) and "4711" not in repr(info)


def test_the_listing_says_why_a_series_cannot_be_used(tmp_path):
    write_series(tmp_path)
    (tmp_path / "IM2.dcm").unlink()
    (info,) = list_images(tmp_path)
    assert "missing" in info.problem and info.shape is None


def test_empty_series_uids_of_deidentified_files_keep_folders_apart(tmp_path):
    write_series(tmp_path / "a", series="", SeriesNumber=None)
    write_series(tmp_path / "b", stored_ct(3), series="", SeriesNumber=None)
    assert [info.shape[0] for info in list_images(tmp_path)] == [5, 3]
    assert read_volume(tmp_path / "a").array.shape[0] == 5


def test_a_dicomdir_stands_for_its_folder(tmp_path):
    write_series(tmp_path / "images")
    catalogue = FileSet()
    for dataset in datasets(tmp_path):
        dataset.StudyDate, dataset.StudyTime, dataset.StudyID = "20200101", "120000", "1"
        catalogue.add(dataset)
    catalogue.write(tmp_path / "disc")
    assert read_volume(tmp_path / "disc" / "DICOMDIR").array.shape[0] == 5


def test_source_headers_come_in_slice_order_and_without_pixels(tmp_path):
    write_series(tmp_path)
    headers = read_source_headers(tmp_path)
    assert [header.ImagePositionPatient[2] for header in headers] == [30, 32, 34, 36, 38]
    assert all("PixelData" not in header for header in headers)


# -- gaps, copies, strays -------------------------------------------------------------------------------------------


def test_a_missing_slice_is_refused_and_located(tmp_path):
    write_series(tmp_path, stored_ct(9))
    pixels_of_fourth = next(p for p in tmp_path.iterdir() if pydicom.dcmread(p).ImagePositionPatient[2] == 36)
    pixels_of_fourth.unlink()
    assert "1 slice is missing in the series, the first after slice 3 of 8" in refusal(tmp_path, GeometryError)


def test_uneven_spacing_is_refused(tmp_path):
    for k, z in enumerate((0.0, 2.0, 4.0, 7.1, 9.0)):
        save(ct_slice(stored_ct()[k], (0, 0, z)), tmp_path / f"{k}.dcm")
    assert "unevenly spaced (1.90 to 3.10 mm)" in refusal(tmp_path, GeometryError)


def test_jitter_of_the_positions_is_accepted(tmp_path):
    for k, z in enumerate((0.0, 2.02, 3.98, 6.01, 8.0)):
        save(ct_slice(stored_ct()[k], (0, 0, z)), tmp_path / f"{k}.dcm")
    assert read_volume(tmp_path).geometry.spacing[0] == pytest.approx(2.0)


def test_slices_shifted_sideways_are_refused(tmp_path):
    for k, x in enumerate((0.0, 0.0, 9.0, 0.0, 0.0)):
        save(ct_slice(stored_ct()[k], (x, 0, 2.0 * k)), tmp_path / f"{k}.dcm")
    assert "shifted" in refusal(tmp_path, GeometryError)


def test_copies_of_slices_are_left_out_and_said(tmp_path):
    stored = write_series(tmp_path)
    shutil.copy(tmp_path / "IM1.dcm", tmp_path / "copy of IM1.dcm")
    events = []
    volume = read_volume(tmp_path, on_event=events.append)
    assert np.array_equal(volume.array, stored.astype(int) - 1024)
    assert "1 image is a copy" in volume.notes[0]
    assert [e.message for e in events if isinstance(e, Notice)] == list(volume.notes)


def test_several_phases_in_one_series_are_refused(tmp_path):
    write_series(tmp_path)
    write_series(tmp_path, stored_ct(seed=8), prefix="late")
    assert "different images at 5 of 5 positions" in refusal(tmp_path)


def test_localisers_are_left_out_even_where_they_are_as_many_as_the_slices(tmp_path):
    write_series(tmp_path, stored_ct(2))
    for n in range(2):
        scout = ct_slice(stored_ct()[n], (0, n, 0), orientation=(1, 0, 0, 0, 0, -1))
        scout.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
        save(scout, tmp_path / f"scout{n}.dcm")
    volume = read_volume(tmp_path)
    assert volume.array.shape[0] == 2
    assert "2 of 4 images are localisers" in volume.notes[0]


@pytest.mark.parametrize(
    "stray",
    [
        lambda: ct_slice(stored_ct()[0], orientation=(1, 0, 0, 0, 0, -1)),
        lambda: ct_slice(stored_ct(rows=20)[0]),
        lambda: ct_slice(stored_ct()[0], spacing=(0.4, 0.4)),
    ],
    ids=["orientation", "matrix", "pixel spacing"],
)
def test_a_stray_image_is_left_out_and_said(tmp_path, stray):
    write_series(tmp_path)
    save(stray(), tmp_path / "stray.dcm")
    volume = read_volume(tmp_path)
    assert volume.array.shape == (5, 12, 10)
    assert "1 of 6 images have another" in volume.notes[0]


def test_a_series_without_a_prevailing_matrix_is_refused(tmp_path):
    write_series(tmp_path)
    write_series(tmp_path, stored_ct(5, rows=20), prefix="large")
    assert "none prevails" in refusal(tmp_path, GeometryError)


# -- damaged and unusable -------------------------------------------------------------------------------------------


def test_a_slice_cut_off_in_its_pixels_is_named_by_its_place(tmp_path):
    write_series(tmp_path)
    path = next(p for p in tmp_path.iterdir() if pydicom.dcmread(p).ImagePositionPatient[2] == 36)
    path.write_bytes(path.read_bytes()[:-50])
    assert "Slice 4 of 5 cannot be decoded" in refusal(tmp_path)


@pytest.mark.parametrize("content", [b"", b"this was a slice", b"\0" * 128 + b"DICM"], ids=["empty", "text", "stub"])
def test_a_destroyed_slice_is_not_passed_over_even_at_the_end_of_the_stack(tmp_path, content):
    write_series(tmp_path)
    next(p for p in tmp_path.iterdir() if pydicom.dcmread(p).ImagePositionPatient[2] == 38).write_bytes(content)
    assert "1 DICOM file in the series' folder cannot be read" in refusal(tmp_path)


def test_a_file_cut_off_in_its_header_is_refused(tmp_path):
    path = save(ct_slice(stored_ct()[0]), tmp_path / "one.dcm")
    path.write_bytes(path.read_bytes()[:700])
    assert "damaged" in refusal(path) or "ends before" in refusal(path)


def test_an_empty_folder_and_a_folder_without_images_are_refused(tmp_path):
    assert "is empty" in refusal(tmp_path)
    (tmp_path / "readme.txt").write_text("no image")
    assert "holds no image" in refusal(tmp_path)


def test_a_file_that_may_not_be_read_is_refused(tmp_path, monkeypatch):
    path = save(ct_slice(stored_ct()[0]), tmp_path / "one.dcm")

    def denied(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(path), "open", denied)
    assert "permission denied" in refusal(path)


def test_colour_is_refused(tmp_path):
    dataset = ct_slice(stored_ct()[0])
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.PixelData = bytes(12 * 10 * 3)
    save(dataset, tmp_path / "colour.dcm")
    assert "in colour" in refusal(tmp_path)


@pytest.mark.parametrize("spacing", [(0.0, 0.0), (-0.7, 0.7)])
def test_a_pixel_spacing_that_is_not_positive_is_refused(tmp_path, spacing):
    write_series(tmp_path, spacing=spacing)
    assert "no valid pixel spacing" in refusal(tmp_path, GeometryError)


@pytest.mark.parametrize("keyword", ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"])
def test_images_that_nothing_places_are_refused(tmp_path, keyword):
    write_series(tmp_path, **{keyword: None})
    refusal(tmp_path, GeometryError)


def test_objects_without_an_image_are_refused_and_listed_as_what_they_are(tmp_path):
    dataset = ct_slice(stored_ct()[0], PixelData=None, Modality="DOC")
    dataset.SOPClassUID = EncapsulatedPDFStorage
    save(dataset, tmp_path / "report.dcm")
    assert "holds no image, only: 1: DICOM DOC" in refusal(tmp_path)
    (info,) = list_images(tmp_path)
    assert info.problem


def test_a_header_that_announces_a_monstrous_image_is_refused_at_once(tmp_path):
    dataset = enhanced(stored_ct(2), [(0, 0, 0), (0, 0, 2)])
    dataset.Rows = dataset.Columns = 65535
    path = save(dataset, tmp_path / "huge.dcm")
    refusal(path, LiverMarginError)
    endless = ct_slice(stored_ct()[0], NumberOfFrames=2_000_000_000)
    assert "far more pixels" in refusal(save(endless, tmp_path / "endless.dcm"))
    many = ct_slice(stored_ct()[0], Rows=65535, Columns=65535)
    for k in range(60):
        many.ImagePositionPatient = [0, 0, float(k)]
        many.SOPInstanceUID = generate_uid()
        save(many, tmp_path / "many" / f"{k}.dcm")
    assert "None of the DICOM files can be read" in refusal(tmp_path / "many")


def test_a_ct_of_nothing_but_air_is_refused(tmp_path):
    write_series(tmp_path, np.random.default_rng(0).integers(0, 60, (3, 8, 8)).astype(np.uint16))
    assert "nothing but air" in refusal(tmp_path)


def test_an_image_of_one_value_is_refused(tmp_path):
    write_series(tmp_path, np.full((3, 8, 8), 7, np.uint16))
    assert "same value" in refusal(tmp_path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60, derandomize=True)
@given(
    multi=st.booleans(),
    damage=st.lists(st.tuples(st.integers(0, 3000), st.binary(min_size=1, max_size=4)), min_size=1, max_size=4),
)
@example(multi=False, damage=[(162, b"A")])  # file meta information that pydicom reads but cannot give out
@pytest.mark.filterwarnings("ignore")
def test_any_damage_to_a_dicom_header_ends_in_a_volume_or_in_one_of_our_errors(tmp_path, multi, damage):
    whole = enhanced(stored_ct(3), [(0, 0, 2.0 * k) for k in range(3)]) if multi else ct_slice(stored_ct()[0])
    path = save(whole, tmp_path / "one.dcm")
    raw = bytearray(path.read_bytes())
    for offset, data in damage:
        offset %= len(raw) - 250
        raw[offset : offset + len(data)] = data
    path.write_bytes(raw)
    for read in (read_volume, list_images):
        try:
            read(path)
        except LiverMarginError as error:
            assert error.message.endswith(".")


def test_reading_holds_the_voxels_once(tmp_path):
    stored = stored_ct(40, 128, 128)
    write_series(tmp_path / "series", stored)
    save(enhanced(stored, [(0, 0, 2.0 * k) for k in range(40)]), tmp_path / "multi.dcm")
    for path in (tmp_path / "series", tmp_path / "multi.dcm"):
        read_volume(path)  # imports and caches
        tracemalloc.start()
        read_volume(path)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 1.6 * stored.nbytes


def test_a_listener_that_cancels_stops_the_reading(tmp_path):
    write_series(tmp_path)

    def cancel(event):
        if isinstance(event, Progress) and event.stage == "read":
            raise Cancelled

    with pytest.raises(Cancelled):
        read_volume(tmp_path, on_event=cancel)


# -- intensities ----------------------------------------------------------------------------------------------------


def test_a_ct_without_rescale_is_refused(tmp_path):
    write_series(tmp_path, RescaleSlope=None, RescaleIntercept=None)
    assert "no rescale slope" in refusal(tmp_path)


def test_a_ct_without_rescale_whose_values_are_hu_is_kept_and_said(tmp_path):
    hu = (stored_ct().astype(np.int16)) - 1024
    write_series(tmp_path, hu, RescaleSlope=None, RescaleIntercept=None)
    volume = read_volume(tmp_path)
    assert np.array_equal(volume.array, hu)
    assert volume.intensity is IntensityKind.HU
    assert "no rescale" in volume.notes[0]


def test_an_intercept_of_minus_1000_is_followed(tmp_path):
    stored = write_series(tmp_path, RescaleIntercept=-1000)
    assert np.array_equal(read_volume(tmp_path).array, stored.astype(int) - 1000)


def test_padding_below_air_is_raised_to_it_and_said(tmp_path):
    stored = stored_ct().astype(np.int16)
    stored[:, 0, :5] = -2000
    write_series(tmp_path, stored, PixelPaddingValue=-2000)
    volume = read_volume(tmp_path)
    assert (volume.array[:, 0, :5] == -1024).all()
    assert np.array_equal(volume.array[:, 1:], stored[:, 1:] - 1024)
    assert "below -1024 HU" in volume.notes[0]


def test_padding_above_any_tissue_becomes_air_and_the_ct_stays_in_16_bits(tmp_path):
    stored = stored_ct()
    stored[:, 0, :5] = 63536
    write_series(tmp_path, stored, PixelPaddingValue=63536)
    volume = read_volume(tmp_path)
    assert volume.array.dtype == np.int16
    assert (volume.array[:, 0, :5] == -1024).all()
    assert np.array_equal(volume.array[:, 1:], stored[:, 1:].astype(int) - 1024)
    assert "padding" in volume.notes[0]


def test_a_padding_value_that_tissue_has_too_is_not_believed(tmp_path):
    stored = stored_ct()
    stored[2, 6, 6] = 1000
    write_series(tmp_path, stored, PixelPaddingValue=1000)
    volume = read_volume(tmp_path)
    assert np.array_equal(volume.array, stored.astype(int) - 1024)
    assert "were kept" in volume.notes[0]


def test_a_fractional_slope_gives_float32_and_each_slice_its_own(tmp_path):
    stored = stored_ct(3)
    for k, slope in enumerate((1.5, 0.25, 3.0)):
        dataset = mr_slice(stored[k], (0, 0, 2.0 * k), RescaleSlope=slope, RescaleIntercept=1)
        save(dataset, tmp_path / f"{k}.dcm")
    volume = read_volume(tmp_path)
    assert volume.array.dtype == np.float32
    assert np.allclose(volume.array, stored * np.array([1.5, 0.25, 3.0])[:, None, None] + 1)
    assert (volume.modality, volume.intensity) == (Modality.MR, IntensityKind.ARBITRARY)


def test_values_beyond_16_bits_get_32(tmp_path):
    stored = stored_ct()
    stored[0, 5, 5] = 60000
    write_series(tmp_path, stored)
    volume = read_volume(tmp_path)
    assert volume.array.dtype == np.int32
    assert volume.array.max() == 60000 - 1024


def test_old_overlays_in_unused_bits_are_no_part_of_the_values(tmp_path):
    stored = stored_ct()
    with_overlay = stored.copy()
    with_overlay[:, 4, 4] |= 0x8000
    write_series(tmp_path, with_overlay, BitsStored=12, HighBit=11)
    assert np.array_equal(read_volume(tmp_path).array, stored.astype(int) - 1024)


def test_spectral_images_are_not_called_hu(tmp_path):
    write_series(tmp_path, RescaleType="Z_EFF")
    volume = read_volume(tmp_path)
    assert (volume.modality, volume.intensity) == (Modality.CT, IntensityKind.ARBITRARY)
    assert "not Hounsfield" in volume.notes[0]


def test_inverted_mr_is_turned_and_said(tmp_path):
    stored = stored_ct(3)
    for k in range(3):
        save(
            mr_slice(stored[k], (0, 0, 2.0 * k), PhotometricInterpretation="MONOCHROME1"),
            tmp_path / f"{k}.dcm",
        )
    volume = read_volume(tmp_path)
    assert np.array_equal(volume.array, int(stored.max()) + int(stored.min()) - stored.astype(int))
    assert "inverted" in volume.notes[0]


def test_the_modality_can_be_told(tmp_path):
    write_series(tmp_path, Modality="OT")
    assert read_volume(tmp_path).modality is Modality.UNKNOWN
    assert read_volume(tmp_path, modality=Modality.CT).intensity is IntensityKind.HU


# -- encodings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_every_uncompressed_transfer_syntax_gives_the_same_voxels(tmp_path, syntax):
    stored = stored_ct(3)
    for k in range(3):
        pixels = stored[k].byteswap() if syntax == ExplicitVRBigEndian else stored[k]
        dataset = ct_slice(pixels, (0, 0, 2.0 * k))
        dataset.file_meta.TransferSyntaxUID = syntax
        save(dataset, tmp_path / f"{k}.dcm")
    assert np.array_equal(read_volume(tmp_path).array, stored.astype(int) - 1024)


def test_files_without_preamble_are_read(tmp_path):
    stored = stored_ct(3)
    for k in range(3):
        dataset = ct_slice(stored[k], (0, 0, 2.0 * k))
        del dataset.file_meta
        dataset.save_as(tmp_path / f"{k}", enforce_file_format=False, implicit_vr=True, little_endian=True)
    assert np.array_equal(read_volume(tmp_path).array, stored.astype(int) - 1024)


def test_run_length_encoded_series_and_multi_frame_images_are_read(tmp_path):
    stored = stored_ct(3)
    for k in range(3):
        dataset = ct_slice(stored[k], (0, 0, 2.0 * k))
        dataset.compress(RLELossless, generate_instance_uid=False)
        save(dataset, tmp_path / "series" / f"{k}.dcm")
    order = [2, 0, 1]
    multi = enhanced(stored[order], [(0, 0, 2.0 * k) for k in order])
    multi.compress(RLELossless, generate_instance_uid=False)
    save(multi, tmp_path / "multi.dcm")
    for path in (tmp_path / "series", tmp_path / "multi.dcm"):
        assert np.array_equal(read_volume(path).array, stored.astype(int) - 1024)


@pytest.fixture
def lossless_folder(tmp_path):
    """A series in JPEG Lossless, which pydicom needs GDCM or pylibjpeg for; written by GDCM through SimpleITK."""
    stored = stored_ct(3, rows=16, columns=16)
    for k in range(3):
        image = sitk.GetImageFromArray(stored[k : k + 1])
        writer = sitk.ImageFileWriter()
        writer.SetImageIO("GDCMImageIO")
        writer.UseCompressionOn()
        writer.SetCompressor("JPEG")
        writer.SetFileName(str(tmp_path / "frame.dcm"))
        writer.Execute(image)
        encoded = pydicom.dcmread(tmp_path / "frame.dcm")
        dataset = ct_slice(stored[k], (0, 0, 2.0 * k))
        dataset.file_meta.TransferSyntaxUID = encoded.file_meta.TransferSyntaxUID
        dataset.PixelData = encoded.PixelData
        dataset["PixelData"].VR = "OB"
        save(dataset, tmp_path / "series" / f"{k}.dcm")
    assert encoded.file_meta.TransferSyntaxUID in ("1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.57")
    return tmp_path / "series", stored


def test_jpeg_lossless_is_decoded(lossless_folder):
    folder, stored = lossless_folder
    assert np.array_equal(read_volume(folder).array, stored.astype(int) - 1024)


def test_a_broken_compressed_slice_is_named_by_its_place(lossless_folder):
    folder, _ = lossless_folder
    dataset = pydicom.dcmread(folder / "1.dcm")
    dataset.PixelData = pydicom.encaps.encapsulate([b"\xff\xd8 this is no picture at all"])
    save(dataset, folder / "1.dcm")
    message = refusal(folder)
    assert "Slice 2 of 3 cannot be decoded (JPEG Lossless" in message


def test_no_identity_reaches_the_log(tmp_path, caplog):
    caplog.set_level(logging.DEBUG, logger="LiverMarginLib")
    stored = stored_ct().astype(np.int16)
    stored[:, 0] = -3024
    write_series(tmp_path, stored)
    read_volume(tmp_path)
    assert caplog.text
    assert SECRET not in caplog.text and "4711" not in caplog.text and "0815" not in caplog.text


# -- real series ----------------------------------------------------------------------------------------------------


@pytest.mark.realdata
def test_the_real_portal_series_agrees_with_simpleitk(real_data):
    folder = real_data / "ct_portal_slab" / "dicom"
    volume = read_volume(folder)
    files = sorted(folder.iterdir(), key=lambda p: pydicom.dcmread(p).ImagePositionPatient[2])
    image = sitk.ReadImage([str(p) for p in files])
    assert np.array_equal(volume.array, sitk.GetArrayFromImage(image))
    matrix = LPS_TO_RAS @ volume.geometry.ijk_to_ras
    assert np.allclose(matrix[:3, 3], image.GetOrigin())
    assert np.allclose(matrix[:3, :3], np.diag(image.GetSpacing()))
    assert volume.notes == ()


@pytest.mark.realdata
def test_the_real_padding_of_minus_3024_is_raised_to_air(real_data):
    volume = read_volume(real_data / "ct_three_slices" / "dicom")
    assert volume.array.min() == -1024
    assert "below -1024 HU" in volume.notes[0]
