"""Put a model into eval mode, or on its training paths, for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from feataug.core.rng import preserved_rng


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put every module into eval mode, and each back into the mode that it had."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        # Calls `train` of every part, which may do more than switch: timm's LeViT forgets biases that it has cached.
        model.eval()
        # Where it does less (smp's frozen encoders stay as they are), the switch is thrown all the same.
        for module, _ in modes:
            module.training = False
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
    with eval_mode(model), preserved_rng(like.device):
        for module in model.modules():
            stateful = next(module.buffers(recurse=False), None) is not None
            module.training = not stateful and next(module.children(), None) is not None
        yield
