"""ImageNet weights for the residual network: read without running code, and fitted to one channel.

Three kinds of files are understood: torchvision's (``.pth``, or safetensors with the same names), Detectron2's
conversions of them (``.pkl``), and MSRA's in Caffe2's names (``.pkl``, as Detectron2's model zoo has them). Pickles
are read by an unpickler that knows numpy arrays and nothing else.
"""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from LiverMarginLib.errors import InputError, technical
from LiverMarginLib.models.detectron_config import DetectronOptions


@dataclass(frozen=True)
class _Origin:
    """How a family of weights was trained; mean and deviation per channel, of images in [0, 1]."""

    name: str
    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]
    stride_in_1x1: bool


_TORCHVISION = _Origin("torchvision", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), False)
# Bytes in the order blue, green, red, from which a mean was taken.
_MSRA = _Origin("MSRA", (103.530 / 255, 116.280 / 255, 123.675 / 255), (1 / 255, 1 / 255, 1 / 255), True)
_STEM = "stem.conv1.weight"


def load_imagenet(model: nn.Module, options: DetectronOptions) -> None:
    """Load the residual network of a Detectron2 model from `DetectronOptions.imagenet`.

    The stem sees one grey channel x instead of three: with every channel equal to x, the three-channel convolution of
    the normalised image is the one of x with the kernels added up, each divided by its channel's deviation, plus a
    constant, which moves the running mean of the normalisation behind it. So the first layer computes what it did on
    a grey picture, to the last digit away from the border.

    Raises
    ------
    InputError
        If the file cannot be read, or is not of a network of this depth and kind.
    """
    assert options.imagenet is not None
    if options.norm == "GN":
        raise InputError("ImageNet weights come with batch normalisation; choose the norm FrozenBN or BN.")
    path = Path(options.imagenet)
    weights, origin = _rename(_read(path))
    if options.depth >= 50 and options.stride_in_1x1 is not origin.stride_in_1x1:
        raise InputError(
            f"{path.name} holds weights of {origin.name}; use them with the option stride_in_1x1 "
            f"{origin.stride_in_1x1}."
        )
    wanted = model.get_submodule("backbone.bottom_up")
    weights = _one_channel(weights, origin, options.pixel_mean, options.pixel_std)
    state = wanted.state_dict()
    unusable = [
        name
        for name, tensor in state.items()
        if not name.endswith("num_batches_tracked") and (name not in weights or weights[name].shape != tensor.shape)
    ]
    if unusable:
        raise InputError(
            f"{path.name} does not hold a ResNet-{options.depth} ({len(unusable)} of its layers are missing or "
            "differ); choose the file of a network of this depth."
        )
    wanted.load_state_dict({**state, **{name: weights[name] for name in state if name in weights}})


def _read(path: Path) -> dict[str, Any]:
    try:
        content = path.read_bytes()
        if path.suffix == ".safetensors":
            import safetensors.torch

            return dict(safetensors.torch.load(content))
        if path.suffix == ".pkl":
            values = _NumpyUnpickler(io.BytesIO(content), encoding="latin1").load()
        else:
            values = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"{path.name} cannot be read ({error.strerror}); check its name.", technical(error)) from error
    except Exception as error:  # each library has its own for each kind of damage
        raise InputError(
            f"{path.name} holds no plain weights: it is damaged, or more than arrays of numbers.", technical(error)
        ) from error
    for key in ("model", "blobs", "state_dict"):
        if isinstance(values, dict) and isinstance(values.get(key), dict):
            values = values[key]
    if not isinstance(values, dict):
        raise InputError(f"{path.name} holds no table of weights; choose another file.")
    return values


class _NumpyUnpickler(pickle.Unpickler):
    """Rebuilds numpy arrays and plain containers; anything else that a pickle could call is refused."""

    _ALLOWED = frozenset(
        {
            *(("numpy", name) for name in ("ndarray", "dtype")),
            *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
            ("collections", "OrderedDict"),
            ("_codecs", "encode"),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed")
        return super().find_class(module, name)


def _rename(values: Mapping[str, Any]) -> tuple[dict[str, Tensor], _Origin]:
    """Return the weights under Detectron2's names, and where they come from."""
    tensors = {
        name: torch.as_tensor(value).float()
        for name, value in values.items()
        if isinstance(value, (np.ndarray, Tensor)) and torch.as_tensor(value).dtype.is_floating_point
    }
    if "conv1_w" in tensors:
        from detectron2.checkpoint.c2_model_loading import convert_basic_c2_names

        names = list(tensors)
        renamed = convert_basic_c2_names(names)
        found = {new: tensors[old] for old, new in zip(names, renamed, strict=True)}
        for name in [name for name in found if name.endswith("norm.weight")]:
            stem = name.removesuffix("weight")  # Caffe2 has folded the statistics into scale and shift
            found.setdefault(stem + "running_mean", torch.zeros_like(found[name]))
            found.setdefault(stem + "running_var", torch.ones_like(found[name]) - 1e-5)
        return found, _MSRA
    if "conv1.weight" in tensors:
        return {_from_torchvision(name): tensor for name, tensor in tensors.items()}, _TORCHVISION
    return tensors, _TORCHVISION


def _from_torchvision(name: str) -> str:
    name = re.sub(r"^layer(\d)", lambda found: f"res{int(found[1]) + 1}", name)
    name = re.sub(r"^(conv1|bn1)\.", r"stem.\1.", name)
    name = re.sub(r"bn(\d)\.", r"conv\1.norm.", name)
    return name.replace("downsample.0.", "shortcut.").replace("downsample.1.", "shortcut.norm.")


def _one_channel(weights: dict[str, Tensor], origin: _Origin, pixel_mean: float, pixel_std: float) -> dict[str, Tensor]:
    kernel = weights.get(_STEM)
    if kernel is None or kernel.dim() != 4 or kernel.shape[1] != 3:
        return weights
    share = kernel.double() / torch.tensor(origin.deviation, dtype=torch.float64)[:, None, None]
    offset = pixel_mean - torch.tensor(origin.mean, dtype=torch.float64)
    shift = (share * offset[:, None, None]).sum(dim=(1, 2, 3))
    moved = weights["stem.conv1.norm.running_mean"].double() - shift
    return {
        **weights,
        _STEM: (share.sum(dim=1, keepdim=True) * pixel_std).float(),
        "stem.conv1.norm.running_mean": moved.float(),
    }
