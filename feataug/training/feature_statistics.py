"""Mean and standard deviation of each channel of real features, and the correlations between channels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from feataug.core.checks import check_features, check_images, check_mask_form, check_pairs
from feataug.core.distributed import all_reduce_sum, rank_and_world
from feataug.cutting.cut import Cut
from feataug.generation.level_buffers import FEWEST_CELLS


def features_of(cut: Cut, images: Tensor | Sequence[Tensor], device: Any) -> tuple[Tensor, ...]:
    """Encode images. Features that come from a ``FeatureBank`` are moved to the device as they are."""
    if isinstance(images, Tensor):
        check_images("GeneratorTrainer", images)
        return tuple(cut.encode(images.to(device, memory_format=torch.channels_last)))
    return tuple(level.to(device) for level in check_features("GeneratorTrainer", images, cut.spec))


class ChannelStatistics(NamedTuple):
    """Of each level: mean and standard deviation of the channels, and the correlations between them.

    Attributes:
        means, stds: ``(channels,)``; ``(channels, tokens)`` for tokens.
        correlations: ``(channels, channels)``; ``None`` where they were not asked for, for tokens, and where there are too few cells.
    """

    means: list[Tensor]
    stds: list[Tensor]
    correlations: list[Tensor | None]


@torch.no_grad()
def channel_statistics(
    cut: Cut, batches: Iterator[tuple[Tensor, Tensor]], num_images: int, device: Any, *, correlations: bool = False
) -> ChannelStatistics:
    """Measure each channel over ``num_images`` images of all processes and, for maps, over all positions. Sums are float64.

    Args:
        cut: The cut; its model is in eval mode.
        batches: Endless batches of ``(images, masks)`` or ``(features, masks)``.
        num_images: The least number of images to measure.
        device: The device of the model.
        correlations: Measure those between channels, too.
    """
    shapes = [(level.channels, level.tokens) if level.tokens else (level.channels,) for level in cut.spec]
    sums = [torch.zeros(2, *shape, dtype=torch.float64) for shape in shapes]
    products = [torch.zeros(shape[0], shape[0], dtype=torch.float64) if correlations and len(shape) == 1 else None for shape in shapes]
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
            if (product := products[number]) is not None:
                cells = rearrange(values, "batch c h w -> c (batch h w)")
                product += (cells @ cells.T).cpu()
        count += len(masks)
    sums = [all_reduce_sum(part.to(device)).cpu() for part in sums]
    products = [product if product is None else all_reduce_sum(product.to(device)).cpu() for product in products]
    pixels = [n * rank_and_world()[1] for n in pixels]
    means = [part[0] / n for part, n in zip(sums, pixels, strict=True)]
    stds = [(s[1] / n - m.square()).clamp(min=0).sqrt() for s, m, n in zip(sums, means, pixels, strict=True)]
    found = [_correlations(*parts) for parts in zip(products, means, stds, pixels, strict=True)]
    return ChannelStatistics(means, stds, found)


def _correlations(product: Tensor | None, mean: Tensor, std: Tensor, count: int) -> Tensor | None:
    """From the sum of the products of two channels. A constant channel is correlated with none."""
    if product is None or count < FEWEST_CELLS * len(mean):
        return None
    spread = torch.where(std > 1e-8, std, math.inf)
    found = (product / count - torch.outer(mean, mean)) / torch.outer(spread, spread)
    return found.fill_diagonal_(1.0).clamp(-1, 1).float()
