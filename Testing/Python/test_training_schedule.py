"""Learning rates against torch's own schedulers."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from LiverMarginLib.training.config import Decay, OptimiserConfig, OptimiserKind, ScheduleConfig  # noqa: E402
from LiverMarginLib.training.schedule import LearningRate, build_optimiser, rate_factor  # noqa: E402


def optimiser(rate: float = 0.1) -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)


@pytest.mark.parametrize(
    ("config", "build"),
    [
        (
            ScheduleConfig(Decay.POLY, power=0.9),
            lambda o: torch.optim.lr_scheduler.PolynomialLR(o, total_iters=20, power=0.9),
        ),
        (ScheduleConfig(Decay.COSINE), lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=20)),
        (
            ScheduleConfig(Decay.COSINE, floor=0.1),
            lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=20, eta_min=0.01),
        ),
        (ScheduleConfig(Decay.CONSTANT), lambda o: torch.optim.lr_scheduler.ConstantLR(o, factor=1.0)),
    ],
)
def test_the_decay_is_that_of_torch(config: ScheduleConfig, build) -> None:
    reference = optimiser()
    scheduler = build(reference)
    for step in range(20):
        assert 0.1 * rate_factor(config, step, 20) == pytest.approx(reference.param_groups[0]["lr"], abs=1e-9)
        reference.step()
        scheduler.step()


def test_the_warm_up_is_linear_and_the_decay_begins_after_it() -> None:
    config = ScheduleConfig(Decay.POLY, warmup_steps=4, power=1.0)
    assert [rate_factor(config, step, 8) for step in range(8)] == pytest.approx(
        [0.25, 0.5, 0.75, 1, 1, 0.75, 0.5, 0.25]
    )


def test_the_plateau_is_that_of_torch() -> None:
    scores = [0.1, 0.5, 0.4, 0.5, 0.3, 0.6, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2]
    reference = optimiser()
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(reference, mode="max", factor=0.5, patience=1, threshold=0)
    ours = LearningRate(optimiser(), ScheduleConfig(Decay.PLATEAU, plateau_factor=0.5, patience=1), 100)
    for step, score in enumerate(scores):
        scheduler.step(score)
        ours.report(score)
        assert ours.set(step) == pytest.approx(reference.param_groups[0]["lr"])


def test_a_plateau_goes_on_from_its_state() -> None:
    config = ScheduleConfig(Decay.PLATEAU, patience=1)
    first, second = (LearningRate(optimiser(), config, 100) for _ in range(2))
    for score in (0.5, 0.4):
        first.report(score)
    second.load_state_dict(first.state_dict())
    second.report(0.3)
    assert second.set(0) == pytest.approx(0.01)


def test_every_optimiser_gets_its_settings() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    for kind, name in ((OptimiserKind.ADAM, "Adam"), (OptimiserKind.ADAMW, "AdamW"), (OptimiserKind.SGD, "SGD")):
        built = build_optimiser(OptimiserConfig(kind, 0.02, weight_decay=0.3, momentum=0.8), [parameter])
        assert type(built).__name__ == name
        assert built.defaults["lr"] == 0.02 and built.defaults["weight_decay"] == 0.3
    assert built.defaults["momentum"] == 0.8 and built.defaults["nesterov"]
