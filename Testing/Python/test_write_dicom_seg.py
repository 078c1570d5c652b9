"""DICOM SEG: references, codes and frames, read back with highdicom and compared with dcmqi's."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import highdicom as hd
import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from example_labels import NOT_NAMED, affine, axis_orders, example, file_size_limit, in_patient_space, reorder
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from LiverMarginLib.errors import GeometryError, InputError, ResourceError
from LiverMarginLib.io.writers import write_labelmap
from LiverMarginLib.terminology import LIVER, LIVER_MASS
from LiverMarginLib.volume import Geometry, LabelMap

PATIENT = "Doe^Jane"


def write_series(folder: Path, geometry: Geometry, **changes: object) -> list[Dataset]:
    """Write a CT series on the grid of `geometry`, its files in no useful order; None removes a header field."""
    folder.mkdir(parents=True, exist_ok=True)
    lps = np.diag((-1.0, -1.0, 1.0, 1.0)) @ geometry.ijk_to_ras
    slices, rows, columns = geometry.shape
    spacing_k, spacing_j, spacing_i = geometry.spacing
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    headers = []
    for number in range(slices):
        header = Dataset()
        header.SOPClassUID = CTImageStorage
        header.SOPInstanceUID = generate_uid()
        header.StudyInstanceUID, header.SeriesInstanceUID, header.FrameOfReferenceUID = study, series, frame
        header.PatientName, header.PatientID, header.PatientBirthDate, header.PatientSex = PATIENT, "17", "", "F"
        header.StudyDate, header.StudyTime, header.StudyID, header.AccessionNumber = "20200101", "101010", "1", "A1"
        header.Modality, header.Manufacturer, header.SeriesNumber, header.InstanceNumber = "CT", "Maker", 2, number + 1
        header.ReferringPhysicianName, header.PositionReferenceIndicator = "", ""
        header.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        header.Rows, header.Columns = rows, columns
        header.PixelSpacing, header.SliceThickness = [spacing_j, spacing_i], spacing_k
        header.ImageOrientationPatient = [
            *(lps[:3, 0] / spacing_i).round(10).tolist(),
            *(lps[:3, 1] / spacing_j).round(10).tolist(),
        ]
        header.ImagePositionPatient = (lps @ (0, 0, number, 1))[:3].round(8).tolist()
        header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
        header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = 16, 16, 15, 1
        header.RescaleIntercept, header.RescaleSlope, header.RescaleType = 0, 1, "HU"
        header.PixelData = np.zeros((rows, columns), np.int16).tobytes()
        for keyword, value in changes.items():
            if value is None:
                delattr(header, keyword)
            else:
                setattr(header, keyword, value)
        header.file_meta = FileMetaDataset()
        header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        header.file_meta.MediaStorageSOPClassUID = CTImageStorage
        header.file_meta.MediaStorageSOPInstanceUID = header.get("SOPInstanceUID") or generate_uid()
        header.save_as(folder / f"{(number * 7) % 10}_{number}.dcm", enforce_file_format=True)
        headers.append(header)
    return headers


def labelled_points(path: Path, labels: dict[int, int]) -> dict[tuple[float, ...], int]:
    """RAS position of every labelled voxel; `labels` maps segment numbers to label values."""
    volume = hd.seg.segread(path).get_volume(combine_segments=True)
    # highdicom's affine takes the array's own index order to LPS.
    to_ras = np.diag((-1.0, -1.0, 1.0, 1.0)) @ volume.affine @ np.eye(4)[[2, 1, 0, 3]]
    lookup = np.zeros(volume.array.max() + 1, dtype=int)
    for number, value in labels.items():
        if number < len(lookup):
            lookup[number] = value
    return in_patient_space(lookup[volume.array], to_ras)


def referenced(segmentation: Dataset) -> list[str]:
    (series,) = segmentation.ReferencedSeriesSequence
    return [str(item.ReferencedSOPInstanceUID) for item in series.ReferencedInstanceSequence]


@pytest.fixture
def series(tmp_path):
    return write_series(tmp_path / "series", example().geometry), tmp_path / "series"


def test_every_axis_order_of_the_labels_gives_the_same_voxels_on_the_series_own_planes(tmp_path, series):
    headers, folder = series
    labels = example()
    expected = in_patient_space(labels.array, labels.geometry.ijk_to_ras)
    positions = {tuple(np.round(h.ImagePositionPatient, 3)) for h in headers}
    for axes, flips in axis_orders():
        (path,) = write_labelmap(reorder(labels, axes, flips), tmp_path / "out.dcm", source=folder)
        assert labelled_points(path, {1: 1, 2: 2, 3: NOT_NAMED}) == expected, (axes, flips)
        for frame in hd.seg.segread(path).PerFrameFunctionalGroupsSequence:
            assert tuple(np.round(frame.PlanePositionSequence[0].ImagePositionPatient, 3)) in positions


def test_all_instances_are_referenced_although_empty_frames_are_left_out(tmp_path, series):
    headers, folder = series
    array = np.zeros_like(example().array)
    array[2, 1:3, 1:4] = 1
    (path,) = write_labelmap(LabelMap(array, example().geometry, (LIVER,)), tmp_path / "out.dcm", source=folder)
    segmentation = hd.seg.segread(path)
    assert segmentation.NumberOfFrames == 1
    assert sorted(referenced(segmentation)) == sorted(str(h.SOPInstanceUID) for h in headers)
    assert segmentation.ReferencedSeriesSequence[0].SeriesInstanceUID == headers[0].SeriesInstanceUID
    frame = segmentation.PerFrameFunctionalGroupsSequence[0]
    source = frame.DerivationImageSequence[0].SourceImageSequence[0]
    assert source.ReferencedSOPInstanceUID == headers[2].SOPInstanceUID
    pixels = segmentation.get_pixels_by_source_instance(
        [headers[2].SOPInstanceUID], segment_numbers=[1], combine_segments=True
    )
    np.testing.assert_array_equal(pixels[0], array[2])


def test_codes_colours_and_algorithm_are_stated(tmp_path, series):
    (path,) = write_labelmap(example(), tmp_path / "out.dcm", source=series[1])
    segmentation = hd.seg.segread(path)
    assert segmentation.SegmentationType == "BINARY"
    for segment in (LIVER, LIVER_MASS):
        description = segmentation.get_segment_description(segment.label)
        assert description.segment_label == segment.name
        assert description.segmented_property_category.value == segment.terminology.category.value
        assert description.segmented_property_type.value == segment.terminology.type.value
        assert description.algorithm_type == hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC
        assert description.SegmentationAlgorithmIdentificationSequence[0].AlgorithmName == "unet"
        colour = hd.color.CIELabColor.from_dicom_value(description.RecommendedDisplayCIELabValue).to_rgb()
        np.testing.assert_allclose(colour, segment.colour, atol=1)
    region = segmentation.get_segment_description(2).anatomic_regions[0]
    assert (region.scheme_designator, region.value) == ("SCT", LIVER.terminology.type.value)
    assert segmentation.get_segment_description(3).segment_label == f"Segment_{NOT_NAMED}"


def test_labels_that_no_model_made_are_called_manual(tmp_path, series):
    labels = LabelMap(example().array, example().geometry, (LIVER, LIVER_MASS))
    (path,) = write_labelmap(labels, tmp_path / "out.dcm", source=series[1])
    assert {str(s.SegmentAlgorithmType) for s in hd.seg.segread(path).SegmentSequence} == {"MANUAL"}


def test_patient_and_study_are_those_of_the_source_and_identifiers_are_new_each_time(tmp_path, series):
    headers, folder = series
    written = [hd.seg.segread(write_labelmap(example(), tmp_path / f"{n}.dcm", source=folder)[0]) for n in range(2)]
    for keyword in (
        "PatientName",
        "PatientID",
        "StudyInstanceUID",
        "StudyDate",
        "AccessionNumber",
        "FrameOfReferenceUID",
    ):
        assert {str(s[keyword].value) for s in written} == {str(headers[0][keyword].value)}
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID"):
        assert len({str(s[keyword].value) for s in written} | {str(headers[0][keyword].value)}) == 3
    assert written[0].PixelData == written[1].PixelData


def test_names_beyond_ascii_survive_whatever_the_source_is_written_in(tmp_path):
    write_series(tmp_path / "series", example().geometry, SpecificCharacterSet="ISO_IR 100", PatientName="Müller")
    labels = LabelMap(example().array, example().geometry, (replace(LIVER, name="Leber, früh: 肝"),))
    (path,) = write_labelmap(labels, tmp_path / "out.dcm", source=tmp_path / "series")
    segmentation = pydicom.dcmread(path)
    assert str(segmentation.PatientName) == "Müller"
    assert segmentation.SegmentSequence[0].SegmentLabel == "Leber, früh: 肝"


def test_an_empty_segmentation_is_a_valid_file_with_every_frame(tmp_path, series):
    labels = LabelMap(np.zeros_like(example().array), example().geometry, (LIVER,))
    (path,) = write_labelmap(labels, tmp_path / "out.dcm", source=series[1])
    segmentation = hd.seg.segread(path)
    assert segmentation.NumberOfFrames == len(series[0])
    assert not segmentation.pixel_array.any()


def test_a_map_without_any_segment_is_refused(tmp_path, series):
    labels = LabelMap(np.zeros_like(example().array), example().geometry)
    with pytest.raises(InputError, match="nothing to write"):
        write_labelmap(labels, tmp_path / "out.dcm", source=series[1])


def test_labels_on_a_part_of_the_series_are_placed_within_it(tmp_path, series):
    whole = example()
    part = whole.array[1:3, 1:5, 2:7]
    to_whole = np.eye(4)
    to_whole[:3, 3] = (2, 1, 1)
    labels = LabelMap(part, Geometry(part.shape, whole.geometry.ijk_to_ras @ to_whole), whole.segments)
    (path,) = write_labelmap(labels, tmp_path / "out.dcm", source=series[1])
    assert labelled_points(path, {1: 1, 2: 2}) == in_patient_space(part, labels.geometry.ijk_to_ras)


def _moved(**change: object) -> LabelMap:
    labels = example()
    matrix = np.array(labels.geometry.ijk_to_ras)
    if "shift" in change:
        matrix[:3, 3] += matrix[:3, :3] @ np.array(change["shift"])
    if "scale" in change:
        matrix[:3, :3] *= change["scale"]
    if "rotation" in change:
        matrix = affine(change["rotation"])
    return LabelMap(labels.array, Geometry(labels.array.shape, matrix), labels.segments)


@pytest.mark.parametrize(
    "change",
    [
        {"shift": (0.5, 0, 0)},
        {"shift": (0, 0, 0.4)},
        {"shift": (0, 0, 1)},  # whole slices off: a labelled slice has no plane
        {"shift": (-3, 0, 0)},
        {"shift": (1000, 0, 0)},
        {"scale": 1.05},
        {"scale": (1, 1, 1.3)},
        {"scale": (2, 2, 1)},
        {"rotation": np.eye(3)},
    ],
)
def test_labels_that_do_not_lie_on_the_series_are_refused(tmp_path, series, change):
    with pytest.raises(GeometryError, match="does not lie on the pixels"):
        write_labelmap(_moved(**change), tmp_path / "out.dcm", source=series[1])
    assert not (tmp_path / "out.dcm").exists()


def test_small_rounding_of_positions_is_forgiven(tmp_path, series):
    (path,) = write_labelmap(_moved(shift=(0.05, -0.05, 0.1)), tmp_path / "out.dcm", source=series[1])
    assert len(labelled_points(path, {1: 1, 2: 2, 3: 7})) == np.count_nonzero(example().array)


def test_of_several_series_the_one_that_carries_the_labels_is_taken(tmp_path, series):
    headers, folder = series
    write_series(folder / "thick", Geometry((4, 6, 8), example().geometry.ijk_to_ras * (1, 1, 2, 1)))
    write_series(folder / "coronal", Geometry((8, 6, 4), affine()[:, [2, 1, 0, 3]]), SeriesNumber=3)
    (folder / "notes.txt").write_text("not DICOM")
    with pytest.raises(InputError, match="2 of the DICOM series found fit"):
        write_labelmap(example(), tmp_path / "out.dcm", source=folder)
    files = [path for path in folder.iterdir() if path.is_file()] + [folder / "thick"]
    (path,) = write_labelmap(example(), tmp_path / "out.dcm", source=files)
    assert sorted(referenced(hd.seg.segread(path))) == sorted(str(h.SOPInstanceUID) for h in headers)


def test_a_segmentation_in_the_folder_is_not_taken_for_a_source(tmp_path, series):
    write_labelmap(example(), series[1] / "earlier.dcm", source=series[1])
    (path,) = write_labelmap(example(), tmp_path / "out.dcm", source=series[1])
    assert len(referenced(hd.seg.segread(path))) == len(series[0])


def test_two_images_at_the_same_position_are_refused(tmp_path, series):
    header = pydicom.dcmread(next(series[1].iterdir()))
    header.SOPInstanceUID = header.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    header.save_as(series[1] / "again.dcm")
    with pytest.raises(InputError, match="same position"):
        write_labelmap(example(), tmp_path / "out.dcm", source=series[1])


def test_the_same_file_twice_counts_once(tmp_path, series):
    files = sorted(series[1].iterdir())
    (path,) = write_labelmap(example(), tmp_path / "out.dcm", source=files + files)
    assert len(referenced(hd.seg.segread(path))) == len(files)


@pytest.mark.parametrize("content", [None, b"", b"text", b"\0" * 128 + b"DICM"])
def test_a_source_without_images_is_refused(tmp_path, content):
    source = tmp_path / "source"
    if content is not None:
        source.mkdir()
        (source / "a.dcm").write_bytes(content)
    with pytest.raises(InputError, match="source of the DICOM SEG"):
        write_labelmap(example(), tmp_path / "out.dcm", source=source)
    with pytest.raises(InputError, match="give that series' folder"):
        write_labelmap(example(), tmp_path / "out.dcm")


def test_headers_emptied_by_de_identification_are_completed(tmp_path, caplog):
    gone = ("PatientName", "PatientID", "PatientSex", "StudyDate", "StudyTime", "StudyID", "AccessionNumber")
    write_series(
        tmp_path / "series",
        example().geometry,
        **dict.fromkeys(gone),
        StudyInstanceUID="",
        SeriesInstanceUID="",
        SOPClassUID="",
        SOPInstanceUID="",
        SliceThickness=None,
    )
    with caplog.at_level(logging.WARNING):
        (path,) = write_labelmap(example(), tmp_path / "out.dcm", source=tmp_path / "series")
    assert "no StudyInstanceUID" in caplog.text
    segmentation = hd.seg.segread(path)
    in_files = {str(pydicom.dcmread(f).file_meta.MediaStorageSOPInstanceUID) for f in (tmp_path / "series").iterdir()}
    assert set(referenced(segmentation)) == in_files
    assert segmentation.StudyInstanceUID and segmentation.ReferencedSeriesSequence[0].SeriesInstanceUID


@pytest.mark.parametrize(
    ("name", "label"), [("left\\right\nlobe", "left/right lobe"), ("x" * 80, "x" * 64), (" ", "Segment_1")]
)
def test_names_that_dicom_cannot_hold_are_fitted(tmp_path, series, name, label):
    labels = LabelMap(example().array, example().geometry, (replace(LIVER, name=name),))
    (path,) = write_labelmap(labels, tmp_path / "out.dcm", source=series[1])
    assert pydicom.dcmread(path).SegmentSequence[0].SegmentLabel == label


@pytest.mark.filterwarnings("ignore:Invalid value for VR")  # said by pydicom when the test makes the headers
def test_a_broken_header_is_one_sentence_without_the_patient(tmp_path):
    write_series(tmp_path / "series", example().geometry, PatientSex="female", ReferringPhysicianName=None)
    write_labelmap(example(), tmp_path / "out.dcm", source=tmp_path / "series")
    write_series(tmp_path / "broken", example().geometry, StudyDate="Jane, 1 May")
    with pytest.raises(InputError, match="lack or break a required field") as caught:
        write_labelmap(example(), tmp_path / "broken.dcm", source=tmp_path / "broken")
    assert "Jane" not in caught.value.message + caught.value.details
    assert not (tmp_path / "broken.dcm").exists()


def test_a_full_disk_leaves_no_file(tmp_path, series):
    with pytest.raises(ResourceError), file_size_limit(500):
        write_labelmap(example(), tmp_path / "out" / "out.dcm", source=series[1])
    assert not (tmp_path / "out").exists()


def test_a_multi_frame_source_is_referenced_frame_by_frame(tmp_path, series):
    headers, _ = series
    multi = hd.legacy.LegacyConvertedEnhancedCTImage(
        legacy_datasets=headers[::-1],
        series_instance_uid=generate_uid(),
        series_number=5,
        sop_instance_uid=generate_uid(),
        instance_number=1,
    )
    multi.save_as(tmp_path / "multi.dcm")
    labels = reorder(example(), (2, 0, 1), (True, False, True))
    (path,) = write_labelmap(labels, tmp_path / "out.dcm", source=tmp_path / "multi.dcm")
    assert referenced(hd.seg.segread(path)) == [str(multi.SOPInstanceUID)]
    expected = in_patient_space(example().array, example().geometry.ijk_to_ras)
    assert labelled_points(path, {1: 1, 2: 2, 3: NOT_NAMED}) == expected


@pytest.mark.realdata
def test_a_real_liver_references_its_20_instances_and_reads_back_voxel_by_voxel(tmp_path, real_data):
    image = nibabel.load(real_data / "ct_portal_slab" / "labels.nii.gz")
    array = (np.asarray(image.dataobj).T == 5).astype(np.uint8)
    labels = LabelMap(array, Geometry(array.shape, image.affine), (LIVER,), {"model": "TotalSegmentator"})
    (path,) = write_labelmap(labels, tmp_path / "out.dcm", source=real_data / "ct_portal_slab" / "dicom")
    assert len(set(referenced(hd.seg.segread(path)))) == 20
    assert labelled_points(path, {1: 1}) == in_patient_space(array, image.affine)


@pytest.mark.realdata
def test_the_frames_are_those_that_dcmqi_writes_for_the_same_labels(tmp_path, real_data):
    folder = real_data / "ct_three_slices"
    image = sitk.ReadImage(str(folder / "liver.nrrd"))
    matrix = np.eye(4)
    matrix[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    matrix[:3, 3] = image.GetOrigin()
    array = (sitk.GetArrayFromImage(image) == 1).astype(np.uint8)
    labels = LabelMap(array, Geometry(array.shape, np.diag((-1.0, -1.0, 1.0, 1.0)) @ matrix), (LIVER,))
    (path,) = write_labelmap(labels, tmp_path / "out.dcm", source=folder / "dicom")

    def frames(segmentation: Dataset) -> dict[str, bytes]:
        pixels = segmentation.pixel_array
        return {
            str(frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID): pixels[n].tobytes()
            for n, frame in enumerate(segmentation.PerFrameFunctionalGroupsSequence)
        }

    ours, dcmqi = pydicom.dcmread(path), pydicom.dcmread(folder / "liver_seg.dcm")
    assert frames(ours) == frames(dcmqi)
    assert set(referenced(ours)) == set(referenced(dcmqi))
    assert ours.StudyInstanceUID == dcmqi.StudyInstanceUID
    assert ours.FrameOfReferenceUID == dcmqi.FrameOfReferenceUID
    ours_colour, dcmqi_colour = (s.SegmentSequence[0].RecommendedDisplayCIELabValue for s in (ours, dcmqi))
    np.testing.assert_allclose(ours_colour, dcmqi_colour, atol=1)
