"""The place in a model where features leave and enter."""

from __future__ import annotations

import contextlib
import functools
import operator
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import checkpoint

from feataug.core.checks import describe
from feataug.errors import ShapeError, SplitError, message


class CutHook:
    """A forward hook, or a pre-hook, on the layer of the cut; idle unless an action is set."""

    def __init__(self, index: int, before: bool) -> None:
        self.index, self.before = index, before
        self.action: Callable[[Any], Any] | None = None
        self.calls_remaining = 0
        # What to do when gradient checkpointing runs the layer again while gradients are computed.
        self.recompute_action: Callable[[Any], Any] | None = None
        # Set by the cut, so that a mixer which is given the model finds the cut; weak, since the cut owns the port.
        self.cut: weakref.ref[Any] | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> CutHook:
        # Idle: a copy of a model is free of the cut.
        return CutHook(self.index, self.before)

    def __reduce__(self) -> tuple[Any, ...]:
        # A pickled model holds a hook that does nothing, and can be loaded where this library is not installed: `__exit__` of the standard
        # library's null context takes any arguments and returns None.
        return getattr, (contextlib.nullcontext(), "__exit__")

    @contextmanager
    def applying(self, action: Callable[[Any], Any], index: int | None = None, *, again: bool = False) -> Iterator[None]:
        """Apply ``action`` to what passes at the ``index``-th call of the layer from now on; ``again`` also when it is recomputed."""
        if self.action is not None:
            raise SplitError(
                message(
                    "feataug: the cut is in use.", given="encode, decode or mixing inside `with cut.mixing`", needed="one at a time"
                )
            )
        self.action, self.calls_remaining, self.recompute_action = action, self.index if index is None else index, None
        try:
            yield
        finally:
            self.action = None
        if again and self.index == 0 and torch.is_grad_enabled():
            self.recompute_action = action

    def __call__(self, module: Any, args: Any, third: Any = None) -> Any:
        """The forward hook (``third`` is the output), or the pre-hook (``third`` holds the keyword arguments)."""
        action = self.action
        if action is None:
            if self.recompute_action is None:
                return None
            if not _in_backward():
                self.recompute_action = None
                return None
            action = self.recompute_action
        else:
            self.calls_remaining -= 1
            if self.calls_remaining != -1:
                return None
        return action((args, third)) if self.before else action(third)


class _DetachForScript:
    """Takes the hook of a cut off a layer when ``torch.jit.script`` asks the layer to prepare itself: TorchScript compiles all hooks.

    The cut puts it on again when it is used.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self) -> nn.Module:
        detach_hooks(self.module, lambda hook: isinstance(hook, CutHook))
        return self.module

    def __deepcopy__(self, memo: dict[int, Any]) -> _DetachForScript:
        return _DetachForScript(memo[id(self.module)])

    def __reduce__(self) -> tuple[Any, ...]:
        # As for the hook: the standard library alone, and here, too, something that returns the layer.
        return functools.partial, (operator.itemgetter(0), (self.module,))


# Asked for by torch.jit.script; torch's own name.
_PREPARE = "__prepare_scriptable__"


def attach_hook(module: nn.Module, port: CutHook) -> None:
    """Register the hook, if it is not there already."""
    hooks = module._forward_pre_hooks if port.before else module._forward_hooks
    if any(hook is port for hook in hooks.values()):
        return
    # First, so that hooks of others (transformers records hidden states by hooks) see what we put in.
    if port.before:
        module.register_forward_pre_hook(port, prepend=True, with_kwargs=True)
    else:
        module.register_forward_hook(port, prepend=True)
    if not hasattr(module, _PREPARE):
        module.__dict__[_PREPARE] = _DetachForScript(module)


def detach_hooks(module: nn.Module, ours: Callable[[Any], bool]) -> None:
    """Take those hooks off a layer that are ``ours``."""
    for registered in (module._forward_hooks, module._forward_pre_hooks):
        for key in [key for key, hook in registered.items() if ours(hook)]:
            del registered[key]
            module._forward_pre_hooks_with_kwargs.pop(key, None)
    left = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    if isinstance(module.__dict__.get(_PREPARE), _DetachForScript) and not any(isinstance(hook, CutHook) for hook in left):
        del module.__dict__[_PREPARE]


def join(real: Tensor, synthetic: Tensor) -> Tensor:
    """Real samples, then synthetic ones, in the real ones' device, dtype and memory format."""
    if synthetic.shape[1:] != real.shape[1:]:
        raise ShapeError(
            message(
                "cut.mixing: the synthetic features do not fit the cut.",
                given=describe(synthetic),
                needed=f"[n, {', '.join(map(str, real.shape[1:]))}]",
                advice="Generate from masks of the images' size, by a generator that was trained for this cut.",
            )
        )
    wide = real.ndim == 4 and real.is_contiguous(memory_format=torch.channels_last)
    # `cat` would drop channels_last and promote bf16 if the two differed.
    memory_format = torch.channels_last if wide else torch.contiguous_format
    return torch.cat([real, synthetic.to(real.device, real.dtype, memory_format=memory_format)])


def cut_of(target: Any) -> Any:
    """The cut itself, or the one that a model was split by: its hook knows."""
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
        message(
            "FeatureMixer: where to mix is not clear.",
            given=f"{type(target).__name__} with {count}",
            needed="a cut, or a model that was split once and whose cut is still there",
            advice='cut = feataug.split(model, at="..."), then mixer.on(cut, masks).',
        )
    )


def checkpointed(until: CodeType) -> str | None:
    """Is this code run by ``torch.utils.checkpoint``, called further in than ``until``?

    Returns:
        ``"reentrant"``, ``"non-reentrant"``, or ``None``; also ``None`` where what is checkpointed is the very module that this code stands
        for: its output ends the segment, and nothing is left to compute again.
    """
    # From the stand-in's own frame outwards.
    frame = sys._getframe(3)
    found, direct = None, True
    while frame is not None and frame.f_code is not until:
        if frame.f_code is checkpoint.CheckpointFunction.forward.__code__:
            return "reentrant"
        if frame.f_code.co_filename == checkpoint.__file__:
            found = found or ("direct" if direct else "non-reentrant")
        elif frame.f_code.co_filename != nn.modules.module.__file__:
            direct = False
        frame = frame.f_back  # type: ignore[assignment]
    return None if frame is None or found == "direct" else found


def _in_backward() -> bool:
    return torch._C._current_graph_task_id() != -1
