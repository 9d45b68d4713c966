"""Find the cut in a recorded forward pass: the call, what crosses there, which parameters come before."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from feataug.checks import describe
from feataug.errors import SplitError, message
from feataug.recording import Call, eval_mode

SIDES = ("", "input", "pre_act")


def layer_names(at: Any) -> tuple[str, ...]:
    """What a user gave as ``at``, one name or several; ``SplitError`` if it is something else."""
    if not isinstance(at, (str, list, tuple)) or not all(isinstance(name, str) for name in at):
        raise SplitError(
            message("split: at is no layer's name.", given=describe(at), needed="a name such as 'layer3', or a list of several")
        )
    names = (at,) if isinstance(at, str) else tuple(at)
    if not names or len(set(names)) < len(names):
        raise SplitError(message("split: layers must be named once.", given=repr(names), needed="one or several different names"))
    return names


def find_call(model: nn.Module, calls: list[Call], at: str) -> tuple[Call, bool]:
    """The call to cut at, and whether to cut before it."""
    layer, _, side = at.partition(":")
    names = [name for name, _ in model.named_modules() if name]
    if layer not in names:
        near = difflib.get_close_matches(layer, names, n=3, cutoff=0.4) or names[:3]
        raise SplitError(
            message(
                f'split: the model has no layer "{layer}".',
                given=f"{type(model).__name__} with {len(names)} layers",
                needed="a name from model.named_modules(), such as " + ", ".join(repr(name) for name in near),
            )
        )
    if side not in SIDES:
        raise SplitError(message("split: no such side of a layer.", given=f'":{side}"', needed='nothing, ":input" or ":pre_act"'))
    module = model.get_submodule(layer)
    own = [call for call in calls if call.module is module]
    if not own:
        raise SplitError(
            message(
                f'split: the layer "{layer}" is not called in the model\'s forward pass.',
                given=f"{type(module).__name__}, in eval mode",
                needed="a layer that every forward pass calls",
            )
        )
    call = own[-1]
    if side == "pre_act":
        # An in-place activation returns its input, so identity with the block's output is not enough: the last one is it.
        found = [c for c in calls if (c is call or c.within(call)) and c.output is call.output and _is_activation(c.module)]
        if not found:
            raise SplitError(
                message(
                    f'split: no activation makes the output of "{layer}".',
                    given=f"{type(module).__name__}",
                    needed="a block whose output is that of a module such as ReLU",
                    advice=f'Cut at "{layer}" itself: its output is not activated, or by a function instead of a module.',
                )
            )
        return found[-1], True
    return call, side == "input"


def _is_activation(module: nn.Module) -> bool:
    return "activation" in type(module).__module__


def partition(
    model: nn.Module,
    time: float,
    last_read: Callable[[Tensor], float | None],
    again: set[nn.Module],
    decode_constants: Callable[[], Any],
) -> set[str]:
    """Names of the encoder's parameters: those that are last read before ``time``, and that the decoder does not need once more.

    Args:
        model: The model.
        time: Of the cut.
        last_read: When a parameter is last read; ``None`` for never.
        again: Modules that decoding calls although they come before the cut, and those around the cut.
        decode_constants: Decodes features that carry no gradient; it tells which of their parameters the decoder reads.
    """
    owners = {
        name: module for prefix, module in model.named_modules() for name, _ in module.named_parameters(prefix, recurse=False)
    }
    early = {name: p for name, p in model.named_parameters() if (read := last_read(p)) is not None and read < time}
    unclear = {name: parameter for name, parameter in early.items() if owners[name] in again and parameter.requires_grad}
    if unclear:
        # A module around the cut with parameters of its own (a ViT's position embedding), or one whose output crosses unseen.
        with eval_mode(model), torch.enable_grad():
            out = [leaf for leaf in tree_leaves(decode_constants()) if isinstance(leaf, Tensor) and leaf.requires_grad]
            total = sum((leaf.sum() for leaf in out), torch.zeros((), requires_grad=True))
            read_again = torch.autograd.grad(total, list(unclear.values()), allow_unused=True)
        for name, gradient in zip(unclear, read_again, strict=True):
            if gradient is not None:
                del early[name]
    return set(early)
