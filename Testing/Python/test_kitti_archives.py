"""Zips from strangers, and folders read in the same way."""

from __future__ import annotations

import pickle
import stat
import struct
import zipfile

import pytest
from dataset_builders import put

from LiverMarginLib.errors import InputError
from LiverMarginLib.io.archive import ZipLimits, open_tree


def make_zip(path, *entries, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize("name", ["../evil.png", "a/../../evil.png", "/etc/evil.png", "C:/evil.png", "..\\evil.png"])
def test_a_name_that_leaves_the_zip_is_refused(tmp_path, name):
    path = make_zip(tmp_path / "x.zip", ("good.png", b""), (zipfile.ZipInfo(name), b"x"))
    with pytest.raises(InputError, match="points outside the zip"):
        open_tree(path)


def test_a_link_in_a_zip_is_refused(tmp_path):
    link = zipfile.ZipInfo("semantic/a.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with pytest.raises(InputError, match="a link or a device"):
        open_tree(make_zip(tmp_path / "x.zip", (link, "/etc/passwd")))


def test_a_zip_bomb_is_refused_by_its_ratio_and_by_its_size(tmp_path):
    path = make_zip(tmp_path / "x.zip", ("a.png", bytes(8 << 20)))
    with pytest.raises(InputError, match="zip bomb"):
        open_tree(path)
    path = make_zip(tmp_path / "y.zip", ("a.png", b"a" * 600), ("b.png", b"b" * 600))
    for limits in (ZipLimits(file_bytes=500), ZipLimits(total_bytes=1000), ZipLimits(entries=1)):
        with pytest.raises(InputError, match="more than is allowed"):
            open_tree(path, limits)


def test_a_file_that_unpacks_to_more_than_declared_is_not_unpacked(tmp_path):
    path = make_zip(tmp_path / "x.zip", ("a.png", bytes(900_000)))
    content = bytearray(path.read_bytes())
    declared = content.rindex(b"PK\x01\x02") + 24
    assert struct.unpack_from("<I", content, declared) == (900_000,)
    struct.pack_into("<I", content, declared, 10)
    path.write_bytes(content)
    tree = open_tree(path)
    with pytest.raises(InputError, match="damaged"):
        tree.read("a.png")


def test_a_password_and_a_double_name_are_refused(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate"):
        path = make_zip(tmp_path / "x.zip", ("a.png", b"1"), ("a.png", b"2"))
    with pytest.raises(InputError, match="same name"):
        open_tree(path)
    path = make_zip(tmp_path / "y.zip", ("a.png", b"1"))
    content = bytearray(path.read_bytes())
    content[content.rindex(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="password"):
        open_tree(path)


@pytest.mark.parametrize("content", [b"", b"no zip at all", b"PK\x03\x04 cut off"])
def test_what_is_no_zip_is_said_in_one_sentence(tmp_path, content):
    put(tmp_path / "x.zip", content)
    with pytest.raises(InputError, match="not a zip that can be read"):
        open_tree(tmp_path / "x.zip")


def test_a_damaged_entry_is_found_when_it_is_read(tmp_path):
    path = make_zip(tmp_path / "x.zip", ("a.png", bytes(range(256)) * 40), compression=zipfile.ZIP_STORED)
    content = bytearray(path.read_bytes())
    content[5000] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.png in x\.zip is damaged"):
        open_tree(path).read("a.png")


def test_a_tree_is_read_again_in_another_process(tmp_path):
    tree = open_tree(make_zip(tmp_path / "x.zip", ("a.png", b"content")))
    assert tree.read("a.png") == b"content"
    assert pickle.loads(pickle.dumps(tree)).read("a.png") == b"content"


def test_the_litter_of_operating_systems_is_left_out(tmp_path):
    path = make_zip(tmp_path / "x.zip", ("a.png", b""), ("__MACOSX/a.png", b""), (".DS_Store", b""), ("b/._c.png", b""))
    assert open_tree(path).names == ("a.png",)
    for name in ("a.png", ".DS_Store", "__MACOSX/a.png", "b/._c.png"):
        put(tmp_path / "folder" / name, b"")
    assert open_tree(tmp_path / "folder").names == ("a.png",)


def test_a_missing_path_is_said(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        open_tree(tmp_path / "nowhere")
