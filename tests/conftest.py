"""What several test files share: a generator of random numbers and a segmentation model of a few thousand weights."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TinyNet(nn.Module):
    """A stem and a body of stride 2 each, a head, logits at the images' size; without dropout."""

    def __init__(self, num_classes: int = 5) -> None:
        super().__init__()
        self.stem = self._block(3, 8, 2)
        self.body = self._block(8, 16, 2)
        self.head = nn.Sequential(self._block(16, 16, 1), nn.Conv2d(16, num_classes, 1))

    @staticmethod
    def _block(a: int, b: int, stride: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU(inplace=True))

    def forward(self, images: Tensor) -> Tensor:
        logits = self.head(self.body(self.stem(images)))
        return F.interpolate(logits, images.shape[-2:], mode="bilinear", align_corners=False)


@pytest.fixture
def rng() -> torch.Generator:
    """A CPU generator with a fixed seed."""
    return torch.Generator().manual_seed(0)


@pytest.fixture
def tiny_net() -> type[TinyNet]:
    """Makes small models, the same ones in every test: ``tiny_net()``; ``split(net, "body")`` gives 16 channels at stride 4."""
    torch.manual_seed(0)
    return TinyNet
