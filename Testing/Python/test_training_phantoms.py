"""Phantoms as a source of slices."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import LiverMarginLib.phantom as phantom_package
from LiverMarginLib.cli import main
from LiverMarginLib.errors import Cancelled, InputError
from LiverMarginLib.events import CancelToken, Progress, ignore
from LiverMarginLib.io.volume_writers import write_volume
from LiverMarginLib.io.writers import write_labelmap
from LiverMarginLib.jobs.cohort import PhantomCohort
from LiverMarginLib.jobs.train import TrainJob
from LiverMarginLib.phantom import PhantomOptions, liver_target, make_phantom
from LiverMarginLib.training.data import Fingerprinted, KnowsAnnotation, usable_slices
from LiverMarginLib.training.phantom_source import PhantomSource

TINY = PhantomOptions(shape=(4, 32, 32), spacing=(40.0, 13.0, 13.0))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> PhantomSource:
    source = PhantomSource(range(3, 5), TINY, tmp_path_factory.mktemp("phantoms"), scans=2)
    source.store.prepare(workers=2)
    return source


def test_slices_are_those_of_the_phantom(made: PhantomSource) -> None:
    assert len(made) == 2 * 2 * 4
    phantom = make_phantom(4, TINY)
    for k in range(4):
        sample = made.read(8 + k)
        np.testing.assert_array_equal(sample.image, phantom.volume.array[k])
        np.testing.assert_array_equal(sample.mask, liver_target(phantom.labels).array[k])
        assert sample.image.dtype == np.float32 and sample.spacing == (13.0, 13.0) and sample.annotated
    assert sum(made.read(n).mask.any() for n in range(len(made))) > 2


def test_scans_of_a_patient_differ_in_their_picture_alone(made: PhantomSource) -> None:
    assert [made.patient(n) for n in (0, 4, 8, 12)] == ["phantom 3", "phantom 3", "phantom 4", "phantom 4"]
    first, second = made.read(2), made.read(6)
    np.testing.assert_array_equal(first.mask, second.mask)
    assert not np.array_equal(first.image, second.image)


def test_the_source_fits_the_trainer(made: PhantomSource) -> None:
    assert isinstance(made, KnowsAnnotation) and isinstance(made, Fingerprinted)
    assert usable_slices(made, False) == list(range(16))
    copy = pickle.loads(pickle.dumps(made))
    np.testing.assert_array_equal(copy.read(5).image, made.read(5).image)


def test_phantoms_are_made_once(made: PhantomSource) -> None:
    before = {path: path.stat().st_mtime_ns for path in made.store._folder.glob("*.npy")}
    events = []
    again = PhantomSource(range(3, 5), TINY, made.store._folder, scans=2)
    again.store.prepare(on_event=events.append)
    assert events == [Progress(2, 2, "phantoms")]
    assert {path: path.stat().st_mtime_ns for path in made.store._folder.glob("*.npy")} == before
    assert again.fingerprint() == made.fingerprint()
    assert PhantomSource(range(3, 6), TINY, made.store._folder, scans=2).fingerprint() != made.fingerprint()


def test_a_changed_generator_makes_other_phantoms_and_a_changed_sheet_does_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = Path(phantom_package.__path__[0])
    for path in package.glob("*.py"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(phantom_package, "__path__", [str(tmp_path)])
    before = PhantomSource([1], TINY, tmp_path).fingerprint()
    for name, changes in (("sheet.py", False), ("gut.py", True)):
        with (tmp_path / name).open("a") as file:
            file.write("# changed\n")
        assert (PhantomSource([1], TINY, tmp_path).fingerprint() != before) is changes


def test_more_than_the_budget_is_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="raise the budget"):
        PhantomSource(range(1000), PhantomOptions(shape=(48, 512, 512)), tmp_path)


def test_older_phantoms_make_room(tmp_path: Path) -> None:
    stale = tmp_path / "0000000000000000-1-0.image.npy"
    stale.write_bytes(bytes(20_000))
    PhantomSource([1], TINY, tmp_path, budget_bytes=25_000).store._make_room()
    assert not stale.exists()


def test_scans_of_chest_and_pelvis_teach_where_there_is_no_liver(tmp_path: Path) -> None:
    cohort = PhantomCohort(2, first_seed=10, scans=1, shape=(6, 32, 32), spacing=(40.0, 12.0, 12.0), without_liver=3)
    source = cohort.source(tmp_path, ignore, CancelToken())
    assert [source.patient(n) for n in range(0, 30, 6)] == [f"phantom {seed}" for seed in (10, 11, 12, 14, 13)]
    with_liver = [any(source.read(n + k).mask.any() for k in range(6)) for n in range(0, 30, 6)]
    assert with_liver == [True, True, False, False, False]
    assert all(source.annotated(n) for n in range(len(source)))
    assert source.fingerprint() != cohort.source(tmp_path, ignore, CancelToken())._sources[0].fingerprint()


def test_phantoms_join_a_data_set_whose_drawn_labels_count_less(tmp_path: Path) -> None:
    phantom = make_phantom(8, TINY)
    write_volume(phantom.volume, tmp_path / "data" / "images" / "p8.nii.gz")
    write_labelmap(liver_target(phantom.labels), tmp_path / "data" / "labels" / "p8.nii.gz")
    job = TrainJob(
        data=str(tmp_path / "data"),
        with_phantoms=True,
        data_weight=0.5,
        phantoms=1,
        validation_phantoms=1,
        phantom_shape=TINY.shape,
        phantom_spacing=TINY.spacing,
        split=str(tmp_path / "split.json"),
    )
    words = ["dataset", "split", job.data, "--fractions", "1", "0", "0", "-o", str(tmp_path / "split.json")]
    assert main(words) == 0
    train, validation = job.sources(job.config(), tmp_path / "cache", ignore, CancelToken())
    weights = [train.read(n).weight for n in range(len(train))]
    assert weights == [0.5] * TINY.shape[0] + [1.0] * (len(train) - TINY.shape[0]) and len(train) > TINY.shape[0]
    assert validation is not None and validation.patient(0).startswith("phantom")  # for nobody else is left
    assert job._data_in_words() == "a data set of the user's own, 1 procedural phantoms"
    for wrong in ({"model": "detectron2", "profile": "small"}, {"data": ""}, {"data_weight": 1.5}):
        with pytest.raises(InputError, match="between 0 and 1"):
            replace(job, **wrong).sources(job.config(), tmp_path / "cache", ignore, CancelToken())


@pytest.mark.parametrize(("data", "with_phantoms"), [("", False), ("scans", True)])
def test_a_slice_wise_network_for_mr_gets_no_phantoms_of_ct(data: str, with_phantoms: bool) -> None:
    job = TrainJob(model="unet", modality="MR", data=data, with_phantoms=with_phantoms)
    with pytest.raises(InputError, match="phantoms of CT alone"):
        job.config()
    assert replace(job, data="scans", with_phantoms=False).config()


def test_a_phantom_that_was_not_made_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="missing from the cache"):
        PhantomSource([1], TINY, tmp_path).read(0)


def test_making_phantoms_can_be_cancelled(tmp_path: Path) -> None:
    token = CancelToken()
    token.cancel()
    with pytest.raises(Cancelled):
        PhantomSource([1, 2, 3], TINY, tmp_path).store.prepare(workers=1, cancel=token)
    assert not list(tmp_path.glob(".*"))
