"""The networks that train the generator: the discriminator and the latent encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from feataug.core.specs import FeatureSpec
from feataug.generation.layers.aspp import MaskEncoder
from feataug.generation.layers.class_shares import class_shares
from feataug.generation.layers.spectral_norm import SpectralConv2d


class Discriminator(nn.Module):
    """Tells real from synthetic (mask, features) pairs, patch by patch, at several resolutions.

    Args:
        num_classes: Number of classes in the masks.
        spec: Shapes of the features at the cut.
        width: Channels of the first layer; the mask encoder's widths follow from it.
        scales: Number of resolutions per level of the spec: the features' own, half of it, and so on.
        masks: How masks are encoded: ``"aspp"``, or ``"shares"``, the cheap shares of the classes in each cell.

    Source:
        Sec. 3.1 (ASPP for the masks, encoded layout and features concatenated). Ours: spectral norm.
    """

    def __init__(self, num_classes: int, spec: FeatureSpec, *, width: int = 64, scales: int = 2, masks: str = "aspp") -> None:
        super().__init__()
        self.spec, self.scales = spec, scales
        self.finest = spec.finest
        self.mask_encoder = (
            MaskEncoder(num_classes, (width // 2, width, 2 * width), self.finest)
            if masks == "aspp"
            else ShareEncoder(num_classes, width, self.finest)
        )
        self.patches = nn.ModuleList(
            nn.ModuleList(_patch_critic(level.channels + self.mask_encoder.out_channels, width) for _ in range(scales))
            for level in spec
        )

    def forward(self, masks: Tensor, features: Sequence[Tensor]) -> list[Tensor]:
        """Score pairs of masks and features.

        Args:
            masks: ``(B, H, W)`` int64.
            features: Standardised features, one ``(k B, channels, h, w)`` tensor per level: ``k`` for each mask, in the order of
                ``FeatureGenerator.forward``. The masks are encoded once.

        Returns:
            One ``(k B, 1, h', w')`` map of scores for each level and scale.
        """
        code = self.mask_encoder(masks)
        results = []
        critics: Any
        for critics, level in zip(self.patches, features, strict=True):
            pair = torch.cat([level, matched(code, level).repeat(len(level) // len(masks), 1, 1, 1)], dim=1)
            results += [critic(scaled) for critic, scaled in zip(critics, halved(pair, self.scales), strict=True)]
        return results


def matched(code: Tensor, level: Tensor) -> Tensor:
    """An encoded mask at the resolution and in the dtype of a level: for a coarser one it is averaged over each cell."""
    if code.shape[-2:] != level.shape[-2:]:
        code = F.adaptive_avg_pool2d(code, (level.shape[-2], level.shape[-1]))
    return code.to(level.dtype)


def halved(maps: Tensor, scales: int) -> list[Tensor]:
    """Maps at their own resolution, at half of it, and so on."""
    found = [maps]
    while len(found) < scales:
        found.append(F.avg_pool2d(found[-1], 2, ceil_mode=True))
    return found


class ShareEncoder(nn.Module):
    """Encodes label maps by the shares of the classes in each cell, with no convolution at image resolution."""

    def __init__(self, num_classes: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.num_classes, self.out_channels, self.stride = num_classes, out_channels, stride
        self.project = nn.Conv2d(num_classes + 1, out_channels, 1)

    def forward(self, masks: Tensor) -> Tensor:
        """``(B, H, W)`` int64 to ``(B, out_channels, h, w)``."""
        return self.encode(class_shares(masks, self.num_classes, self.stride))

    def encode(self, shares: Tensor) -> Tensor:
        """The same of the ``class_shares`` of masks."""
        return F.leaky_relu(self.project(shares), 0.2)


def _patch_critic(in_channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        SpectralConv2d(in_channels, width, 3, padding=1),
        nn.LeakyReLU(0.2),
        SpectralConv2d(width, 2 * width, 3, stride=2, padding=1),
        nn.LeakyReLU(0.2),
        SpectralConv2d(2 * width, 2 * width, 3, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(2 * width, 1, 1),
    )


class LatentEncoder(nn.Module):
    """Infers the noise from features: mean and log variance of ``z``.

    Args:
        spec: Shapes of the features at the cut.
        latent_dim: Size of ``z``.
        width: Channels of the first layer.

    Source:
        BicycleGAN's E, a small residual network. Ours: adaptive pooling, so that any size fits.
    """

    def __init__(self, spec: FeatureSpec, latent_dim: int, *, width: int = 64) -> None:
        super().__init__()
        self.stems = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(level.channels, width, 3, padding=1),
                _DownsamplingBlock(width, 2 * width),
                _DownsamplingBlock(2 * width, 4 * width),
                nn.LeakyReLU(0.2),
                nn.AdaptiveAvgPool2d(1),
                nn.Flatten(),
            )
            for level in spec
        )
        self.head = nn.Linear(4 * width * len(spec), 2 * latent_dim)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Standardised features to mean and log variance, each ``(B, latent_dim)``."""
        pooled = torch.cat([stem(level) for stem, level in zip(self.stems, features, strict=True)], dim=1)
        mean, log_variance = self.head(pooled).float().chunk(2, dim=1)
        # Bounded, because its exponential is taken: one bad batch must not end a run. The gradient of ``clamp`` takes five kernels.
        return mean, F.hardtanh(log_variance, -10, 10)


class _DownsamplingBlock(nn.Module):
    """A residual block that halves rows and columns."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, in_channels, 3, padding=1)
        self.conv2 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.identity = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.conv2(F.leaky_relu(self.conv1(F.leaky_relu(inputs, 0.2)), 0.2))
        return F.avg_pool2d(self.identity(inputs) + hidden, 2, ceil_mode=True)
