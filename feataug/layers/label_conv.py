"""Convolution of a label map."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LabelConv2d(nn.Module):
    """A convolution over the one-hot code of a label map; void is a class of its own, padding is none.

    Args:
        num_classes: Number of classes ``K``; labels ``0 .. K``, where ``K`` stands for void.
        out_channels: Number of output maps.
        kernel_size: Odd.
        stride, dilation: As in ``Conv2d``. Rows and columns of the result are ``ceil(size / stride)``.

    Source:
        ours.
    """

    def __init__(self, num_classes: int, out_channels: int, kernel_size: int = 3, *, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.num_classes, self.stride, self.dilation = num_classes, stride, dilation
        self.padding = dilation * (kernel_size // 2)
        self.weight = nn.Parameter(torch.empty(out_channels, num_classes + 1, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        # One class is on at each tap, so the fan-in is the number of taps whatever the number of classes.
        nn.init.normal_(self.weight, std=kernel_size**-1.0)

    def forward(self, labels: Tensor) -> Tensor:
        """``(B, H, W)`` int64 in ``0 .. K`` to ``(B, out_channels, ceil(H / stride), ceil(W / stride))``."""
        classes = torch.arange(self.num_classes + 1, device=labels.device)
        # Compared in channels-last order, which is what the convolution is fastest on.
        one_hot = (labels[..., None] == classes).to(self.weight.dtype).permute(0, 3, 1, 2)
        return F.conv2d(one_hot, self.weight, self.bias, self.stride, self.padding, self.dilation)
