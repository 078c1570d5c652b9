"""What `check_dataset` reports, and what it does not cry wolf about."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest
from dataset_builders import ct_like, images, png, put, put_case, put_frame, put_volume

from LiverMarginLib.datasets.check import check_dataset, find_duplicates, slice_digest
from LiverMarginLib.datasets.layouts import open_dataset
from LiverMarginLib.datasets.orientation import orientation_doubts
from LiverMarginLib.errors import Cancelled
from LiverMarginLib.events import CancelToken, Progress
from LiverMarginLib.volume import axial_view


def report_of(path, **options):
    report = check_dataset(open_dataset(path, **options))
    return report, {case.case: case for case in report.cases}


def one_piece(shape=(48, 40)):
    mask = np.zeros(shape, np.uint8)
    mask[8:20, 4:12] = 1
    return mask


def test_slices_pieces_and_empties_are_counted(tmp_path):
    put_case(tmp_path / "Case 1", slices=8, annotated=(1, 2, 3, 4))
    folder = tmp_path / "Case 1" / "masks"
    put_frame(folder, "0003", one_piece())
    put_frame(folder, "0004", one_piece() * 0)
    speck = one_piece()
    speck[40, 4] = 1
    put_frame(folder, "0005", speck)
    report, cases = report_of(tmp_path)
    case = cases["Case 1"]
    assert (case.images, case.annotated_slices, case.liver_slices, case.empty_annotated_slices) == (8, 4, 3, 1)
    assert case.fragmented_slices == (1,)  # in file order
    assert case.slices_with_specks == 1
    assert report.problems == ()


def test_a_clean_data_set_is_called_clean(tmp_path):
    for number in (1, 2):
        put_case(tmp_path / f"Case {number}", seed=number, mask=one_piece())
    report, _ = report_of(tmp_path)
    assert report.problems == ()
    assert "Nothing odd was found." in report.to_text()


def test_every_kind_of_damage_is_a_line_and_the_other_cases_go_on(tmp_path):
    for number in range(1, 8):
        put_case(tmp_path / f"Case {number}", seed=number, mask=one_piece())
    other = one_piece()
    other[30:35, 4:9] = 1
    frame = tmp_path / "Case 1" / "masks" / "default" / "semantic" / "0003.png"
    frame.write_bytes(png(other.astype(np.uint16)))
    put_frame(tmp_path / "Case 2" / "masks", "0003", one_piece((24, 40)))
    put(tmp_path / "Case 3" / "images" / "0008.png", b"\x89PNG cut")
    grey = images(1, seed=99)[0]
    put(tmp_path / "Case 4" / "images" / "0001.png", png(np.repeat(grey[..., None], 3, axis=2)))
    for path in (tmp_path / "Case 5" / "masks").rglob("*.png"):
        path.unlink()
    put_frame(tmp_path / "Case 6" / "masks", "0099", one_piece())
    put(tmp_path / "Case 7" / "images" / "0002.png", (tmp_path / "Case 7" / "images" / "0001.png").read_bytes())
    report, cases = report_of(tmp_path)
    assert cases["Case 1"].disagreements == (
        "0003.png: instance and semantic differ in 25 pixels, semantic and semantic_rgb differ in 25 pixels",
    )
    assert cases["Case 2"].size_mismatches == ("0003.png: mask 40 x 24, image 40 x 48",)
    assert cases["Case 3"].unreadable == ("0008.png is damaged or not a picture; export it again.",)
    assert cases["Case 4"].colour_images == 1
    assert not cases["Case 5"].has_masks
    assert cases["Case 6"].unmatched_masks == ("0099",)
    assert cases["Case 7"].repeated_slices == 1
    assert all(any(line.startswith(f"Case {number}:") for line in report.problems) for number in range(1, 8))
    assert [case.images for case in report.cases] == [8] * 7


def test_images_of_two_sizes_in_a_case_are_reported(tmp_path):
    put_case(tmp_path / "Case 1", mask=one_piece())
    put(tmp_path / "Case 1" / "images" / "0009.png", png(images(1, (20, 20))[0]))
    _, cases = report_of(tmp_path)
    assert cases["Case 1"].size_mismatches == ("images of several sizes: 20 x 20, 40 x 48",)


def test_cases_that_share_images_are_found_whatever_the_files_are_called(tmp_path):
    for number, seed in ((1, 1), (2, 2), (3, 1)):
        put_case(tmp_path / f"Case {number}", seed=seed, mask=one_piece())
    for path in sorted((tmp_path / "Case 3" / "images").glob("*.png")):
        # other bytes, 16 bits instead of 8, same picture
        path.write_bytes(png(np.asarray(__import__("PIL.Image").Image.open(path)).astype(np.uint16)))
    black = png(np.zeros((48, 40), np.uint8))
    put(tmp_path / "Case 1" / "images" / "0099.png", black)
    put(tmp_path / "Case 2" / "images" / "0099.png", black)
    report, _ = report_of(tmp_path)
    (pair,) = report.duplicates
    assert (pair.first, pair.second, pair.slices, pair.same_patient) == ("Case 1", "Case 3", 8, False)
    assert find_duplicates(open_dataset(tmp_path)) == report.duplicates
    assert "different patients" in report.problems[-1]


def test_a_slice_of_one_value_has_no_digest():
    assert slice_digest(np.zeros((4, 4))) == ""
    assert slice_digest(np.eye(4)) == slice_digest(np.eye(4, dtype=np.uint8)) != slice_digest(np.eye(5))


def test_volumes_are_checked_with_their_geometry(tmp_path):
    array = ct_like()
    mask = np.zeros(array.shape, np.uint8)
    mask[2, 5:12, 5:8] = mask[2, 5:12, 12:15] = 1
    put_volume(tmp_path / "p1" / "ct.nii.gz", array)
    put_volume(tmp_path / "p1" / "liver.nii.gz", mask)
    put(tmp_path / "p2" / "ct.nii.gz", b"no nifti")
    put_volume(tmp_path / "p2" / "liver.nii.gz", mask)
    report, cases = report_of(tmp_path)
    assert (cases["p1"].images, cases["p1"].liver_slices, cases["p1"].fragmented_slices) == (6, 1, (2,))
    assert len(cases["p2"].unreadable) == 1
    assert any(line.startswith("p2:") for line in report.problems)


def test_the_report_is_json_csv_and_text(tmp_path):
    put_case(tmp_path / "Case 1")
    report, _ = report_of(tmp_path)
    content = json.loads(report.to_json())
    assert content["cases"][0]["fragmented_slices"] == [2, 3, 4]
    assert content["layout"] == "case folders with images and masks"
    (row,) = csv.DictReader(io.StringIO(report.to_csv()))
    assert (row["case"], row["fragmented_slices"], row["annotated_slices"]) == ("Case 1", "3", "3")
    header, line, total = report.to_text().splitlines()[2:5]
    assert header.split()[:3] == ["case", "images", "annotated"]
    assert line.split()[2:4] == ["8", "3"]
    assert total.startswith("1 case ")


def test_the_report_carries_the_case_table(tmp_path):
    put_case(tmp_path / "Case 1")
    put_case(tmp_path / "Case 2", seed=1)
    put(tmp_path / "cases.csv", "case,age,gender,health status,disease\n1,61,f,sick,HCC\n")
    report, cases = report_of(tmp_path)
    assert (cases["Case 1"].age, cases["Case 1"].gender, cases["Case 1"].disease) == (61, "female", "HCC")
    assert cases["Case 2"].age is None
    assert "cases.csv describes 1 of 2 cases." in report.notes
    first, second = csv.DictReader(io.StringIO(report.to_csv()))
    assert (first["age"], first["health_status"], second["age"]) == ("61.0", "sick", "")


def test_progress_is_told_and_a_cancelled_check_stops(tmp_path):
    put_case(tmp_path / "Case 1")
    put_case(tmp_path / "Case 2")
    token = CancelToken()
    told = []

    def listen(event):
        told.append(event)
        token.cancel()

    with pytest.raises(Cancelled):
        check_dataset(open_dataset(tmp_path), listen, token)
    assert told == [Progress(0, 2, "check", "Case 1")]


def abdomen(slices=24, size=64):
    """Axial slices from below: soft tissue in air, a liver on the image's left, lungs in the upper third."""
    j, i = np.mgrid[:size, :size]
    body = ((j - size / 2) / 24) ** 2 + ((i - size / 2) / 28) ** 2 < 1
    lungs = ((j - size / 2) / 15) ** 2 + ((np.abs(i - size / 2) - 13) / 9) ** 2 < 1
    liver = ((j - 28) / 11) ** 2 + ((i - 20) / 10) ** 2 < 1
    stack = []
    for k in range(slices):
        image = np.where(body, 50.0, -1000.0).astype(np.float32)
        if k >= 2 * slices // 3:
            image[lungs] = -850
        stack.append((image, liver if slices // 3 <= k < 2 * slices // 3 else np.zeros_like(liver)))
    return stack


def test_a_stack_that_lies_as_it_should_raises_no_doubt():
    assert orientation_doubts(abdomen(), order_is_assumed=True) == ()


def test_an_upside_down_stack_and_a_mirrored_one_are_doubted():
    (doubt,) = orientation_doubts(abdomen()[::-1], order_is_assumed=True)
    assert "upside down" in doubt
    mirrored = [(image[:, ::-1], liver[:, ::-1]) for image, liver in abdomen()]
    (doubt,) = orientation_doubts(mirrored, order_is_assumed=True)
    assert "mirrored" in doubt


def test_a_liver_low_in_a_stack_of_pictures_is_a_doubt_about_the_file_order_only():
    stack = abdomen()[8:16] + [abdomen()[0]] * 16  # liver at the lower end, no lungs anywhere
    (doubt,) = orientation_doubts(stack, order_is_assumed=True)
    assert "file order" in doubt
    assert orientation_doubts(stack, order_is_assumed=False) == ()


def test_empty_and_constant_stacks_raise_no_doubt():
    assert orientation_doubts([], order_is_assumed=True) == ()
    blank = [(np.zeros((8, 8), np.float32), np.zeros((8, 8), bool))] * 10
    assert orientation_doubts(blank, order_is_assumed=True) == ()


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["crlm_1004", "hcc_006_portal", "cptac_pda_c3n_00249"])
def test_real_volumes_upside_down_are_doubted_and_as_they_are_not(real_data, name):
    dataset = open_dataset(real_data)
    volume = dataset.load(f"ct_unlabelled-{name.replace('_', '-')}").volume
    array = axial_view(volume.geometry).to_view(volume.array)
    stack = [(image[::4, ::4].astype(np.float32), np.zeros(image[::4, ::4].shape, bool)) for image in array]
    assert orientation_doubts(stack, order_is_assumed=False) == ()
    (doubt,) = orientation_doubts(stack[::-1], order_is_assumed=False)
    assert "upside down" in doubt
