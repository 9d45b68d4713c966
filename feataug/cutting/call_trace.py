"""Watch one forward pass: which module is called when, inside which other, and what it returns."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from feataug.cutting.containers import Leaf, leaves_of, map_tensors


class ForwardStopped(BaseException):
    """Leaves a forward pass at the cut. No ``Exception``, so that a user's ``except Exception`` lets it by."""


@dataclass(frozen=True)
class TensorInfo(Leaf):
    """What is remembered of a tensor: its shape and where its numbers lay, but not the numbers, so that a trace takes no memory.

    Args:
        shape, dtype: The tensor's.
        key: Number of its storage in a ``Dataflow``; ``None`` if nobody asked.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    key: int | None = None

    @classmethod
    def of(cls, tensor: Tensor) -> TensorInfo:
        """Look at a tensor."""
        return cls(shape_of(tensor), tensor.dtype)

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    def is_floating_point(self) -> bool:
        """Whether the numbers are floating point numbers."""
        return self.dtype.is_floating_point


def shape_of(tensor: Tensor) -> tuple[int, ...]:
    """The shape of a tensor; nothing for nested ones, which have none."""
    return () if tensor.is_nested else tuple(tensor.shape)


@dataclass(eq=False)
class Call:
    """One call of a module; ``end`` stays ``None`` if the pass was left before it returned.

    ``output`` is what the module returned, with a ``TensorInfo`` for each tensor.
    """

    name: str
    module: nn.Module
    parent: Call | None
    index: int
    start: int
    end: int | None = None
    output: Any = None

    def within(self, other: Call) -> bool:
        """Is this call made inside ``other``?"""
        above = self.parent
        while above is not None and above is not other:
            above = above.parent
        return above is not None

    def seen(self) -> list[TensorInfo]:
        """The tensors that the module returned."""
        return [leaf for leaf in leaves_of(self.output) if isinstance(leaf, TensorInfo)]


def uncompiled(model: nn.Module) -> Callable[..., Any]:
    """The model for calling as it is: hooks are not for what torch.compile made of it in place (``model.compile()``)."""
    return model._call_impl if model._compiled_call_impl is not None else model


def record_calls(
    model: nn.Module,
    run: Callable[[], Any],
    clock: Iterator[int] | None = None,
    look: Callable[[Tensor], TensorInfo] = TensorInfo.of,
) -> tuple[list[Call], Any]:
    """``run()`` the model and list its calls in the order of their beginnings, with the output (``None`` if stopped).

    Parts in TorchScript take no hooks: they are run as if their operations stood in the module around them.
    """
    calls: list[Call] = []
    stack: list[Call] = []
    counts: dict[nn.Module, int] = {}
    clock = clock or itertools.count()

    def before(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            index = counts.get(module, 0)
            counts[module] = index + 1
            call = Call(name, module, stack[-1] if stack else None, index, next(clock))
            calls.append(call)
            stack.append(call)

        return hook

    def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        call = stack.pop()
        call.end, call.output = next(clock), map_tensors(look, output)

    handles = []
    for name, module in model.named_modules():
        if not isinstance(module, torch.jit.ScriptModule):
            handles.append(module.register_forward_pre_hook(before(name)))
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
    """Give modules another ``forward`` for a while; one that somebody else had put there comes back."""
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
