"""The state of a training in one file, and its weights in another."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save

from LiverMarginLib.errors import InputError, ResourceError, technical
from LiverMarginLib.training.files import write_atomically

CHECKPOINT = "checkpoint.pt"
BEST_WEIGHTS = "best.safetensors"
_SCHEMA = 1


def save_checkpoint(folder: Path, state: Mapping[str, Any]) -> None:
    """Write the checkpoint of `folder`: tensors, numbers, strings, lists and dicts.

    Raises
    ------
    ResourceError
        If the disk is full or refuses; the checkpoint before it is intact.
    """
    buffer = io.BytesIO()
    torch.save({"schema": _SCHEMA, **state}, buffer)
    path = folder / CHECKPOINT
    try:
        write_atomically(path, buffer.getbuffer())
    except ResourceError as error:
        if not path.exists():
            raise
        raise ResourceError(
            f"{error.message.rstrip('.')}, then resume: the checkpoint before it is intact.", error.details
        ) from error


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """Read the checkpoint of `folder`, on the CPU and without running any code it may hold; None if there is none.

    Raises
    ------
    InputError
        If the file is damaged, holds more than plain data, or comes from another version.
    """
    path = folder / CHECKPOINT
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a different one for each kind of damage
        raise InputError(
            f"The checkpoint {CHECKPOINT} is damaged and cannot be resumed; start the training again in a new folder.",
            technical(error),
        ) from error
    if not isinstance(state, dict) or state.get("schema") != _SCHEMA:
        raise InputError(
            f"The checkpoint {CHECKPOINT} was written by another version of LiverMargin; start again in a new folder."
        )
    return state


def save_weights(path: Path, weights: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a state dict as safetensors.

    Raises
    ------
    LiverMarginError
        See `write_atomically`.
    """
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in weights.items()}
    write_atomically(path, save(plain, metadata=dict(metadata or {})))


def load_weights(path: Path) -> dict[str, torch.Tensor]:
    """Read a safetensors file.

    Raises
    ------
    InputError
        If it is missing or damaged.
    """
    try:
        return load_file(path)
    except Exception as error:  # safetensors' own error type, OSError, ValueError
        raise InputError(f"The weights {path.name} cannot be read; train again or copy the file again.") from error
