"""Normalisation that keeps what separates the classes, and lets the noise in."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def group_norm(channels: int) -> nn.GroupNorm:
    """Group norm with groups of at least eight channels where that divides evenly.

    Instance norm would remove each channel's mean over the image, which is most of what tells one class from another.
    """
    return nn.GroupNorm(math.gcd(channels, max(1, channels // 8)), channels)


class ModulatedNorm(nn.Module):
    """Group norm whose scale and shift are functions of ``z`` and of the classes at each place.

    Args:
        channels: Of the input.
        latent_dim: Of ``z``; 0 for a plain group norm.
        num_labels: Of the class shares; 0 for the same scale and shift everywhere.

    Source:
        Ours (adaptive normalisation, as in StyleGAN), so that ``z`` is heard in every layer. Tan et al. (2021), CLADE: a scale and a
        shift looked up by class; ours by the shares of the classes in a cell, which are many where features are coarse.
    """

    def __init__(self, channels: int, latent_dim: int, num_labels: int = 0) -> None:
        super().__init__()
        self.norm = group_norm(channels)
        self.modulation = nn.Linear(latent_dim, 2 * channels) if latent_dim else None
        if self.modulation is not None:
            nn.init.normal_(self.modulation.weight, std=latent_dim**-0.5 / 4)
            nn.init.zeros_(self.modulation.bias)
        self.table = nn.Parameter(torch.zeros(num_labels, 2 * channels)) if num_labels else None

    def forward(self, inputs: Tensor, z: Tensor, shares: Tensor | None) -> Tensor:
        """``(B, channels, h, w)``, ``(B, latent_dim)`` and ``(B, num_labels, h, w)`` to the first's shape."""
        normed = self.norm(inputs)
        if self.modulation is None:
            return normed
        made = self.modulation(z)[:, :, None, None]
        if self.table is not None:
            assert shares is not None
            made = made + torch.einsum("kc,bkhw->bchw", self.table, shares.to(self.table.dtype))
        scale, shift = made.chunk(2, dim=1)
        return normed * (1 + scale) + shift
