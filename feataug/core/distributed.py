"""Collective operations of a distributed run; in a single process they return their input."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor


def rank_and_world() -> tuple[int, int]:
    """This process's rank and the number of processes: ``(0, 1)`` unless ``torch.distributed`` is initialised."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def is_main() -> bool:
    """Whether this is rank 0, the process that writes files and prints."""
    return rank_and_world()[0] == 0


def local_slice() -> slice:
    """This rank's items of a list: ``rank, rank + world_size, ...``.

    Striding keeps half-batches aligned: the first half of the whole batch consists of the first halves of all ranks.
    """
    rank, world_size = rank_and_world()
    return slice(rank, None, world_size)


def all_reduce_sum(value: Tensor) -> Tensor:
    """The sum over all processes, without a gradient. All processes have to call it."""
    if rank_and_world()[1] == 1:
        return value
    value = value.detach().clone()
    dist.all_reduce(value)
    return value


def gather_strided(values: Tensor, count: int) -> Tensor:
    """All ``count`` values, of which each process passes its ``local_slice``."""
    if rank_and_world()[1] == 1:
        return values
    whole = values.new_zeros(count, *values.shape[1:])
    whole[local_slice()] = values
    return all_reduce_sum(whole)
