"""Several processes, one training: what ``torchrun`` starts.

Outside of torchrun a `Group` has one member, and all of this costs nothing. Tensors of the network travel by NCCL on
CUDA and by Gloo elsewhere; the few numbers that the trainer exchanges always travel by Gloo, so that asking "does
anybody want to stop?" does not wait for the device.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import distributed

from LiverMarginLib.errors import InputError


@dataclass(frozen=True)
class Group:
    """The processes that train together, seen from one of them."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    control: Any = None

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and sends events."""
        return self.rank == 0

    def any(self, flags: Sequence[bool]) -> list[bool]:
        """Return for each flag whether it is set in any process."""
        if self.world == 1:
            return list(flags)
        tensor = torch.tensor(flags, dtype=torch.uint8)
        distributed.all_reduce(tensor, distributed.ReduceOp.MAX, group=self.control)
        return [bool(flag) for flag in tensor]

    def sum(self, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the element-wise sums over all processes, which hold the same names and shapes."""
        if self.world == 1:
            return dict(values)
        total = {}
        for name in sorted(values):
            tensor = torch.from_numpy(np.array(values[name], dtype=np.float64))
            distributed.all_reduce(tensor, group=self.control)
            total[name] = tensor.numpy()
        return total

    def gather(self, value: Any) -> list[Any]:
        """Return the value of every process, by rank."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        distributed.all_gather_object(values, value, group=self.control)
        return values


@contextmanager
def process_group(cuda: bool) -> Iterator[Group]:
    """Join the group that torchrun describes in the environment; a group of one without it."""
    if "WORLD_SIZE" not in os.environ or "RANK" not in os.environ:
        yield Group()
        return
    owned = not distributed.is_initialized()
    if owned:
        distributed.init_process_group("nccl" if cuda else "gloo")
    try:
        control = distributed.new_group(backend="gloo") if cuda else None
        local_rank = int(os.environ.get("LOCAL_RANK", 0))
        yield Group(distributed.get_rank(), distributed.get_world_size(), local_rank, control)
    finally:
        if owned:
            distributed.destroy_process_group()


def check_batch(batch: int, group: Group) -> None:
    """Refuse a batch that the processes cannot share evenly.

    Raises
    ------
    InputError
    """
    if batch % group.world:
        raise InputError(
            f"A batch of {batch} cannot be shared by {group.world} processes; choose a multiple of {group.world}."
        )
