"""Watch one forward pass: which module is called when, inside which other, and what it returns."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from feataug.checks import check_images, describe
from feataug.errors import SplitError, message


class Stopped(BaseException):
    """Leaves a forward pass at the cut. No ``Exception``, so that a user's ``except Exception`` lets it by."""


@dataclass(eq=False)
class Call:
    """One call of a module; ``end`` stays ``None`` if the pass was left before it returned."""

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


@dataclass(frozen=True)
class Example:
    """How the user calls the model: which argument holds the images, and what else is passed.

    Args:
        images: ``(B, C, H, W)``.
        key: Name of the argument that holds them; ``None`` for the first positional one.
        settings: Further arguments that are no tensors (``mode="tensor"``); repeated in every call.
        tensors: Further tensors (``labels``); only passed where the example itself is.
    """

    images: Tensor
    key: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, value: Any, model: nn.Module) -> Example:
        """Read what the user gave as ``example``: images, a dictionary of arguments, or nothing."""
        if value is None:
            like = next(model.parameters(), torch.zeros(()))
            return cls(torch.zeros(1, 3, 128, 128, device=like.device, dtype=like.dtype))
        if isinstance(value, Tensor) and value.ndim == 4:
            return cls(check_images("split: the example", value, model))
        if isinstance(value, Mapping):
            found = [key for key, item in value.items() if isinstance(item, Tensor) and item.ndim == 4 and item.is_floating_point()]
            if found:
                rest = {key: item for key, item in value.items() if key != found[0]}
                tensors = {key: item for key, item in rest.items() if isinstance(item, Tensor)}
                return cls(value[found[0]], found[0], {key: rest[key] for key in rest if key not in tensors}, tensors)
        raise SplitError(
            message(
                "split: the example holds no images.",
                given=describe(value),
                needed="images (B, C, H, W), or a dictionary of the model's arguments with such images among them",
            )
        )

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns."""
        return int(self.images.shape[-2]), int(self.images.shape[-1])

    def arguments(self, images: Tensor, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a call of the model with other images."""
        if self.key is None:
            return (images, *args), {**self.settings, **kwargs}
        return args, {**self.settings, self.key: images, **kwargs}

    def images_of(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
        """The images among the arguments of somebody's call."""
        found = [item for item in (*args, *kwargs.values()) if isinstance(item, Tensor) and item.ndim == 4]
        if not found:
            raise SplitError(
                message("cut: the model is called without images.", given=describe(args), needed="a tensor (B, C, H, W)")
            )
        return found[0]


def uncompiled(model: nn.Module) -> Callable[..., Any]:
    """The model for calling as it is: hooks are not for what torch.compile made of it in place (``model.compile()``)."""
    return model._call_impl if model._compiled_call_impl is not None else model


def watch(model: nn.Module, run: Callable[[], Any], clock: Iterator[int] | None = None) -> tuple[list[Call], Any]:
    """``run()`` the model and list its calls in the order of their beginnings, with the output (``None`` if stopped)."""
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
        call.end, call.output = next(clock), output

    handles = []
    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(before(name)))
        handles.append(module.register_forward_hook(after))
    output = None
    try:
        output = run()
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
        # Inside the user's autocast, torch (2.6) hands weights that were cast without gradients to the training pass, which loses theirs.
        torch.clear_autocast_cache()


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
