"""What a flow knows of a mask: class shares of fine cells, mixed with those around them, and the features that they let expect."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from feataug.core.specs import FeatureSpec, LevelSpec
from feataug.generation.layers.class_shares import class_shares
from feataug.generation.layers.mix_block import MixBlock

# Side of the grid of finer cells in which the classes' shares are counted within a cell.
FINENESS = 4
# Blocks at each stride. Masks are easy beside features: more blocks expect nothing better (measured on CamVid).
BLOCKS = 2


def fine_shares(masks: Tensor, num_classes: int, stride: int, size: tuple[int, int]) -> Tensor:
    """Class shares of the finer cells within each cell, side by side as channels: where in a cell a thin class lies.

    Args:
        masks: ``(B, H, W)`` int64.
        num_classes: Number of classes; void is one label more.
        stride: Of the feature map. A cell is divided into ``fineness(stride)`` times as many.
        size: Rows and columns of the feature map. An encoder that rounds down leaves out the last cells.

    Returns:
        ``(B, rows, columns, labels * fineness(stride) ** 2)``.

    Source:
        Ours.
    """
    factor = fineness(stride)
    shares = class_shares(masks, num_classes, stride // factor)
    missing = [max(0, factor * cells - have) for cells, have in zip(size, shares.shape[-2:], strict=True)]
    shares = F.pad(shares, (0, missing[1], 0, missing[0]))[..., : factor * size[0], : factor * size[1]]
    return rearrange(shares, "b k (h i) (w j) -> b h w (k i j)", i=factor, j=factor)


def fineness(stride: int) -> int:
    """The largest number up to ``FINENESS`` that divides a stride."""
    return max(n for n in range(1, FINENESS + 1) if stride % n == 0)


class MaskCodes(NamedTuple):
    """Encoded masks.

    Attributes:
        hidden: ``(B, h, w, width)`` for each grid, for the velocity network.
        expected: The mean of the features of such masks, for each level of the spec; in standardised units.
    """

    hidden: list[Tensor]
    expected: list[Tensor]

    def repeat(self, count: int) -> MaskCodes:
        """All masks once, then all of them again, ``count`` times."""
        return MaskCodes(*([value.repeat(count, 1, 1, 1) for value in values] for values in self))


class MaskContext(nn.Module):
    """Encodes masks for a flow.

    Each grid of cells has its class shares and ``BLOCKS`` blocks that mix them; what the coarser grids found comes first. The result goes
    to the velocity network, and a linear layer turns it into the mean of the features. At ``t = 0`` a flow's velocity is this mean minus the
    noise, because pure noise tells nothing about the features. So the first step does not need the velocity network.

    Args:
        num_classes: Number of classes; void is one label more.
        spec: What crosses the cut.
        grids: The maps of the spec that share their cells, from fine to coarse.
        widths: Channels of the velocity network at each grid. Here there are half as many, at least 32.

    Source:
        Ours.
    """

    def __init__(self, num_classes: int, spec: FeatureSpec, grids: Sequence[Sequence[LevelSpec]], widths: Sequence[int]) -> None:
        super().__init__()
        self.num_classes, self.spec, self.grids = num_classes, spec, grids
        own = [max(32, width // 2) for width in widths]
        self.channels = [[level.channels for level in levels] for levels in grids]
        self.tokens = [level for level in spec if level.tokens]
        labels = num_classes + 1
        self.enter = nn.ModuleList(
            nn.Linear(labels * fineness(levels[0].reduction) ** 2, width) for levels, width in zip(grids, own, strict=True)
        )
        self.up = nn.ModuleList(nn.Linear(coarse, fine) for fine, coarse in pairwise(own))
        self.blocks = nn.ModuleList(nn.Sequential(*(MixBlock(width) for _ in range(BLOCKS))) for width in own)
        self.leave = nn.ModuleList(nn.Linear(width, wide) for width, wide in zip(own, widths, strict=True))
        self.mean = nn.ModuleList(nn.Linear(width, sum(channels)) for width, channels in zip(own, self.channels, strict=True))
        self.token_mean = nn.Linear(own[-1], sum(level.channels * level.tokens for level in self.tokens)) if self.tokens else None
        for head in (*self.mean, *([self.token_mean] if self.token_mean is not None else [])):
            nn.init.normal_(head.weight, std=0.02)
            nn.init.zeros_(head.bias)

    def forward(self, masks: Tensor) -> MaskCodes:
        """``(B, H, W)`` int64 to codes."""
        size = (int(masks.shape[-2]), int(masks.shape[-1]))
        hidden: list[Tensor] = []
        for number in reversed(range(len(self.grids))):
            level = self.grids[number][0]
            shares = fine_shares(masks, self.num_classes, level.reduction, level.size(size))
            entered = self.enter[number](shares.to(self.enter[number].weight.dtype))  # type: ignore[arg-type]
            if hidden:
                entered = entered + self.up[number](resized(hidden[0], entered, "nearest"))
            hidden.insert(0, self.blocks[number](entered))
        hidden = [F.layer_norm(value, value.shape[-1:]) for value in hidden]
        means = [
            iter(rearrange(head(value), "b h w c -> b c h w").split(channels, dim=1))
            for head, value, channels in zip(self.mean, hidden, self.channels, strict=True)
        ]
        maps = {level.name: next(mean) for levels, mean in zip(self.grids, means, strict=True) for level in levels}
        if self.token_mean is not None:
            sizes = [level.channels * level.tokens for level in self.tokens]
            rest = self.token_mean(hidden[-1].mean((1, 2))).split(sizes, dim=1)
            maps |= {level.name: part.view(len(part), level.channels, 1, -1) for level, part in zip(self.tokens, rest, strict=True)}
        return MaskCodes(
            [leave(value) for leave, value in zip(self.leave, hidden, strict=True)], [maps[level.name] for level in self.spec]
        )


def resized(hidden: Tensor, like: Tensor, mode: str) -> Tensor:
    """``(B, h, w, C)`` in the size of another such map."""
    maps = F.interpolate(rearrange(hidden, "b h w c -> b c h w"), like.shape[1:3], mode=mode)
    return rearrange(maps, "b c h w -> b h w c")
