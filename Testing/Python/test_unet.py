"""The U-Net of Table 4, against the numbers that the paper and the public Keras network of the same size give."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from LiverMarginLib.models.unet import UNet

# Parameters of each layer in order, from the contracting path through the transposed convolutions to the head.
TABLE_4_PARAMETERS = [
    *(160, 2320, 4640, 9248, 18496, 36928, 73856, 147584, 295168, 590080),
    *(131200, 295040, 147584, 32832, 73792, 36928, 8224, 18464, 9248, 2064, 4624, 2320),
    17,
]


def layers_in_order(net: UNet, image: torch.Tensor) -> list[tuple[nn.Module, torch.Tensor]]:
    """Leaf modules in the order in which they run, each with its output."""
    calls = []
    hooks = [
        module.register_forward_hook(lambda m, _, output: calls.append((m, output)))
        for module in net.modules()
        if not list(module.children())
    ]
    net(image)
    for hook in hooks:
        hook.remove()
    return calls


@pytest.fixture(scope="module")
def calls():
    with torch.device("meta"):
        return layers_in_order(UNet(), torch.zeros(1, 1, 512, 512))


def test_the_network_has_the_1_940_817_parameters_of_table_4():
    assert sum(p.numel() for p in UNet().parameters()) == 1_940_817
    assert sum(p.numel() for p in UNet(in_channels=3).parameters()) == 1_941_105


def test_every_layer_has_the_parameters_of_table_4(calls):
    counts = [sum(p.numel() for p in module.parameters()) for module, _ in calls]
    assert [count for count in counts if count] == TABLE_4_PARAMETERS


def test_there_are_nineteen_convolutions_and_four_transposed_ones(calls):
    modules = [module for module, _ in calls]
    assert sum(isinstance(module, nn.Conv2d) for module in modules) == 19
    assert sum(isinstance(module, nn.ConvTranspose2d) for module in modules) == 4


def test_one_slice_of_512_by_512_takes_12_05_billion_multiplications(calls):
    total = 0
    for module, output in calls:
        if isinstance(module, nn.Conv2d):
            total += output.numel() * math.prod(module.weight.shape[1:])
        elif isinstance(module, nn.ConvTranspose2d):
            # Stride equals kernel size: each output pixel sees one kernel position of each input channel.
            total += output.numel() * module.in_channels
    assert total / 1e9 == pytest.approx(12.05, abs=0.005)


def test_dropout_lies_between_the_convolutions_with_the_rates_of_the_keras_network(calls):
    modules = [module for module, _ in calls]
    dropouts = [n for n, module in enumerate(modules) if isinstance(module, nn.Dropout)]
    assert [modules[n].p for n in dropouts] == pytest.approx([0.1, 0.1, 0.2, 0.2, 0.3, 0.2, 0.2, 0.1, 0.1])
    for n in dropouts:
        assert isinstance(modules[n - 1], nn.Conv2d)
        assert isinstance(modules[n + 1], nn.Conv2d)
        assert modules[n - 1].out_channels == modules[n + 1].in_channels


def test_nothing_is_cropped_and_each_level_halves_the_image(calls):
    sides = [output.shape[-1] for module, output in calls if isinstance(module, nn.Conv2d)]
    assert sides == [512, 512, 256, 256, 128, 128, 64, 64, 32, 32, 64, 64, 128, 128, 256, 256, 512, 512, 512]


def test_the_weights_are_initialised_by_he_normal_and_the_biases_are_zero():
    torch.manual_seed(0)
    net = UNet()
    for name, parameter in net.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any()
        elif "conv" in name and parameter.numel() > 2000:
            fan_in = math.prod(parameter.shape[1:])
            assert parameter.std().item() == pytest.approx(math.sqrt(2 / fan_in), rel=0.08)


def test_the_output_is_logits_and_not_probabilities():
    torch.manual_seed(0)
    output = UNet(widths=(4, 8)).eval()(10 * torch.randn(1, 1, 16, 16))
    assert output.shape == (1, 1, 16, 16)
    assert output.min() < 0 or output.max() > 1


def test_every_parameter_learns():
    torch.manual_seed(0)
    net = UNet(widths=(4, 8, 12), classes=2)
    nn.functional.binary_cross_entropy_with_logits(net(torch.rand(2, 1, 16, 16)), torch.ones(2, 2, 16, 16)).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in net.parameters())
