"""Watch one forward pass: which module is called when, inside which other, and what it returns."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


class Stopped(BaseException):
    """Leaves a forward pass at the cut."""


@dataclass
class Call:
    """One call of a module; ``end`` stays ``None`` if the pass was left before it returned."""

    name: str
    module: nn.Module
    parent: Call | None
    index: int
    start: int
    end: int | None = None
    inputs: tuple[Any, ...] = ()
    output: Any = None
    children: list[Call] = field(default_factory=list)

    @property
    def outermost(self) -> bool:
        """The call is over, the one around it is not."""
        return self.end is not None and (self.parent is None or self.parent.end is None)


@torch.no_grad()
def record(model: nn.Module, images: Tensor) -> tuple[list[Call], Any]:
    """Run ``model`` in eval mode and list its calls in the order of their beginnings, with the output (``None`` if stopped)."""
    calls: list[Call] = []
    stack: list[Call] = []
    counts: dict[nn.Module, int] = {}
    clock = iter(range(1 << 60))

    def before(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            index = counts.get(module, 0)
            counts[module] = index + 1
            call = Call(name, module, stack[-1] if stack else None, index, next(clock), inputs=args)
            if stack:
                stack[-1].children.append(call)
            calls.append(call)
            stack.append(call)

        return hook

    def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        call = stack.pop()
        call.end, call.output = next(clock), output

    handles = []
    for name, module in model.named_modules():
        handles += [module.register_forward_pre_hook(before(name)), module.register_forward_hook(after)]
    output = None
    try:
        with eval_mode(model):
            output = model(images)
    except Stopped:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return calls, output


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put every module into eval mode, and each back into the mode that it had."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def training_paths(model: nn.Module, like: Tensor) -> Iterator[None]:
    """Let composite modules go the ways of training, but norms and dropout those of eval: no statistics move.

    What a composite module draws all the same is drawn from a fork of torch's generators, on ``like``'s device.
    """
    with eval_mode(model), torch.random.fork_rng(devices=[like.device] if like.is_cuda else []):
        for module in model.modules():
            stateful = next(module.buffers(recurse=False), None) is not None
            module.training = not stateful and next(module.children(), None) is not None
        yield


@contextmanager
def patched(forwards: dict[nn.Module, Any]) -> Iterator[None]:
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
