"""Normalisation that keeps the differences between classes, and modulation by the noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
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

    The scale and shift of many norms are computed together, by ``modulations``.

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

    def forward(self, inputs: Tensor, modulation: Modulation | None) -> Tensor:
        """``(B, channels, h, w)`` to the same shape, with this norm's part of ``modulations``; ``None`` is for a plain norm."""
        normed: Tensor = self.norm(inputs)
        return normed if modulation is None else (normed * modulation.factor).add_(modulation.shift)


class Modulation(NamedTuple):
    """What a norm multiplies by, and what it adds: ``(B, channels, h, w)`` each, or ``(B, channels, 1, 1)`` if all cells have the same."""

    factor: Tensor
    shift: Tensor


def modulations(norms: Sequence[ModulatedNorm], z: Tensor, shares: Sequence[Tensor | None], plain: Tensor) -> list[Modulation]:
    """The modulations of many norms at once: one matrix product for ``z``, and one for the class shares at each resolution.

    Args:
        norms: With a ``latent_dim``; those of one resolution follow each other.
        z: ``(B, latent_dim)``.
        shares: For each norm ``(B, num_labels, h, w)``, one tensor for all norms of a resolution. Norms without a table ignore it.
        plain: ``no_modulation`` of the norms.
    """
    linear: list[Any] = [norm.modulation for norm in norms]
    weight, bias = (torch.cat([getattr(layer, name) for layer in linear]) for name in ("weight", "bias"))
    # What is learned is the difference from ``plain``.
    everywhere = (F.linear(z, weight, bias) + plain)[:, :, None, None]
    if norms[0].table is None:
        pieces = everywhere.split(_widths(norms), dim=1)
    else:
        pieces, start = [], 0
        for _, pairs in groupby(zip(norms, shares, strict=True), key=lambda pair: id(pair[1])):
            group: list[Any] = list(pairs)
            table = torch.cat([norm.table for norm, _ in group], dim=1)
            here = torch.einsum("kc,bkhw->bchw", table, group[0][1].to(table.dtype))
            stop = start + table.shape[1]
            pieces += (everywhere[:, start:stop] + here).split(_widths([norm for norm, _ in group]), dim=1)
            start = stop
    return [Modulation(*pair) for pair in zip(pieces[::2], pieces[1::2], strict=True)]


def no_modulation(norms: Sequence[ModulatedNorm]) -> Tensor:
    """Factors of 1 and shifts of 0, one norm after the other."""
    return torch.cat([torch.full((width,), 1.0 - number % 2) for number, width in enumerate(_widths(norms))] or [torch.zeros(0)])


def _widths(norms: Sequence[ModulatedNorm]) -> list[int]:
    """Channels of each norm's factor and of its shift."""
    return [norm.norm.num_channels for norm in norms for _ in range(2)]
