"""Data sets as researchers keep them: the paper's case folders, KITTI exports, pairs of volumes, Decathlon."""

from __future__ import annotations

import json

import numpy as np
import pytest
from dataset_builders import LABEL_TABLE, ct_like, images, png, put, put_case, put_frame, put_volume, two_pieces

from LiverMarginLib.datasets.check import check_dataset
from LiverMarginLib.datasets.labels import choose_labels
from LiverMarginLib.datasets.layouts import open_dataset
from LiverMarginLib.datasets.matching import match_masks
from LiverMarginLib.datasets.model import Layout
from LiverMarginLib.errors import GeometryError, InputError
from LiverMarginLib.io.kitti_writer import write_kitti
from LiverMarginLib.volume import IntensityKind, Modality, axial_view

FLIP = (-1, 0, 0, 0, -1, 0, 0, 0, 1)


def ids(dataset):
    return [case.id for case in dataset.cases]


def view_of(case):
    """Image and mask of a loaded case in the axial view, and the annotated flags."""
    view = axial_view(case.volume.geometry)
    return view.to_view(case.volume.array), view.to_view(case.labels.array), case.annotated


def test_the_papers_case_folders_are_opened_in_natural_order_and_say_so(tmp_path):
    for number in (1, 2, 10):
        put_case(tmp_path / f"Case {number}", seed=number)
    dataset = open_dataset(tmp_path)
    assert dataset.layout is Layout.CASE_FOLDERS
    assert ids(dataset) == ["Case 1", "Case 2", "Case 10"]
    assert "case folders" in dataset.notes[0]
    assert "3 cases" in dataset.notes[0]


def test_the_first_picture_is_the_uppermost_slice_unless_said_otherwise(tmp_path):
    put_case(tmp_path / "Case 1", slices=8, annotated=(2, 3, 4), seed=5)
    pictures = images(8, seed=5)
    shown, mask, annotated = view_of(open_dataset(tmp_path).load("Case 1"))
    np.testing.assert_array_equal(shown, pictures[::-1])
    assert np.flatnonzero(annotated).tolist() == [3, 4, 5]  # of 0 to 7, counted from below
    np.testing.assert_array_equal(mask[3], two_pieces())
    assert not mask[[0, 1, 2, 6, 7]].any()
    shown, _, annotated = view_of(open_dataset(tmp_path, superior_first=False).load("Case 1"))
    np.testing.assert_array_equal(shown, pictures)
    assert np.flatnonzero(annotated).tolist() == [2, 3, 4]


def test_slices_without_a_mask_are_unannotated_by_default_and_empty_on_request(tmp_path):
    put_case(tmp_path / "Case 1")
    assert open_dataset(tmp_path).load("Case 1").annotated.sum() == 3
    assert open_dataset(tmp_path, empty_outside=True).load("Case 1").annotated.all()


def test_a_stack_without_a_spacing_says_so_and_takes_the_one_that_is_given(tmp_path):
    put_case(tmp_path / "Case 1")
    volume = open_dataset(tmp_path).load("Case 1").volume
    assert not volume.spacing_known
    assert volume.intensity is IntensityKind.EIGHT_BIT
    volume = open_dataset(tmp_path, spacing=(5, 0.7, 0.8)).load("Case 1").volume
    assert volume.spacing_known
    assert volume.geometry.spacing == pytest.approx((5, 0.7, 0.8))
    with pytest.raises(InputError, match="three positive lengths"):
        open_dataset(tmp_path, spacing=(5, 0, 0.8))


def test_masks_in_a_zip_beside_the_images_are_found(tmp_path):
    for number, image in enumerate(images(4)):
        put(tmp_path / "Case 1" / "img" / f"slice{number:03d}.png", png(image))
    masks = [None, two_pieces(), two_pieces(), None]
    write_kitti(
        None, masks, tmp_path / "Case 1" / "annotations.zip", stems=[f"slice{number:03d}" for number in range(4)]
    )
    dataset = open_dataset(tmp_path)
    assert dataset.layout is Layout.CASE_FOLDERS
    assert dataset.load("Case 1").annotated.tolist() == [False, True, True, False]


def test_a_zip_of_case_folders_and_a_folder_around_them_are_looked_through(tmp_path):
    put_case(tmp_path / "in" / "data" / "Case 1")
    put_case(tmp_path / "in" / "data" / "Case 2", seed=1)
    assert ids(open_dataset(tmp_path / "in")) == ["Case 1", "Case 2"]
    import shutil

    shutil.make_archive(str(tmp_path / "all"), "zip", tmp_path / "in")
    dataset = open_dataset(tmp_path / "all.zip")
    assert ids(dataset) == ["Case 1", "Case 2"]
    assert dataset.load("Case 2").labels.array.any()


def test_a_kitti_zip_is_one_case_named_after_it(tmp_path):
    write_kitti(images(3), [None, two_pieces(), None], tmp_path / "patient_4.zip")
    dataset = open_dataset(tmp_path / "patient_4.zip")
    assert (dataset.layout, ids(dataset)) == (Layout.KITTI, ["patient_4"])
    loaded = dataset.load("patient_4")
    np.testing.assert_array_equal(loaded.labels.array, np.stack([two_pieces() * 0, two_pieces(), two_pieces() * 0]))


def test_a_folder_of_kitti_zips_is_a_case_a_zip(tmp_path):
    for name in ("p2", "p10"):
        write_kitti(images(3), [two_pieces()] * 3, tmp_path / f"{name}.zip")
    dataset = open_dataset(tmp_path)
    assert [(case.id, case.patient) for case in dataset.cases] == [("p2", "p2"), ("p10", "p10")]


def test_folders_and_name_beginnings_tell_series_apart_and_that_is_said(tmp_path):
    put(tmp_path / "label_colors.txt", LABEL_TABLE)
    for patient in ("anna", "bert"):
        for number in range(3):
            put(tmp_path / "default" / "image_2" / f"{patient}_{number}.png", png(images(1)[0]))
        put_frame(tmp_path, f"{patient}_1", two_pieces())
    dataset = open_dataset(tmp_path)
    assert [(case.id, case.patient) for case in dataset.cases] == [("anna", "anna"), ("bert", "bert")]
    assert "2 series" in dataset.cases[0].notes[0]
    assert [int(dataset.load(case).annotated.sum()) for case in dataset.cases] == [1, 1]


def test_several_series_in_a_case_folder_stay_one_patient(tmp_path):
    put_case(tmp_path / "Case 2")
    for number in range(1, 4):
        put(tmp_path / "Case 2" / "images" / f"IM-0002-{number:04d}.png", png(images(1)[0]))
        (tmp_path / "Case 2" / "images" / f"{number:04d}.png").rename(
            tmp_path / "Case 2" / "images" / f"IM-0001-{number:04d}.png"
        )
    for number in range(4, 9):
        (tmp_path / "Case 2" / "images" / f"{number:04d}.png").unlink()
    dataset = open_dataset(tmp_path)
    assert ids(dataset) == ["Case 2/IM-0001", "Case 2/IM-0002"]
    assert dataset.patients == ("Case 2",)


def test_subsets_of_one_export_are_cases_of_one_patient_because_nothing_says_otherwise(tmp_path):
    put(tmp_path / "label_colors.txt", LABEL_TABLE)
    for subset in ("train", "val"):
        put(tmp_path / subset / "image_2" / "0001.png", png(images(1)[0]))
        put_frame(tmp_path, "0001", two_pieces(), subset=subset)
    dataset = open_dataset(tmp_path)
    assert ids(dataset) == ["train", "val"]
    assert len(dataset.patients) == 1


def test_images_of_an_export_without_images_may_lie_elsewhere(tmp_path):
    write_kitti(None, [two_pieces()] * 2, tmp_path / "masks.zip", stems=["a1", "a2"])
    for number, image in enumerate(images(3), start=1):
        put(tmp_path / "pictures" / f"a{number}.png", png(image))
    alone = open_dataset(tmp_path / "masks.zip")
    with pytest.raises(InputError, match="has no images"):
        alone.load("masks")
    together = open_dataset(tmp_path / "masks.zip", images=tmp_path / "pictures")
    assert together.load("masks").annotated.tolist() == [False, True, True]


def test_plain_black_and_white_masks_are_liver_wherever_they_are_not_black(tmp_path):
    for number, image in enumerate(images(3)):
        put(tmp_path / "images" / f"{number}.png", png(image))
    put(tmp_path / "masks" / "1.png", png(two_pieces() * 255))
    dataset = open_dataset(tmp_path)
    assert dataset.layout is Layout.PICTURES
    np.testing.assert_array_equal(dataset.load(dataset.cases[0]).labels.array[1], two_pieces())


@pytest.mark.parametrize("folder", ["images/", ""])
def test_one_patients_images_with_a_zip_of_masks_beside_them_are_one_case(tmp_path, folder):
    for number, image in enumerate(images(3)):
        put(tmp_path / "data" / f"{folder}{number:02d}.png", png(image))
    write_kitti(None, [None, two_pieces(), None], tmp_path / "data" / "task.zip", stems=["00", "01", "02"])
    dataset = open_dataset(tmp_path / "data")
    assert ids(dataset) == ["data"]
    assert dataset.load("data").annotated.tolist() == [False, True, False]


def test_a_case_that_cannot_be_understood_is_left_out_and_reported_and_the_others_stay(tmp_path):
    for number in (1, 2, 3):
        put_case(tmp_path / f"Case {number}", seed=number)
    put(tmp_path / "Case 2" / "masks" / "label_colors.txt", "no colour here at all\n1 2\n")
    put(tmp_path / "Case 3" / "more.zip", b"no zip")
    dataset = open_dataset(tmp_path)
    assert ids(dataset) == ["Case 1"]
    assert [case for case, _ in dataset.left_out] == ["Case 2", "Case 3"]
    assert "2 could not be understood and are left out: Case 2, Case 3." in dataset.notes
    problems = check_dataset(dataset).problems
    assert any("Case 2: Line 2 of label_colors.txt" in line for line in problems)
    assert any("Case 3: more.zip is not a zip" in line for line in problems)


def test_grey_stored_as_colour_is_read_and_true_colour_is_refused(tmp_path):
    put_case(tmp_path / "Case 1")
    path = tmp_path / "Case 1" / "images" / "0001.png"
    grey = images(1)[0]
    path.write_bytes(png(np.repeat(grey[..., None], 3, axis=2)))
    np.testing.assert_array_equal(open_dataset(tmp_path).load("Case 1").volume.array[0], grey)
    path.write_bytes(png(np.stack([grey, grey, 255 - grey], axis=2)))
    with pytest.raises(InputError, match=r"0001\.png is a colour picture"):
        open_dataset(tmp_path).load("Case 1")


def test_a_mask_of_another_size_and_a_corrupt_picture_are_named(tmp_path):
    put_case(tmp_path / "Case 1")
    put_frame(tmp_path / "Case 1" / "masks", "0003", two_pieces((24, 40)))
    with pytest.raises(InputError, match="Case 1 has a mask of 40 x 24 pixels for an image of 40 x 48"):
        open_dataset(tmp_path).load("Case 1")
    put_frame(tmp_path / "Case 1" / "masks", "0003", two_pieces())
    put(tmp_path / "Case 1" / "images" / "0005.png", b"\x89PNG\r\n\x1a\n cut")
    with pytest.raises(InputError, match=r"0005\.png is damaged"):
        open_dataset(tmp_path).load("Case 1")


def test_a_case_without_masks_loads_without_labels(tmp_path):
    put_case(tmp_path / "Case 1")
    put(tmp_path / "Case 2" / "images" / "1.png", png(images(1)[0]))
    loaded = open_dataset(tmp_path).load("Case 2")
    assert loaded.labels is None
    assert loaded.annotated.tolist() == [False]


@pytest.mark.parametrize("content", [{}, {"readme.txt": "hello"}, {"a/b.xlsx": "x"}])
def test_a_folder_that_holds_no_data_set_is_said(tmp_path, content):
    for name, text in content.items():
        put(tmp_path / name, text)
    with pytest.raises(InputError, match="no data set that is understood"):
        open_dataset(tmp_path)


def test_a_wrong_zip_a_wrong_file_and_a_missing_path_are_said(tmp_path):
    put(tmp_path / "x.zip", b"no zip")
    put(tmp_path / "x.nii.gz", b"")
    for name, sentence in (("x.zip", "not a zip"), ("x.nii.gz", "single file"), ("y", "does not exist")):
        with pytest.raises(InputError, match=sentence):
            open_dataset(tmp_path / name)


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("volume-3.nii", "segmentation-3.nii"),
        ("case3.nii.gz", "case3_seg.nii.gz"),
        ("images/p3.nii.gz", "labels/p3.nii.gz"),
        ("imagesTr/p3_0000.nii.gz", "labelsTr/p3.nii.gz"),
        ("p3/ct.nii.gz", "p3/liver.nii.gz"),
        ("p3/ct.nii.gz", "p3/segmentations/liver.nii.gz"),
        ("p3/image.mha", "p3/label.mha"),
        ("3.nrrd", "3.label.nrrd"),
    ],
)
def test_volumes_and_label_maps_are_paired_by_common_naming_patterns(tmp_path, image, label):
    array = ct_like()
    put_volume(tmp_path / image, array)
    put_volume(tmp_path / label, (array > 50).astype(np.uint8))
    put_volume(tmp_path / image.replace("3", "4"), ct_like(seed=1))
    dataset = open_dataset(tmp_path)
    assert dataset.layout is Layout.PAIRS
    assert [case.masks is not None for case in dataset.cases] == [True, False]
    assert image.rpartition("/")[2] in dataset.notes[1]
    loaded = dataset.load(dataset.cases[0])
    np.testing.assert_array_equal(loaded.labels.array, array > 50)
    assert loaded.annotated.all()


def test_a_label_map_with_flipped_axes_is_placed_by_patient_space(tmp_path):
    array = ct_like()
    mask = np.zeros(array.shape, np.uint8)
    mask[1:3, 4:9, 5:8] = 1
    put_volume(tmp_path / "p" / "ct.nii.gz", array, spacing=(1, 1, 2))
    # the same voxels, stored from the other end of both in-plane axes
    put_volume(
        tmp_path / "p" / "labels.nii.gz", mask[:, ::-1, ::-1], spacing=(1, 1, 2), origin=(23, 19, 0), direction=FLIP
    )
    loaded = open_dataset(tmp_path).load("p")
    np.testing.assert_array_equal(loaded.labels.array, mask)
    assert any("another axis order" in note for note in loaded.volume.notes)


def test_a_label_map_on_another_grid_is_resampled_and_one_elsewhere_is_refused(tmp_path):
    array = ct_like((6, 20, 24))
    put_volume(tmp_path / "p" / "ct.nii.gz", array, spacing=(1, 1, 2))
    coarse = np.zeros((6, 10, 12), np.uint8)
    coarse[2, 4, 5] = 1
    put_volume(tmp_path / "p" / "labels.nii.gz", coarse, spacing=(2, 2, 2), origin=(0.5, 0.5, 0))
    loaded = open_dataset(tmp_path).load("p")
    assert np.argwhere(loaded.labels.array).tolist() == [[2, 8, 10], [2, 8, 11], [2, 9, 10], [2, 9, 11]]
    assert any("resampled" in note for note in loaded.volume.notes)
    put_volume(tmp_path / "p" / "labels.nii.gz", coarse, origin=(500, 0, 0))
    with pytest.raises(GeometryError, match="outside its image"):
        open_dataset(tmp_path).load("p")


def decathlon(folder, **changes):
    array = ct_like()
    mask = np.zeros(array.shape, np.uint8)
    mask[2, 5:10, 5:10] = 1
    mask[2, 6, 6] = 2
    put_volume(folder / "imagesTr" / "liver_0.nii.gz", array)
    put_volume(folder / "labelsTr" / "liver_0.nii.gz", mask)
    put_volume(folder / "imagesTs" / "liver_7.nii.gz", ct_like(seed=7))
    content = {
        "labels": {"0": "background", "1": "liver", "2": "cancer"},
        "modality": {"0": "CT"},
        "training": [{"image": "./imagesTr/liver_0.nii.gz", "label": "./labelsTr/liver_0.nii.gz"}],
        "test": ["./imagesTs/liver_7.nii.gz"],
        **changes,
    }
    put(folder / "dataset.json", json.dumps(content))
    return mask


def test_a_decathlon_data_set_names_its_labels_and_its_modality(tmp_path):
    mask = decathlon(tmp_path)
    for path in (tmp_path, tmp_path / "dataset.json"):
        dataset = open_dataset(path)
        assert dataset.layout is Layout.DECATHLON
        assert ids(dataset) == ["liver_0", "liver_7"]
        loaded = dataset.load("liver_0")
        np.testing.assert_array_equal(loaded.labels.array, mask)
        assert loaded.volume.modality is Modality.CT
        assert dataset.cases[1].masks is None


def test_labels_of_a_decathlon_data_set_are_taken_by_name_not_by_number(tmp_path):
    mask = decathlon(tmp_path, labels={"0": "background", "2": "liver", "1": "spleen"})
    np.testing.assert_array_equal(open_dataset(tmp_path).load("liver_0").labels.array, mask == 2)


def test_an_nnu_net_data_set_without_a_list_is_paired_by_names(tmp_path):
    array = ct_like()
    put_volume(tmp_path / "imagesTr" / "p_001_0000.nii.gz", array)
    put_volume(tmp_path / "labelsTr" / "p_001.nii.gz", (array > 50).astype(np.uint8) * 3)
    content = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "spleen": 1, "liver": 3}, "numTraining": 1}
    put(tmp_path / "dataset.json", json.dumps(content))
    np.testing.assert_array_equal(open_dataset(tmp_path).load("p-001").labels.array, array > 50)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"labels": None}, "entry labels"),
        ({"labels": {"x": "liver"}}, "not numbers"),
        ({"training": [{"image": "../../etc/passwd"}]}, "outside its folder"),
        ({"training": [5]}, "names no image"),
    ],
)
def test_a_wrong_description_is_said_in_one_sentence(tmp_path, changes, sentence):
    decathlon(tmp_path, **changes)
    with pytest.raises(InputError, match=sentence):
        open_dataset(tmp_path)


def test_missing_files_of_a_description_are_counted(tmp_path):
    decathlon(tmp_path)
    (tmp_path / "imagesTs" / "liver_7.nii.gz").unlink()
    dataset = open_dataset(tmp_path)
    assert ids(dataset) == ["liver_0"]
    assert "1 cases of dataset.json were left out" in dataset.notes[1]


@pytest.mark.parametrize(
    ("names", "options", "expected"),
    [
        ({1: "liver"}, {}, ((1,), ())),
        ({1: "kidney", 6: "liver"}, {}, ((6,), ())),
        ({1: "liver", 2: "liver tumor"}, {}, ((1,), (2,))),
        ({1: "liver", 2: "cancer"}, {}, ((1,), (2,))),
        ({1: "kidney tumour", 2: "liver", 3: "liver_tumour"}, {}, ((2,), (3,))),
        ({1: "parenchyma"}, {}, ((1,), ())),
        ({1: "liver", 2: "liver vessel"}, {}, ((1,), ())),
        ({1: "a", 2: "b"}, {"label": "B"}, ((2,), ())),
        ({1: "a", 2: "b"}, {"label": 2, "tumour": "a"}, ((2,), (1,))),
        ({}, {"label": "6"}, ((6,), ())),
        ({}, {"values": (1, 2)}, ((1,), (2,))),
        ({}, {"values": (255,)}, ((255,), ())),
    ],
)
def test_the_liver_is_found_among_the_labels(names, options, expected):
    choice = choose_labels(names, **options)
    assert (choice.liver, choice.tumour) == expected


@pytest.mark.parametrize(
    ("names", "options", "sentence"),
    [
        ({1: "a", 2: "b"}, {}, "not clear which label is the liver among 1 a, 2 b"),
        ({1: "a"}, {"label": "liver"}, "no label named liver"),
        ({1: "a"}, {"label": 4}, "no label 4"),
        ({}, {"values": (1, 5, 6)}, "labels 1, 5, 6 without names"),
    ],
)
def test_a_liver_that_cannot_be_told_is_asked_for(names, options, sentence):
    with pytest.raises(InputError, match=sentence):
        choose_labels(names, **options)


@pytest.mark.parametrize(
    ("pictures", "masks", "offset", "expected", "unmatched"),
    [
        (["a01", "a02", "a03"], ["a02"], None, (None, 0, None), ()),
        (["1", "2", "3"], ["m_0003"], None, (None, None, 0), ()),
        (["1", "2", "3"], ["0", "1", "2"], None, (0, 1, 2), ()),  # counted from 0 and from 1
        (["1", "2", "3"], ["2", "3", "4"], None, (0, 1, 2), ()),
        (["1", "2", "3", "4"], ["2", "5"], None, (None, 0, None, None), (1,)),  # a stray mask shifts nothing
        (["0", "1", "2"], ["m1", "m2", "m3"], None, (0, 1, 2), ()),
        (["s1", "s2", "s3"], ["frame_000001"], None, (None, 0, None), ()),  # CVAT counts from 0
        (["s1", "s2", "s3"], ["m1"], 1, (None, 0, None), ()),
        (["1", "2"], ["7"], None, (None, None), (0,)),
        (["x/1", "y/1"], ["y/1"], None, (None, 0), ()),
        (["img"], ["mask"], None, (None,), (0,)),
    ],
)
def test_masks_find_their_images_by_name_then_by_number(pictures, masks, offset, expected, unmatched):
    found = match_masks(pictures, masks, offset=offset)
    assert (found.of_image, found.unmatched) == (expected, unmatched)


@pytest.mark.realdata
def test_real_volumes_are_paired_and_measured_in_patient_space(real_data):
    portal = open_dataset(real_data, label=5).load("ct_portal_slab")
    assert portal.labels.volume_ml(1) == pytest.approx(699, abs=1)  # data/README.md
    assert any("another axis order" in note for note in portal.volume.notes)
    amos = open_dataset(real_data, label=6).load("mr_amos_0540")
    assert amos.labels.volume_ml(1) == pytest.approx(1311, abs=1)


def test_a_folder_of_links_says_why_it_looks_empty(tmp_path):
    put_volume(tmp_path / "elsewhere" / "liver_1.nii.gz", ct_like())
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "liver_1.nii.gz").symlink_to(tmp_path / "elsewhere" / "liver_1.nii.gz")
    with pytest.raises(InputError, match=r"holds no data set .* 1 link leads out .* copy the files"):
        open_dataset(tmp_path / "data")
