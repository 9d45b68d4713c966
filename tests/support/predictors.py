"""Models and images for the tests of ``Inference``."""

import torch
from torch import nn


def draw_images(seed, *shape, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


class Placed(nn.Module):
    """Depends on the colour and on where in the image it gets a pixel lies: it tells windows, mirror images and paddings apart."""

    def forward(self, images):
        rows, columns = images.shape[-2:]
        down = torch.linspace(-1, 2, rows, dtype=images.dtype)[:, None].expand(rows, columns)
        right = torch.linspace(-2, 1, columns, dtype=images.dtype).square().expand(rows, columns)
        first, second = images[:, 0], images[:, 1:].sum(1)
        return torch.stack([3 * first + down, second + right, first * right, second - down], 1)


class Watched(nn.Module):
    """Stores its inputs, and returns logits of a given kind."""

    def __init__(self, wrap=lambda logits: logits):
        super().__init__()
        self.conv, self.wrap, self.seen = nn.Conv2d(3, 2, 1), wrap, []

    def forward(self, images):
        assert not torch.is_grad_enabled()
        self.seen.append(images)
        return self.wrap(self.conv(images))
