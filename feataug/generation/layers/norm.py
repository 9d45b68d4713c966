"""Normalisation that keeps the differences between classes, and modulation by the noise."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def group_norm(channels: int) -> nn.GroupNorm:
    """Group norm with at least eight channels per group where that divides evenly.

    Instance norm would remove each channel's mean over the image, which carries most of the difference between classes.
    """
    return nn.GroupNorm(math.gcd(channels, max(1, channels // 8)), channels)


class ModulatedNorm(nn.Module):
    """Group norm whose scale and shift depend on ``z`` and on the classes in each cell.

    Args:
        channels: Channels of the input.
        latent_dim: Size of ``z``; 0 for a plain group norm.
        num_labels: Channels of the class shares; 0 for the same scale and shift in every cell.

    Source:
        Ours (adaptive normalisation, as in StyleGAN), so that ``z`` acts on every layer. Tan et al. (2021), CLADE, look up scale
        and shift by class; we weight them by class shares, since a coarse cell holds many classes.
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
        parameters = self.modulation(z)[:, :, None, None]
        if self.table is not None:
            assert shares is not None
            parameters = parameters + torch.einsum("kc,bkhw->bchw", self.table, shares.to(self.table.dtype))
        scale, shift = parameters.chunk(2, dim=1)
        return normed * (1 + scale) + shift
