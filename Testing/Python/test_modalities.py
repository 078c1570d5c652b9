"""One network for CT and MR: what its manifest says, and as which of them an image is taken."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from model_tools import tiny_bundle, tiny_unet3d_bundle, tiny_unet3d_manifest

from LiverMarginLib.batch.discovery import Choice
from LiverMarginLib.errors import BundleError, InputError
from LiverMarginLib.events import Notice
from LiverMarginLib.inference.compatibility import input_of
from LiverMarginLib.inference.model import load_model
from LiverMarginLib.models.card import model_card
from LiverMarginLib.models.intensity_fields import ModalityInput, Window, WindowUnit
from LiverMarginLib.models.manifest import Manifest, Postprocessing
from LiverMarginLib.models.volumetric_fields import Localiser, Normalisation, NormalisationKind
from LiverMarginLib.terminology import LIVER, LIVER_MASS
from LiverMarginLib.volume import Geometry, IntensityKind, Modality, Volume

MR_INPUT = ModalityInput(
    Modality.MR,
    IntensityKind.ARBITRARY,
    Window(2, 98, WindowUnit.PERCENTILE),
    Normalisation(NormalisationKind.Z_SCORE),
    Localiser("finds-mr", 8.0),
)
SHAPE = (12, 32, 32)
BLOCK = np.s_[3:9, 8:22, 16:28]
AT_4_MM = np.diag([-4.0, -4.0, 4.0, 1.0])


def image(modality: Modality = Modality.UNKNOWN, intensity=IntensityKind.ARBITRARY, low=-1000, high=400) -> Volume:
    """A bright block in the dark."""
    array = np.full(SHAPE, low, np.int16)
    array[BLOCK] = high
    return Volume(array, Geometry(SHAPE, AT_4_MM), modality, intensity)


CT_IMAGE = image(Modality.CT, IntensityKind.HU)
MR_IMAGE = image(Modality.MR, low=0, high=700)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    tiny_bundle(folder / "finds-ct", name="finds-ct")
    tiny_bundle(
        folder / "finds-mr",
        name="finds-mr",
        modality=Modality.MR,
        input_kind=IntensityKind.ARBITRARY,
        window=Window(0, 100, WindowUnit.PERCENTILE),
    )
    return tiny_unet3d_bundle(
        folder / "both", name="both", localiser=Localiser("finds-ct", 8.0), other_inputs=(MR_INPUT,)
    )


class Bright:
    """A stand-in of either stage: what is bright is found, as the last of its labels."""

    runtime, device = "fake", "cpu"

    def __init__(self, classes: int, side: int) -> None:
        self.classes = classes
        self.input_size = (side,) * (2 if classes == 1 else 3)
        self.seen: list[float] = []

    def predict(self, batch):
        self.seen.append(float(batch.max()))
        found = (batch > 0.9).astype(np.float32)
        return np.concatenate([*[0.0 * found] * (self.classes - 1), found], axis=1)


def with_stand_ins(bundle):
    """The model with networks that find what is bright."""
    model = load_model(bundle, device="cpu", threads=1)
    second = Bright(2, 16)

    def replaced(one):
        return dataclasses.replace(
            one, segmenter=second, localiser=dataclasses.replace(one.localiser, segmenter=Bright(1, 32))
        )

    return dataclasses.replace(replaced(model), others=tuple(map(replaced, model.others))), second


@pytest.mark.parametrize(("volume", "finder"), [(CT_IMAGE, "finds-ct"), (MR_IMAGE, "finds-mr")])
def test_each_modality_has_its_intensities_and_its_localiser(bundle, volume, finder):
    model, second = with_stand_ins(bundle)
    result = model.segment(volume).labels
    assert result.provenance["localiser"]["name"] == finder
    np.testing.assert_array_equal(result.array == 2, volume.array > 200)
    assert result.segments == (LIVER, LIVER_MASS)
    assert max(second.seen) == 1.0 if volume is CT_IMAGE else max(second.seen) > 1.2  # a window, or a z-score


def test_an_mr_image_is_normalised_by_the_part_that_the_network_sees_as_in_its_training(bundle):
    """A network behind a localiser learns from images that are cut out before they are z-scored."""
    rng = np.random.default_rng(0)
    noisy = MR_IMAGE.array + rng.integers(0, 40, SHAPE, dtype=np.int16)
    brighter = noisy.copy()
    brighter[:, :, :8] += 90  # far from the block, where only the first network looks
    scores = []
    for array in (noisy, brighter):
        model, second = with_stand_ins(bundle)
        model.segment(dataclasses.replace(MR_IMAGE, array=array))
        scores.append(second.seen)
    assert scores[0] == scores[1]
    part = noisy[1:11, 6:24, 14:30].astype(float)  # the block with its margin of 8 mm
    low, high = np.percentile(part, (2, 98))
    clipped = part.clip(low, high)
    assert max(scores[0]) == pytest.approx((high - clipped.mean()) / clipped.std(), rel=1e-4)


def test_an_image_of_unknown_modality_is_taken_for_what_its_values_look_like_and_the_user_is_told(bundle):
    for volume, named in ((image(), "CT"), (image(low=0, high=700), "MR")):
        model, _ = with_stand_ins(bundle)
        events = []
        result = model.segment(volume, None, events.append).labels
        assert result.provenance["localiser"]["name"] == f"finds-{named.lower()}"
        assert any(f"taken for {named}" in event.message for event in events if isinstance(event, Notice))
        assert any(f"taken for {named}" in text for text in result.provenance["notices"])
        assert result.array.any()


def test_what_is_neither_is_refused(bundle):
    model, _ = with_stand_ins(bundle)
    with pytest.raises(InputError, match="8-bit"):
        model.segment(image(intensity=IntensityKind.EIGHT_BIT, low=0, high=200))
    assert input_of(CT_IMAGE, tiny_unet3d_manifest(modality=Modality.MR)) == (Modality.MR, "")


def test_mr_is_refused_by_the_two_stage_model_for_ct_unless_it_is_wanted(bundle):
    from LiverMarginLib.inference.options import SegmentOptions

    model, _ = with_stand_ins(bundle)
    alone = dataclasses.replace(model, others=())
    with pytest.raises(InputError, match=r"MR but the model .* CT"):
        alone.segment(MR_IMAGE)
    assert alone.segment(MR_IMAGE, SegmentOptions(allow_mismatch=True)).labels.provenance["notices"]


def test_a_network_for_masses_alone_gives_the_liver_of_its_localiser_too(tmp_path):
    tiny_bundle(tmp_path / "finds-ct", name="finds-ct")
    manifest = tiny_unet3d_manifest()
    bundle = tiny_unet3d_bundle(
        tmp_path / "masses",
        labels=(LIVER_MASS,),
        parameters={**manifest.parameters, "classes": 2},
        localiser=Localiser("finds-ct", 8.0, keep_organ=True),
        postprocessing=Postprocessing(),
    )
    model = load_model(bundle, device="cpu", threads=1)

    class Brightest(Bright):
        def predict(self, batch):
            return (batch > 0.99).astype(np.float32)

    second = Brightest(1, 16)
    second.input_size = (16, 16, 16)
    model = dataclasses.replace(
        model, segmenter=second, localiser=dataclasses.replace(model.localiser, segmenter=Bright(1, 32))
    )
    array = CT_IMAGE.array.copy()
    array[BLOCK] = 225  # 0.96 of the window
    array[5:7, 12:15, 16:20] = 400  # at the border of the liver
    result = model.segment(dataclasses.replace(CT_IMAGE, array=array)).labels
    assert result.segments == (LIVER, LIVER_MASS)
    assert [segment.terminology.type.value for segment in result.segments] == ["10200004", "4147007"]
    np.testing.assert_array_equal(result.array, np.where(array == 400, 2, np.where(array == 225, 1, 0)))


def test_the_manifest_survives_and_the_card_says_both(bundle):
    manifest = bundle.manifest
    assert Manifest.from_json(manifest.to_json()) == manifest
    assert manifest.modalities == (Modality.CT, Modality.MR)
    seen = manifest.seen_as(Modality.MR)
    assert (seen.window, seen.localiser, seen.other_inputs) == (MR_INPUT.window, MR_INPUT.localiser, ())
    assert manifest.seen_as(Modality.CT) == dataclasses.replace(manifest, other_inputs=())
    card = model_card(manifest)
    assert "Modality: CT, MR" in card and "For MR instead" in card and "finds-mr, 8 mm" in card
    kept = Localiser("finds-ct", 5.0, keep_organ=True)
    again = Manifest.from_json(dataclasses.replace(manifest, localiser=kept).to_json())
    assert again.localiser == kept and "its organ is part of the result" in model_card(again)


def test_a_batch_takes_series_of_both(bundle):
    choice = Choice.of_model(bundle.manifest, 10, False)
    assert choice.other_modalities == (Modality.MR,) and not choice.wants_hu


def test_the_modules_model_chooser_names_both(bundle, tmp_path):
    from LiverMarginPanels.model_choice import own_model

    assert own_model(bundle.folder).title.endswith("(CT, MR)")


@pytest.mark.parametrize(
    "changes",
    [
        {"modality": "CT"},
        {"modality": "unknown"},
        {"modality": "PET"},
        {"input_kind": "HU"},
        {"localiser": {"model": "both", "margin_mm": 5}},
        {"localiser": {"model": "x", "margin_mm": 5, "keep_organ": 1}},
        {"window": {"low": 5, "high": 2, "unit": "value"}},
        {"extra": 1},
    ],
)
def test_further_inputs_that_make_no_sense_are_refused(bundle, changes):
    values = json.loads(bundle.manifest.to_json())
    values["other_inputs"] = [values["other_inputs"][0] | changes]
    with pytest.raises(BundleError):
        Manifest.from_json(json.dumps(values))


def test_a_missing_localiser_of_one_modality_is_said_when_the_model_is_loaded(tmp_path):
    tiny_bundle(tmp_path / "finds-ct", name="finds-ct")
    bundle = tiny_unet3d_bundle(
        tmp_path / "both", name="both", localiser=Localiser("finds-ct", 8.0), other_inputs=(MR_INPUT,)
    )
    with pytest.raises(BundleError, match="'finds-mr' to find the organ"):
        load_model(bundle)
