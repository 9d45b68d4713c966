"""What a flow generator learns from a batch: velocities from features, then its own samples from those of more steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from feataug.generation.flow import flow_loss
from feataug.generation.generator import FeatureGenerator


class FlowLosses(nn.Module):
    """All losses as the forward pass of one module, which is where DistributedDataParallel averages gradients."""

    def __init__(self, generator: FeatureGenerator) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, *inputs: Any) -> Any:
        """What ``velocity`` returns for its four arguments, or ``distilled`` for its three."""
        return self.velocity(*inputs) if len(inputs) == 4 else self.distilled(*inputs)

    def distilled(self, masks: Tensor, z: Tensor, wanted: Sequence[Tensor]) -> Tensor:
        """Mean squared error of the samples, in the generator's own steps, against other samples of the same noise.

        Args:
            masks: ``(B, H, W)`` int64.
            z: ``(B, latent_size)``.
            wanted: Standardised samples, ``(B, channels, h, w)`` for each level.
        """
        found = self.generator(masks, z, standardized=True, checked=True)
        return torch.stack([(a.float() - b.float()).square().mean() for a, b in zip(found, wanted, strict=True)]).mean()

    def velocity(self, masks: Tensor, real: Sequence[Tensor], noise: Sequence[Tensor], times: Tensor) -> tuple[Tensor, Tensor]:
        """Mean squared errors of the velocity, and of the features that the masks let expect.

        Args:
            masks: ``(B, H, W)`` int64.
            real: Standardised features, ``(B, channels, h, w)`` for each level.
            noise: ``(n B, channels, h, w)`` for each level: ``n`` noise levels for each feature, which is encoded once.
            times: ``(n B,)``.
        """
        copies = len(times) // len(masks)
        encoded = self.generator.encode_masks(masks)
        expected = torch.stack([(mean.float() - x).square().mean() for mean, x in zip(encoded.expected, real, strict=True)]).mean()
        codes = encoded.repeat(copies)
        targets = [level.repeat(copies, 1, 1, 1) for level in real]
        return flow_loss(lambda noisy, at: self.generator.velocity(noisy, at, codes), targets, noise, times), expected


class Distillation(nn.Module):
    """``FlowLosses.distilled`` with the samples of a teacher that it draws itself.

    Args:
        losses: Those of the generator.
        teacher: Gives the samples; it is no part of this module and does not learn.
    """

    def __init__(self, losses: Callable[..., Any], teacher: FeatureGenerator) -> None:
        super().__init__()
        self.losses, self._teacher = losses, (teacher,)

    def forward(self, masks: Tensor, z: Tensor) -> Tensor:
        """The loss for ``(B, H, W)`` masks and their noise ``(B, latent_size)``."""
        with torch.no_grad():
            wanted = self._teacher[0](masks, z, standardized=True, checked=True)
        found: Tensor = self.losses(masks, z, wanted)
        return found
