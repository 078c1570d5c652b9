"""The trainings that ship: for each network, named descriptions of a whole training.

This module does not import torch, so that a panel can list them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from LiverMarginLib.errors import InputError
from LiverMarginLib.models.volumetric_fields import NormalisationKind
from LiverMarginLib.training.config import (
    AugmentationConfig,
    Decay,
    DegradationConfig,
    LossConfig,
    LossKind,
    OptimiserConfig,
    OptimiserKind,
    ScheduleConfig,
    TrainConfig,
)
from LiverMarginLib.training.volume_config import Preparation, VolumeConfig

# The liver-margin paper names rotation, scaling and elastic deformation; its rates, batch and epochs are not given,
# and these are the defaults of the public Keras network that its Table 4 repeats number for number.
_PAPER_UNET = TrainConfig(
    model="unet",
    loss=LossConfig(LossKind.BCE),
    optimiser=OptimiserConfig(OptimiserKind.ADAM, 1e-3),
    augmentation=AugmentationConfig(rotation_p=0.5, rotation=15.0, scale_p=0.5, scale=(0.9, 1.1), elastic_p=0.3),
    batch=8,
    epochs=100,
    early_stopping=15,
)

# nnU-Net's list of augmentations with its probabilities, less mirrors and half turns (a mirrored liver is situs
# inversus), plus elastic deformation and off-centre fields of view.
_ROBUST_UNET = replace(
    _PAPER_UNET,
    loss=LossConfig(LossKind.BCE_DICE),
    optimiser=OptimiserConfig(OptimiserKind.ADAMW, 1e-3, weight_decay=1e-2, clip_norm=1.0, ema_decay=0.999),
    schedule=ScheduleConfig(Decay.COSINE, warmup_steps=200, floor=0.01),
    augmentation=AugmentationConfig(
        rotation_p=0.3,
        rotation=30.0,
        scale_p=0.3,
        elastic_p=0.2,
        crop_p=0.2,
        noise_p=0.15,
        blur_p=0.2,
        brightness_p=0.15,
        contrast_p=0.15,
        low_resolution_p=0.25,
        gamma_p=0.3,
        inverted_gamma_p=0.1,
    ),
    epochs=200,
    early_stopping=40,
)

# Learns phantoms of 256 pixels on two CPU cores while one waits: they need few of the variations.
_SMALL_UNET = replace(
    _ROBUST_UNET,
    optimiser=OptimiserConfig(OptimiserKind.ADAMW, 2e-3, weight_decay=1e-2, clip_norm=1.0, ema_decay=0.99),
    schedule=ScheduleConfig(Decay.COSINE, warmup_steps=100, floor=0.01),
    augmentation=AugmentationConfig(rotation_p=0.3, scale_p=0.3, scale=(0.8, 1.25), gamma_p=0.2, noise_p=0.1),
    size=256,
    epochs=8,
    steps_per_epoch=100,
    validate_every=4,
    early_stopping=None,
)

# The dilated bottleneck alone sees 88 pixels to every side: on patches not much larger than that, a network learns the
# zeros around them, and is then at a loss in a whole slice.
_ROBUST_DNCNN_SR = TrainConfig(
    model="dncnn-sr",
    model_options={"scale": 1},
    loss=LossConfig(LossKind.MSE_SSIM),
    optimiser=OptimiserConfig(OptimiserKind.ADAM, 1e-3, clip_norm=1.0, ema_decay=0.999),
    schedule=ScheduleConfig(Decay.COSINE, warmup_steps=100, floor=0.01),
    size=256,
    batch=8,
    epochs=100,
    early_stopping=20,
)

# A quarter of the arithmetic, for two CPU cores.
_SMALL_DNCNN_SR = replace(
    _ROBUST_DNCNN_SR,
    model_options={"scale": 1, "width": 16},
    optimiser=OptimiserConfig(OptimiserKind.ADAM, 2e-3, clip_norm=1.0, ema_decay=0.99),
    batch=4,
    epochs=8,
    steps_per_epoch=100,
    validate_every=4,
    early_stopping=None,
)

# Table 5 with Detectron2's own solver: 0.02 for 16 images a step, scaled to the batch (Goyal et al. 2017), and falls
# after 7/9 and 25/27. The paper names no epochs; from scratch these are about 90,000 steps of its 1,332 slices.
_PAPER_DETECTRON2 = TrainConfig(
    model="detectron2",
    optimiser=OptimiserConfig(OptimiserKind.SGD, 0.01, weight_decay=1e-4, momentum=0.9),
    schedule=ScheduleConfig(warmup_steps=1000),
    batch=8,
    epochs=540,
    validate_every=10,
    early_stopping=10,
)

# Group normalisation learns from small batches; finer masks lift the ceiling of the 28 x 28 head.
_ROBUST_DETECTRON2 = replace(
    _PAPER_DETECTRON2,
    model_options={"depth": 50, "norm": "GN", "mask": 112},
    optimiser=OptimiserConfig(OptimiserKind.ADAMW, 2e-4, weight_decay=1e-2, clip_norm=1.0, ema_decay=0.999),
    schedule=ScheduleConfig(Decay.COSINE, warmup_steps=500),
    augmentation=_ROBUST_UNET.augmentation,
    epochs=200,
    validate_every=5,
)

# Learns phantoms of 256 pixels on two CPU cores while one waits.
_SMALL_DETECTRON2 = replace(
    _PAPER_DETECTRON2,
    model_options={
        "depth": 18,
        "norm": "GN",
        "fpn_channels": 64,
        "mask_channels": 64,
        "box_width": 256,
        "rpn_batch": 64,
        "roi_batch": 32,
    },
    optimiser=OptimiserConfig(OptimiserKind.ADAMW, 5e-4, weight_decay=1e-2, clip_norm=1.0, ema_decay=0.99),
    schedule=ScheduleConfig(Decay.COSINE, warmup_steps=50),
    augmentation=AugmentationConfig(rotation_p=0.3, scale_p=0.3, scale=(0.8, 1.25)),
    size=256,
    batch=4,
    epochs=10,
    steps_per_epoch=100,
    validate_every=5,
    early_stopping=None,
)

# mlf-core's liver-ct-segmentation to the number: network, loss, optimiser, preparation. Where its published code and
# its recorded runs differ (batch 1 or 4, 1000 or 1201 epochs), the defaults of the code are taken for the epochs and
# the runs' for the batch.
_MLF_UNET3D = TrainConfig(
    model="unet3d",
    model_options={"widths": [32, 64, 128], "dropout": 0.25},
    window=(-1024.0, 3071.0),
    volume=VolumeConfig(
        patch=(128, 128, 128),
        spacing=(2.0, 2.0, 2.0),
        preparation=Preparation.MLF_CORE,
        normalisation=NormalisationKind.NONE,
        localiser="unet-ct",
        margin_mm=30.0,
    ),
    loss=LossConfig(LossKind.FOCAL, focal_gamma=2.0, class_weights=(0.2, 1.0, 2.5)),
    optimiser=OptimiserConfig(OptimiserKind.ADAM, 1e-4),
    schedule=ScheduleConfig(Decay.PLATEAU, floor=0.01, plateau_factor=0.1, patience=10, plateau_on_loss=True),
    batch=4,
    epochs=1000,
    validate_every=10,
)

_VOLUME_AUGMENTATION = AugmentationConfig(
    rotation_p=0.3,
    rotation=15.0,
    scale_p=0.3,
    scale=(0.8, 1.25),
    noise_p=0.15,
    blur_p=0.1,
    contrast_p=0.15,
    gamma_p=0.2,
)

# The same network in millimetres: what liver-ct-segmentation would be without the faults of its preparation.
_SPACING_AWARE_UNET3D = replace(
    _MLF_UNET3D,
    model_options={"widths": [32, 64, 128], "dropout": 0.25, "input_dropout": 0.0},
    window=(-160.0, 240.0),
    volume=VolumeConfig(patch=(128, 128, 128), spacing=(1.5, 1.5, 1.5), localiser="unet-ct", margin_mm=30.0),
    augmentation=_VOLUME_AUGMENTATION,
    batch=2,
)

# Learns liver and tumour of phantoms on two CPU cores while one waits.
_SMALL_UNET3D = replace(
    _SPACING_AWARE_UNET3D,
    model_options={"widths": [8, 16, 32], "dropout": 0.0, "input_dropout": 0.0},
    volume=VolumeConfig(patch=(40, 40, 40), spacing=(5.0, 5.0, 5.0), foreground=0.5),
    loss=LossConfig(LossKind.CE_DICE),
    optimiser=OptimiserConfig(OptimiserKind.ADAMW, 3e-3, weight_decay=1e-2, clip_norm=1.0, ema_decay=0.99),
    schedule=ScheduleConfig(Decay.COSINE, warmup_steps=50, floor=0.01),
    augmentation=AugmentationConfig(rotation_p=0.2, scale_p=0.2, scale=(0.85, 1.2), noise_p=0.15, contrast_p=0.15),
    epochs=10,
    steps_per_epoch=100,
    validate_every=5,
)

# The second of two stages, behind a liver model: finer voxels, for it sees the liver's surroundings alone. Normalised
# over the batch: over a single patch inside the liver, that would take away what tells the liver from all else.
_CROP_SMALL_UNET3D = replace(
    _SMALL_UNET3D,
    volume=replace(_SMALL_UNET3D.volume, patch=(32, 32, 32), spacing=(3.5, 3.5, 3.5), foreground=0.7),
    loss=LossConfig(LossKind.CE_DICE, class_weights=(0.5, 1.0, 4.0)),
    epochs=6,
    validate_every=3,
)

# For trying things out and for repeating them: learns little, but in a minute or two.
_TINY_UNET3D = replace(
    _SMALL_UNET3D,
    model_options={"widths": [8, 16, 32], "dropout": 0.1, "input_dropout": 0.0},
    volume=VolumeConfig(patch=(32, 32, 32), spacing=(6.0, 6.0, 6.0), foreground=0.5),
    schedule=ScheduleConfig(Decay.COSINE, warmup_steps=10, floor=0.01),
    epochs=3,
    steps_per_epoch=40,
)

# One preset for any organ and few subjects; see training/few_shot.py, which measures intensities on the training
# subjects. Mirrors would teach a left-sided liver. 8 GB of GPU memory are enough: see docs/training.md.
_FEW_SHOT = replace(
    _SPACING_AWARE_UNET3D,
    model_options={"widths": [24, 48, 96, 192, 320], "dropout": 0.0, "input_dropout": 0.0, "norm": "instance"},
    volume=VolumeConfig(
        patch=(96, 96, 96),
        spacing=(1.5, 1.5, 1.5),
        normalisation=NormalisationKind.Z_SCORE,
        largest_component=False,
    ),
    loss=LossConfig(LossKind.CE_DICE),
    optimiser=OptimiserConfig(OptimiserKind.ADAMW, 1e-3, weight_decay=1e-2, clip_norm=1.0, ema_decay=0.999),
    schedule=ScheduleConfig(Decay.COSINE, warmup_steps=100, floor=0.01),
    augmentation=AugmentationConfig(
        rotation_p=0.3,
        rotation=20.0,
        scale_p=0.3,
        noise_p=0.15,
        blur_p=0.15,
        brightness_p=0.15,
        contrast_p=0.15,
        low_resolution_p=0.15,
        gamma_p=0.3,
    ),
    batch=2,
    epochs=20,
    steps_per_epoch=500,
    validate_every=20,
)

# The same on a coarse grid, for two CPU cores.
_SMALL_FEW_SHOT = replace(
    _FEW_SHOT,
    model_options={"widths": [8, 16, 32, 64], "dropout": 0.0, "input_dropout": 0.0, "norm": "instance"},
    volume=replace(_FEW_SHOT.volume, patch=(48, 48, 48), spacing=(4.0, 4.0, 4.0)),
    optimiser=replace(_FEW_SHOT.optimiser, learning_rate=3e-3, ema_decay=0.98),
    schedule=replace(_FEW_SHOT.schedule, warmup_steps=20),
    epochs=1,
    steps_per_epoch=200,
    validate_every=1,
)

# MedFormer's published recipe for LiTS (Gao et al. 2022; the public configuration of their repository): millimetres,
# window, patch, optimiser, schedule, weights of the classes, average of the weights, probabilities of the variations.
# Not repeated: mirrors, which would teach a left-sided liver, and the adaptive share of each class's Dice. The liver's
# box comes from a localiser in use, as it did from the reference there. The batch is not stated.
_LITS_MEDFORMER = TrainConfig(
    model="medformer",
    model_options={},
    window=(-17.0, 201.0),
    volume=VolumeConfig(
        patch=(128, 128, 128),
        spacing=(1.0, 0.767578125, 0.767578125),
        normalisation=NormalisationKind.Z_SCORE,
        mean=99.40,
        deviation=39.39,
        localiser="unet-ct",
        margin_mm=20.0,
    ),
    loss=LossConfig(LossKind.CE_DICE, class_weights=(0.5, 1.0, 3.0)),
    optimiser=OptimiserConfig(OptimiserKind.ADAMW, 4e-4, weight_decay=0.05, ema_decay=0.99),
    schedule=ScheduleConfig(Decay.POLY, warmup_steps=2500, power=0.9),
    augmentation=AugmentationConfig(
        rotation_p=0.2,
        rotation=30.0,
        scale_p=0.2,
        scale=(0.7, 1.3),
        noise_p=0.15,
        brightness_p=0.15,
        contrast_p=0.15,
        gamma_p=0.15,
    ),
    batch=2,
    epochs=200,
    steps_per_epoch=500,
    validate_every=10,
)

# The same network with half a million weights instead of 38.6, for phantoms on two CPU cores.
_SMALL_MEDFORMER = replace(
    _SMALL_UNET3D,
    model="medformer",
    model_options={
        "widths": [8, 16, 24, 32, 48],
        "blocks": [1, 1, 1, 1, 1],
        "convolutions": 1,
        "expansion": 2,
        "fusion_width": 32,
        "fusion_depth": 1,
        "fusion_heads": 4,
    },
    volume=replace(_SMALL_UNET3D.volume, patch=(48, 48, 48)),
)

# Networks that learn from whole volumes; 2-D networks learn from slices.
_VOLUMETRIC = frozenset({"unet3d", "medformer"})

PROFILES: Mapping[str, Mapping[str, TrainConfig]] = {
    "unet": {"paper": _PAPER_UNET, "robust": _ROBUST_UNET, "small": _SMALL_UNET},
    "unet3d": {
        "mlf_compat": _MLF_UNET3D,
        "spacing_aware": _SPACING_AWARE_UNET3D,
        "small": _SMALL_UNET3D,
        "crop_small": _CROP_SMALL_UNET3D,
        "tiny": _TINY_UNET3D,
        "few_shot": _FEW_SHOT,
        "few_shot_small": _SMALL_FEW_SHOT,
    },
    "medformer": {
        "lits": _LITS_MEDFORMER,
        "small": _SMALL_MEDFORMER,
        "crop_small": replace(
            _SMALL_MEDFORMER,
            volume=_CROP_SMALL_UNET3D.volume,
            loss=_CROP_SMALL_UNET3D.loss,
            epochs=6,
            validate_every=3,
        ),
    },
    "dncnn-sr": {
        # The paper trains noisy low-resolution to clean high-resolution images and gives no scale factor.
        "paper": replace(
            _ROBUST_DNCNN_SR,
            model_options={"scale": 2},
            optimiser=OptimiserConfig(OptimiserKind.ADAM, 1e-3),
            schedule=ScheduleConfig(),
            degradation=DegradationConfig(streaks_p=0.0),
        ),
        "robust": _ROBUST_DNCNN_SR,
        "robust-x2": replace(_ROBUST_DNCNN_SR, model_options={"scale": 2}),
        "small": _SMALL_DNCNN_SR,
        "small-x2": replace(_SMALL_DNCNN_SR, model_options={"scale": 2, "width": 16}),
    },
    "detectron2": {
        "paper": _PAPER_DETECTRON2,
        "robust": _ROBUST_DETECTRON2,
        "small": _SMALL_DETECTRON2,
        "small-112": replace(_SMALL_DETECTRON2, model_options={**_SMALL_DETECTRON2.model_options, "mask": 112}),
    },
}


def profile(model: str, name: str) -> TrainConfig:
    """Return the shipped configuration `name` of `model`.

    Raises
    ------
    InputError
        If there is none of that name; the message lists those there are.
    """
    if model not in PROFILES:
        raise InputError(f"There is no trainable model '{model}'; choose one of {', '.join(PROFILES)}.")
    if name not in PROFILES[model]:
        raise InputError(f"The model '{model}' has no profile '{name}'; choose one of {', '.join(PROFILES[model])}.")
    return PROFILES[model][name]


def default_profile(model: str) -> str:
    """Return the profile that is taken where none is named."""
    names = PROFILES.get(model, {})
    return "robust" if "robust" in names or not names else next(iter(names))


def is_volumetric(model: str) -> bool:
    """Whether the network `model` learns from blocks of whole volumes instead of slices."""
    return model in _VOLUMETRIC


def weighs_slices(model: str) -> bool:
    """Whether the losses of the network `model` count the slices of a data set by its weight."""
    return model == "unet"
