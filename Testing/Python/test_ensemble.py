"""Bundles that combine others."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from model_tools import tiny_manifest, tiny_unet

from LiverMarginLib.cli import main
from LiverMarginLib.errors import BundleError
from LiverMarginLib.inference.check import check_bundle
from LiverMarginLib.inference.ensemble import around
from LiverMarginLib.inference.segmenter import load_segmenter
from LiverMarginLib.models.bundle import Bundle, save_bundle
from LiverMarginLib.models.ensemble_architecture import Rule, save_ensemble


@pytest.fixture
def members(tmp_path: Path) -> list[Bundle]:
    return [
        save_bundle(tmp_path / name, tiny_manifest(name=name), module=tiny_unet(seed))
        for seed, name in enumerate(("first", "second"))
    ]


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).random((2, 1, 32, 32), dtype=np.float32)


def test_the_mean_of_the_members_is_what_comes_out(tmp_path: Path, members: list[Bundle], images: np.ndarray) -> None:
    both = save_ensemble(tmp_path / "both", "both", members)
    found = load_segmenter(Bundle.load(both.folder), device="cpu").predict(images)
    alone = [load_segmenter(member, device="cpu").predict(images) for member in members]
    np.testing.assert_allclose(found, (alone[0] + alone[1]) / 2, atol=1e-6)
    assert both.manifest.mask_threshold == 0.5


def test_the_first_member_counts_only_where_the_second_sees_something(
    tmp_path: Path, members: list[Bundle], images: np.ndarray
) -> None:
    both = save_ensemble(tmp_path / "both", "both", members, Rule.INSIDE)
    found = load_segmenter(both, device="cpu").predict(images)
    dense, detector = (load_segmenter(member, device="cpu").predict(images) for member in members)
    for n in range(2):
        inside = around(detector[n, 0] >= members[1].manifest.mask_threshold)
        np.testing.assert_array_equal(found[n, 0], np.where(inside, dense[n, 0], 0))


def test_a_box_has_a_margin_and_stays_in_the_image() -> None:
    mask = np.zeros((100, 100), dtype=bool)
    mask[0:5, 40:60] = mask[80:90, 90:100] = True
    expected = np.zeros_like(mask)
    expected[0:8, 37:63] = expected[77:93, 87:100] = True
    np.testing.assert_array_equal(around(mask), expected)
    assert not around(np.zeros((8, 8), dtype=bool)).any()


def test_a_member_that_was_changed_or_is_missing_is_said(tmp_path: Path, members: list[Bundle]) -> None:
    both = save_ensemble(tmp_path / "both", "both", members)
    save_bundle(members[1].folder, members[1].manifest, module=tiny_unet(7), overwrite=True)
    with pytest.raises(BundleError, match=r"'second' with .* other weights beside it; .* 'both' again"):
        load_segmenter(both, device="cpu")
    shutil.rmtree(members[1].folder)
    with pytest.raises(BundleError, match="put it beside this one"):
        load_segmenter(both, device="cpu")


def test_a_stranger_of_a_members_name_beside_does_not_hide_the_member_in_the_users_store(
    tmp_path: Path, members: list[Bundle], images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = save_ensemble(tmp_path / "both", "both", members)
    expected = load_segmenter(both, device="cpu").predict(images)
    monkeypatch.setattr("LiverMarginLib.models.store.user_model_folder", lambda: tmp_path / "store")
    (tmp_path / "store").mkdir()
    for member in members:
        member.folder.rename(tmp_path / "store" / member.manifest.name)
        save_bundle(member.folder, replace(member.manifest, version="2.0.0"), module=tiny_unet(7))
    np.testing.assert_array_equal(load_segmenter(both, device="cpu").predict(images), expected)


def test_models_that_see_different_inputs_are_not_combined(tmp_path: Path, members: list[Bundle]) -> None:
    window = replace(members[0].manifest.window, low=-100.0)
    other = save_bundle(tmp_path / "other", tiny_manifest(name="other", window=window), module=tiny_unet(3))
    with pytest.raises(BundleError, match="differ in their window"):
        save_ensemble(tmp_path / "both", "both", [members[0], other])
    assert not (tmp_path / "both").exists()


def test_an_ensemble_of_an_ensemble_is_refused(tmp_path: Path, members: list[Bundle]) -> None:
    both = save_ensemble(tmp_path / "both", "both", members)
    with pytest.raises(BundleError, match="name its members instead"):
        save_ensemble(tmp_path / "all", "all", [members[0], both])
    with pytest.raises(BundleError, match="two to 8 members"):
        save_ensemble(tmp_path / "alone", "alone", members[:1])


def test_an_ensemble_is_made_listed_and_checked_from_the_command_line(
    tmp_path: Path, members: list[Bundle], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LIVERMARGIN_MODELS", str(tmp_path))
    out = tmp_path / "both"
    assert main(["models", "ensemble", "first", "--with", "second", "--rule", "inside", "-o", str(out)]) == 0
    capsys.readouterr()
    assert main(["models", "check", "both", "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)["seconds"]) == ["auto"]
    assert check_bundle(out).largest_difference is None
    assert "the first inside the second" in (out / "README.md").read_text()
    assert main(["models", "ensemble", "first"]) == 2
