"""No half-written file ever stands under its final name, and every refusal is one sentence."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from example_labels import NOT_NAMED, example, file_size_limit

from LiverMarginLib.errors import Cancelled, InputError, LiverMarginError, ResourceError
from LiverMarginLib.io.atomic import atomic_path
from LiverMarginLib.io.writers import formats, write_labelmap
from LiverMarginLib.volume import LabelMap

FILES = [suffix for suffix in formats() if suffix != ".dcm"]


def assert_one_sentence(error: LiverMarginError) -> None:
    assert error.message.endswith(".") and "\n" not in error.message and "Errno" not in error.message


def test_a_complete_file_gets_its_final_name_and_nothing_else_is_left(tmp_path):
    with atomic_path(tmp_path / "new" / "deep" / "a.seg.nrrd") as temporary:
        assert temporary.parent == tmp_path / "new" / "deep"
        assert temporary.name.endswith(".seg.nrrd")
        temporary.write_text("whole")
        assert not (tmp_path / "new" / "deep" / "a.seg.nrrd").exists()
    assert [p.name for p in (tmp_path / "new" / "deep").iterdir()] == ["a.seg.nrrd"]


@pytest.mark.parametrize("error", [ValueError("x"), Cancelled(), KeyboardInterrupt()])
def test_a_failure_leaves_the_old_file_and_no_new_folder(tmp_path, error):
    old = tmp_path / "old.nii.gz"
    old.write_text("old")
    for final in (old, tmp_path / "new" / "deep" / "a.stl"):
        with pytest.raises(type(error)), atomic_path(final) as temporary:
            temporary.write_text("half")
            raise error
    assert old.read_text() == "old"
    assert list(tmp_path.iterdir()) == [old]


def test_an_existing_file_is_kept_unless_it_may_be_replaced(tmp_path):
    old = tmp_path / "old.nrrd"
    old.write_text("old")
    with pytest.raises(InputError, match="exists already") as caught, atomic_path(old, overwrite=False):
        pytest.fail("the block must not run")
    assert_one_sentence(caught.value)
    assert old.read_text() == "old"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
def test_the_file_has_the_permissions_of_any_other_new_file(tmp_path):
    (tmp_path / "plain").touch()
    with atomic_path(tmp_path / "a.nrrd") as temporary:
        temporary.write_text("whole")
    assert stat.S_IMODE((tmp_path / "a.nrrd").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, ResourceError),
        (errno.EROFS, ResourceError),
        (errno.EACCES, ResourceError),
        (errno.EIO, ResourceError),
        (errno.ENAMETOOLONG, InputError),
    ],
)
def test_what_the_system_refuses_is_said_in_one_sentence_without_the_folder(tmp_path, number, kind):
    with pytest.raises(kind) as caught, atomic_path(tmp_path / "a.nrrd"):
        raise OSError(number, os.strerror(number), str(tmp_path))
    assert_one_sentence(caught.value)
    assert "a.nrrd" in caught.value.message
    assert str(tmp_path) not in caught.value.message + caught.value.details
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_must_not_be_written_to_is_refused_before_the_work(tmp_path, monkeypatch):
    def refuse(self: Path, *args: object, **kwargs: object) -> None:
        raise PermissionError(errno.EACCES, "denied")

    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(ResourceError, match="may write to"), atomic_path(tmp_path / "a.nrrd"):
        pytest.fail("the block must not run")


@pytest.mark.parametrize("suffix", FILES)
def test_a_folder_as_output_is_refused(tmp_path, suffix):
    folder = tmp_path / f"folder{suffix}"
    folder.mkdir()
    labels = LabelMap(example().array == 1, example().geometry)
    with pytest.raises(InputError, match="is a folder") as caught:
        write_labelmap(labels, folder)
    assert_one_sentence(caught.value)


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be a file there"):
        write_labelmap(example(), tmp_path / "file" / "a.nii")


@pytest.mark.parametrize("name", ["a", "a.txt", "a.nii.bz2", ".nii.gz", ""])
def test_a_name_without_a_known_ending_is_refused_with_the_list_of_formats(tmp_path, name):
    with pytest.raises(InputError, match=r"\.seg\.nrrd, \.nii\.gz") as caught:
        write_labelmap(example(), tmp_path / name)
    assert_one_sentence(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on file sizes")
@pytest.mark.parametrize("suffix", FILES)
def test_a_full_disk_is_noticed_by_every_format_and_leaves_nothing(tmp_path, suffix):
    with pytest.raises(ResourceError) as caught, file_size_limit(100):
        write_labelmap(example(), tmp_path / "sub" / f"case{suffix}")
    assert_one_sentence(caught.value)
    assert "case" in caught.value.message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", FILES)
def test_overwrite_false_protects_what_exists_in_every_format(tmp_path, suffix):
    written = write_labelmap(example(), tmp_path / f"case{suffix}")
    before = {path: path.read_bytes() for path in written}
    with pytest.raises(InputError, match="exists already"):
        write_labelmap(example(), tmp_path / f"case{suffix}", overwrite=False)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("suffix", FILES)
def test_the_same_labels_give_the_same_bytes(tmp_path, suffix):
    first = write_labelmap(example(), tmp_path / "first" / f"case{suffix}")
    second = write_labelmap(example(), tmp_path / "second" / f"case{suffix}")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


@pytest.mark.parametrize("values", [(-1, 3), (0, 70000)])
@pytest.mark.parametrize("suffix", FILES)
def test_label_values_that_no_format_holds_are_refused(tmp_path, suffix, values):
    array = example().array.astype("int32")
    array[0, 0, :2] = values
    with pytest.raises(InputError, match="renumber"):
        write_labelmap(LabelMap(array, example().geometry), tmp_path / f"case{suffix}")
    assert list(tmp_path.iterdir()) == []


def test_each_segment_has_a_surface_file_named_after_it(tmp_path):
    written = write_labelmap(example(), tmp_path / "case.stl")
    assert [path.name for path in written] == [
        "case_Liver.stl",
        "case_Mass_in_Liver.stl",
        f"case_Segment_{NOT_NAMED}.stl",
    ]
    assert sorted(tmp_path.iterdir()) == sorted(written)


def test_a_panel_can_list_the_formats_without_loading_their_libraries():
    program = (
        "import sys; from LiverMarginLib.io.writers import formats; assert '.seg.nrrd' in formats();"
        "sys.exit(bool({'SimpleITK', 'highdicom', 'vtkmodules', 'scipy', 'torch'} & sys.modules.keys()))"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[2])
