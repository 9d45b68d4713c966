"""The hook on a layer of the cut, where features leave and enter the model."""

from __future__ import annotations

import contextlib
import functools
import operator
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from feataug.core.checks import describe
from feataug.cutting.gradient_checkpoints import in_backward
from feataug.errors import ShapeError, SplitError


class CutHook:
    """A forward hook, or a pre-hook, on a layer of the cut; it does nothing unless an action is set.

    Args:
        index: Number of the layer's call, within a forward pass, at which the model is cut.
        before: Whether the cut is at the input of that call, not at its output.
        cut: A reference to the ``Cut``, by which a mixer that is given the model finds the cut. It is weak, because the cut owns
            the hook.
    """

    def __init__(self, index: int, before: bool, cut: weakref.ref[Any] | None = None) -> None:
        self.index, self.before, self.cut = index, before, cut
        self.action: Callable[[Any], Any] | None = None
        # Calls of the layer before the one that the action is for; -1 at that call.
        self.calls_remaining = 0
        # The action for when gradient checkpointing runs the layer again in backward.
        self.recompute_action: Callable[[Any], Any] | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> CutHook:
        # A copy of the model does not belong to the cut.
        return CutHook(self.index, self.before)

    def __reduce__(self) -> tuple[Any, ...]:
        # A pickled model holds a hook that does nothing, and loads where this library is not installed: `__exit__` of the standard
        # library's null context takes any arguments and returns None.
        return getattr, (contextlib.nullcontext(), "__exit__")

    @contextmanager
    def applying(self, action: Callable[[Any], Any], index: int | None = None, *, recomputed: bool = False) -> Iterator[None]:
        """Apply ``action`` to the value that passes at one call of the layer.

        Args:
            action: Takes the value. The value that it returns goes on instead; ``None`` leaves the value as it is.
            index: Number of the call, from now on; by default the hook's own.
            recomputed: Whether to apply the action again when a gradient checkpoint recomputes the layer.

        Raises:
            SplitError: another action is set.
        """
        if self.action is not None:
            raise in_use_error()
        self.action, self.calls_remaining, self.recompute_action = action, self.index if index is None else index, None
        try:
            yield
        finally:
            self.action = None
        if recomputed and self.index == 0 and torch.is_grad_enabled():
            self.recompute_action = action

    def __call__(self, module: Any, args: Any, third: Any = None) -> Any:
        """The forward hook (``third`` is the output), or the pre-hook (``third`` holds the keyword arguments)."""
        action = self.action
        if action is not None:
            self.calls_remaining -= 1
            if self.calls_remaining != -1:
                return None
        else:
            if self.recompute_action is not None and not in_backward():
                self.recompute_action = None
            action = self.recompute_action
        if action is None:
            return None
        return action((args, third)) if self.before else action(third)


def in_use_error() -> SplitError:
    """Only one of encoding, decoding and mixing can use a cut at a time."""
    return SplitError(
        "feataug: the cut is in use.", given="encode, decode or mixing inside `with cut.mixing`", needed="one at a time"
    )


class _DetachForScript:
    """Takes the cut's hook off a layer when ``torch.jit.script`` prepares the layer, because TorchScript compiles all hooks.

    The cut attaches its hook again when it is used.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self) -> nn.Module:
        detach_hooks(self.module, lambda hook: isinstance(hook, CutHook))
        return self.module

    def __deepcopy__(self, memo: dict[int, Any]) -> _DetachForScript:
        return _DetachForScript(memo[id(self.module)])

    def __reduce__(self) -> tuple[Any, ...]:
        # As for the hook: a function of the standard library that returns the layer.
        return functools.partial, (operator.itemgetter(0), (self.module,))


# The attribute that torch.jit.script looks for.
_PREPARE = "__prepare_scriptable__"


def attach_hook(module: nn.Module, hook: CutHook) -> None:
    """Register the hook, unless it is registered already."""
    registered = module._forward_pre_hooks if hook.before else module._forward_hooks
    if any(other is hook for other in registered.values()):
        return
    # It runs first, so that hooks of others see the mixed features (transformers records hidden states by hooks).
    if hook.before:
        module.register_forward_pre_hook(hook, prepend=True, with_kwargs=True)
    else:
        module.register_forward_hook(hook, prepend=True)
    if not hasattr(module, _PREPARE):
        module.__dict__[_PREPARE] = _DetachForScript(module)


def detach_hooks(module: nn.Module, selected: Callable[[Any], bool]) -> None:
    """Remove the hooks of a layer for which ``selected`` returns true."""
    for registered in (module._forward_hooks, module._forward_pre_hooks):
        for key in [key for key, hook in registered.items() if selected(hook)]:
            del registered[key]
            module._forward_pre_hooks_with_kwargs.pop(key, None)
    remaining = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    if isinstance(module.__dict__.get(_PREPARE), _DetachForScript) and not any(isinstance(hook, CutHook) for hook in remaining):
        del module.__dict__[_PREPARE]


def join(real: Tensor, synthetic: Tensor) -> Tensor:
    """Real samples followed by synthetic ones, with the device, dtype and memory format of the real ones."""
    if synthetic.shape[1:] != real.shape[1:]:
        raise ShapeError(
            "cut.mixing: the synthetic features do not fit the cut.",
            given=describe(synthetic),
            needed=f"[n, {', '.join(map(str, real.shape[1:]))}]",
            advice="Generate from masks of the images' size, by a generator that was trained for this cut.",
        )
    channels_last = real.ndim == 4 and real.is_contiguous(memory_format=torch.channels_last)
    # If the two differed, `cat` would drop channels_last and promote bf16.
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    return torch.cat([real, synthetic.to(real.device, real.dtype, memory_format=memory_format)])


def cut_of(target: Any) -> Any:
    """The cut itself; for a model, the cut whose hooks are on it."""
    if hasattr(target, "mixing"):
        return target
    if isinstance(target, nn.Module):
        hooks: list[Any] = [
            hook for module in target.modules() for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
        ]
        cuts = {id(hook.cut()): hook.cut() for hook in hooks if isinstance(getattr(hook, "cut", None), weakref.ref)}
        if len(cuts) == 1:
            return cuts.popitem()[1]
        count = f"{len(cuts)} cuts"
    else:
        count = "no module"
    raise SplitError(
        "FeatureMixer: where to mix is not clear.",
        given=f"{type(target).__name__} with {count}",
        needed="a cut, or a model that was split once and whose cut is still there",
        advice='cut = feataug.split(model, at="..."), then mixer.on(cut, masks).',
    )
