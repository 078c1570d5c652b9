"""Random numbers that do not depend on who draws them, and the switches that make a training repeatable.

Two kinds of randomness meet in a training. What happens to a sample (its place in the order, its augmentation) comes
from `keyed_rng`, a counter-based generator that is a pure function of (seed, purpose, number): it is the same whatever
the number of loader workers, and nothing of it needs saving to resume. What happens inside the network (dropout,
initial weights) comes from the generators of the libraries, which `seed_everything` sets and `rng_state` saves.

The list of switches follows mlf-core's deterministic training (Heumos et al. 2023) and PyTorch's notes on
reproducibility.
"""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import IntEnum
from typing import Any

import numpy as np
import torch

from LiverMarginLib.errors import ResourceError

_CUBLAS = "CUBLAS_WORKSPACE_CONFIG"
_CUBLAS_DETERMINISTIC = (":4096:8", ":16:8")


class Purpose(IntEnum):
    """What a keyed random stream is for; streams of two purposes never overlap."""

    ORDER = 1
    AUGMENTATION = 2
    PATCH = 3
    DEGRADATION = 4
    VALIDATION = 5


def keyed_rng(seed: int, purpose: Purpose, number: int) -> np.random.Generator:
    """Return the random stream of item `number`, a pure function of its three arguments.

    Philox (Salmon et al. 2011) turns a key and a counter into random words, so a stream is found without drawing the
    ones before it.
    """
    return np.random.Generator(np.random.Philox(key=[seed, int(purpose)], counter=[0, 0, number, 0]))


def seed_everything(seed: int, rank: int = 0) -> None:
    """Seed Python, numpy and torch (CPU and every CUDA device); each process of a distributed training differs."""
    value = (seed + 1_000_003 * rank) % 2**32
    random.seed(value)
    np.random.seed(value)  # noqa: NPY002 - libraries that we call may still use the global generator
    torch.manual_seed(value)


@contextmanager
def deterministic_algorithms(enabled: bool) -> Iterator[None]:
    """Let torch use only operations that give the same bits every time; restore its settings afterwards.

    Raises
    ------
    ResourceError
        If CUDA was already started without the workspace setting that cuBLAS needs to be deterministic.
    """
    if not enabled:
        yield
        return
    if os.environ.get(_CUBLAS) not in _CUBLAS_DETERMINISTIC:
        if torch.cuda.is_initialized():
            raise ResourceError(
                f"Deterministic training needs the environment variable {_CUBLAS}={_CUBLAS_DETERMINISTIC[0]} before "
                "CUDA starts; set it and start again."
            )
        os.environ[_CUBLAS] = _CUBLAS_DETERMINISTIC[0]
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.benchmark,
        torch.backends.cudnn.deterministic,
    )
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = before[2:]


def rng_state() -> dict[str, Any]:
    """Return the state of the libraries' generators, in types that ``torch.load(weights_only=True)`` accepts."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)  # noqa: NPY002
    return {
        "python": [version, list(words), gauss],
        "numpy": [name, torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_rng_state(state: Mapping[str, Any]) -> None:
    """Restore what `rng_state` returned; CUDA states are ignored where the devices are not the same in number."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])


def weights_hash(weights: Mapping[str, torch.Tensor]) -> str:
    """Return the SHA-256 (hexadecimal) of a state dict: names, types, shapes and bits, whatever the memory layout."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
