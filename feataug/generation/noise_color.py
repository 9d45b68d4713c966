"""Noise with the covariance of real features, for flows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from feataug.generation.level_buffers import LevelBuffers, symmetric_power

# Added to the correlations' diagonal: directions in which the features hardly vary keep some noise.
RIDGE = 1e-3


class NoiseColor(LevelBuffers):
    """Gives white noise the correlations that real features have between their channels.

    A flow's path leads from noise to features. Where a few directions hold nearly all of the features' variance, as after a ViT's blocks, white
    noise is far too much in all others, and a few steps leave some of it in the samples. Until ``fit`` is called, noise stays white.

    Source:
        Ours. It is flow matching of whitened features, with the loss in the features' own units.
    """

    def fit(self, correlations: Sequence[Tensor | None]) -> None:
        """Store a level's ``(channels, channels)`` correlations; ``None`` leaves its noise white."""
        self.clear()
        for number, found in enumerate(correlations):
            if found is not None:
                ridge = RIDGE * torch.eye(len(found), dtype=torch.float64, device=found.device)
                root = symmetric_power((found.double() + ridge) / (1 + RIDGE), 0.5)
                self.register_buffer(f"root_{number}", root.to(found.dtype))

    def forward(self, noise: Sequence[Tensor]) -> list[Tensor]:
        """``(B, channels, h, w)`` for each level, in the same shapes. The variance of each channel stays 1."""
        roots = [self.at("root", number, level) for number, level in enumerate(noise)]
        return [level if root is None else F.conv2d(level, root[:, :, None, None]) for level, root in zip(noise, roots, strict=True)]
