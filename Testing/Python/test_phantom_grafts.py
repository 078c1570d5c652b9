"""Phantoms with the organs of a label map: real anatomy, deformed, in a drawn body."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import SimpleITK as sitk
from scipy import ndimage

from LiverMarginLib.errors import InputError
from LiverMarginLib.events import CancelToken, ignore
from LiverMarginLib.io.readers import read_labels
from LiverMarginLib.io.writers import write_labelmap
from LiverMarginLib.jobs.base import run
from LiverMarginLib.jobs.cohort import PhantomCohort
from LiverMarginLib.jobs.phantom import PhantomJob
from LiverMarginLib.phantom import Organ, Phantom, PhantomOptions, liver_target, make_anatomy, make_phantom
from LiverMarginLib.phantom.grafts import SCHEMES, Donor, grafted_options, organs_named, transplant
from LiverMarginLib.training.phantom_source import PhantomSource
from LiverMarginLib.volume import Geometry, LabelMap

GRID = {"shape": (44, 80, 80), "spacing": (6.0, 5.0, 5.0)}
HEALTHY = dict.fromkeys(("resected", "situs_inversus", "ascites", "effusion"), False)
PLAIN = PhantomOptions(**GRID, **HEALTHY, lesions=0, body_scale=1.0, phase="portal")
NAMES = {
    **{value: organ for organ in set(SCHEMES["amos"].values()) for value in (int(organ),)},
    int(Organ.LIVER_VESSEL): Organ.LIVER,
}


@cache
def person(seed: int = 900) -> LabelMap:
    """A label map of all organs, standing in for a real one."""
    return make_anatomy(seed, PLAIN).labels()


@cache
def donor() -> Donor:
    return Donor.from_labels(person(), NAMES)


@cache
def grafted(seed: int) -> Phantom:
    return make_phantom(seed, grafted_options(PLAIN), transplant(donor(), seed))


def liver(phantom: Phantom) -> npt.NDArray[np.bool_]:
    return np.asarray(liver_target(phantom.labels).array > 0)


def test_an_organ_of_a_donor_is_where_the_labels_are() -> None:
    mask = np.isin(person().array, (Organ.LIVER, Organ.LIVER_VESSEL))
    k, j, i = np.indices(mask.shape, dtype=np.float32)
    organ = donor().organs[Organ.LIVER]
    distance = organ.at(5 * i, 5 * j, 6 * k, closing=True)
    deep = ndimage.binary_erosion(mask, iterations=2)
    far = ~ndimage.binary_dilation(mask, iterations=2)
    assert (distance[deep] < 0).all() and (distance[far] > 0).all()
    assert np.count_nonzero(distance < 0) == pytest.approx(np.count_nonzero(mask), rel=0.03)
    gradient = np.linalg.norm(np.stack(np.gradient(distance, 6, 5, 5)), axis=0)
    assert np.median(gradient[np.abs(distance) < 6]) == pytest.approx(1.0, abs=0.1)


def test_a_donor_is_the_same_whatever_the_axis_order_of_the_file(tmp_path: Path) -> None:
    path = write_labelmap(person(), tmp_path / "organs.nii.gz")[0]
    image = sitk.PermuteAxes(sitk.Flip(sitk.ReadImage(path), (True, False, True)), (2, 0, 1))
    sitk.WriteImage(image, tmp_path / "turned.nrrd")
    turned = Donor.from_labels(read_labels(tmp_path / "turned.nrrd"), NAMES)
    assert set(turned.organs) == set(donor().organs)
    for name, organ in donor().organs.items():
        np.testing.assert_allclose(turned.organs[name].distance, organ.distance, atol=1e-3)
        np.testing.assert_allclose(turned.organs[name].centre, organ.centre, atol=1e-3)


def test_the_same_seed_gives_the_same_and_another_gives_another_deformation() -> None:
    again = make_phantom(1, grafted_options(PLAIN), transplant(donor(), 1))
    np.testing.assert_array_equal(again.volume.array, grafted(1).volume.array)
    one, two = liver(grafted(1)), liver(grafted(2))
    dice = 2 * np.count_nonzero(one & two) / (np.count_nonzero(one) + np.count_nonzero(two))
    assert 0.3 < dice < 0.95


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_liver_keeps_its_size_and_lies_in_a_whole_body(seed: int) -> None:
    labels = grafted(seed).labels
    original = liver_target(person()).volume_ml(1)
    assert 0.5 * original < liver_target(labels).volume_ml(1) < 1.8 * original
    pieces, _ = ndimage.label(liver(grafted(seed)))
    sizes = np.bincount(pieces.ravel())[1:]
    assert sizes.max() > 0.97 * sizes.sum()
    # Whatever a label map does not know is there: liver is never the only blob.
    around = (Organ.SKIN, Organ.SUBCUTANEOUS_FAT, Organ.MUSCLE, Organ.RIB, Organ.VERTEBRA, Organ.VISCERAL_FAT)
    inside = (Organ.SPLEEN, Organ.RIGHT_KIDNEY, Organ.STOMACH, Organ.AORTA, Organ.SMALL_BOWEL, Organ.COLON)
    for organ in (*around, *inside, Organ.RIGHT_LUNG):
        assert np.count_nonzero(labels.array == organ) > 30, organ.name
    body = ndimage.binary_fill_holes(labels.array > 0)
    assert ndimage.binary_dilation(liver(grafted(seed)))[~body].sum() == 0


def test_organs_stand_in_the_order_that_they_have_in_people() -> None:
    array = grafted(2).labels.array
    heights = {o: np.argwhere(array == o)[:, 0].mean() for o in (Organ.SPLEEN, Organ.LEFT_KIDNEY, Organ.LEFT_LUNG)}
    assert heights[Organ.LEFT_LUNG] > heights[Organ.SPLEEN] > heights[Organ.LEFT_KIDNEY]
    side = {o: np.argwhere(array == o)[:, 2].mean() for o in (Organ.LIVER, Organ.AORTA, Organ.SPLEEN)}
    assert side[Organ.LIVER] < side[Organ.AORTA] < side[Organ.SPLEEN]


def test_an_organ_that_the_map_cuts_off_is_closed() -> None:
    top = int(np.argwhere(liver_target(person()).array > 0)[:, 0].max())
    cut = Donor.from_labels(LabelMap(person().array[: top - 3], _shorter(top - 3), person().segments), NAMES)
    organ = cut.organs[Organ.LIVER]
    assert np.isfinite(organ.cut[1]) and not np.isfinite(organ.cut[0])
    assert organ.bounds[1, 2] < organ.top < organ.bounds[1, 2] + 60
    mask = liver(make_phantom(3, grafted_options(PLAIN), transplant(cut, 3)))
    areas = mask.sum(axis=(1, 2))
    above = areas[int(areas.argmax()) :]
    assert above[-1] == 0 and np.count_nonzero(above) > 3  # it ends within the picture, and not at once


def _shorter(depth: int) -> Geometry:
    geometry = person().geometry
    return Geometry((depth, *geometry.shape[1:]), geometry.ijk_to_ras)


def test_what_is_not_named_is_drawn() -> None:
    alone = Donor.from_labels(person(), {1: Organ.LIVER, 3: Organ.LIVER})
    labels = make_phantom(2, grafted_options(PLAIN), transplant(alone, 2)).labels.array
    for organ in (Organ.SPLEEN, Organ.RIGHT_KIDNEY, Organ.AORTA, Organ.PANCREAS, Organ.STOMACH):
        assert np.count_nonzero(labels == organ) > 30, organ.name


def test_lesions_and_vessels_lie_in_the_liver_and_an_mr_shows_the_same_organs() -> None:
    options = grafted_options(PhantomOptions(**GRID, **HEALTHY, lesions=3, lesion_mm=(12, 20), body_scale=1.0))
    ct = make_phantom(2, options, transplant(donor(), 2))
    for organ in (Organ.LIVER_MASS, Organ.LIVER_VESSEL):
        assert np.count_nonzero(ct.labels.array == organ) > 10
    without = liver(grafted(2))
    assert np.array_equal(without, liver(ct))
    mr = make_phantom(2, PhantomOptions(**{**vars(options), "modality": "MR"}), transplant(donor(), 2))
    assert np.array_equal(mr.labels.array, ct.labels.array) and not np.array_equal(mr.volume.array, ct.volume.array)


def test_label_names_are_those_of_two_schemes_or_given_one_by_one() -> None:
    assert organs_named(["AMOS"])[6] is Organ.LIVER and organs_named(["totalsegmentator"])[5] is Organ.LIVER
    assert organs_named(["liver=1", "liver=2", "Right Kidney=7"]) == {
        1: Organ.LIVER,
        2: Organ.LIVER,
        7: Organ.RIGHT_KIDNEY,
    }


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (["lits"], "no label scheme 'lits'"),
        (["spleen=1"], "None of the labels is named liver"),
        ([], "None of the labels is named liver"),
        (["liver=1", "brain=2"], "'brain=2' does not name a label"),
        (["liver=one"], "'liver=one' does not name a label"),
        (["liver=0"], "'liver=0' does not name a label"),
        (["liver=1", "spleen=1"], "named twice"),
    ],
)
def test_wrong_label_names_are_refused_with_one_sentence(names: list[str], why: str) -> None:
    with pytest.raises(InputError, match=why):
        organs_named(names)


def test_a_label_map_without_the_liver_is_refused() -> None:
    with pytest.raises(InputError, match="no liver in this label map"):
        Donor.from_labels(person(), {200: Organ.LIVER, int(Organ.SPLEEN): Organ.SPLEEN})


def test_a_training_gets_further_patients_with_these_organs(tmp_path: Path) -> None:
    path = str(write_labelmap(person(), tmp_path / "organs.nii.gz")[0])
    names = ("liver=1", "liver=3", "spleen=4")
    grid = {"shape": (6, 32, 32), "spacing": (40.0, 12.0, 12.0), "scans": 1}
    cohort = PhantomCohort(1, first_seed=20, without_liver=1, **grid, from_labels=path, label_names=names)
    more = replace(cohort, with_its_organs=2)
    source = more.source(tmp_path / "cache", ignore, CancelToken())
    assert [source.patient(n) for n in range(0, 24, 6)] == [f"phantom {seed}" for seed in (20, 21, 22, 23)]
    assert [any(source.read(n + k).mask.any() for k in range(6)) for n in range(0, 24, 6)] == [True, False, True, True]
    assert len(cohort.source(tmp_path / "cache", ignore, CancelToken())) == 12
    options = PhantomOptions(shape=(6, 32, 32), spacing=(40.0, 12.0, 12.0))
    keys = {PhantomSource([1], options, tmp_path, donor=d).fingerprint() for d in (None, donor())}
    assert len(keys) == 2


def test_the_job_writes_a_phantom_of_a_label_map(tmp_path: Path) -> None:
    path = str(write_labelmap(person(), tmp_path / "organs.nii.gz")[0])
    common = {"seed": 3, "shape": (10, 40, 40), "spacing": (24.0, 10.0, 10.0), "format": "nii.gz"}
    drawn = run(PhantomJob(str(tmp_path / "drawn"), **common))
    real = run(PhantomJob(str(tmp_path / "real"), **common, from_labels=path, label_names=("liver=1", "liver=3")))
    one, two = (read_labels(result["liver"]).array for result in (drawn, real))
    assert two.any() and not np.array_equal(one, two)


@pytest.mark.realdata
def test_the_organs_of_a_real_label_map_become_a_phantom(real_data: Path) -> None:
    labels = read_labels(real_data / "labels_amos_0013" / "labels.nii.gz")
    real = Donor.from_labels(labels, organs_named(["amos"]))
    assert len(real.organs) == 14
    phantom = make_phantom(3, grafted_options(PLAIN), transplant(real, 3))
    assert 700 < liver_target(phantom.labels).volume_ml(1) < 2200
    assert np.count_nonzero(phantom.labels.array == Organ.PANCREAS) > 30
