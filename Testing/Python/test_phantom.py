"""The phantom is a plausible CT: same for a seed, exactly labelled, of human size and intensities."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from scipy import ndimage

from LiverMarginLib.errors import InputError
from LiverMarginLib.jobs.base import run
from LiverMarginLib.jobs.phantom import PhantomJob
from LiverMarginLib.phantom import (
    ORGANS,
    Anatomy,
    Arms,
    Organ,
    Phantom,
    PhantomOptions,
    Phase,
    Region,
    contact_sheet,
    liver_target,
    make_anatomy,
    make_phantom,
    render,
)
from LiverMarginLib.volume import IntensityKind, LabelMap, Modality, axial_view

SMALL = {"shape": (44, 80, 80), "spacing": (6.0, 5.0, 5.0)}
FINDINGS = (
    *("steatosis", "cirrhosis", "riedel", "resected"),
    *("wrapping_left_lobe", "ascites", "effusion", "situs_inversus"),
)
PLAIN = dict.fromkeys(FINDINGS, False)


@cache
def anatomy(seed: int) -> Anatomy:
    """A small ordinary patient."""
    return make_anatomy(seed, PhantomOptions(**SMALL, **PLAIN))


@cache
def patient(seed: int) -> Phantom:
    """The same patient's portal phase."""
    volume, _ = render(anatomy(seed), seed, PhantomOptions(phase=Phase.PORTAL))
    return Phantom(volume, anatomy(seed).labels(), {})


def centre(labels: LabelMap, organ: Organ) -> npt.NDArray[np.float64]:
    """Centre of an organ in RAS mm."""
    k, j, i = np.argwhere(labels.mask(organ)).mean(axis=0)
    return (labels.geometry.ijk_to_ras @ (i, j, k, 1))[:3]


def core_hu(phantom: Phantom, *organs: Organ) -> float:
    """Median HU of the voxels that have only the organ around them."""
    mask = np.isin(phantom.labels.array, organs)
    return float(np.median(phantom.volume.array[ndimage.binary_erosion(mask)]))


def test_the_same_seed_gives_the_same_voxels() -> None:
    options = PhantomOptions(shape=(6, 40, 40), spacing=(10, 9, 9))
    one, two = make_phantom(7, options), make_phantom(7, options)
    assert np.array_equal(one.volume.array, two.volume.array)
    assert np.array_equal(one.labels.array, two.labels.array)
    assert one.description == two.description


def test_another_seed_gives_another_patient() -> None:
    options = PhantomOptions(shape=(6, 40, 40), spacing=(10, 9, 9))
    one, two = make_phantom(7, options), make_phantom(8, options)
    assert np.mean(one.labels.array != two.labels.array) > 0.05


def test_one_seed_is_one_patient_at_every_resolution() -> None:
    coarse = make_anatomy(6, PhantomOptions(shape=(24, 40, 40), spacing=(10.0, 10.0, 10.0), **PLAIN)).labels()
    fine = make_anatomy(6, PhantomOptions(shape=(24, 80, 80), spacing=(10.0, 5.0, 5.0), **PLAIN)).labels()
    liver = [liver_target(labels) for labels in (coarse, fine)]
    assert liver[0].volume_ml(1) == pytest.approx(liver[1].volume_ml(1), rel=0.05)
    # Each coarse voxel's centre lies between four fine ones; where these agree, so must it.
    blocks = liver[1].array.reshape(24, 40, 2, 40, 2).mean(axis=(2, 4))
    sure = (blocks == 0) | (blocks == 1)
    assert np.mean(blocks[sure] == liver[0].array[sure]) > 0.995


def test_the_slabs_in_which_a_volume_is_painted_leave_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    options = PhantomOptions(shape=(12, 48, 48), spacing=(8, 8, 8))
    whole = make_anatomy(3, options)
    monkeypatch.setattr("LiverMarginLib.phantom.anatomy._SLAB_VOXELS", 5 * 48 * 48)
    slabs = make_anatomy(3, options)
    number = np.array([whole.materials.index(m) for m in slabs.materials])
    assert np.array_equal(number[slabs.first], whole.first)
    assert np.abs(slabs.share.astype(int) - whole.share).max() <= 2


def test_the_grid_is_the_canonical_axial_view() -> None:
    phantom = patient(1)
    view = axial_view(phantom.volume.geometry)
    assert view.axes == (0, 1, 2) and view.flips == (False, False, False)
    assert phantom.volume.geometry.agrees_with(phantom.labels.geometry)
    assert phantom.volume.geometry.spacing == pytest.approx((6, 5, 5))
    assert phantom.volume.modality is Modality.CT and phantom.volume.intensity is IntensityKind.HU
    assert phantom.volume.array.dtype == np.int16 and phantom.labels.array.dtype == np.uint8


@pytest.mark.parametrize("seed", range(4))
def test_the_organs_lie_where_they_belong(seed: int) -> None:
    labels = patient(seed).labels
    liver, spleen = centre(labels, Organ.LIVER), centre(labels, Organ.SPLEEN)
    right, left = centre(labels, Organ.RIGHT_KIDNEY), centre(labels, Organ.LEFT_KIDNEY)
    aorta, cava, spine = (centre(labels, o) for o in (Organ.AORTA, Organ.VENA_CAVA, Organ.VERTEBRA))
    assert liver[0] > spine[0] > spleen[0]
    assert right[0] > spine[0] > left[0]
    assert cava[0] > aorta[0]
    assert min(aorta[1], cava[1]) > spine[1] > centre(labels, Organ.MUSCLE)[1] - 60
    assert liver[2] > right[2]
    assert centre(labels, Organ.HEART)[2] > liver[2]
    column = np.argwhere(labels.mask(Organ.LIVER))[:, 2].mean()
    assert column < labels.array.shape[2] / 2, "the patient's right is on the image's left"


def test_situs_inversus_puts_the_liver_on_the_left() -> None:
    options = PhantomOptions(shape=(20, 40, 40), spacing=(13, 10, 10), **{**PLAIN, "situs_inversus": True})
    labels = make_anatomy(1, options).labels()
    assert centre(labels, Organ.LIVER)[0] < centre(labels, Organ.SPLEEN)[0]


def test_every_organ_is_there_and_every_label_is_named() -> None:
    named = {segment.label for segment in ORGANS}
    assert named == {int(o) for o in Organ}
    found: set[int] = set()
    for seed in range(4):
        found |= set(np.unique(patient(seed).labels.array).tolist())
    assert found <= named | {0}
    special = {Organ.AIRWAY, Organ.LIVER_MASS, Organ.ASCITES, Organ.PLEURAL_EFFUSION, Organ.BLADDER, Organ.BREAST}
    assert named - found <= {int(o) for o in special}


@pytest.mark.parametrize(
    ("organs", "low", "high"),
    [
        ((Organ.LIVER, Organ.LIVER_VESSEL), 800, 3000),
        ((Organ.SPLEEN,), 40, 600),
        ((Organ.RIGHT_KIDNEY,), 45, 350),
        ((Organ.LEFT_KIDNEY,), 45, 350),
        ((Organ.STOMACH,), 60, 1200),
        ((Organ.PANCREAS,), 12, 160),
        ((Organ.AORTA,), 25, 250),
    ],
)
def test_the_organs_are_of_human_size(organs: tuple[Organ, ...], low: float, high: float) -> None:
    for seed in range(4):
        volume = sum(patient(seed).labels.volume_ml(o) for o in organs)
        assert low < volume < high


@pytest.mark.parametrize(
    ("phase", "organs", "low", "high"),
    [
        (Phase.PORTAL, (Organ.LIVER,), 75, 150),
        (Phase.PORTAL, (Organ.SPLEEN,), 80, 175),
        (Phase.PORTAL, (Organ.AORTA,), 95, 230),
        (Phase.PORTAL, (Organ.RIGHT_KIDNEY,), 110, 280),
        (Phase.PORTAL, (Organ.MUSCLE,), 25, 85),
        (Phase.PORTAL, (Organ.SUBCUTANEOUS_FAT,), -125, -80),
        (Phase.PORTAL, (Organ.RIGHT_LUNG,), -950, -780),
        (Phase.NATIVE, (Organ.LIVER,), 30, 80),
        (Phase.NATIVE, (Organ.AORTA,), 25, 60),
        (Phase.ARTERIAL, (Organ.AORTA,), 160, 480),
        (Phase.ARTERIAL, (Organ.LIVER,), 40, 105),
    ],
)
def test_intensities_are_those_of_the_phase(phase: Phase, organs: tuple[Organ, ...], low: float, high: float) -> None:
    for seed in range(3):
        volume, _ = render(anatomy(seed), seed, PhantomOptions(phase=phase))
        phantom = Phantom(volume, patient(seed).labels, {})
        assert low < core_hu(phantom, *organs) < high


def test_a_phantom_is_its_anatomy_and_one_of_many_scans_of_it() -> None:
    options = PhantomOptions(shape=(6, 40, 40), spacing=(10, 9, 9))
    whole, parts = make_phantom(3, options), make_anatomy(3, options)
    assert np.array_equal(whole.labels.array, parts.labels().array)
    assert np.array_equal(whole.volume.array, render(parts, 3, options)[0].array)
    assert not np.array_equal(whole.volume.array, render(parts, 4, options)[0].array)


def test_a_fatty_liver_is_darker_than_the_spleen() -> None:
    options = PhantomOptions(shape=(20, 48, 48), spacing=(13, 9, 9), **{**PLAIN, "steatosis": True}, phase=Phase.NATIVE)
    phantom = make_phantom(2, options)
    assert core_hu(phantom, Organ.LIVER) < core_hu(phantom, Organ.SPLEEN) - 5


def test_the_lobes_part_in_some_slices_of_most_patients() -> None:
    parted = 0
    for seed in range(5):
        liver = liver_target(patient(seed).labels).array
        for plane in liver:
            pieces = np.sort(np.bincount(ndimage.label(plane)[0].ravel())[1:])
            if len(pieces) > 1 and pieces[-2] >= 8:  # two square centimetres
                parted += 1
                break
    assert parted >= 3


def test_lesions_lie_in_the_liver_and_count_as_liver() -> None:
    labels = make_anatomy(4, PhantomOptions(**SMALL, **PLAIN, lesions=6)).labels()
    mass = labels.mask(Organ.LIVER_MASS)
    assert mass.sum() > 0
    ring = ndimage.binary_dilation(mass) & ~mass
    assert np.isin(labels.array[ring], (Organ.LIVER, Organ.LIVER_VESSEL)).mean() > 0.5
    whole, parts = liver_target(labels), liver_target(labels, tumour=True)
    assert whole.array[mass].all() and set(np.unique(whole.array)) == {0, 1}
    assert np.array_equal(parts.array == 2, mass)
    assert [s.label for s in parts.segments] == [1, 2]


def test_no_lesion_is_drawn_when_none_is_asked_for() -> None:
    options = PhantomOptions(shape=(12, 32, 32), spacing=(16, 12, 12), lesions=0)
    assert all(not make_anatomy(seed, options).labels().mask(Organ.LIVER_MASS).any() for seed in range(3))


@pytest.mark.parametrize("region", [Region.CHEST, Region.PELVIS])
def test_a_volume_beside_the_liver_shows_none(region: Region) -> None:
    for seed in range(2):
        options = PhantomOptions(shape=(12, 48, 48), spacing=(8, 8, 8), region=region)
        labels = make_phantom(seed, options).labels
        assert not liver_target(labels).array.any()
        assert labels.mask(Organ.MUSCLE).any()


def test_the_dome_of_the_liver_is_surrounded_by_lung() -> None:
    labels = patient(1).labels
    liver = labels.mask(Organ.LIVER)
    top = np.nonzero(liver.any(axis=(1, 2)))[0].max() - 2
    ring = ndimage.binary_dilation(liver[top], iterations=3) & ~ndimage.binary_dilation(liver[top], iterations=2)
    assert (labels.array[top][ring] == Organ.RIGHT_LUNG).mean() > 0.5


@pytest.mark.parametrize("finding", ["ascites", "effusion", "resected", "riedel", "cirrhosis", "wrapping_left_lobe"])
def test_a_finding_changes_the_patient(finding: str) -> None:
    without = anatomy(2).labels()
    found = make_anatomy(2, PhantomOptions(**SMALL, **{**PLAIN, finding: True})).labels()
    fluid = {"ascites": Organ.ASCITES, "effusion": Organ.PLEURAL_EFFUSION}.get(finding)
    if fluid is None:
        assert (liver_target(found).array != liver_target(without).array).any()
    else:
        assert found.volume_ml(fluid) > 20 and without.volume_ml(fluid) == 0
    if finding == "resected":
        assert found.volume_ml(Organ.LIVER) < without.volume_ml(Organ.LIVER)


def test_table_arms_and_padding_do_as_told() -> None:
    base = {"shape": (4, 100, 100), "spacing": (10.0, 6.0, 6.0)}
    bare = make_phantom(1, PhantomOptions(**base, table=False, arms=Arms.UP, padding=-2000))
    full = make_phantom(1, PhantomOptions(**base, table=True, arms=Arms.DOWN))
    assert not bare.labels.mask(Organ.TABLE).any() and full.labels.mask(Organ.TABLE).any()
    assert full.labels.volume_ml(Organ.MUSCLE) > bare.labels.volume_ml(Organ.MUSCLE)
    assert (bare.volume.array[:, 0, 0] == -2000).all() and bare.volume.array[:, 50, 50].min() > -2000


def test_noise_is_as_strong_as_asked() -> None:
    spread = []
    for noise in (0.0, 30.0):
        volume, _ = render(anatomy(1), 1, PhantomOptions(noise_hu=noise, streaks=0.0))
        mask = ndimage.binary_erosion(anatomy(1).labels().mask(Organ.LIVER))
        spread.append(float(volume.array[mask].std()))
    assert spread[0] < 12
    assert 15 < np.sqrt(spread[1] ** 2 - spread[0] ** 2) < 50


def test_random_contrast_breaks_with_the_phase() -> None:
    options = PhantomOptions(shape=(10, 32, 32), spacing=(16, 13, 13), random_contrast=1.0)
    levels = [core_hu(make_phantom(seed, options), Organ.LIVER) for seed in range(4)]
    assert np.ptp(levels) > 60


@pytest.mark.parametrize("shape", [(1, 64, 64), (3, 7, 90), (2, 1, 1), (40, 16, 16)])
def test_odd_shapes_work(shape: tuple[int, int, int]) -> None:
    phantom = make_phantom(0, PhantomOptions(shape=shape, spacing=(5, 6, 6)))
    assert phantom.volume.array.shape == phantom.labels.array.shape == shape


@pytest.mark.parametrize(
    "wrong",
    [
        {"shape": (0, 64, 64)},
        {"shape": (4, 64)},
        {"shape": (4, 64.5, 64)},
        {"shape": (100_000, 10_000, 10_000)},
        {"spacing": (1, 1, 0)},
        {"spacing": (1, float("nan"), 1)},
        {"phase": "venous"},
        {"arms": "folded"},
        {"region": "head"},
        {"lesions": -1},
        {"noise_hu": -3.0},
        {"random_contrast": 1.5},
        {"streaks": float("inf")},
        {"body_scale": 4.0},
    ],
)
def test_wrong_options_are_refused_with_one_sentence(wrong: dict) -> None:
    with pytest.raises(InputError) as caught:
        PhantomOptions(**wrong)
    assert caught.value.message.endswith(".") and "\n" not in caught.value.message


@pytest.mark.parametrize("seed", [-1, 1.5, "one", None])
def test_a_wrong_seed_is_refused(seed: object) -> None:
    with pytest.raises(InputError):
        make_phantom(seed)  # type: ignore[arg-type]


def test_foreign_labels_are_not_reduced_to_liver() -> None:
    phantom = patient(1)
    with pytest.raises(InputError):
        liver_target(LabelMap(phantom.labels.array, phantom.labels.geometry))


def test_a_contact_sheet_shows_slices_from_the_top_with_contours() -> None:
    phantom = patient(1)
    plain = contact_sheet(phantom.volume, slices=[30, 20], columns=2)
    assert plain.shape == (80, 160, 3) and plain.dtype == np.uint8
    marked = contact_sheet(phantom.volume, phantom.labels, slices=[30, 20], columns=2)
    changed = (marked != plain).any(axis=2)
    assert changed.any() and (marked[changed] == ORGANS[0].colour).all(axis=1).any()
    assert contact_sheet(phantom.volume, count=5, columns=4).shape == (160, 320, 3)


def test_many_phantoms_are_looked_at_in_one_picture(tmp_path: Path) -> None:
    job = PhantomJob(
        str(tmp_path / "out"), seed=4, shape=(8, 40, 48), spacing=(24.0, 10.0, 10.0), contact_sheet=3, outlines=True
    )
    result = run(job)
    assert result["seeds"] == [4, 5, 6]
    sheet = np.asarray(Image.open(result["sheet"]))
    assert sheet.shape == (2 * 40, 2 * 6 * 48, 3)
    rows = [sheet[:40, :288], sheet[:40, 288:], sheet[40:, :288], sheet[40:, 288:]]
    liver = [int((row == ORGANS[0].colour).all(axis=2).sum()) for row in rows]
    assert min(liver[:3]) > 20 and liver[3] == 0 and not rows[3].any()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["contact_sheet.png"]


@pytest.mark.parametrize("count", [-1, 201])
def test_a_contact_sheet_of_too_many_phantoms_is_refused(tmp_path: Path, count: int) -> None:
    with pytest.raises(InputError, match="1 to 200"):
        run(PhantomJob(str(tmp_path), contact_sheet=count))


def test_importing_the_phantom_needs_no_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; import LiverMarginLib.phantom"
    subprocess.run([sys.executable, "-c", code], check=True)
