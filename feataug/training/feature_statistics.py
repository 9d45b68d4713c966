"""Mean and standard deviation of each channel of real features."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from feataug.core.checks import check_features, check_images, check_mask_form, check_pairs
from feataug.core.distributed import all_reduce_sum, rank_and_world
from feataug.cutting.cut import Cut


def features_of(cut: Cut, images: Tensor | Sequence[Tensor], device: Any) -> tuple[Tensor, ...]:
    """Encode images. Features that come from a ``FeatureBank`` are moved to the device as they are."""
    if isinstance(images, Tensor):
        check_images("GeneratorTrainer", images)
        return tuple(cut.encode(images.to(device, memory_format=torch.channels_last)))
    return tuple(level.to(device) for level in check_features("GeneratorTrainer", images, cut.spec))


@torch.no_grad()
def channel_statistics(
    cut: Cut, batches: Iterator[tuple[Tensor, Tensor]], num_images: int, device: Any
) -> tuple[list[Tensor], list[Tensor]]:
    """Measure each channel over ``num_images`` images of all processes and, for maps, over all positions. Sums are float64.

    Args:
        cut: The cut; its model is in eval mode.
        batches: Endless batches of ``(images, masks)`` or ``(features, masks)``.
        num_images: The least number of images to measure.
        device: The device of the model.

    Returns:
        One mean and one standard deviation per level, ``(channels,)``; ``(channels, tokens)`` for tokens.
    """
    shapes = [(level.channels, level.tokens) if level.tokens else (level.channels,) for level in cut.spec]
    sums = [torch.zeros(2, *shape, dtype=torch.float64) for shape in shapes]
    pixels, count = [0] * len(sums), 0
    while count * rank_and_world()[1] < num_images:
        images, masks = next(batches)
        features = features_of(cut, images, device)
        check_mask_form("GeneratorTrainer", masks)
        check_pairs("GeneratorTrainer", features, masks)
        for number, level in enumerate(features):
            values = level.double()
            dims = (0, 2, 3) if len(shapes[number]) == 1 else (0, 2)
            sums[number] += torch.stack([values.sum(dims), values.square().sum(dims)]).cpu()
            pixels[number] += level.numel() // math.prod(shapes[number])
        count += len(masks)
    sums = [all_reduce_sum(part.to(device)).cpu() for part in sums]
    pixels = [n * rank_and_world()[1] for n in pixels]
    means = [part[0] / n for part, n in zip(sums, pixels, strict=True)]
    return means, [(s[1] / n - m.square()).clamp(min=0).sqrt() for s, m, n in zip(sums, means, pixels, strict=True)]
