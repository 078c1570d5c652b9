"""Where models are looked up, and which of several wins."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from model_tools import one_sentence, tiny_manifest

from LiverMarginLib.errors import BundleError, LiverMarginError
from LiverMarginLib.models import store
from LiverMarginLib.models.bundle import write_bundle
from LiverMarginLib.models.store import find_bundle, list_bundles


@pytest.fixture
def folder(tiny_model, tmp_path) -> Path:
    """A copy of a good bundle, to be spoilt."""
    return Path(shutil.copytree(tiny_model.folder, tmp_path / "tiny"))


@pytest.fixture
def places(tmp_path, monkeypatch) -> dict[str, Path]:
    """Empty model folders of every kind."""
    monkeypatch.setattr(store, "_PACKAGE", tmp_path / "tree" / "LiverMarginLib")
    monkeypatch.setattr(store.sys, "platform", "linux")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("LIVERMARGIN_MODELS", f"{tmp_path / 'first'}{os.pathsep}{tmp_path / 'second'}")
    folders = {
        "named": tmp_path / "named",
        "first": tmp_path / "first",
        "second": tmp_path / "second",
        "user": tmp_path / "data" / "LiverMargin" / "Models",
        "shipped": tmp_path / "tree" / "Resources" / "Models",
        "pip": tmp_path / "tree" / "LiverMarginLib" / "Resources" / "Models",
    }
    for folder in folders.values():
        folder.mkdir(parents=True)
    return folders


def test_models_are_found_in_every_place_and_the_nearer_one_wins(places):
    for order, (place, folder) in enumerate(places.items()):
        write_bundle(folder / "own", tiny_manifest(name=f"of-{place}"), {"model.onnx": b"x"})
        write_bundle(folder / "same", tiny_manifest(name="same", version=f"{order}"), {"model.onnx": b"x"})
    names = [entry.name for entry in list_bundles(places["named"])]
    assert names == sorted([*(f"of-{place}" for place in places), "same"])
    assert find_bundle("same", places["named"]).manifest.version == "0"
    assert find_bundle("same").manifest.version == "1"
    assert find_bundle("of-pip").folder == places["pip"] / "own"


def test_models_are_found_by_folder_and_by_their_description_file(places, folder):
    for path in (folder, str(folder), folder / "model.json"):
        assert find_bundle(path).manifest.name == "tiny"


def test_an_unknown_model_is_refused_with_the_known_ones(places):
    with pytest.raises(BundleError, match="known models: none") as caught:
        find_bundle("unet")
    write_bundle(places["user"] / "x", tiny_manifest(name="unet-ct"), {"model.onnx": b"x"})
    with pytest.raises(BundleError, match="known models: unet-ct") as caught:
        find_bundle("unet")
    assert one_sentence(caught.value.message)


def test_a_model_folder_that_does_not_exist_is_refused_and_not_ignored(places, tmp_path):
    with pytest.raises(BundleError, match="nowhere"):
        find_bundle("unet", tmp_path / "nowhere")


def test_a_damaged_bundle_is_listed_with_its_problem_and_hides_no_other(places):
    write_bundle(places["user"] / "good", tiny_manifest(name="good"), {"model.onnx": b"x"})
    broken = places["user"] / "broken"
    broken.mkdir()
    (broken / "model.json").write_text("{")
    (places["user"] / "no model").mkdir()
    entries = {entry.name: entry for entry in list_bundles()}
    assert set(entries) == {"good", "broken"}
    assert not entries["good"].problem
    assert one_sentence(entries["broken"].problem)
    with pytest.raises(LiverMarginError, match="JSON"):
        find_bundle("broken")


@pytest.mark.parametrize(
    ("platform", "expected"),
    [("linux", "data/LiverMargin/Models"), ("darwin", "Library/Application Support/LiverMargin/Models")],
)
def test_the_users_models_lie_where_the_platform_keeps_data(places, monkeypatch, tmp_path, platform, expected):
    monkeypatch.setattr(store.sys, "platform", platform)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert store.user_model_folder() == tmp_path / expected
