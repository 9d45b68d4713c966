"""Sums over the processes of a distributed run; in a single process everything is as it is."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor


def rank_and_world() -> tuple[int, int]:
    """This process's number and how many there are: ``(0, 1)`` unless ``torch.distributed`` is initialised."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def is_main() -> bool:
    """Whether this is the process that writes and prints."""
    return rank_and_world()[0] == 0


def local_slice() -> slice:
    """What of a list this process has: every so many-th, from its own number on.

    Taken so, halves of a batch that all processes share are the halves of what each one has.
    """
    number, processes = rank_and_world()
    return slice(number, None, processes)


def all_reduce_sum(value: Tensor) -> Tensor:
    """The sum over all processes, which all of them have to call; without a gradient."""
    if rank_and_world()[1] == 1:
        return value
    value = value.detach().clone()
    dist.all_reduce(value)
    return value


def gather_strided(values: Tensor, count: int) -> Tensor:
    """All ``count`` values, of which each process gives its ``own``."""
    if rank_and_world()[1] == 1:
        return values
    whole = values.new_zeros(count, *values.shape[1:])
    whole[local_slice()] = values
    return all_reduce_sum(whole)
