"""The moving average of a generator's weights."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel


@torch.no_grad()
def update_average(average: AveragedModel, model: nn.Module, images: int, half_life: int) -> None:
    """Take the model's weights into their exponential moving average.

    Args:
        average: The averaged model.
        model: The trained model.
        images: Images of the step.
        half_life: Images after which a weight counts half. It is shorter at first: the first weights are noise.
    """
    count = int(average.n_averaged)
    decay = min(0.5 ** (images / half_life), (1 + count) / (10 + count))
    for kept, weight in zip(average.module.parameters(), model.parameters(), strict=True):
        kept.lerp_(weight, 1 - decay)
    average.n_averaged += 1
