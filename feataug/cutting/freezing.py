"""Freeze the encoder of a cut, with its norms, whatever mode the model is put into."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from feataug.core.modes import eval_mode
from feataug.core.rng import seeded


class FreezeHook:
    """A forward pre-hook that keeps a module in eval mode: ``model.train()`` has no effect on it."""

    def __call__(self, module: nn.Module, args: Any) -> None:
        """The pre-hook."""
        if module.training:
            module.training = False

    def __reduce__(self) -> tuple[Any, ...]:
        # As for the cut's hook: a pickled model loads where this library is not installed.
        return getattr, (contextlib.nullcontext(), "__exit__")

    def __deepcopy__(self, memo: dict[int, Any]) -> FreezeHook:
        return FreezeHook()


def is_frozen(module: nn.Module) -> bool:
    """Whether a hook keeps the module in eval mode."""
    return any(isinstance(hook, FreezeHook) for hook in module._forward_pre_hooks.values())


def encoder_modules(cut: Any, *, alone: bool = False) -> set[nn.Module]:
    """Return the modules that encoding calls; with ``alone`` those that a whole forward pass calls no more often."""
    example = cut.example
    args, kwargs = example.arguments(example.images, (), example.tensors)
    with torch.no_grad(), eval_mode(cut.model), seeded(0):
        encoding = _calls(cut.model, lambda: cut.encode(example.images, **example.tensors))
        whole = _calls(cut.model, lambda: cut.model(*args, **kwargs)) if alone else encoding
    return {module for module, count in encoding.items() if whole[module] == count}


def _calls(model: nn.Module, run: Callable[[], Any]) -> Counter[nn.Module]:
    """How often ``run`` calls each module."""
    counts: Counter[nn.Module] = Counter()
    handles = [module.register_forward_pre_hook(lambda module, args: counts.update([module])) for module in model.modules()]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return counts


def freeze(cut: Any) -> None:
    """Freeze the weights that are used before the cut alone, and keep the modules that only encoding calls in eval mode."""
    weights = list(cut.encoder_parameters())
    frozen = {id(weight) for weight in weights}
    for weight in weights:
        weight.requires_grad_(False)
    for module in encoder_modules(cut, alone=True):
        # A module that holds other weights as well goes on with the decoder.
        if not is_frozen(module) and all(id(weight) in frozen for weight in module.parameters()):
            module.register_forward_pre_hook(FreezeHook())
            module.training = False


def unfreeze(cut: Any) -> None:
    """The inverse of ``freeze``. Modules have the mode of the model again."""
    for weight in cut.encoder_parameters():
        weight.requires_grad_(True)
    for module in cut.model.modules():
        for key in [key for key, hook in module._forward_pre_hooks.items() if isinstance(hook, FreezeHook)]:
            del module._forward_pre_hooks[key]
            module.training = cut.model.training
