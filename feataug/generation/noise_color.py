"""Noise with the covariance of real features, for flows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Added to the correlations' diagonal: directions in which the features hardly vary keep some noise.
RIDGE = 1e-3
# Cells that are measured for each channel: fewer say too little of the correlations, and a level's noise stays white.
FEWEST_CELLS = 20


class NoiseColor(nn.Module):
    """Gives white noise the correlations that real features have between their channels.

    A flow's path leads from noise to features. Where a few directions hold nearly all of the features' variance, as after a ViT's blocks, white
    noise is far too much in all others, and a few steps leave some of it in the samples. Until ``fit`` is called, noise stays white.

    Source:
        Ours. It is flow matching of whitened features, with the loss in the features' own units.
    """

    @property
    def fitted(self) -> bool:
        """Whether the noise of any level has a color."""
        return bool(self._buffers)

    def fit(self, correlations: Sequence[Tensor | None]) -> None:
        """Store a level's ``(channels, channels)`` correlations; ``None`` leaves its noise white."""
        self._buffers.clear()
        for number, found in enumerate(correlations):
            if found is not None:
                double = found.double()
                values, vectors = torch.linalg.eigh((double + RIDGE * torch.eye(len(double), dtype=double.dtype, device=double.device)) / (1 + RIDGE))
                root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
                self.register_buffer(f"root_{number}", root.to(found.dtype))

    def forward(self, noise: Sequence[Tensor]) -> list[Tensor]:
        """``(B, channels, h, w)`` for each level, in the same shapes. The variance of each channel stays 1."""
        return [self._colored(level, f"root_{number}") for number, level in enumerate(noise)]

    def _colored(self, level: Tensor, name: str) -> Tensor:
        root = self._buffers.get(name)
        if root is None:
            return level
        if root.device != level.device:
            # Loaded before it was known where the noise lies.
            root = self._buffers[name] = root.to(level.device)
        return F.conv2d(level, root[:, :, None, None].to(level.dtype))

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        # What is stored decides which levels have a color.
        stored = {name.removeprefix(prefix): value for name, value in state_dict.items() if name.startswith(f"{prefix}root_")}
        self._buffers.clear()
        for name, value in stored.items():
            self.register_buffer(name, torch.empty_like(value))
        super()._load_from_state_dict(state_dict, prefix, *args)
