"""The U-Net that turns an encoded mask and noise into features."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from feataug.core.specs import FeatureSpec, LevelSpec
from feataug.generation.layers.norm import ModulatedNorm, Modulation, modulations, no_modulation


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside an identity, each after a (modulated) norm and a leaky ReLU."""

    def __init__(self, in_channels: int, out_channels: int, **modulation: Any) -> None:
        super().__init__()
        self.norm1 = ModulatedNorm(in_channels, **modulation)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = ModulatedNorm(out_channels, **modulation)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.identity = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()

    def forward(self, inputs: Tensor, modulated: Mapping[nn.Module, Modulation]) -> Tensor:
        """``(B, in_channels, h, w)`` to ``(B, out_channels, h, w)``."""
        hidden = self.conv1(F.leaky_relu(self.norm1(inputs, modulated.get(self.norm1)), 0.2))
        hidden = self.conv2(F.leaky_relu(self.norm2(hidden, modulated.get(self.norm2)), 0.2))
        return self.identity(inputs) + hidden


class UNet(nn.Module):
    """An encoder-decoder with skip connections, for any input size, with one output per requested scale.

    Args:
        in_channels: Maps of the encoded mask.
        out_channels: Channels of each output.
        scales: Scale of each output: 0 is the input's resolution, and scale ``i`` has half the rows and columns of ``i - 1``,
            rounded up.
        widths: Maps at each scale, from 0 on; one entry for each level of the U-Net.
        latent_dim: Size of ``z``.
        modulation: What every norm depends on: ``"none"`` (``z`` enters once, as maps beside the encoded mask: the paper),
            ``"latent"`` (``z``) or ``"class"`` (``z`` and the classes in each cell).
        num_labels: Channels of the class shares, for ``"class"``.
        tokens: ``(channels, count)`` of outputs without a position in the image, such as class tokens. They are computed from the
            mean of the coarsest maps.

    Source:
        Sec. 3.1: "encoded semantic layout and a latent code into a U-Net". Ours: linear outputs, skip connections of any size,
        modulation, tokens.
    """

    plain: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: Sequence[int],
        scales: Sequence[int],
        *,
        widths: Sequence[int],
        latent_dim: int,
        modulation: str,
        num_labels: int,
        tokens: Sequence[tuple[int, int]] = (),
    ) -> None:
        super().__init__()
        inner: dict[str, Any] = {
            "latent_dim": 0 if modulation == "none" else latent_dim,
            "num_labels": num_labels if modulation == "class" else 0,
        }
        self.scales, self.tokens = tuple(scales), tuple(tokens)
        self.enter = nn.Conv2d(in_channels + latent_dim, widths[0], 3, padding=1)
        self.down = nn.ModuleList(ResidualBlock(w, w, **inner) for w in widths)
        self.shrink = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairwise(widths))
        self.up = nn.ModuleList(ResidualBlock(a + b, a, **inner) for a, b in pairwise(widths))
        self.norms = nn.ModuleList(ModulatedNorm(widths[scale], **inner) for scale in scales)
        self.heads = nn.ModuleList(
            nn.Conv2d(widths[scale], channels, 3, padding=1) for scale, channels in zip(scales, out_channels, strict=True)
        )
        self.token_heads = nn.ModuleList(
            nn.Sequential(nn.Linear(widths[-1], widths[-1]), nn.LeakyReLU(0.2), nn.Linear(widths[-1], channels * count))
            for channels, count in tokens
        )
        self.register_buffer("plain", no_modulation([norm for norm, _ in self.modulated_norms]), persistent=False)

    @property
    def modulated_norms(self) -> list[tuple[ModulatedNorm, int]]:
        """All modulated norms and the scale of each, from fine to coarse."""
        blocks: list[tuple[int, Any]] = [*enumerate(self.down), *enumerate(self.up)]
        norms: list[tuple[Any, int]] = [(norm, number) for number, block in blocks for norm in (block.norm1, block.norm2)]
        norms += list(zip(self.norms, self.scales, strict=True))
        return sorted([pair for pair in norms if pair[0].modulation is not None], key=lambda pair: pair[1])

    def forward(self, code: Tensor, z: Tensor, shares: Tensor | None = None) -> list[Tensor]:
        """Compute all outputs.

        Args:
            code: Encoded mask, ``(B, in_channels, h, w)``.
            z: ``(B, latent_dim)``.
            shares: Share of each class in each cell, ``(B, num_labels, h, w)``, if the norms depend on it.

        Returns:
            One map per scale, then ``(B, C, 1, count)`` tokens.
        """
        shares_at: list[Tensor | None] = [shares]
        for _ in self.shrink:
            finer = shares_at[-1]
            shares_at.append(F.avg_pool2d(finer, 2, ceil_mode=True, count_include_pad=False) if finer is not None else None)
        norms = self.modulated_norms
        modulated: dict[nn.Module, Modulation] = {}
        if norms:
            found = modulations([norm for norm, _ in norms], z, [shares_at[scale] for _, scale in norms], self.plain)
            modulated = {norm: part for (norm, _), part in zip(norms, found, strict=True)}
        noise = repeat(z, "batch c -> batch c h w", h=code.shape[-2], w=code.shape[-1])
        hidden = self.enter(torch.cat([code, noise], dim=1))
        skips = []
        for number, block in enumerate(self.down):
            hidden = block(hidden, modulated)
            skips.append(hidden)
            if number < len(self.shrink):
                hidden = self.shrink[number](hidden)
        hidden_at = {len(skips) - 1: skips[-1]}
        for number in reversed(range(len(self.up))):
            grown = F.interpolate(hidden_at[number + 1], skips[number].shape[-2:])
            hidden_at[number] = self.up[number](torch.cat([skips[number], grown], dim=1), modulated)
        maps = [
            head(F.leaky_relu(norm(hidden_at[scale], modulated.get(norm)), 0.2))
            for head, norm, scale in zip(self.heads, self.norms, self.scales, strict=True)
        ]
        pooled = skips[-1].mean((2, 3)) if self.tokens else skips[-1]
        return maps + [
            rearrange(head(pooled), "batch (channels count) -> batch channels 1 count", count=count)
            for head, (_, count) in zip(self.token_heads, self.tokens, strict=True)
        ]


def unet_widths(maps: Sequence[LevelSpec], finest: int, depth: int, first: int | None) -> list[int]:
    """Maps of the U-Net at each scale. Fine scales are narrow: they have many pixels and, in pyramids, few channels to generate."""
    widths = []
    for scale in range(1 + max(round(math.log2(level.reduction / finest)) for level in maps)):
        stride = finest * 2**scale
        channels = [level.channels for level in maps if round(math.log2(level.reduction / finest)) == scale]
        most = max(channels, default=0)
        # Half of the channels, or a quarter of many: otherwise a generator of 1,024 channels at stride 8 would cost more than the encoder.
        widths.append(max(min(128, 16 * stride), min(most // 2, max(256, most // 4))))
    widths += [2 * widths[-1]] * depth
    factor = 1.0 if first is None else first / widths[0]
    return [max(1, round(width * factor)) for width in widths]


def unet_for(spec: FeatureSpec, in_channels: int, *, depth: int, width: int | None, **settings: Any) -> UNet:
    """A U-Net for a spec's maps and tokens, whose finest scale is that of the finest map. ``settings`` are further ones of ``UNet``."""
    maps = [level for level in spec if not level.tokens]
    return UNet(
        in_channels,
        [level.channels for level in maps],
        [round(math.log2(level.reduction / spec.finest)) for level in maps],
        tokens=[(level.channels, level.tokens) for level in spec if level.tokens],
        widths=unet_widths(maps, spec.finest, depth, width),
        **settings,
    )
