"""KITTI 1.0 as CVAT writes it and as we write it."""

from __future__ import annotations

import io
import struct
import zipfile

import numpy as np
import pytest
from dataset_builders import LABEL_TABLE, LIVER_COLOUR, cvat_frame, png, put, put_frame, two_pieces
from PIL import Image

from LiverMarginLib.errors import GeometryError, InputError, ResourceError
from LiverMarginLib.io import kitti_writer
from LiverMarginLib.io.kitti import read_kitti
from LiverMarginLib.io.kitti_labels import parse_label_table
from LiverMarginLib.io.kitti_writer import write_kitti
from LiverMarginLib.volume import Geometry, IntensityKind, LabelMap, Volume

STEMS = ("0007", "0008", "0009")


def bit_depth(content):
    assert content[12:16] == b"IHDR"
    return struct.unpack(">IIBB", content[16:26])[2]


def as_pillow_reads(content):
    return np.asarray(Image.open(io.BytesIO(content)))


def three_masks():
    return np.stack([two_pieces(), np.zeros((48, 40), np.uint8), np.flipud(two_pieces())])


def only_frame(export):
    (subset,) = export.subsets
    (frame,) = subset.frames
    return frame


@pytest.mark.parametrize("name", ["case.zip", "case"])
def test_two_pieces_an_empty_frame_and_leading_zeros_come_back_as_they_were(tmp_path, name):
    masks = three_masks()
    pictures = np.random.default_rng(1).integers(0, 60000, masks.shape).astype(np.uint16)
    assert write_kitti(pictures, masks, tmp_path / name, stems=STEMS) == ("0007", "0009")
    export = read_kitti(tmp_path / name)
    (subset,) = export.subsets
    assert [frame.stem for frame in subset.frames] == ["0007", "0009"]
    for frame, mask in zip(subset.frames, masks[[0, 2]], strict=True):
        found = export.read_mask(frame)
        np.testing.assert_array_equal(found.classes, mask)
        assert set(np.unique(found.instances)) == {0, 1, 2}
        assert found.disagreements == found.notes == ()
    assert list(tmp_path.iterdir()) == [tmp_path / name]


def test_the_files_are_those_of_cvat_to_the_bit(tmp_path):
    write_kitti(None, three_masks(), tmp_path / "case.zip", stems=STEMS)
    with zipfile.ZipFile(tmp_path / "case.zip") as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    assert set(files) == {"label_colors.txt"} | {
        f"default/{encoding}/{stem}.png"
        for encoding in ("instance", "semantic", "semantic_rgb")
        for stem in ("0007", "0009")
    }
    background, liver = files["label_colors.txt"].decode().splitlines()
    assert background == "0 0 0 background"
    *colour, name = liver.split()
    assert name == "liver"
    mask = two_pieces() > 0
    instance, semantic = files["default/instance/0007.png"], files["default/semantic/0007.png"]
    assert bit_depth(instance) == bit_depth(semantic) == 16
    assert bit_depth(files["default/semantic_rgb/0007.png"]) == 8
    np.testing.assert_array_equal(as_pillow_reads(semantic), mask.astype(np.uint16))
    np.testing.assert_array_equal(as_pillow_reads(instance)[mask] >> 8, 1)
    # the larger piece is instance 1
    assert as_pillow_reads(instance)[4, 3] == 257
    assert as_pillow_reads(instance)[20, 3] == 258
    painted = as_pillow_reads(files["default/semantic_rgb/0007.png"])
    np.testing.assert_array_equal(painted[mask], np.tile(np.array(colour, dtype=np.uint8), (mask.sum(), 1)))
    assert not painted[~mask].any()


def test_a_zip_of_the_same_masks_has_the_same_bytes(tmp_path):
    for name in ("a.zip", "b.zip"):
        write_kitti(None, three_masks(), tmp_path / name)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_pieces_without_instance_numbers_are_told_apart_as_cvat_leaves_them(tmp_path):
    put(tmp_path / "label_colors.txt", LABEL_TABLE)
    put_frame(tmp_path, "a", two_pieces())
    export = read_kitti(tmp_path)
    frame = only_frame(export)
    assert set(np.unique(as_pillow_reads((tmp_path / frame.instance).read_bytes()))) == {0, 256}
    found = export.read_mask(frame)
    assert found.instances[5, 5] == 1
    assert found.instances[22, 5] == 2


def test_pixels_that_touch_at_a_corner_are_one_piece(tmp_path):
    mask = np.zeros((8, 8), np.uint8)
    mask[1:4, 1:4] = 1
    mask[4:7, 4:7] = 1
    write_kitti(None, [mask], tmp_path / "x.zip")
    export = read_kitti(tmp_path / "x.zip")
    assert export.read_mask(only_frame(export)).instances.max() == 1


def test_more_pieces_than_255_do_not_run_into_the_class(tmp_path):
    mask = np.zeros((64, 64), np.uint8)
    mask[::3, ::3] = 1  # 22 x 22 single pixels
    write_kitti(None, [mask], tmp_path / "x.zip")
    export = read_kitti(tmp_path / "x.zip")
    found = export.read_mask(only_frame(export))
    np.testing.assert_array_equal(found.classes, mask)
    assert found.instances.max() == 255
    assert not found.notes


@pytest.mark.parametrize("kept", ["instance", "semantic", "semantic_rgb"])
def test_any_one_of_the_three_encodings_is_enough(tmp_path, kept):
    put(tmp_path / "label_colors.txt", LABEL_TABLE)
    put(tmp_path / "default" / kept / "a.png", cvat_frame(two_pieces())[kept])
    export = read_kitti(tmp_path)
    np.testing.assert_array_equal(export.read_mask(only_frame(export)).classes, two_pieces())


@pytest.mark.parametrize(
    ("encoding", "content", "note"),
    [
        ("semantic", lambda mask: png(mask), ""),
        ("semantic", lambda mask: png(mask * 255), "255"),
        ("instance", lambda mask: png(mask), "8 bits"),
        ("semantic_rgb", lambda mask: png(mask[..., None] * np.array(LIVER_COLOUR[::-1], np.uint8)), "exchanged"),
    ],
)
def test_masks_that_other_tools_have_rewritten_are_understood_and_said(tmp_path, encoding, content, note):
    put(tmp_path / "label_colors.txt", LABEL_TABLE)
    put(tmp_path / "default" / encoding / "a.png", content(two_pieces()))
    export = read_kitti(tmp_path)
    found = export.read_mask(only_frame(export))
    np.testing.assert_array_equal(found.classes, two_pieces())
    assert all(note in said for said in found.notes)
    assert bool(found.notes) == bool(note)


def test_a_palette_picture_is_read_by_its_indices(tmp_path):
    picture = Image.new("P", two_pieces().shape[::-1])
    picture.putdata(two_pieces().ravel().tolist())
    picture.putpalette([0, 0, 0, 9, 200, 9])
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    put(tmp_path / "semantic" / "a.png", buffer.getvalue())
    export = read_kitti(tmp_path)
    np.testing.assert_array_equal(export.read_mask(only_frame(export)).classes, two_pieces())


def test_two_encodings_that_agree_outvote_the_third_and_the_difference_is_counted(tmp_path):
    put(tmp_path / "label_colors.txt", LABEL_TABLE)
    put_frame(tmp_path, "a", two_pieces())
    wrong = two_pieces()
    wrong[30:33, 30:34] = 1  # 12 pixels more
    put(tmp_path / "default" / "instance" / "a.png", cvat_frame(wrong)["instance"])
    export = read_kitti(tmp_path)
    found = export.read_mask(only_frame(export))
    np.testing.assert_array_equal(found.classes, two_pieces())
    assert [(d.first, d.second, d.pixels) for d in found.disagreements] == [
        ("instance", "semantic", 12),
        ("instance", "semantic_rgb", 12),
    ]


def test_a_semantic_mask_that_was_divided_by_256_is_not_taken_for_an_empty_liver(tmp_path):
    put(tmp_path / "label_colors.txt", LABEL_TABLE)
    frame = cvat_frame(two_pieces())
    put(tmp_path / "default" / "instance" / "a.png", frame["instance"])
    put(tmp_path / "default" / "semantic" / "a.png", png(np.zeros((48, 40), np.uint8)))
    put(tmp_path / "default" / "semantic_rgb" / "a.png", frame["semantic_rgb"])
    export = read_kitti(tmp_path)
    found = export.read_mask(only_frame(export))
    np.testing.assert_array_equal(found.classes, two_pieces())
    assert len(found.disagreements) == 2


def test_instance_numbers_over_255_that_ran_into_the_class_are_noticed(tmp_path):
    put(tmp_path / "label_colors.txt", LABEL_TABLE)
    mask = two_pieces()
    put(tmp_path / "default" / "instance" / "a.png", png(mask.astype(np.uint16) * (256 + 300)))
    put(tmp_path / "default" / "semantic" / "a.png", png(mask.astype(np.uint16)))
    export = read_kitti(tmp_path)
    found = export.read_mask(only_frame(export))
    np.testing.assert_array_equal(found.classes, mask)
    assert "class 2 is not in label_colors.txt" in found.notes[0]


def test_a_damaged_encoding_is_left_out_as_long_as_another_is_good(tmp_path):
    put(tmp_path / "label_colors.txt", LABEL_TABLE)
    put_frame(tmp_path, "a", two_pieces())
    damaged = tmp_path / "default" / "instance" / "a.png"
    damaged.write_bytes(damaged.read_bytes()[:60])
    export = read_kitti(tmp_path)
    found = export.read_mask(only_frame(export))
    np.testing.assert_array_equal(found.classes, two_pieces())
    assert "damaged" in found.notes[0]
    for other in ("semantic", "semantic_rgb"):
        (tmp_path / "default" / other / "a.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match="damaged or not a picture"):
        export.read_mask(only_frame(export))


def test_encodings_of_several_sizes_are_refused(tmp_path):
    put(tmp_path / "label_colors.txt", LABEL_TABLE)
    put_frame(tmp_path, "a", two_pieces())
    put(tmp_path / "default" / "semantic" / "a.png", png(two_pieces()[:20].astype(np.uint16)))
    export = read_kitti(tmp_path)
    with pytest.raises(InputError, match="differ in size"):
        export.read_mask(only_frame(export))


def test_names_with_spaces_and_a_background_at_the_end_are_parsed():
    labels = parse_label_table("# labels\n10 20 30 left lobe\n\n 1 2 3 liver\n0 0 0 background\n")
    assert [(label.index, label.name, label.colour) for label in labels] == [
        (0, "background", (0, 0, 0)),
        (1, "left lobe", (10, 20, 30)),
        (2, "liver", (1, 2, 3)),
    ]


def test_a_table_without_background_or_colours_is_completed():
    assert [label.name for label in parse_label_table("250 50 83 liver\n")] == ["background", "liver"]
    assert [(label.name, label.colour) for label in parse_label_table(" background\n liver\n")][1] == ("liver", None)


@pytest.mark.parametrize("line", ["250 50 liver", "250 50 83", "300 0 0 liver", "-1 0 0 liver", "1 x 3 liver"])
def test_a_label_line_that_is_not_one_is_named_by_its_number(line):
    with pytest.raises(InputError, match=r"Line 2 of label_colors\.txt"):
        parse_label_table(f"0 0 0 background\n{line}\n", "x.zip")


def test_two_labels_of_one_name_are_refused():
    with pytest.raises(InputError, match="twice"):
        parse_label_table("1 2 3 liver\n3 2 1 liver\n")


def test_the_colours_decide_when_the_classes_are_numbered_by_sorted_names(tmp_path):
    put(tmp_path / "label_colors.txt", "0 0 0 background\n9 9 200 tumour\n250 50 83 liver\n")
    mask = two_pieces()  # liver is class 1 by name, class 2 by line
    for encoding, content in cvat_frame(mask).items():
        put(tmp_path / "default" / encoding / "a.png", content)
    export = read_kitti(tmp_path)
    assert [label.name for label in export.labels] == ["background", "liver", "tumour"]
    assert export.read_mask(only_frame(export)).disagreements == ()
    assert "numbered by the labels' names" in export.notes[0]


def test_without_a_label_table_class_one_is_liver_and_that_is_said(tmp_path):
    put_frame(tmp_path, "a", two_pieces())
    export = read_kitti(tmp_path)
    assert "label_colors.txt is missing" in export.notes[0]
    np.testing.assert_array_equal(export.read_mask(only_frame(export)).classes, two_pieces())


def test_subsets_images_and_wrapping_folders_are_found(tmp_path):
    root = tmp_path / "task_3" / "annotations"
    put(root / "label_colors.txt", LABEL_TABLE)
    put_frame(root, "p1/0001", two_pieces(), subset="train")
    put_frame(root, "p2/0001", two_pieces(), subset="val")
    put(root / "val" / "image_2" / "p2" / "0001.png", png(two_pieces()))
    export = read_kitti(tmp_path)
    assert [(subset.name, len(subset.images), subset.frames[0].stem) for subset in export.subsets] == [
        ("train", 0, "p1/0001"),
        ("val", 1, "p2/0001"),
    ]


def test_a_folder_without_masks_is_refused(tmp_path):
    put(tmp_path / "image_2" / "a.png", png(two_pieces()))
    with pytest.raises(InputError, match=r"no KITTI 1\.0 masks"):
        read_kitti(tmp_path)


def volume_of(array, kind=IntensityKind.HU, matrix=None):
    return Volume(array, Geometry(array.shape, np.eye(4) if matrix is None else matrix), intensity=kind)


def test_a_volume_is_written_from_superior_to_inferior_in_the_radiological_view(tmp_path):
    array = np.zeros((3, 6, 8), np.int16)
    labels = np.zeros((3, 6, 8), np.uint8)
    labels[2, 5, 7] = 1  # RAS identity: the most superior, anterior, right... i runs to the right
    volume = volume_of(array)
    write_kitti(volume, LabelMap(labels, volume.geometry), tmp_path / "x.zip", window=(-160, 240))
    export = read_kitti(tmp_path / "x.zip")
    frame = only_frame(export)
    assert frame.stem == "000000"  # superior first
    assert np.argwhere(export.read_mask(frame).classes).tolist() == [[0, 0]]  # anterior up, patient's right on the left


def test_hu_are_windowed_to_eight_bits_and_eight_bits_are_left_alone(tmp_path):
    array = np.array([-1000, -160, 40, 240, 3000], np.int16).reshape(1, 1, 5)
    volume = volume_of(array, matrix=np.diag([-1.0, -1.0, 1.0, 1.0]))
    write_kitti(volume, LabelMap(np.ones((1, 1, 5), np.uint8), volume.geometry), tmp_path / "hu")
    assert as_pillow_reads((tmp_path / "hu/default/image_2/000000.png").read_bytes()).tolist() == [
        [0, 0, 128, 255, 255]
    ]
    write_kitti([np.array([[1, 2, 250]], np.uint8)], [None], tmp_path / "grey")
    assert as_pillow_reads((tmp_path / "grey/default/image_2/000000.png").read_bytes()).tolist() == [[1, 2, 250]]


def test_liver_and_tumour_become_one_class_or_two(tmp_path):
    mask = two_pieces()
    mask[5:8, 5:8] = 2
    write_kitti(None, [mask], tmp_path / "one")
    one = read_kitti(tmp_path / "one")
    np.testing.assert_array_equal(one.read_mask(only_frame(one)).classes, mask > 0)
    write_kitti(None, [mask], tmp_path / "two", label_name={1: "liver", 2: "a tumour"})
    two = read_kitti(tmp_path / "two")
    assert [label.name for label in two.labels] == ["background", "a_tumour", "liver"]
    np.testing.assert_array_equal(two.read_mask(only_frame(two)).classes, np.array([0, 2, 1])[mask])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"stems": ["../a"]}, "cannot be a file name"),
        ({"stems": ["C:a"]}, "cannot be a file name"),
        ({"stems": ["a", "b"]}, "2 frame names for 1 frames"),
        ({"subset": "a\\b"}, "cannot be a file name"),
        ({"label_name": {1: "background"}}, "needs a name"),
        ({"label_name": {2: "tumour"}}, "Label 1 has no name"),
        ({"images": [np.zeros((3, 3), np.uint8)]}, "another size"),
        ({"images": []}, "0 images but 1 masks"),
        ({"images": [np.zeros((48, 40))], "window": (5, 5)}, "is empty"),
    ],
)
def test_what_cannot_be_written_is_refused_and_leaves_nothing(tmp_path, changes, sentence):
    arguments = {"images": None, "labels": [two_pieces()], "path": tmp_path / "x.zip", **changes}
    with pytest.raises(InputError, match=sentence):
        write_kitti(arguments.pop("images"), arguments.pop("labels"), arguments.pop("path"), **arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_label_map_that_lies_elsewhere_is_refused(tmp_path):
    volume = volume_of(np.zeros((2, 4, 4), np.int16))
    moved = np.eye(4)
    moved[0, 3] = 5
    with pytest.raises(GeometryError):
        write_kitti(volume, LabelMap(np.ones((2, 4, 4), np.uint8), Geometry((2, 4, 4), moved)), tmp_path / "x")


@pytest.mark.parametrize("name", ["x.zip", "x"])
def test_a_full_disk_leaves_the_earlier_export_untouched(tmp_path, monkeypatch, name):
    write_kitti(None, [two_pieces()], tmp_path / name)
    with pytest.raises(InputError, match="exists already"):
        write_kitti(None, [two_pieces()], tmp_path / name)
    before = read_kitti(tmp_path / name).read_mask(only_frame(read_kitti(tmp_path / name))).classes

    def full(array):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(kitti_writer, "encode_png", full)
    with pytest.raises(ResourceError):
        write_kitti(None, [np.flipud(two_pieces())], tmp_path / name, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    after = read_kitti(tmp_path / name)
    np.testing.assert_array_equal(after.read_mask(only_frame(after)).classes, before)


@pytest.mark.parametrize("name", ["x.zip", "x"])
def test_an_export_can_be_replaced(tmp_path, name):
    write_kitti(None, [two_pieces()], tmp_path / name, stems=["old"])
    write_kitti(None, [two_pieces()], tmp_path / name, stems=["new"], overwrite=True)
    assert only_frame(read_kitti(tmp_path / name)).stem == "new"
    assert [path.name for path in tmp_path.iterdir()] == [name]
