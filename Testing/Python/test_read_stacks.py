"""Stacks of PNG, JPG and TIFF pictures as volumes."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from LiverMarginLib.errors import InputError
from LiverMarginLib.events import Notice, Progress
from LiverMarginLib.io.readers import list_images, read_volume
from LiverMarginLib.volume import IntensityKind, Modality, axial_view


def pictures(count=12, shape=(9, 7), dtype=np.uint8):
    return np.random.default_rng(2).integers(0, 250, (count, *shape)).astype(dtype)


def write(folder, stack, name="slice {}.png", start=1):
    folder.mkdir(parents=True, exist_ok=True)
    for n, picture in enumerate(stack, start):
        Image.fromarray(picture).save(folder / name.format(n))
    return folder


def refusal(path, **options):
    with pytest.raises(InputError) as caught:
        read_volume(path, **options)
    assert caught.value.message.endswith(".") and "\n" not in caught.value.message
    return caught.value.message


def test_files_are_sorted_as_people_count_and_marked_as_8_bit(tmp_path):
    stack = pictures()
    volume = read_volume(write(tmp_path, stack), spacing=(5.0, 0.8, 0.7))
    assert np.array_equal(volume.array, stack)
    assert volume.array.dtype == np.uint8
    assert (volume.modality, volume.intensity) == (Modality.UNKNOWN, IntensityKind.EIGHT_BIT)
    assert volume.spacing_known and volume.geometry.spacing == pytest.approx((5.0, 0.8, 0.7))
    assert volume.notes == ()


def test_files_run_from_the_head_down_rows_backwards_and_columns_to_the_left(tmp_path):
    stack = pictures()
    volume = read_volume(write(tmp_path, stack), spacing=(5.0, 0.8, 0.7))
    assert np.allclose(volume.geometry.ijk_to_ras, np.diag([-0.7, -0.8, -5.0, 1.0]))
    view = axial_view(volume.geometry)
    assert np.array_equal(view.to_view(volume.array), stack[::-1])


def test_an_unknown_spacing_is_1_mm_and_said(tmp_path):
    events = []
    volume = read_volume(write(tmp_path, pictures()), on_event=events.append)
    assert not volume.spacing_known
    assert volume.geometry.spacing == (1.0, 1.0, 1.0)
    assert "spacing of the pictures is not known" in volume.notes[0]
    assert [e.message for e in events if isinstance(e, Notice)] == list(volume.notes)
    assert [e.done for e in events if isinstance(e, Progress)] == list(range(1, 13))


@pytest.mark.parametrize("spacing", [(0.0, 1.0, 1.0), (1.0, -1.0, 1.0), (1.0, 1.0, float("nan"))])
def test_an_impossible_spacing_is_refused(tmp_path, spacing):
    assert "not possible" in refusal(write(tmp_path, pictures(2)), spacing=spacing)


@pytest.mark.parametrize("name", ["s{}.png", "s{}.tif"])
def test_16_bit_pictures_are_arbitrary_unless_told(tmp_path, name):
    stack = pictures(dtype=np.uint16) * 200
    volume = read_volume(write(tmp_path, stack, name), spacing=(1, 1, 1))
    assert np.array_equal(volume.array, stack)
    assert volume.array.dtype == np.uint16
    assert volume.intensity is IntensityKind.ARBITRARY
    assert "deeper than 8 bits" in volume.notes[0]
    told = read_volume(tmp_path, spacing=(1, 1, 1), modality=Modality.MR)
    assert (told.modality, told.notes) == (Modality.MR, ())


def test_jpeg_slices_are_read(tmp_path):
    smooth = np.tile(np.linspace(0, 255, 64).astype(np.uint8), (3, 48, 1))
    volume = read_volume(write(tmp_path, smooth, "s{}.jpg"), spacing=(1, 1, 1))
    assert np.abs(volume.array.astype(int) - smooth).max() <= 3
    assert volume.intensity is IntensityKind.EIGHT_BIT


def test_a_multi_page_tiff_is_a_stack(tmp_path):
    stack = pictures(5)
    pages = [Image.fromarray(page) for page in stack]
    pages[0].save(tmp_path / "stack.tiff", save_all=True, append_images=pages[1:])
    assert np.array_equal(read_volume(tmp_path / "stack.tiff", spacing=(1, 1, 1)).array, stack)
    (info,) = list_images(tmp_path)
    assert info.shape == (5, 9, 7)


def test_one_picture_is_one_slice(tmp_path):
    write(tmp_path, pictures(1))
    assert read_volume(tmp_path / "slice 1.png").array.shape == (1, 9, 7)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_grey_stored_as_colour_is_grey_and_said(tmp_path, mode):
    stack = pictures(3)
    for n, picture in enumerate(stack):
        Image.fromarray(picture).convert(mode).save(tmp_path / f"{n}.png")
    volume = read_volume(tmp_path, spacing=(1, 1, 1))
    assert np.array_equal(volume.array, stack)
    assert "stored in colour but show only grey" in volume.notes[0]


def test_true_colour_is_refused(tmp_path):
    write(tmp_path, np.random.default_rng(0).integers(0, 255, (3, 9, 7, 3)).astype(np.uint8))
    assert "Picture 1 is in colour" in refusal(tmp_path)


def test_pictures_of_different_sizes_and_depths_are_refused(tmp_path):
    write(tmp_path / "sizes", pictures(3))
    write(tmp_path / "sizes", pictures(1, (5, 5)), start=4)
    assert "Picture 4 has 5 x 5 pixels but the first has 7 x 9" in refusal(tmp_path / "sizes")
    write(tmp_path / "depths", pictures(3))
    write(tmp_path / "depths", pictures(1, dtype=np.uint16), start=4)
    assert "another depth" in refusal(tmp_path / "depths")


@pytest.mark.parametrize("damage", [lambda raw: raw[:60], lambda raw: b"", lambda raw: b"text"])
def test_a_broken_picture_is_named_by_its_place(tmp_path, damage):
    write(tmp_path, pictures(3))
    path = tmp_path / "slice 2.png"
    path.write_bytes(damage(path.read_bytes()))
    assert "Picture 2 cannot be read" in refusal(tmp_path)


def test_a_picture_that_announces_a_monstrous_size_is_refused(tmp_path):
    write(tmp_path, pictures(1))
    path = tmp_path / "slice 1.png"
    raw = bytearray(path.read_bytes())
    raw[16:24] = struct.pack(">II", 200000, 200000)
    raw[29:33] = struct.pack(">I", zlib.crc32(raw[12:29]))
    path.write_bytes(raw)
    assert "impossible size" in refusal(path)


def test_a_jump_in_the_file_numbers_is_said(tmp_path):
    write(tmp_path, pictures())
    (tmp_path / "slice 6.png").unlink()
    volume = read_volume(tmp_path, spacing=(1, 1, 1))
    assert "jump from 5 to 7" in volume.notes[0]


def test_two_formats_in_one_folder_are_two_stacks(tmp_path):
    write(tmp_path, pictures(4))
    write(tmp_path, pictures(1), "preview.jpg")
    assert "--series" in refusal(tmp_path)
    kinds = {info.kind: info.key for info in list_images(tmp_path)}
    assert set(kinds) == {"PNG stack", "JPEG"}
    assert read_volume(tmp_path, series=kinds["PNG stack"]).array.shape[0] == 4
