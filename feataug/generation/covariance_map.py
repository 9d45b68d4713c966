"""A linear map after a flow's last step, which gives its samples the covariance of real features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from feataug.generation.level_buffers import LevelBuffers, symmetric_power

# Added to both covariances' diagonal, as a share of the real features' mean variance: directions without variance stay as they are.
RIDGE = 1e-3


class CovarianceMap(LevelBuffers):
    """Maps what a sample differs by from the mean of its mask, in each cell: ``mean + A (sample - mean) + shift``.

    Until ``fit`` is called, samples stay as they are.

    Source:
        Ours. ``A`` is the optimal transport between two Gaussians (Dowson and Landau 1982), the least change of the samples that does it.
    """

    def fit(self, moments: Mapping[int, tuple[Moments, Moments]]) -> None:
        """Compute the map of each level that is given: the moments of the differences of real features, and of samples."""
        self.clear()
        for number, (wanted, found) in moments.items():
            matrix = wanted.map_from(found)
            self.register_buffer(f"matrix_{number}", matrix.float())
            self.register_buffer(f"shift_{number}", (wanted.mean - matrix @ found.mean).float())

    def forward(self, levels: Sequence[Tensor], expected: Sequence[Tensor]) -> list[Tensor]:
        """Samples and means ``(B, channels, h, w)`` for each level, standardised, to samples."""
        mapped = []
        for number, (level, mean) in enumerate(zip(levels, expected, strict=True)):
            matrix, shift = self.at("matrix", number, level), self.at("shift", number, level)
            mapped.append(level if matrix is None else mean + F.conv2d(level - mean, matrix[:, :, None, None], shift))
        return mapped


class Moments:
    """Mean and covariance of vectors that come in parts. Sums are float64.

    Attributes:
        count: Of the vectors.
        sums: ``(channels,)``.
        products: ``(channels, channels)``.
    """

    def __init__(self, channels: int, device: torch.device | str = "cpu") -> None:
        self.count = 0
        self.sums = torch.zeros(channels, dtype=torch.float64, device=device)
        self.products = torch.zeros(channels, channels, dtype=torch.float64, device=device)

    def add(self, maps: Tensor) -> None:
        """Add all cells of ``(B, channels, h, w)``."""
        vectors = maps.movedim(1, 0).flatten(1).double()
        self.count += vectors.shape[1]
        self.sums += vectors.sum(1)
        self.products += vectors @ vectors.T

    @property
    def mean(self) -> Tensor:
        """``(channels,)``."""
        return self.sums / self.count

    @property
    def covariance(self) -> Tensor:
        """``(channels, channels)``."""
        return self.products / self.count - torch.outer(self.mean, self.mean)

    @property
    def variance(self) -> Tensor:
        """Of all channels, their mean."""
        return self.covariance.diagonal().mean()

    def map_from(self, other: Moments) -> Tensor:
        """The symmetric matrix that turns vectors of ``other``'s covariance into vectors of this one."""
        wanted, found = self.covariance, other.covariance
        ridge = RIDGE * wanted.diagonal().mean() * torch.eye(len(wanted), dtype=wanted.dtype, device=wanted.device)
        root, inverse = symmetric_power(found + ridge, 0.5), symmetric_power(found + ridge, -0.5)
        return inverse @ symmetric_power(root @ (wanted + ridge) @ root, 0.5) @ inverse
