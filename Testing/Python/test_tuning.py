"""Threshold and post-processing chosen on images whose truth is known."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from model_tools import SQUARE, Fake, bare, one_sentence, tiny_bundle, tiny_unet3d_bundle

from LiverMarginLib.errors import BundleError, Cancelled, InputError
from LiverMarginLib.events import CancelToken
from LiverMarginLib.inference.resemblance import ENTRY
from LiverMarginLib.inference.tuning import tune
from LiverMarginLib.jobs import run
from LiverMarginLib.jobs.tune import TuneJob
from LiverMarginLib.models.bundle import Bundle
from LiverMarginLib.models.manifest import FillHoles, Postprocessing
from LiverMarginLib.volume import Geometry, IntensityKind, Modality, Volume


def image(probability_of: dict[tuple[int, int, int], float], truth: set[tuple[int, int, int]]):
    """An image that `Fake` takes for probabilities, in blocks of 8 x 8 pixels, and its truth."""
    array = np.full((3, 32, 32), -160, np.int16)
    mask = np.zeros((3, 32, 32), bool)
    for (k, j, i), probability in probability_of.items():
        array[k, 8 * j : 8 * j + 8, 8 * i : 8 * i + 8] = -160 + 400 * probability
    for k, j, i in truth:
        mask[k, 8 * j : 8 * j + 8, 8 * i : 8 * i + 8] = True
    return lambda: (Volume(array, Geometry(array.shape, SQUARE), Modality.CT, IntensityKind.HU), mask)


ORGAN = {(k, j, 1) for k in range(3) for j in (1, 2)}
FAINT = image(dict.fromkeys(ORGAN, 0.42), ORGAN)  # the liver is there from 0.4 on
SPECK = image({**dict.fromkeys(ORGAN, 0.9), (0, 1, 3): 0.9}, ORGAN)
NOTHING = image({(1, 1, 1): 0.37}, set())


def test_the_threshold_with_the_best_mean_is_taken(tiny_model):
    done: list[int] = []
    found = tune(tiny_model, Fake(), [FAINT, NOTHING], done.append, CancelToken())
    assert found.own.threshold == 0.5 and found.own.score == pytest.approx(0.5)
    assert found.best.threshold == 0.4 and found.best.score == pytest.approx(1.0)
    assert found.by_threshold[0.35] == pytest.approx(0.5) and done == [1, 2]


def test_the_largest_piece_is_kept_where_that_gains(tiny_model):
    loose = bare(tiny_model, postprocessing=Postprocessing(min_volume_ml=0.001))
    found = tune(loose, Fake(), [SPECK], lambda done: None, CancelToken())
    assert found.best.postprocessing == Postprocessing(True, FillHoles.NONE, 0.001)
    assert found.best.score == pytest.approx(1.0) and found.own.score < 0.95


def test_what_gains_nothing_stays_as_it_was(tiny_model):
    own = Postprocessing(False, FillHoles.VOLUME)
    sure = image(dict.fromkeys(ORGAN, 0.95), ORGAN)
    model = bare(tiny_model, postprocessing=own, thresholds={"mask": 0.62})
    found = tune(model, Fake(), [sure], lambda done: None, CancelToken())
    assert found.best == found.own and (found.best.threshold, found.best.postprocessing) == (0.62, own)


def test_the_network_runs_once_for_each_image(tiny_model):
    network = Fake()
    tune(tiny_model, network, [FAINT, SPECK], lambda done: None, CancelToken())
    assert sum(network.batches) == 2 * 3


def test_tuning_can_be_cancelled(tiny_model):
    token = CancelToken()
    token.cancel()
    with pytest.raises(Cancelled):
        tune(tiny_model, Fake(), [FAINT], lambda done: None, token)


def test_the_job_writes_the_same_weights_with_a_record_and_keeps_a_card_that_somebody_wrote(tmp_path):
    source = tiny_bundle(tmp_path / "source")
    (source.folder / "README.md").write_text("By hand.")
    job = TuneJob(str(source.folder), str(tmp_path / "out"), 4, (6, 32, 32), (30.0, 12.0, 12.0))
    result = run(job)
    tuned = Bundle.load(tmp_path / "out")
    assert tuned.manifest.weights == source.manifest.weights
    assert tuned.manifest.training["tuned"]["phantoms"] == 4
    assert result["dice"] >= result["dice_before"] and tuned.manifest.mask_threshold == result["threshold"]
    assert set(tuned.manifest.training[ENTRY]) >= {"body_cm2", "lung_share", "bone_share", "width_mm"}
    assert (tuned.folder / "README.md").read_text() == "By hand."
    with pytest.raises(InputError, match="exists already"):
        run(job)


def test_models_that_no_phantom_suits_are_refused(tmp_path, tiny_model):
    volumetric = tiny_unet3d_bundle(tmp_path / "blocks")
    with pytest.raises(BundleError, match="not a slice-wise model") as caught:
        run(TuneJob(str(volumetric.folder), str(tmp_path / "out")))
    assert one_sentence(caught.value.message)
    job = TuneJob(str(tiny_model.folder), str(tmp_path / "out"), phantoms=1)
    for wrong in (job, dataclasses.replace(job, phantoms=201)):
        with pytest.raises(InputError, match="2 to 200"):
            run(wrong)
