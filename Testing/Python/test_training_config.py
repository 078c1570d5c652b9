"""Configurations as plain data, and the shipped profiles."""

from __future__ import annotations

import json

import pytest

from LiverMarginLib.errors import InputError
from LiverMarginLib.training.config import AugmentationConfig, Decay, LossKind, OptimiserKind, TrainConfig
from LiverMarginLib.training.profiles import PROFILES, profile

PROBABILITIES = [name for name in AugmentationConfig.__annotations__ if name.endswith("_p")]
SHIPPED = [(model, name) for model, profiles in PROFILES.items() for name in profiles]


@pytest.mark.parametrize(("model", "name"), SHIPPED)
def test_every_profile_survives_json(model: str, name: str) -> None:
    config = profile(model, name)
    assert config.model == model
    assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_the_paper_profile_is_the_recipe_that_the_paper_names() -> None:
    paper = profile("unet", "paper")
    assert paper.loss.kind is LossKind.BCE
    assert (paper.optimiser.kind, paper.optimiser.learning_rate) == (OptimiserKind.ADAM, 1e-3)
    used = {
        name for name in AugmentationConfig.__annotations__ if name.endswith("_p") and getattr(paper.augmentation, name)
    }
    assert used == {"rotation_p", "scale_p", "elastic_p"}
    assert paper.size == 512


def test_the_robust_profile_uses_every_augmentation_but_mirrors() -> None:
    robust = profile("unet", "robust").augmentation
    assert {n for n in AugmentationConfig.__annotations__ if n.endswith("_p") and not getattr(robust, n)} == {
        "mirror_p"
    }


def test_what_a_person_leaves_out_is_the_default() -> None:
    config = TrainConfig.from_dict({"epochs": 3, "schedule": {"decay": "cosine"}, "window": [-100, 200]})
    assert (config.epochs, config.schedule.decay, config.window) == (3, Decay.COSINE, (-100.0, 200.0))
    assert config.batch == TrainConfig().batch


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"epoch": 3}, "'epoch' is not known"),
        ({"epochs": "3"}, "'training.epochs' is '3'"),
        ({"epochs": True}, "'training.epochs' is True"),
        ({"epochs": 0}, "greater than zero"),
        ({"schedule": {"decay": "linear"}}, "choose one of constant, poly, cosine, plateau"),
        ({"schedule": 3}, "table of names and values"),
        ({"optimiser": {"rate": 1}}, "'rate' is not known"),
        ({"window": [1]}, "needs 2 values"),
        ({"window": [200, -100]}, "window"),
        ({"seed": -1}, "seed"),
    ],
)
def test_a_setting_that_cannot_be_used_is_refused_with_one_sentence(values: dict, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        TrainConfig.from_dict(values)


def test_an_unknown_profile_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match="paper, robust"):
        profile("unet", "best")
    with pytest.raises(InputError, match="unet, unet3d, medformer, dncnn-sr"):
        profile("vnet", "paper")
