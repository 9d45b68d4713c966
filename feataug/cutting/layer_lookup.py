"""Find the layer of a cut in a traced forward pass."""

from __future__ import annotations

import difflib
from typing import Any

import torch
from torch import nn

from feataug.core.checks import describe
from feataug.cutting.call_trace import Call, TensorInfo
from feataug.cutting.capture import is_activation
from feataug.errors import SplitError

SIDES = ("", "input", "pre_act")


def layer_names(at: Any) -> tuple[str, ...]:
    """The layers that a user named, one or several.

    Raises:
        SplitError: ``at`` holds no names, or a name twice.
    """
    if not isinstance(at, (str, list, tuple)) or not all(isinstance(name, str) for name in at):
        raise SplitError(
            "split: at is not the name of a layer.", given=describe(at), needed="a name such as 'layer3', or a list of several"
        )
    names = (at,) if isinstance(at, str) else tuple(at)
    if not names or len(set(names)) < len(names):
        raise SplitError("split: a layer is named twice, or none is named.", given=repr(names), needed="one or several different names")
    return names


def find_call(model: nn.Module, calls: list[Call], at: str) -> tuple[Call, bool]:
    """The call at which to cut, and whether to cut at its input.

    Raises:
        SplitError: there is no such layer, the model does not call it, or it takes no hooks.
    """
    layer, _, side = at.partition(":")
    names = [name for name, _ in model.named_modules() if name]
    if layer not in names:
        near = difflib.get_close_matches(layer, names, n=3, cutoff=0.4) or names[:3]
        raise SplitError(
            f'split: the model has no layer "{layer}".',
            given=f"{type(model).__name__} with {len(names)} layers",
            needed="a name from model.named_modules(), such as " + ", ".join(repr(name) for name in near),
        )
    if side not in SIDES:
        raise SplitError("split: no such side of a layer.", given=f'":{side}"', needed='nothing, ":input" or ":pre_act"')
    module = model.get_submodule(layer)
    own = [call for call in calls if call.module is module]
    if isinstance(module, torch.jit.ScriptModule):
        raise SplitError(
            f'split: the layer "{layer}" is in TorchScript, which takes no hooks.',
            given=type(module).__name__,
            needed="a layer in Python, such as the one before it or around it",
        )
    if not own:
        raise SplitError(
            f'split: the layer "{layer}" is not called in the model\'s forward pass.',
            given=f"{type(module).__name__}, in eval mode",
            needed="a layer that every forward pass calls",
        )
    call = own[-1]
    if side == "pre_act":
        # An in-place activation returns its input, so several calls may return the block's output: the last activation made it.
        found = [c for c in calls if (c is call or c.within(call)) and _same_tensor(c, call) and is_activation(c.module)]
        if not found:
            raise SplitError(
                f'split: no activation makes the output of "{layer}".',
                given=f"{type(module).__name__}",
                needed="a block whose output is that of a module such as ReLU",
                advice=f'Cut at "{layer}" itself: its output is not activated, or by a function instead of a module.',
            )
        return found[-1], True
    return call, side == "input"


def _same_tensor(one: Call, other: Call) -> bool:
    """Whether two calls returned the same single tensor: one shape in one storage."""
    return isinstance(one.output, TensorInfo) and one.output == other.output
