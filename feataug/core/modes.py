"""Contexts that put a model into eval mode, or on its training branches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from feataug.core.rng import preserved_rng


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put every module into eval mode, and restore its former mode afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        # `eval` of a module may do more than set a flag: timm's LeViT drops cached biases.
        model.eval()
        # It may also do less (smp's frozen encoders keep their mode), so the flag is set as well.
        for module, _ in modes:
            module.training = False
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        # Inside the user's autocast, torch (2.6) would reuse weights that were cast here without gradients, in training too.
        torch.clear_autocast_cache()


@contextmanager
def training_paths(model: nn.Module, like: Tensor) -> Iterator[None]:
    """Let composite modules take their training branches, with norms and dropout in eval mode, so that no statistics change.

    Random numbers that a composite module draws come from a fork of torch's generators on the device of ``like``.
    """
    with eval_mode(model), preserved_rng(like.device):
        for module in model.modules():
            stateful = next(module.buffers(recurse=False), None) is not None
            module.training = not stateful and next(module.children(), None) is not None
        yield
