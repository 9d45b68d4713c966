"""Find the cut in a recorded forward pass: the call, what crosses there, which parameters come before."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from feataug.checks import describe
from feataug.errors import SplitError, message
from feataug.recording import Call, eval_mode
from feataug.specs import LevelSpec


def find_call(model: nn.Module, calls: list[Call], layer: str, side: str) -> tuple[Call, bool]:
    """The call to cut at, and whether to cut before it."""
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
    if side not in ("", "input", "pre_act"):
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
        inner = [c for c in calls if c.end is not None and call.start <= c.start and c.end <= (call.end or 0)]
        # An in-place activation returns its input, so identity with the block's output is not enough: the last one is it.
        found = [c for c in inner if c.output is call.output and _is_activation(c.module)]
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
    kind = type(module)
    return "activation" in kind.__module__


def measure_levels(at: str, value: Any, example: Tensor) -> Iterator[LevelSpec]:
    """Measure what crosses; channels and strides as they are, not as metadata has them."""
    leaves = tree_flatten(value)[0]
    rows, columns = example.shape[-2:]
    for number, leaf in enumerate(leaves):
        if not isinstance(leaf, Tensor) or leaf.ndim != 4 or not leaf.is_floating_point() or 0 in leaf.shape:
            raise SplitError(
                message(
                    f'split: what crosses at "{at}" is no feature map.',
                    given=describe(leaf),
                    needed="(B, channels, h, w) float tensors",
                )
            )
        reduction = max(1, round(rows / leaf.shape[2]))
        level = LevelSpec(at if len(leaves) == 1 else f"{at}[{number}]", leaf.shape[1], reduction)
        if level.size((rows, columns)) != tuple(leaf.shape[2:]):
            raise SplitError(
                message(
                    f'split: the stride at "{at}" cannot be measured.',
                    given=f"{tuple(leaf.shape[2:])} for images of {rows} x {columns}",
                    needed="rows and columns of ceil(image / stride)",
                    advice="Pass example= of a size that the strides divide. Channels-last (NHWC) maps are not supported here.",
                )
            )
        yield level


def partition(model: nn.Module, calls: list[Call], time: int, decode_constants: Callable[[], Any]) -> set[str]:
    """Names of the encoder's parameters: those of modules whose every call is over at ``time``.

    ``decode_constants`` decodes features that carry no gradient; it tells which parameters the decoder reads, where calls do not.
    """
    early, late = set(), set()
    for call in calls:
        assert call.end is not None
        if call.end <= time:
            early.add(call.module)
        elif call.start >= time:
            late.add(call.module)
        else:
            early.add(call.module)
            late.add(call.module)
    names, unclear = set(), {}
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(prefix, recurse=False):
            if module in early and module not in late:
                names.add(name)
            elif module in early:
                unclear[name] = parameter
    trainable = {name: parameter for name, parameter in unclear.items() if parameter.requires_grad}
    if trainable:
        # A module around the cut with parameters of its own (a ViT's position embedding): ask the decoder which it reads.
        with eval_mode(model), torch.enable_grad():
            leaves = tree_flatten(decode_constants())[0]
            total = sum(leaf.sum() for leaf in leaves if isinstance(leaf, Tensor) and leaf.requires_grad)
            read = torch.autograd.grad(total, list(trainable.values()), allow_unused=True)  # type: ignore[arg-type]
        names |= {name for name, gradient in zip(trainable, read, strict=True) if gradient is None}
    return names
