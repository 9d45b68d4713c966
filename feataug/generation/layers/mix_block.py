"""The block of which the networks of flow matching are made."""

from __future__ import annotations

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


class MixBlock(nn.Module):
    """A depthwise convolution, then an MLP over channels; a time scales, shifts and gates (adaLN, Peebles and Xie 2023).

    Args:
        width: Channels.
        time_width: Channels of the encoded time; without one the block depends on its input alone.
        expansion: Hidden channels of the MLP, as a multiple of ``width``.
        kernel: Side of the depthwise convolution.

    Source:
        Ours, after ConvNeXt (Liu et al. 2022). Nearly all multiply-adds are matrix products over channels, which CPUs and GPUs do fast.
    """

    def __init__(self, width: int, time_width: int | None = None, *, expansion: int = 2, kernel: int = 5) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, kernel, padding=kernel // 2, groups=width)
        self.mlp = nn.Sequential(nn.Linear(width, expansion * width), nn.GELU(), nn.Linear(expansion * width, width))
        self.modulation = nn.Linear(time_width, 3 * width) if time_width is not None else None
        # At first a block is the identity.
        for layer in (self.mlp[-1], self.modulation):
            if layer is not None:
                nn.init.zeros_(layer.weight)  # type: ignore[arg-type]
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, hidden: Tensor, time: Tensor | None = None) -> Tensor:
        """``(B, h, w, width)`` and ``(B, time_width)`` to the former's shape."""
        mixed = rearrange(self.depthwise(rearrange(hidden, "b h w c -> b c h w")), "b c h w -> b h w c")
        mixed = F.layer_norm(mixed, mixed.shape[-1:])
        if self.modulation is None:
            return hidden + self.mlp(mixed)
        scale, shift, gate = self.modulation(time)[:, None, None].chunk(3, dim=-1)
        return hidden + (1 + gate) * self.mlp(mixed * (1 + scale) + shift)
