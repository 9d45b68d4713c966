"""The network of flow matching: from noisy features, a time and a mask to the velocity towards real features, for all levels together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from feataug.core.specs import FeatureSpec, LevelSpec
from feataug.generation.layers.mask_context import MaskCodes, MaskContext, resized
from feataug.generation.layers.mix_block import MixBlock

# Numbers that stand for a time.
TIME_CHANNELS = 32
# How many times more channels than it generates a scale has by default, and how many at most.
WIDER, WIDEST = 1.75, 512


def time_embedding(times: Tensor, channels: int = TIME_CHANNELS) -> Tensor:
    """Sines and cosines of times in [0, 1]: ``(B,)`` to ``(B, channels)``, with frequencies from 1 to 100 quarter turns."""
    frequencies = torch.exp(torch.linspace(0, math.log(100), channels // 2, device=times.device))
    angles = times[:, None].float() * frequencies * (math.pi / 2)
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class Scale(nn.Module):
    """What happens at one stride: noisy maps enter, blocks mix them, and velocities leave.

    Args:
        levels: The maps of this stride.
        width: Channels within.
        time_width: Channels of the encoded time.
        depth: Blocks.
    """

    def __init__(self, levels: Sequence[LevelSpec], width: int, time_width: int, depth: int) -> None:
        super().__init__()
        self.channels = [level.channels for level in levels]
        self.enter = nn.Linear(sum(self.channels), width)
        self.blocks = nn.ModuleList(MixBlock(width, time_width) for _ in range(depth))
        self.leave = nn.Linear(width, sum(self.channels))
        nn.init.normal_(self.leave.weight, std=0.02)
        nn.init.zeros_(self.leave.bias)
        # A velocity holds all of the noise, which does not fit through fewer channels: then it passes by the blocks, scaled by the time.
        self.past = nn.Linear(time_width, sum(self.channels)) if width < sum(self.channels) else None
        if self.past is not None:
            nn.init.zeros_(self.past.weight)
            nn.init.zeros_(self.past.bias)

    def forward(self, hidden: Tensor, time: Tensor) -> Tensor:
        """Only the blocks, ``(B, h, w, width)``."""
        for block in self.blocks:
            hidden = block(hidden, time)
        return hidden

    def velocities(self, hidden: Tensor, noisy: Tensor, time: Tensor) -> list[Tensor]:
        """``(B, channels, h, w)`` for each level, from the blocks' ``(B, h, w, width)`` and all levels' noisy maps, joined."""
        out = rearrange(self.leave(F.layer_norm(hidden, hidden.shape[-1:])), "b h w c -> b c h w")
        if self.past is not None:
            out = out + self.past(time)[:, :, None, None] * noisy
        return list(out.split(self.channels, dim=1))


class VelocityNet(nn.Module):
    """Velocities of all levels of a cut at once.

    Masks are encoded by a ``MaskContext``. Each stride of the spec is a ``Scale``; one stride is two of them if its sizes are rounded in
    two ways. From fine to coarse, half of each scale's blocks run and hand on their average; back from coarse to fine, the other half. With
    one stride there is one scale, and no resolution but the features' own. Class and register tokens enter with the time and leave from the
    coarsest scale's mean.

    Args:
        num_classes: Number of classes; void is one label more.
        spec: What crosses the cut. At least one level is a map.
        width: Channels at the stride that generates the most channels; the other strides have as many in proportion, at least 32. By default
            1.75 times as many as are generated, in multiples of 16, and at most 512.
        depth: Blocks of each scale.

    Source:
        Ours. Flow matching: Lipman et al. (2023). That the network should be wider than the features: Zheng et al. (2025).
    """

    def __init__(self, num_classes: int, spec: FeatureSpec, *, width: int | None = None, depth: int = 4) -> None:
        super().__init__()
        self.num_classes, self.spec = num_classes, spec
        maps = [level for level in spec if not level.tokens]
        self.grids = [[level for level in maps if _grid(level) == grid] for grid in sorted(set(map(_grid, maps)))]
        widths = _widths([sum(level.channels for level in levels) for levels in self.grids], width)
        self.context = MaskContext(num_classes, spec, self.grids, widths)
        self.tokens = sum(level.channels * level.tokens for level in spec if level.tokens)
        self.time = nn.Sequential(nn.Linear(TIME_CHANNELS + self.tokens, max(widths)), nn.SiLU())
        self.scales = nn.ModuleList(Scale(levels, own, max(widths), depth) for levels, own in zip(self.grids, widths, strict=True))
        self.down = nn.ModuleList(nn.Linear(fine, coarse) for fine, coarse in pairwise(widths))
        self.up = nn.ModuleList(nn.Linear(coarse, fine) for fine, coarse in pairwise(widths))
        self.first = depth if len(widths) == 1 else depth // 2
        known = widths[-1] + max(widths)
        self.token_head = nn.Sequential(nn.Linear(known, known), nn.SiLU(), nn.Linear(known, self.tokens)) if self.tokens else None

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self.time[0].weight.dtype  # type: ignore[return-value]

    def condition(self, masks: Tensor) -> MaskCodes:
        """Encoded ``(B, H, W)`` int64 masks, once for all times, and the features that they let expect."""
        found: MaskCodes = self.context(masks)
        return found

    def forward(self, noisy: Sequence[Tensor], times: Tensor, codes: MaskCodes) -> list[Tensor]:
        """Velocities.

        Args:
            noisy: ``(B, channels, h, w)`` for each level, tokens as ``(B, channels, 1, tokens)``; in standardised units.
            times: ``(B,)`` from 0, noise, to 1, features.
            codes: Of ``condition``.

        Returns:
            As ``noisy``, one for each level.
        """
        maps: dict[tuple[int, int], list[Tensor]] = {_grid(levels[0]): [] for levels in self.grids}
        tokens = []
        for level, value in zip(self.spec, noisy, strict=True):
            tokens.append(value.flatten(1)) if level.tokens else maps[_grid(level)].append(value)
        time = self.time(torch.cat([time_embedding(times).to(self.dtype), *tokens], dim=1))
        joined = [torch.cat(same, dim=1) for same in maps.values()]
        hidden: list[Tensor] = []
        for number, scale in enumerate(self.scales):
            entered = scale.enter(rearrange(joined[number], "b c h w -> b h w c")) + codes.hidden[number]  # type: ignore[operator]
            if hidden:
                entered = entered + self.down[number - 1](resized(hidden[-1], entered, "area"))
            for block in scale.blocks[: self.first]:  # type: ignore[index]
                entered = block(entered, time)
            hidden.append(entered)
        for number in reversed(range(len(self.grids))):
            if number + 1 < len(self.grids):
                hidden[number] = hidden[number] + self.up[number](resized(hidden[number + 1], hidden[number], "nearest"))
            for block in self.scales[number].blocks[self.first :]:  # type: ignore[index]
                hidden[number] = block(hidden[number], time)
        out = {
            grid: iter(scale.velocities(x, noise, time))  # type: ignore[operator]
            for grid, scale, x, noise in zip(maps, self.scales, hidden, joined, strict=True)
        }
        rest = self.token_head(torch.cat([hidden[-1].mean((1, 2)), time], dim=1)) if self.token_head is not None else None
        found = []
        for level, value in zip(self.spec, noisy, strict=True):
            if not level.tokens:
                found.append(next(out[_grid(level)]))
                continue
            assert rest is not None
            size = level.channels * level.tokens
            found.append(rest[:, :size].view_as(value))
            rest = rest[:, size:]
        return found


def _grid(level: LevelSpec) -> tuple[int, int]:
    """Stride and rounding of a map: levels in which both are equal always have the same size."""
    return level.reduction, level.reduction - 1 if level.offset is None else level.offset


def _widths(channels: Sequence[int], width: int | None) -> list[int]:
    """Channels of the scales, in multiples of 16, in proportion to the channels that each generates."""
    factor = WIDER if width is None else width / max(channels)
    widths = [max(32, 16 * round(factor * count / 16)) for count in channels]
    return (
        [min(own, WIDEST) for own in widths]
        if width is None
        else [width if count == max(channels) else own for own, count in zip(widths, channels, strict=True)]
    )
