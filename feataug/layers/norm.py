"""Normalisation that keeps what separates the classes, and lets the noise in."""

from __future__ import annotations

import math

from torch import Tensor, nn


def group_norm(channels: int) -> nn.GroupNorm:
    """Group norm with groups of at least eight channels where that divides evenly.

    Instance norm would remove each channel's mean over the image, which is most of what tells one class from another.
    """
    return nn.GroupNorm(math.gcd(channels, max(1, channels // 8)), channels)


class ModulatedNorm(nn.Module):
    """Group norm whose scale and shift are functions of ``z``.

    Args:
        channels: Of the input.
        latent_dim: Of ``z``; 0 for a plain group norm.

    Source:
        ours (adaptive normalisation, as in StyleGAN), so that ``z`` is heard in every layer.
    """

    def __init__(self, channels: int, latent_dim: int) -> None:
        super().__init__()
        self.norm = group_norm(channels)
        self.modulation = nn.Linear(latent_dim, 2 * channels) if latent_dim else None
        if self.modulation is not None:
            nn.init.normal_(self.modulation.weight, std=latent_dim**-0.5 / 4)
            nn.init.zeros_(self.modulation.bias)

    def forward(self, inputs: Tensor, z: Tensor) -> Tensor:
        """``(B, channels, h, w)`` and ``(B, latent_dim)`` to the first's shape."""
        normed = self.norm(inputs)
        if self.modulation is None:
            return normed
        scale, shift = self.modulation(z)[:, :, None, None].chunk(2, dim=1)
        return normed * (1 + scale) + shift
