"""The U-Net that turns an encoded mask and noise into features."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from feataug.generation.layers.norm import ModulatedNorm


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside an identity, each after a (modulated) norm and a leaky ReLU."""

    def __init__(self, in_channels: int, out_channels: int, **modulation: Any) -> None:
        super().__init__()
        self.norm1 = ModulatedNorm(in_channels, **modulation)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = ModulatedNorm(out_channels, **modulation)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.identity = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()

    def forward(self, inputs: Tensor, z: Tensor, shares: Tensor | None) -> Tensor:
        """``(B, in_channels, h, w)`` to ``(B, out_channels, h, w)``."""
        hidden = self.conv1(F.leaky_relu(self.norm1(inputs, z, shares), 0.2))
        hidden = self.conv2(F.leaky_relu(self.norm2(hidden, z, shares), 0.2))
        return self.identity(inputs) + hidden


class UNet(nn.Module):
    """An encoder-decoder with skips, any input size, and one output for each scale that is asked for.

    Args:
        in_channels: Maps of the encoded mask.
        out_channels: Channels of each output.
        scales: Scale of each output: 0 is the input's resolution, ``i`` is ``ceil`` of half of ``i - 1``.
        widths: Maps at each scale, from 0 on; as many scales as the U-Net has levels.
        latent_dim: Size of ``z``.
        modulation: What else every norm depends on: ``"none"`` (``z`` enters once, as maps beside the encoded mask: the paper),
            ``"latent"`` (``z``), ``"class"`` (``z``, and the classes at each place).
        num_labels: Of the class shares that ``"class"`` takes.
        tokens: ``(channels, count)`` of outputs that have no place in the image, such as class tokens; they are made of the coarsest
            maps' mean.

    Source:
        Sec. 3.1: "encoded semantic layout and a latent code into a U-Net". Ours: linear outputs, skips of any size, modulation, tokens.
    """

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

    def forward(self, code: Tensor, z: Tensor, shares: Tensor | None = None) -> list[Tensor]:
        """Features.

        Args:
            code: Encoded mask, ``(B, in_channels, h, w)``.
            z: ``(B, latent_dim)``.
            shares: Of each class in each cell, ``(B, num_labels, h, w)``, if the norms depend on them.

        Returns:
            One map per scale, then ``(B, C, 1, count)`` tokens.
        """
        at: list[Tensor | None] = [shares]
        for _ in self.shrink:
            at.append(F.avg_pool2d(at[-1], 2, ceil_mode=True, count_include_pad=False) if at[-1] is not None else None)
        noise = z[:, :, None, None].expand(-1, -1, *code.shape[-2:])
        hidden = self.enter(torch.cat([code, noise], dim=1))
        skips = []
        for number, block in enumerate(self.down):
            hidden = block(hidden, z, at[number])
            skips.append(hidden)
            if number < len(self.shrink):
                hidden = self.shrink[number](hidden)
        at_scale = {len(skips) - 1: skips[-1]}
        for number in reversed(range(len(self.up))):
            grown = F.interpolate(at_scale[number + 1], skips[number].shape[-2:])
            at_scale[number] = self.up[number](torch.cat([skips[number], grown], dim=1), z, at[number])
        maps = [
            head(F.leaky_relu(norm(at_scale[scale], z, at[scale]), 0.2))
            for head, norm, scale in zip(self.heads, self.norms, self.scales, strict=True)
        ]
        pooled = skips[-1].mean((2, 3))
        return maps + [
            head(pooled).view(len(pooled), channels, 1, count)
            for head, (channels, count) in zip(self.token_heads, self.tokens, strict=True)
        ]
