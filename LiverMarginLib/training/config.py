"""What a training is: a typed, JSON-serialisable description, and the profiles that ship.

The same `TrainConfig` reaches the trainer from the command line, the Slicer panel and a test; it is stored in every
checkpoint and manifest. This module does not import torch, so that a panel can build one.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import Any, TypeVar, Union

from LiverMarginLib.errors import InputError
from LiverMarginLib.preprocessing import MOST_CONTEXT, SliceContext
from LiverMarginLib.training.volume_config import VolumeConfig
from LiverMarginLib.volume import IntensityKind

T = TypeVar("T")


class LossKind(StrEnum):
    """What is minimised; see `LiverMarginLib.training.losses`."""

    BCE = "bce"
    DICE = "dice"
    BCE_DICE = "bce-dice"
    CE = "ce"
    CE_DICE = "ce-dice"
    FOCAL = "focal"
    MSE_SSIM = "mse-ssim"


class OptimiserKind(StrEnum):
    """Which optimiser of torch."""

    ADAM = "adam"
    ADAMW = "adamw"
    SGD = "sgd"


class Decay(StrEnum):
    """How the learning rate falls after the warm-up."""

    CONSTANT = "constant"
    POLY = "poly"
    COSINE = "cosine"
    PLATEAU = "plateau"


class Precision(StrEnum):
    """Arithmetic of the network. ``auto`` is mixed bfloat16 (or float16) on CUDA and float32 elsewhere."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


@dataclass(frozen=True)
class LossConfig:
    """The loss and its parameters; those of other kinds are ignored.

    `class_weights` (background first) and `focal_smooth` belong to networks whose classes exclude each other, which
    minimise ce, ce-dice, dice or focal; the others minimise bce, dice, bce-dice or focal.
    """

    kind: LossKind = LossKind.BCE
    dice_weight: float = 1.0
    focal_gamma: float = 2.0
    focal_alpha: float = 0.5
    focal_smooth: float = 1e-5
    class_weights: tuple[float, ...] | None = None
    mse_weight: float = 100.0
    ssim_weight: float = 1.0


@dataclass(frozen=True)
class OptimiserConfig:
    """The optimiser, and what keeps its steps tame.

    `clip_norm` bounds the norm of all gradients together. `ema_decay` keeps an exponential moving average of the
    weights, which is then what is validated and delivered; None switches it off. Its first steps use the smaller
    decay (1 + step) / (10 + step), so that the average does not remember the initial weights.
    """

    kind: OptimiserKind = OptimiserKind.ADAM
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    momentum: float = 0.9
    clip_norm: float | None = None
    ema_decay: float | None = None


@dataclass(frozen=True)
class ScheduleConfig:
    """Linear warm-up over `warmup_steps`, then `decay` down to the share `floor` of the base rate.

    `power` belongs to poly; `plateau_factor` and `patience` (validations without a better score) to plateau. With
    `plateau_on_loss` it is the training loss of each epoch that is watched instead.
    """

    decay: Decay = Decay.CONSTANT
    warmup_steps: int = 0
    floor: float = 0.0
    power: float = 0.9
    plateau_factor: float = 0.1
    patience: int = 10
    plateau_on_loss: bool = False


@dataclass(frozen=True)
class AugmentationConfig:
    """How training slices are varied; every ``*_p`` is the probability that a sample gets it. Zero switches it off.

    Angles are in degrees, scales and gammas are factors, elastic displacement and crops are shares of the image's
    side, noise is in units of the windowed image ([0, 1]), blur in pixels. Ranges are (lowest, highest). A crop of a
    slice fills the network's input; one of a volume, drawn for each axis, leaves padding around it, as short scans do.
    """

    rotation_p: float = 0.0
    rotation: float = 15.0
    scale_p: float = 0.0
    scale: tuple[float, float] = (0.7, 1.4)
    elastic_p: float = 0.0
    elastic: float = 0.02
    elastic_grid: int = 6
    crop_p: float = 0.0
    crop: tuple[float, float] = (0.6, 1.0)
    mirror_p: float = 0.0
    noise_p: float = 0.0
    noise: tuple[float, float] = (0.0, 0.1)
    blur_p: float = 0.0
    blur: tuple[float, float] = (0.5, 1.5)
    brightness_p: float = 0.0
    brightness: tuple[float, float] = (0.75, 1.25)
    contrast_p: float = 0.0
    contrast: tuple[float, float] = (0.75, 1.25)
    low_resolution_p: float = 0.0
    low_resolution: tuple[float, float] = (0.5, 1.0)
    gamma_p: float = 0.0
    inverted_gamma_p: float = 0.0
    gamma: tuple[float, float] = (0.7, 1.5)


@dataclass(frozen=True)
class DegradationConfig:
    """How a clean slice becomes DnCNN-SR's input: blur, area down-sampling by the scale, correlated noise, streaks.

    Blur and correlation (Gaussian sigma of the noise's own filter) are in pixels; noise and streaks are standard
    deviations in HU (in grey values for 8-bit images). `identity_p` pairs are not degraded beyond the scale, so that
    the network learns to leave a clean image alone; `flat_p` patches are replaced by a single grey value (half of them
    identity pairs), so that it learns to leave a flat one flat.
    """

    blur: tuple[float, float] = (0.4, 1.2)
    noise: tuple[float, float] = (5.0, 40.0)
    correlation: tuple[float, float] = (0.0, 1.2)
    streaks_p: float = 0.1
    streaks: tuple[float, float] = (5.0, 25.0)
    identity_p: float = 0.1
    flat_p: float = 0.1


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides what a training gives.

    Parameters
    ----------
    model : str
        Name of the network: a key of `PROFILES`.
    model_options : mapping
        Keyword arguments of the network's class, such as the U-Net's ``widths`` or DnCNN-SR's ``scale``.
    initial : str, optional
        Bundle, or file of weights, to start from: all layers that fit are taken. None starts from scratch.
    out : str
        Folder of the training: checkpoint, log, curves, manifest, best weights. Made where it does not exist.
    resume : bool
        Continue the training that `out` holds; start one where it holds none.
    intensity : IntensityKind
        What the source's values are: HU or 8-bit.
    window : tuple of float
        Values that become 0 and 1.
    size : int
        Side in pixels of the network's input; of the training patches for a restoration network.
    context : int
        How many slices on either side the network sees beside the one that it segments, as further channels.
    context_mm : float, optional
        Their distance in mm, whatever that of an image's slices; None for the very next ones. See `SliceContext`.
    batch : int
        Slices per step, over all processes together.
    epochs, steps_per_epoch : int
        An epoch is `steps_per_epoch` steps, or one pass over the slices where that is None.
    max_minutes : float, optional
        Validate and stop at the end of the epoch in which this time is used up; a resumed training goes on counting.
    volume : VolumeConfig
        For volumetric networks, which have no `size`.
    unannotated_as_empty : bool
        Treat slices that nobody annotated as slices without liver; otherwise they are left out.
    validate_every : int
        Epochs from one validation to the next; the last epoch is always validated.
    early_stopping : int, optional
        Stop after so many validations without a better score.
    seed : int
    deterministic : bool
        Same seed, same machine, same weights, to the bit. Slower on CUDA.
    device : str
        ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
    threads : int, optional
        Threads of torch's CPU operations.
    workers : int, optional
        Processes that read slices; 0 reads in a thread. None chooses by the device.
    prefetch : int
        Batches that are ready before they are needed.
    checkpoint_minutes : float
        Time between checkpoints; there is one at every validation as well.
    checkpoint_steps : int, optional
        Steps between checkpoints instead.
    tensorboard : bool
        Write TensorBoard events to ``out/tensorboard`` as well.
    """

    model: str = "unet"
    model_options: Mapping[str, Any] = field(default_factory=dict)
    initial: str | None = None
    out: str = "training"
    resume: bool = False
    intensity: IntensityKind = IntensityKind.HU
    window: tuple[float, float] = (-160.0, 240.0)
    size: int = 512
    context: int = 0
    context_mm: float | None = 5.0
    batch: int = 8
    epochs: int = 100
    steps_per_epoch: int | None = None
    max_minutes: float | None = None
    loss: LossConfig = field(default_factory=LossConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    degradation: DegradationConfig = field(default_factory=DegradationConfig)
    volume: VolumeConfig = field(default_factory=VolumeConfig)
    unannotated_as_empty: bool = False
    validate_every: int = 1
    early_stopping: int | None = None
    seed: int = 0
    deterministic: bool = False
    precision: Precision = Precision.AUTO
    device: str = "auto"
    threads: int | None = None
    workers: int | None = None
    prefetch: int = 2
    checkpoint_minutes: float = 5.0
    checkpoint_steps: int | None = None
    tensorboard: bool = False

    def __post_init__(self) -> None:
        positive = {
            "size": self.size,
            "batch": self.batch,
            "epochs": self.epochs,
            "validate_every": self.validate_every,
            "prefetch": self.prefetch,
            "optimiser.learning_rate": self.optimiser.learning_rate,
        }
        for name, value in positive.items():
            if value <= 0:
                raise InputError(f"The training setting '{name}' is {value}; it must be greater than zero.")
        if not self.window[0] < self.window[1]:
            raise InputError(
                f"The intensity window {self.window} is empty; give its lower end first, such as (-160, 240)."
            )
        if not 0 <= self.context <= MOST_CONTEXT:
            raise InputError(f"The training setting 'context' is {self.context}; choose 0 to {MOST_CONTEXT} slices.")
        if self.context_mm is not None and not 0 < self.context_mm < 100:
            raise InputError(f"The training setting 'context_mm' is {self.context_mm}; choose 0 to 100 mm, or null.")
        if not 0 <= self.seed < 2**63:
            raise InputError(f"The seed {self.seed} cannot be used; choose one from 0 to 2^63 - 1.")
        object.__setattr__(self, "model_options", dict(self.model_options))

    @property
    def slice_context(self) -> SliceContext:
        """Which slices the network sees together."""
        return SliceContext(self.context, self.context_mm if self.context else None)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-serialisable form."""
        return to_jsonable(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainConfig:
        """Rebuild a configuration from `to_dict` or from a JSON file a person wrote; what is missing is the default.

        Raises
        ------
        InputError
            If a setting is unknown or has the wrong type.
        """
        return from_jsonable(cls, values)


# What may differ between a training and its continuation without changing what it computes, or on purpose.
MAY_CHANGE_ON_RESUME = frozenset(
    {
        *("out", "resume", "epochs", "max_minutes", "early_stopping", "device", "threads", "workers", "prefetch"),
        *("checkpoint_minutes", "checkpoint_steps", "tensorboard"),
    }
)


def to_jsonable(value: Any) -> Any:
    """Turn a configuration dataclass into plain JSON types."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: to_jsonable(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): to_jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_jsonable(item) for item in value]
    return value


def from_jsonable(kind: type[T], values: Any, where: str = "training") -> T:
    """Build the configuration dataclass `kind` from plain JSON types, refusing what does not fit.

    Raises
    ------
    InputError
        Naming the setting that is unknown or of the wrong type.
    """
    if not isinstance(values, Mapping):
        raise InputError(f"The settings '{where}' must be a table of names and values.")
    hints = typing.get_type_hints(kind)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise InputError(f"The {where} setting '{unknown[0]}' is not known; known ones are {', '.join(sorted(hints))}.")
    return kind(**{name: _convert(hints[name], value, f"{where}.{name}") for name, value in values.items()})


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _convert(next(item for item in arguments if item is not type(None)), value, where)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return from_jsonable(hint, value, where)
    if isinstance(hint, type) and issubclass(hint, Enum):
        choices = [item.value for item in hint]
        if value not in choices:
            raise InputError(f"The setting '{where}' is {value!r}; choose one of {', '.join(choices)}.")
        return hint(value)
    if origin is tuple:
        if isinstance(value, (list, tuple)) and arguments[-1] is Ellipsis:
            return tuple(_convert(arguments[0], part, where) for part in value)
        if not isinstance(value, (list, tuple)) or len(value) != len(arguments):
            raise InputError(f"The setting '{where}' needs {len(arguments)} values in a list.")
        return tuple(_convert(item, part, where) for item, part in zip(arguments, value, strict=True))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    expected = Mapping if origin is not None and issubclass(origin, Mapping) else hint
    if not isinstance(value, expected) or (expected is int and isinstance(value, bool)):
        raise InputError(
            f"The setting '{where}' is {value!r}, which is not of the type {getattr(hint, '__name__', hint)}."
        )
    return value
