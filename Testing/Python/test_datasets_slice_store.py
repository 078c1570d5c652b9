"""The slices that a training draws: lazily decoded, cached within a budget, safe with several processes."""

from __future__ import annotations

import multiprocessing
import os
import pickle

import numpy as np
import pytest
from dataset_builders import ct_like, images, put, put_case, put_frame, put_volume, two_pieces

from LiverMarginLib.datasets import slice_store
from LiverMarginLib.datasets.layouts import open_dataset
from LiverMarginLib.datasets.model import Dataset
from LiverMarginLib.datasets.slice_store import SliceStore
from LiverMarginLib.datasets.split import split_dataset
from LiverMarginLib.errors import InputError, ResourceError
from LiverMarginLib.events import Notice
from LiverMarginLib.training.data import KnowsAnnotation

CASE_BYTES = 8 * 48 * 40 * 2  # eight slices, image and mask


@pytest.fixture
def three_cases(tmp_path):
    for number in (1, 2, 3):
        put_case(tmp_path / "data" / f"Case {number}", seed=number)
    return open_dataset(tmp_path / "data", spacing=(5.0, 0.7, 0.8))


@pytest.fixture
def loads(monkeypatch):
    """The ids of the cases that were decoded, in order."""
    seen = []
    original = Dataset.load

    def load(self, case):
        seen.append(case.id)
        return original(self, case)

    monkeypatch.setattr(Dataset, "load", load)
    return seen


def entries(folder):
    return [path for path in folder.iterdir() if path.is_dir()]


def test_slices_are_those_of_the_axial_view(three_cases, tmp_path):
    store = SliceStore(three_cases, folder=tmp_path / "cache")
    assert len(store) == 24
    index = next(n for n in range(24) if store.case_of(n) == ("Case 2", 4))
    sample = store.read(index)
    np.testing.assert_array_equal(sample.image, images(8, seed=2)[::-1][4].astype(np.float32))
    assert sample.image.dtype == np.float32
    np.testing.assert_array_equal(sample.mask, two_pieces())
    assert sample.mask.dtype == np.uint8
    assert sample.spacing == pytest.approx((0.7, 0.8))
    assert sample.annotated
    assert store.patient(index) == "Case 2"
    assert isinstance(store, KnowsAnnotation)
    assert [store.annotated(n) for n in range(8)] == [False, False, False, True, True, True, False, False]
    assert [store.read(n).annotated for n in range(8)] == [store.annotated(n) for n in range(8)]


def test_the_image_is_kept_in_its_own_type(tmp_path):
    array = ct_like()
    put_volume(tmp_path / "data" / "p" / "ct.nii.gz", array)
    put_volume(tmp_path / "data" / "p" / "liver.nii.gz", (array > 50).astype(np.uint8))
    SliceStore(open_dataset(tmp_path / "data"), folder=tmp_path / "cache")
    (entry,) = entries(tmp_path / "cache")
    assert np.load(entry / "image.npy").dtype == np.int16
    assert np.load(entry / "mask.npy").dtype == np.uint8


def test_tumour_is_liver_unless_asked_for(tmp_path):
    array = ct_like()
    mask = np.zeros(array.shape, np.uint8)
    mask[:, 5:12, 5:12] = 1
    mask[:, 7:9, 7:9] = 2
    put_volume(tmp_path / "data" / "p" / "ct.nii.gz", array)
    put_volume(tmp_path / "data" / "p" / "liver.nii.gz", mask)
    dataset = open_dataset(tmp_path / "data")
    assert set(np.unique(SliceStore(dataset, folder=tmp_path / "c").read(0).mask)) == {0, 1}
    assert set(np.unique(SliceStore(dataset, folder=tmp_path / "c", with_tumour=True).read(0).mask)) == {0, 1, 2}


def test_a_second_store_decodes_nothing(three_cases, tmp_path, loads):
    SliceStore(three_cases, folder=tmp_path / "cache")
    assert loads == ["Case 1", "Case 2", "Case 3"]
    store = SliceStore(three_cases, folder=tmp_path / "cache")
    store.read(0)
    assert len(loads) == 3


def test_a_changed_file_or_option_is_decoded_anew(three_cases, tmp_path, loads):
    first = SliceStore(three_cases, ["Case 1"], folder=tmp_path / "cache")
    put_frame(tmp_path / "data" / "Case 1" / "masks", "0003", np.flipud(two_pieces()))
    os.utime(tmp_path / "data" / "Case 1" / "masks" / "default" / "instance" / "0003.png", ns=(1, 1))
    second = SliceStore(three_cases, ["Case 1"], folder=tmp_path / "cache")
    assert loads == ["Case 1", "Case 1"]
    assert first.fingerprint() != second.fingerprint()
    np.testing.assert_array_equal(second.read(5).mask, np.flipud(two_pieces()))
    outside = open_dataset(tmp_path / "data", spacing=(5.0, 0.7, 0.8), empty_outside=True)
    assert SliceStore(outside, ["Case 1"], folder=tmp_path / "cache").read(0).annotated


def test_the_budget_holds_and_the_least_recently_used_case_goes(three_cases, tmp_path, loads):
    told = []
    cache = tmp_path / "cache"
    store = SliceStore(three_cases, folder=cache, budget_bytes=int(2.5 * CASE_BYTES), on_event=told.append)
    assert any(isinstance(event, Notice) and "raise the budget" in event.message for event in told)
    assert len(entries(cache)) == 2  # of Case 2 and Case 3
    assert sum(path.stat().st_size for path in cache.rglob("*.npy")) <= 2.5 * CASE_BYTES
    for entry in entries(cache):
        os.utime(entry, (1000, 1000))  # long ago, so that the clock's coarse steps do not matter
    store.read(8)  # Case 2 is used again, so Case 3 is the oldest
    store.read(0)
    assert loads == ["Case 1", "Case 2", "Case 3", "Case 1"]
    fresh = pickle.loads(pickle.dumps(store))
    fresh.read(8)
    assert len(loads) == 4
    fresh.read(16)
    assert loads[4:] == ["Case 3"]


def test_lengths_survive_eviction_without_another_decoding(three_cases, tmp_path, loads):
    SliceStore(three_cases, folder=tmp_path / "cache", budget_bytes=2 * CASE_BYTES)
    store = SliceStore(three_cases, folder=tmp_path / "cache", budget_bytes=2 * CASE_BYTES)
    assert len(store) == 24
    assert len(loads) == 3


def test_a_case_larger_than_the_budget_is_said(three_cases, tmp_path):
    with pytest.raises(ResourceError, match="raise its budget"):
        SliceStore(three_cases, folder=tmp_path / "cache", budget_bytes=CASE_BYTES - 1)


def test_a_corrupt_picture_after_an_eviction_is_one_sentence_and_the_cache_stays_whole(three_cases, tmp_path):
    cache = tmp_path / "cache"
    store = SliceStore(three_cases, folder=cache, budget_bytes=2 * CASE_BYTES)
    before = sorted(cache.rglob("*"))
    put(tmp_path / "data" / "Case 1" / "images" / "0004.png", b"\x89PNG cut")
    with pytest.raises(InputError, match=r"0004\.png is damaged"):
        store.read(0)
    assert sorted(cache.rglob("*")) == before
    assert store.read(8).image.any()


def test_a_full_disk_leaves_no_half_written_case(three_cases, tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(slice_store.np, "save", full)
    with pytest.raises(ResourceError, match="free space"):
        SliceStore(three_cases, folder=tmp_path / "cache")
    assert entries(tmp_path / "cache") == []


def test_a_damaged_entry_is_decoded_again(three_cases, tmp_path, loads):
    SliceStore(three_cases, ["Case 1"], folder=tmp_path / "cache")
    (entry,) = entries(tmp_path / "cache")
    (entry / "mask.npy").write_bytes(b"cut")
    store = SliceStore(three_cases, ["Case 1"], folder=tmp_path / "cache")
    np.testing.assert_array_equal(store.read(4).mask, two_pieces())
    assert loads == ["Case 1", "Case 1"]


def test_what_a_killed_process_left_behind_is_removed(three_cases, tmp_path):
    old, young = tmp_path / "cache" / ".old", tmp_path / "cache" / ".young"
    for folder in (old, young):
        put(folder / "image.npy", b"half")
    os.utime(old, (1, 1))
    SliceStore(three_cases, ["Case 1"], folder=tmp_path / "cache")
    assert not old.exists()
    assert young.exists()


def read_everything(arguments):
    path, cache, budget, seed = arguments
    store = SliceStore(open_dataset(path), folder=cache, budget_bytes=budget)
    order = np.random.default_rng(seed).permutation(len(store))
    total = 0
    for index in order:
        sample = store.read(int(index))
        total += int(sample.image.sum()) + 1000 * int(sample.mask.sum())
    return total


def test_processes_that_share_a_small_cache_all_read_the_same(three_cases, tmp_path):
    arguments = [(tmp_path / "data", tmp_path / "cache", int(2.5 * CASE_BYTES), seed) for seed in range(2)]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        totals = pool.map(read_everything, arguments)
    expected = sum(int(images(8, seed=seed).sum()) for seed in (1, 2, 3)) + 1000 * 9 * int(two_pieces().sum())
    assert totals == [expected] * 2
    assert not list((tmp_path / "cache").glob(".*"))


def test_a_pickled_store_carries_no_pixels(three_cases, tmp_path):
    store = SliceStore(three_cases, folder=tmp_path / "cache")
    store.read(0)
    content = pickle.dumps(store)
    assert len(content) < CASE_BYTES
    np.testing.assert_array_equal(pickle.loads(content).read(4).mask, two_pieces())


def test_a_split_by_patient_and_one_by_slice_choose_their_slices(three_cases, tmp_path):
    split = split_dataset(three_cases, folds=3)
    store = SliceStore(three_cases, split.slices("train", 0), folder=tmp_path / "cache")
    assert len(store) == 8
    assert {store.patient(n) for n in range(8)} == set(split.parts(0)["train"])
    store = SliceStore(three_cases, {"Case 3": (1, 5)}, folder=tmp_path / "cache")
    assert [store.case_of(n) for n in range(2)] == [("Case 3", 1), ("Case 3", 5)]
    with pytest.raises(InputError, match="has 8 slices"):
        SliceStore(three_cases, {"Case 3": (8,)}, folder=tmp_path / "cache")
    with pytest.raises(InputError, match="no slices"):
        SliceStore(three_cases, [], folder=tmp_path / "cache")
