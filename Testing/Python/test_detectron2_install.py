"""scripts/install_detectron2.py: what it packs, what it refuses, and what it leaves alone."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from conftest import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "scripts"))
import install_detectron2 as installer


@pytest.fixture
def source(tmp_path) -> Path:
    """A folder with the shape of Detectron2's repository, and a compiled part that must not be needed."""
    root = tmp_path / "detectron2-main"
    files = {
        "detectron2/__init__.py": '__version__ = "0.6"\n',
        "detectron2/modeling/meta_arch/rcnn.py": "x = 1\n",
        "detectron2/layers/csrc/vision.cpp": "int main() {}",
        "detectron2/model_zoo/configs/x.py": "a built tree's copy\n",
        "projects/PointRend/point_rend/__init__.py": "",
        "LICENSE": "Apache\n",
        "setup.py": "raise SystemExit('a compiler is needed')\n",
    }
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def archive(source: Path, path: Path) -> Path:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as file:
            for item in source.rglob("*.*"):
                file.write(item, f"{source.name}/{item.relative_to(source)}")
    else:
        with tarfile.open(path, "w:gz") as file:
            file.add(source, source.name)
    return path


def test_the_wheel_holds_python_files_and_point_rend_where_detectron2_looks_for_it(source, tmp_path):
    wheel = installer.build_wheel(source, tmp_path, "files.abc")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name for name in names if "dist-info" not in name} == {
        "detectron2/__init__.py",
        "detectron2/modeling/meta_arch/rcnn.py",
        "detectron2/projects/point_rend/__init__.py",
    }
    assert wheel.name == "detectron2-0.6+files.abc-py3-none-any.whl"


def test_pip_installs_and_removes_the_wheel_without_running_setup_py(source, tmp_path):
    wheel = installer.build_wheel(source, tmp_path, "files.abc")
    target = tmp_path / "site"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target)]
    subprocess.run([*command, str(wheel)], check=True, capture_output=True)
    assert (target / "detectron2" / "modeling" / "meta_arch" / "rcnn.py").is_file()
    assert any(target.glob("detectron2-0.6*.dist-info"))


@pytest.fixture(params=["this Python", "a Python before 3.11.4"])
def any_python(request, monkeypatch):
    if request.param != "this Python":
        monkeypatch.delattr(tarfile, "data_filter", raising=False)


@pytest.mark.usefixtures("any_python")
@pytest.mark.parametrize("suffix", [".zip", ".tar.gz"])
def test_an_archive_gives_the_same_files_as_the_folder_whatever_its_line_ends(source, tmp_path, suffix):
    digest = installer.digest_of(source)
    packed = archive(source, tmp_path / f"detectron2{suffix}")
    root = installer.find_root(installer.unpack(packed, tmp_path / "unpacked"))
    assert installer.digest_of(root) == digest
    (root / "detectron2" / "__init__.py").write_bytes(b'__version__ = "0.6"\r\n')
    assert installer.digest_of(root) == digest
    (root / "detectron2" / "__init__.py").write_bytes(b'__version__ = "0.6"\nimport os\n')
    assert installer.digest_of(root) != digest


@pytest.mark.usefixtures("any_python")
def test_an_archive_that_would_write_elsewhere_is_refused(tmp_path):
    packed = tmp_path / "evil.tar.gz"
    with tarfile.open(packed, "w:gz") as file:
        member = tarfile.TarInfo("../outside.py")
        member.size = 1
        file.addfile(member, io.BytesIO(b"x"))
    with pytest.raises(installer.InstallError, match=r"evil\.tar\.gz"):
        installer.unpack(packed, tmp_path / "unpacked")
    assert not (tmp_path / "outside.py").exists()


def test_what_is_fetched_must_be_the_pinned_commit(source, tmp_path):
    """A mirror that serves anything else is found out, by git's route and by the digest."""
    git = ["git", "-C", str(source), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    subprocess.run(["git", "init", "--quiet", str(source)], check=True)
    subprocess.run([*git, "add", "--all"], check=True)
    subprocess.run([*git, "commit", "--quiet", "--message", "other"], check=True)
    options = installer.parse(["--repository", source.as_uri()])
    with pytest.raises(installer.InstallError, match=r"cannot fetch|Cannot fetch"):
        installer.obtain_source(options, tmp_path / "work")


def test_a_fetched_archive_with_other_files_is_refused_and_a_given_one_is_named_as_other(
    source, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(installer, "download", lambda *_: source)
    with pytest.raises(installer.InstallError, match="not the pinned commit"):
        installer.obtain_source(installer.parse([]), tmp_path)
    root, label = installer.obtain_source(installer.parse(["--source", str(source)]), tmp_path)
    assert root == source and label == f"files.{installer.digest_of(source)[:12]}"
    assert "NOT the commit" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--source", "nowhere.zip"], "nowhere.zip does not exist"),
        (["--python", "no-such-python"], "Cannot start the Python"),
    ],
)
def test_mistakes_end_with_one_sentence_and_code_3(arguments, words, capsys):
    pytest.importorskip("torch")
    assert installer.main(arguments) == 3
    assert words in capsys.readouterr().err


def test_a_python_without_torch_is_left_as_it_is(monkeypatch, capsys):
    versions = dict.fromkeys(installer.PROTECTED)
    monkeypatch.setattr(installer, "probe", lambda _: installer.Target("python", "3.11", versions, False))
    monkeypatch.setattr(installer, "pip", lambda *_: pytest.fail("pip was called"))
    assert installer.main([]) == 3
    assert "install torch first" in capsys.readouterr().err


def test_a_changed_torch_is_told(monkeypatch, source, capsys):
    before = {**dict.fromkeys(installer.PROTECTED), "torch": "2.9.0", "numpy": "2.4.0"}
    answers = iter([before, {**before, "numpy": "1.26.0"}])
    monkeypatch.setattr(installer, "probe", lambda _: installer.Target("python", "3.11", next(answers), True))
    calls: list[tuple[str, ...]] = []
    monkeypatch.setattr(installer, "pip", lambda target, *arguments: calls.append(arguments))
    assert installer.main(["--source", str(source)]) == 3
    assert "changed numpy" in capsys.readouterr().err
    assert "--constraint" in calls[0] and "--no-deps" in calls[1]


def test_a_source_without_detectron2_is_refused(tmp_path):
    with pytest.raises(installer.InstallError, match="no Detectron2 source"):
        installer.find_root(tmp_path)


@pytest.mark.detectron2
def test_the_check_builds_a_model_and_runs_it(capsys):
    assert installer.main(["--check"]) == 0
    told = capsys.readouterr().out
    assert "Verified" in told and "one forward pass" in told
