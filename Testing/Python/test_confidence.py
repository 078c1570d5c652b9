"""How sure a model was, slice by slice, and what makes a result or an image doubtful."""

from __future__ import annotations

import dataclasses
import math
from functools import cache

import numpy as np
import pytest
from model_tools import SQUARE, Fake, bare, one_sentence

from LiverMarginLib.events import Notice
from LiverMarginLib.inference.labelling import Confidence
from LiverMarginLib.inference.plausibility import doubts
from LiverMarginLib.inference.resemblance import ENTRY, measure, ranges, strangeness
from LiverMarginLib.inference.slicewise import segment_volume
from LiverMarginLib.jobs.segment import measurements
from LiverMarginLib.phantom import PhantomOptions, liver_target, make_phantom
from LiverMarginLib.terminology import LIVER
from LiverMarginLib.training.data import InMemorySource, SliceSample
from LiverMarginLib.training.seen import ranges_seen
from LiverMarginLib.volume import Geometry, IntensityKind, LabelMap, Modality, Volume

SPACING = (8.0, 4.0, 4.0)
HU = IntensityKind.HU


@cache
def scan(seed: int, region: str = "liver", depth: int = 26) -> np.ndarray:
    options = PhantomOptions(shape=(depth, 100, 100), spacing=SPACING, region=region)
    return make_phantom(seed, options).volume.array


@cache
def seen() -> dict[str, list[float]]:
    return ranges(measure(scan(seed), SPACING, HU) for seed in range(4))


def volume_of(array: np.ndarray, spacing=SPACING) -> Volume:
    sk, sj, si = spacing
    return Volume(array, Geometry(array.shape, np.diag([-si, -sj, sk, 1.0])), Modality.CT, HU)


def test_confidence_is_the_mean_probability_of_what_was_found_of_all_and_of_each_slice():
    confidence = Confidence()
    probabilities = np.random.default_rng(0).random((3, 1, 6, 7), dtype=np.float32)
    probabilities[1] *= 0.4
    planes = np.zeros((5, 6, 7), np.uint8)
    for n, of_slice in enumerate(probabilities):
        planes[1 + n] = of_slice[0] >= 0.5
        confidence.add(of_slice, planes[1 + n])
    expected = [float(p[p >= 0.5].mean()) for p in (probabilities[0], probabilities[2])]
    by_slice = confidence.by_slice(planes, 1)
    assert [by_slice[0], by_slice[2], by_slice[4]] == [None, None, None]
    assert [by_slice[1], by_slice[3]] == pytest.approx(expected, abs=1e-4)
    assert confidence.value == pytest.approx(float(probabilities[probabilities >= 0.5].mean()), abs=1e-4)
    planes[3] = 0  # post-processing has taken it away
    assert confidence.by_slice(planes, 1)[3] is None


def test_the_least_sure_slice_is_named_and_specks_do_not_count():
    labels = np.zeros((5, 20, 20), np.uint8)
    labels[1:4, 5:15, 5:15] = 1
    labels[4, 0, 0] = 1
    record = {"confidence": 0.9, "slice_confidence": [None, 0.95, 0.71, 0.9, 0.55]}
    volume = volume_of(np.zeros((5, 20, 20), np.int16))
    # The file's axial view runs the other way along k where the grid does; here it does not.
    found = measurements(volume, LabelMap(labels, volume.geometry, (LIVER,), record))
    assert found["least_sure_slice"] == 2 and found["slice_confidence"][2] == 0.71 and found["confidence"] == 0.9
    empty = measurements(volume, LabelMap(labels * 0, volume.geometry, (LIVER,), {}))
    assert empty["least_sure_slice"] is None and empty["confidence"] is None


def test_a_segmentation_carries_the_confidence_of_every_slice(tiny_model):
    array = np.full((4, 32, 32), -500, np.int16)
    array[1, 8:24, 8:24], array[2, 8:24, 8:24] = 200, 100
    volume = Volume(array, Geometry(array.shape, SQUARE), Modality.CT, HU)
    record = segment_volume(volume, tiny_model, Fake()).provenance
    # `Fake` gives the windowed intensity (-160 to 240) for a probability.
    assert record["slice_confidence"] == [None, pytest.approx(0.9, abs=1e-3), pytest.approx(0.65, abs=1e-3), None]
    assert record["confidence"] == pytest.approx(0.775, abs=1e-3)
    assert any("unsure" in notice for notice in record["notices"])


def liver_of(side: int, first: int, last: int) -> np.ndarray:
    planes = np.zeros((12, 40, 40), np.uint8)
    planes[first : last + 1, 2 : 2 + side, 2 : 2 + side] = 1
    return planes


@pytest.mark.parametrize(
    ("planes", "confidence", "said"),
    [
        (liver_of(30, 3, 8), 0.97, None),  # 30 x 30 x 6 voxels of 0.25 ml
        (liver_of(3, 3, 8), 0.97, "less than livers of adults"),
        (liver_of(3, 0, 8), 0.97, None),  # cut off by the end of the image
        (liver_of(3, 3, 11), 0.97, None),
        (liver_of(30, 3, 8), 0.7, "unsure of the liver"),
        (np.zeros((12, 40, 40), np.uint8), None, "No liver was found"),
    ],
)
def test_a_doubtful_liver_is_said(tiny_model, planes, confidence, said):
    volume = volume_of(np.zeros(planes.shape, np.int16), (10.0, 5.0, 5.0))
    found = doubts(planes, volume, tiny_model.manifest, confidence, range(12))
    assert len(found) == (said is not None)
    assert all(said in sentence and one_sentence(sentence) for sentence in found)


def test_a_liver_of_litres_is_doubtful_and_without_a_spacing_nothing_is_known(tiny_model):
    volume = volume_of(np.zeros((12, 40, 40), np.int16), (20.0, 8.0, 8.0))
    planes = liver_of(37, 1, 10)
    everything, manifest = range(12), tiny_model.manifest
    assert "more than livers of adults" in doubts(planes, volume, manifest, 0.97, everything)[0]
    assert doubts(planes, dataclasses.replace(volume, spacing_known=False), manifest, 0.97, everything) == []


def test_a_liver_that_the_chosen_slices_cut_off_is_not_called_small(tiny_model):
    volume = volume_of(np.zeros((12, 40, 40), np.int16), (10.0, 5.0, 5.0))
    small = liver_of(3, 4, 7)
    assert doubts(small, volume, tiny_model.manifest, 0.97, range(4, 10)) == []
    assert doubts(small, volume, tiny_model.manifest, 0.97, range(8)) == []
    assert len(doubts(small, volume, tiny_model.manifest, 0.97, range(3, 9))) == 1


def test_other_patients_are_not_strange():
    for seed in range(10, 14):
        assert strangeness(scan(seed), SPACING, HU, {ENTRY: seen()}) == []


@pytest.mark.parametrize("seed", [1, 2])
def test_a_chest_alone_is_strange(seed):
    sentence = strangeness(scan(seed, "chest", 14), SPACING, HU, {ENTRY: seen()})
    assert "share of lung" in sentence[0] and one_sentence(sentence[0])


def test_a_head_and_legs_are_strange():
    j, i = np.mgrid[:200, :200] - 100
    noise = np.random.default_rng(0).normal(0, 8, (6, 200, 200))
    radius = np.hypot(i / 75, j / 95)
    head = np.select([radius < 0.91, radius < 1, radius < 1.06], [35, 900, 30], -1000) + noise
    assert "share of bone" in strangeness(head, (8.0, 1.0, 1.0), HU, {ENTRY: seen()})[0]
    legs = np.full((200, 200), -1000.0)
    for middle in (-45, 45):
        radius = np.hypot(i - middle, j)
        legs = np.where(radius < 36, np.select([radius < 5, radius < 9, radius < 32], [-50, 900, 55], -100), legs)
    assert "section through the body" in strangeness(legs + noise, (8.0, 1.9, 1.9), HU, {ENTRY: seen()})[0]


def test_noise_thick_slices_and_an_empty_image_are_strange():
    noisy = scan(1) + np.random.default_rng(0).normal(0, 120, scan(1).shape)
    assert "the noise is" in strangeness(noisy, SPACING, HU, {ENTRY: seen()})[0]
    assert "distance of slices" in strangeness(scan(1), (25.0, 4.0, 4.0), HU, {ENTRY: seen()})[0]
    air = np.full((4, 50, 50), -1000, np.int16)
    assert "section through the body is 0" in strangeness(air, SPACING, HU, {ENTRY: seen()})[0]


@pytest.mark.parametrize(
    "entry",
    [None, 3, "x", [], {"body_cm2": [1]}, {"body_cm2": ["a", "b"]}, {"body_cm2": [9, 1]}, {"unknown": [0, 0]},
     {"body_cm2": [True, True]}, {"body_cm2": [-5.0, -1.0]}],
)  # fmt: skip
def test_ranges_that_make_no_sense_are_left_out(entry):
    assert strangeness(scan(1, "chest", 14), SPACING, HU, {ENTRY: entry} if entry is not None else {}) == []


def test_a_body_part_that_the_model_does_not_know_is_said_before_the_result(tiny_model):
    model = bare(tiny_model, training={ENTRY: seen()})
    for array, warned in ((scan(1, "chest", 14), True), (scan(11), False)):
        events = []
        segment_volume(volume_of(array), model, Fake(), on_event=events.append)
        first = [event.message for event in events if isinstance(event, Notice)]
        assert any("unlike those that the model was trained on" in message for message in first) is warned


def test_what_a_training_has_seen_is_that_of_the_patients_with_liver():
    options = PhantomOptions(shape=(12, 60, 60), spacing=(18.0, 7.0, 7.0))
    samples, patients, expected = [], [], []
    for seed, region in ((1, "liver"), (2, "chest"), (3, "liver")):
        phantom = make_phantom(seed, dataclasses.replace(options, region=region))
        masks = liver_target(phantom.labels).array
        for image, mask in zip(phantom.volume.array, masks, strict=True):
            samples.append(SliceSample(image.astype(np.float32), mask, (7.0, 7.0)))
            patients.append(f"patient {seed}")
        if masks.any():
            expected.append(measure(phantom.volume.array, (math.nan, 7.0, 7.0), HU))
    found = ranges_seen(InMemorySource(samples, patients), HU)
    assert len(expected) == 2 and found == ranges(expected) and "slice_mm" not in found
