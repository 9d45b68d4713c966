"""Trace the dataflow of a forward pass: which tensors depend on the images, when each is made and last read, and multiply-adds."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from feataug.core.modes import eval_mode, training_paths
from feataug.cutting.call_trace import Call, TensorInfo, record_calls, shape_of
from feataug.cutting.containers import opaque_types, tensors_of

# Operators that overwrite their first argument without reading it.
_OVERWRITES = {"aten::copy_", "aten::fill_", "aten::zero_"}
# Operators that read the shape of their first argument, not its values.
_SHAPE_ONLY = {
    f"aten::{name}"
    for name in (
        "empty_like", "zeros_like", "ones_like", "full_like", "rand_like", "randn_like", "randint_like", "new_empty", "new_empty_strided",
        "new_zeros", "new_ones", "new_full",
    )
}  # fmt: skip

# Operators whose argument is a new tensor, made from Python's numbers.
_NEW_CONSTANTS = {"aten::lift", "aten::lift_fresh"}


@dataclass(frozen=True)
class Operation:
    """One operation on tensors: its time, and the storages that it read and wrote."""

    time: int
    reads: frozenset[int | None]
    writes: frozenset[int | None]


class Dataflow(TorchDispatchMode):
    """Records every operation on tensors; the model needs no change.

    Tensors are identified by their storages, which get numbers as they appear. No tensor is kept alive, not even by a weak
    reference: its remains would fragment memory.

    Args:
        inputs: The images, and other tensors to follow.
        clock: Gives the times of operations, and of other events that are ordered with them.
        within: ``TimeoutError`` is raised after this many seconds.

    Attributes:
        made: When each storage was first written to.
        tainted: The storages that depend on ``inputs``.
        operations: All operations, in their order.
        outputs: The storages of the output; ``None`` where the output may hold tensors that cannot be found.
    """

    # Operators that take functions (torch.cond, flex_attention) are recorded as well.
    supports_higher_order_operators = True

    def __init__(self, inputs: Iterable[Tensor], clock: Iterator[int], within: float = math.inf) -> None:
        # Imported here because it imports triton, which takes an eighth of the time that torch takes.
        from torch.utils.flop_counter import flop_registry

        super().__init__()
        self.clock, self.counts = clock, flop_registry
        self._numbers: dict[int, int] = {}
        self._count = itertools.count()
        self.inputs = [self.key(tensor) for tensor in inputs]
        self.images = self.inputs[0]
        self.tainted: set[int | None] = set(self.inputs)
        self.made: dict[int | None, float] = dict.fromkeys(self.inputs, -1)
        self.operations: list[Operation] = []
        self.flops: list[tuple[int, int]] = []
        self.outputs: set[int | None] | None = set()
        self._paused = False
        self._deadline = time.monotonic() + within
        self._last_read: dict[int | None, float] | None = None

    def key(self, tensor: Tensor) -> int | None:
        """The number of a tensor's storage; ``None`` if it has no storage of its own."""
        where = storage(tensor)
        if where is None:
            return None
        if where not in self._numbers:
            self._numbers[where] = next(self._count)
        return self._numbers[where]

    def _renumber(self, results: list[Tensor], given: list[Tensor]) -> None:
        """Give new numbers to the storages of results, which may reuse freed memory. Storages of the arguments keep theirs."""
        old = {storage(tensor) for tensor in given}
        for where in {storage(tensor) for tensor in results} - old:
            if where is not None:
                self._numbers[where] = next(self._count)

    def describe(self, tensor: Tensor) -> TensorInfo:
        """Shape, dtype and storage of a tensor."""
        return TensorInfo(shape_of(tensor), tensor.dtype, self.key(tensor))

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Do not record operations in this context."""
        previous, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = previous

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        results = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        # An operator that takes functions has no schema. It is assumed to read all its tensors and to return new ones.
        schema = getattr(func, "_schema", None)
        returns, parameters, name = (schema.returns, schema.arguments, schema.name) if schema else ((), (), "")
        self._renumber(results, [] if name in _NEW_CONSTANTS else given)
        if self._paused:
            return out
        if schema and results and all(ret.alias_info is not None and not ret.alias_info.is_write for ret in returns):
            return out  # a view reads nothing and keeps the storage
        if time.monotonic() > self._deadline:
            raise TimeoutError("the pass takes too long")
        when = next(self.clock)
        written = [
            value for value, argument in zip(args, parameters, strict=False) if argument.alias_info and argument.alias_info.is_write
        ]
        written += [kwargs[a.name] for a in parameters if a.name in kwargs and a.alias_info and a.alias_info.is_write]
        unread = args[:1] if name in _OVERWRITES or name in _SHAPE_ONLY else ()
        reads = self._keys(leaf for leaf in given if not any(leaf is u for u in unread))
        writes = self._keys([*results, *tree_leaves(written)])
        depends = not reads.isdisjoint(self.tainted)
        for key in writes:
            self.made.setdefault(key, when)
            if depends and key is not None:
                self.tainted.add(key)
        self.operations.append(Operation(when, reads, writes))
        count = self.counts.get(getattr(func, "_overloadpacket", None))
        if count is not None:
            self.flops.append((when, int(count(*args, **kwargs, out_val=out))))
        return out

    def _keys(self, values: Iterable[Any]) -> frozenset[int | None]:
        """Storages of the tensors among the values, except empty tensors, which hold nothing to read."""
        return frozenset(self.key(value) for value in values if isinstance(value, Tensor) and value.numel())

    def finish(self, output: Any) -> None:
        """Note the output of the pass."""
        self.outputs = None if opaque_types(output) else {self.key(tensor) for tensor in tensors_of(output)}

    @property
    def read(self) -> dict[int | None, float]:
        """When an operation that the output depends on last reads each storage; infinity for storages of the output."""
        if self._last_read is None:
            self._last_read = dict.fromkeys(self.outputs or (), math.inf)
            needed = set(self.outputs or ())
            for operation in reversed(self.operations):
                if self.outputs is None or not needed.isdisjoint(operation.writes):
                    needed |= operation.reads
                    for key in operation.reads:
                        self._last_read.setdefault(key, operation.time)
        return self._last_read

    def last_use(self) -> dict[int | None, int]:
        """When any operation last reads each storage, whether or not the output depends on it."""
        return {key: operation.time for operation in self.operations for key in operation.reads}

    def writes(self, keys: set[int | None], after: float, before: float) -> bool:
        """Whether an operation writes to one of these storages between the two times."""
        return any(after < operation.time < before and not keys.isdisjoint(operation.writes) for operation in self.operations)

    @property
    def times(self) -> list[int]:
        """The times of all operations, in order."""
        return [operation.time for operation in self.operations]

    def live(self, time: float) -> set[int | None]:
        """The storages that depend on the images, were made before ``time`` and are read after it."""
        return {key for key in self.tainted if self.made[key] < time <= self.read.get(key, -math.inf)}

    def macs(self, time: float = math.inf) -> int:
        """Multiply-adds before ``time``: half of the operations that torch's registry counts."""
        return sum(flops for when, flops in self.flops if when < time) // 2

    def depends(self, call: Call) -> bool:
        """Whether a tensor that the call returned depends on the images."""
        return any(info.key in self.tainted for info in call.tensors())


def storage(tensor: Tensor) -> int | None:
    """A number that identifies a tensor's storage while the storage exists; ``None`` if the tensor has none of its own."""
    try:
        return tensor.untyped_storage()._cdata
    except RuntimeError:  # also its subclass NotImplementedError
        return None


@torch.no_grad()
def trace(
    model: nn.Module,
    inputs: Iterable[Tensor],
    run: Callable[[], Any],
    *,
    training: bool = False,
    within: float = math.inf,
    during: Callable[[Dataflow], AbstractContextManager[None]] | None = None,
) -> tuple[list[Call], Any, Dataflow]:
    """Trace one forward pass.

    Args:
        model: The model.
        inputs: The images, and other tensors to follow.
        run: Calls the model.
        training: Whether to take the branches of training instead of those of eval mode.
        within: Time limit in seconds.
        during: Makes a context, from the dataflow, that is active during the pass.

    Returns:
        The model's calls, its output, and the dataflow; all times are of one clock.

    Raises:
        TimeoutError: the pass takes longer than ``within`` seconds.
    """
    clock = itertools.count()
    inputs = list(inputs)
    flow = Dataflow(inputs, clock, within)
    around = during(flow) if during is not None else nullcontext()
    with training_paths(model, inputs[0]) if training else eval_mode(model), around, flow:
        calls, output = record_calls(model, run, clock, flow.describe)
    flow.finish(output)
    return calls, output, flow
