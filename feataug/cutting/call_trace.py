"""Record one forward pass: which module is called when, inside which other module, and what it returns."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from feataug.cutting.containers import Leaf, leaves_of, map_tensors


class ForwardStopped(BaseException):
    """Ends a forward pass at the cut. It is a ``BaseException`` so that ``except Exception`` in the model does not catch it."""


@dataclass(frozen=True)
class TensorInfo(Leaf):
    """A tensor's shape, dtype and storage, without its values, so that a trace takes no memory.

    Args:
        shape, dtype: As the tensor's.
        key: Number of the storage in a ``Dataflow``; ``None`` outside of one.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    key: int | None = None

    @classmethod
    def of(cls, tensor: Tensor) -> TensorInfo:
        """Describe a tensor, without its storage."""
        return cls(shape_of(tensor), tensor.dtype)

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    def is_floating_point(self) -> bool:
        """Whether the dtype is a floating point one."""
        return self.dtype.is_floating_point


def shape_of(tensor: Tensor) -> tuple[int, ...]:
    """The shape of a tensor; empty for a nested tensor, which has none."""
    return () if tensor.is_nested else tuple(tensor.shape)


@dataclass(eq=False)
class Call:
    """One call of a module.

    Args:
        name, module: The module.
        parent: The call that made this one.
        index: How many calls of the module came before it.
        start, end: When it began and returned, by the trace's clock. ``end`` stays ``None`` if the pass ended before it returned.
        output: What the module returned, with a ``TensorInfo`` for each tensor.
    """

    name: str
    module: nn.Module
    parent: Call | None
    index: int
    start: int
    end: int | None = None
    output: Any = None

    def within(self, other: Call) -> bool:
        """Whether this call was made inside ``other``."""
        ancestor = self.parent
        while ancestor is not None and ancestor is not other:
            ancestor = ancestor.parent
        return ancestor is not None

    def tensors(self) -> list[TensorInfo]:
        """The tensors that the module returned."""
        return [leaf for leaf in leaves_of(self.output) if isinstance(leaf, TensorInfo)]


def uncompiled(model: nn.Module) -> Callable[..., Any]:
    """The model as a function that runs its hooks, which the code that ``model.compile()`` made does not."""
    return model._call_impl if model._compiled_call_impl is not None else model


def record_calls(
    model: nn.Module,
    run: Callable[[], Any],
    clock: Iterator[int] | None = None,
    describe: Callable[[Tensor], TensorInfo] = TensorInfo.of,
) -> tuple[list[Call], Any]:
    """Call ``run``, and record the calls of the model's modules.

    Modules in TorchScript take no hooks: their operations count as those of the module around them.

    Args:
        model: The model.
        run: Calls it.
        clock: Gives the times of the calls.
        describe: Describes the tensors that the modules return.

    Returns:
        The calls in the order in which they began, and what ``run`` returned (``None`` if the pass was stopped).
    """
    calls: list[Call] = []
    stack: list[Call] = []
    counts: dict[nn.Module, int] = {}
    clock = clock or itertools.count()

    def before(name: str, module: nn.Module, args: tuple[Any, ...]) -> None:
        index = counts.get(module, 0)
        counts[module] = index + 1
        call = Call(name, module, stack[-1] if stack else None, index, next(clock))
        calls.append(call)
        stack.append(call)

    def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        call = stack.pop()
        call.end, call.output = next(clock), map_tensors(describe, output)

    handles = []
    for name, module in model.named_modules():
        if not isinstance(module, torch.jit.ScriptModule):
            handles.append(module.register_forward_pre_hook(partial(before, name)))
            handles.append(module.register_forward_hook(after))
    output = None
    try:
        output = run()
    except ForwardStopped:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return calls, output


@contextmanager
def replaced_forwards(forwards: dict[nn.Module, Any]) -> Iterator[None]:
    """Give modules another ``forward``, and restore the former one, also where somebody else had replaced it."""
    absent = object()
    saved = {module: module.__dict__.get("forward", absent) for module in forwards}
    try:
        for module, forward in forwards.items():
            module.__dict__["forward"] = forward
        yield
    finally:
        for module, forward in saved.items():
            if forward is absent:
                module.__dict__.pop("forward", None)
            else:
                module.__dict__["forward"] = forward
