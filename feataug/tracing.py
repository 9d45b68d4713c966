"""Which tensors depend on the images, when is each made and last read, and how many multiply-adds were done until then."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from feataug.recording import Call, eval_mode, training_paths, watch

# Overwrite their first argument without looking at it.
_BLIND = {"aten::copy_", "aten::fill_", "aten::zero_"}


class Dataflow(TorchDispatchMode):
    """Records every operation on tensors, whatever Python code calls them: nothing is asked of the model.

    Tensors are told apart by their storages, which are kept alive so that none is taken for another. ``made`` and ``read`` hold the
    times of the first write and the last read, ``times`` those of all operations; only storages that depend on the images are in ``tainted``.
    """

    def __init__(self, images: Tensor, clock: itertools.count[int]) -> None:
        # Brings triton, which takes an eighth of what torch takes to import.
        from torch.utils.flop_counter import flop_registry

        super().__init__()
        self.clock, self.counts = clock, flop_registry
        self.images = storage(images)
        self.tainted = {self.images}
        self.made: dict[int | None, float] = {self.images: -1}
        self.read: dict[int | None, float] = {}
        self.times: list[int] = []
        self.flops: list[tuple[int, int]] = []
        self.kept: list[Any] = [images]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        results = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        self.kept += results
        schema = func._schema
        if results and all(ret.alias_info is not None and not ret.alias_info.is_write for ret in schema.returns):
            return out  # a view: nothing is read yet, and the storage stays the same
        time = next(self.clock)
        self.times.append(time)
        written = [
            value
            for value, argument in zip(args, schema.arguments, strict=False)
            if argument.alias_info and argument.alias_info.is_write
        ]
        blind = args[:1] if schema.name in _BLIND else ()
        reads = {
            storage(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor) and not any(leaf is b for b in blind)
        }
        for key in reads:
            self.read[key] = time
        depends = not reads.isdisjoint(self.tainted)
        for leaf in [*results, *tree_leaves(written)]:
            if isinstance(leaf, Tensor):
                key = storage(leaf)
                self.made.setdefault(key, time)
                if depends and key is not None:
                    self.tainted.add(key)
        count = self.counts.get(func._overloadpacket)
        if count is not None:
            self.flops.append((time, int(count(*args, **kwargs, out_val=out))))
        return out

    def live(self, time: float) -> set[int | None]:
        """Storages that depend on the images, made before ``time`` and read after it."""
        return {key for key in self.tainted if self.made[key] < time <= self.read.get(key, -math.inf)}

    def macs(self, time: float = math.inf) -> int:
        """Multiply-adds done before ``time``: half of what torch's registry counts as operations."""
        return sum(flops for when, flops in self.flops if when < time) // 2

    def depends(self, value: Any) -> bool:
        """Does any tensor in ``value`` depend on the images?"""
        return any(storage(leaf) in self.tainted for leaf in tree_leaves(value) if isinstance(leaf, Tensor))


def storage(tensor: Tensor) -> int | None:
    """A number for the memory behind a tensor; ``None`` if it has none of its own."""
    try:
        return tensor.untyped_storage()._cdata
    except RuntimeError:  # also its subclass NotImplementedError
        return None


@torch.no_grad()
def trace(model: nn.Module, images: Tensor, run: Callable[[], Any], *, training: bool = False) -> tuple[list[Call], Any, Dataflow]:
    """``run()`` the model on ``images`` in eval mode (or along the paths that only training takes): its calls, its output, and what
    flowed; one clock for all.
    """
    clock = itertools.count()
    flow = Dataflow(images, clock)
    with training_paths(model, images) if training else eval_mode(model), flow:
        calls, output = watch(model, run, clock)
    for leaf in tree_leaves(output):
        if isinstance(leaf, Tensor):
            flow.read[storage(leaf)] = math.inf
    return calls, output, flow
