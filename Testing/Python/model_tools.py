"""Small models for tests: random weights of a fixed seed, and what a run of them must look like."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from LiverMarginLib.models.bundle import Bundle, save_bundle
from LiverMarginLib.models.manifest import Manifest, Window
from LiverMarginLib.models.unet import UNet
from LiverMarginLib.terminology import LIVER
from LiverMarginLib.volume import IntensityKind, Modality

TINY_WIDTHS = (4, 8, 12)


def tiny_manifest(**changes) -> Manifest:
    """Manifest of a CT model of 32 x 32 pixels; keyword arguments replace its fields."""
    manifest = Manifest(
        name="tiny",
        version="1.0.0",
        architecture="unet",
        parameters={"in_channels": 1, "classes": 1, "widths": list(TINY_WIDTHS), "dropout": 0.1},
        modality=Modality.CT,
        input_kind=IntensityKind.HU,
        window=Window(-160.0, 240.0),
        input_size=(32, 32),
        labels=(LIVER,),
        training={"data": "none: random weights", "steps": 0},
        licence="Apache-2.0",
        description="Random weights, for tests.",
    )
    return dataclasses.replace(manifest, **changes)


def tiny_unet(seed: int = 0, **changes) -> UNet:
    """U-Net with biases, too, of a fixed seed, whose probabilities lie on both sides of 0.5."""
    torch.manual_seed(seed)
    parameters = {"in_channels": 1, "classes": 1, "widths": TINY_WIDTHS, "dropout": 0.1} | changes
    net = UNet(**parameters)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.ndim == 1:
                parameter.uniform_(-0.1, 0.1)
        logits = net.eval()(torch.rand(4, parameters["in_channels"], 32, 32))
        net.head.bias -= logits.mean(dim=(0, 2, 3))
    return net


def tiny_bundle(folder: Path, *, half: bool = False, onnx: bool = True, seed: int = 0, **changes) -> Bundle:
    """Save and load a tiny U-Net bundle; `changes` go into its manifest."""
    manifest = tiny_manifest(**changes)
    net = tiny_unet(seed, in_channels=manifest.channels, classes=len(manifest.labels))
    save_bundle(folder, manifest, module=net, half=half, onnx=onnx)
    return Bundle.load(folder)
