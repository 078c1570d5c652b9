"""Where models are looked up, and which of several wins."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from model_tools import one_sentence, tiny_manifest

from LiverMarginLib.errors import BundleError, LiverMarginError
from LiverMarginLib.models import bundle, store
from LiverMarginLib.models.bundle import Bundle, write_bundle
from LiverMarginLib.models.store import find_bundle, find_needed, list_bundles


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


def test_a_model_that_is_named_by_a_dot_lies_where_it_lies(places, folder, monkeypatch):
    monkeypatch.chdir(folder)
    for path in (".", "model.json"):
        assert find_bundle(path).folder.parent == folder.parent


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


@pytest.fixture
def owner(tmp_path) -> Bundle:
    """A bundle that needs another one."""
    return write_bundle(tmp_path / "beside" / "owner", tiny_manifest(name="owner"), {"model.onnx": b"own"})


def version(folder: Path, number: int, name: str = "member") -> Bundle:
    """A version of the model that is needed, with weights of its own."""
    manifest = tiny_manifest(name=name, version=f"{number}.0")
    return write_bundle(folder / f"{name}-{number}", manifest, {"model.onnx": f"weights {number}".encode()})


@pytest.mark.parametrize("place", ["first", "second", "user", "shipped", "pip"])
def test_the_model_that_is_needed_is_found_behind_strangers_of_its_name(places, owner, place):
    right = version(places[place], 2)
    for nearer in [owner.folder.parent, *list(places.values())[1:]]:
        version(nearer, 1)
        version(nearer, 3)
    assert find_needed(owner, "member", right.manifest.weights) == right


def test_of_several_models_with_the_needed_weights_the_nearest_one_is_taken(places, owner):
    version(places["shipped"], 2)
    farther = version(places["user"], 2)
    assert find_needed(owner, "member", farther.manifest.weights) == farther
    nearer = version(owner.folder.parent, 2)
    version(owner.folder.parent, 2, name="other")  # its weights, but not its name
    assert find_needed(owner, "member", nearer.manifest.weights) == nearer


def test_a_damaged_copy_does_not_hide_the_model_that_is_needed(places, owner):
    right = version(places["user"], 2)
    (version(owner.folder.parent, 2).folder / "model.onnx").write_bytes(b"changed")
    unreadable = version(places["first"], 1).folder.rename(places["first"] / "member")
    (unreadable / "model.json").write_text("{")
    assert find_needed(owner, "member", right.manifest.weights) == right
    shutil.rmtree(right.folder)
    with pytest.raises(BundleError, match="cannot be used beside it, one that cannot be used in LIVERM") as caught:
        find_needed(owner, "member", right.manifest.weights)
    assert one_sentence(caught.value.message) and "sha256" in caught.value.details and "JSON" in caught.value.details


def test_where_only_strangers_are_found_the_sentence_says_which_and_what_to_do(places, owner, tmp_path):
    wanted = {"model.onnx": "0" * 64}
    with pytest.raises(BundleError, match="'owner' needs the model 'member', and there is none of that name; put it"):
        find_needed(owner, "member", wanted)
    version(places["user"], 1)
    with pytest.raises(BundleError, match=r"only version 1\.0 with other weights among your own models; put") as caught:
        find_needed(owner, "member", wanted)
    for nearer in (owner.folder.parent, places["first"], places["shipped"], places["pip"]):
        version(nearer, 4)
    with pytest.raises(BundleError) as caught:
        find_needed(owner, "member", wanted)
    message = caught.value.message
    assert one_sentence(message) and str(tmp_path) not in message
    told = ("version 4.0 with other weights beside it", "version 1.0 with other weights among your own models, 2 more;")
    assert all(part in message for part in told) and "make 'owner' again" in message


def test_strangers_are_told_apart_by_their_descriptions_and_no_file_of_theirs_is_hashed(places, owner, monkeypatch):
    version(owner.folder.parent, 1)
    right = version(places["user"], 2)
    hashed = []
    real = bundle.sha256_of
    monkeypatch.setattr(bundle, "sha256_of", lambda path: hashed.append(path) or real(path))
    find_needed(owner, "member", right.manifest.weights)
    assert hashed == [right.folder / "model.onnx"]


@pytest.mark.parametrize(
    ("platform", "expected"),
    [("linux", "data/LiverMargin/Models"), ("darwin", "Library/Application Support/LiverMargin/Models")],
)
def test_the_users_models_lie_where_the_platform_keeps_data(places, monkeypatch, tmp_path, platform, expected):
    monkeypatch.setattr(store.sys, "platform", platform)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert store.user_model_folder() == tmp_path / expected
