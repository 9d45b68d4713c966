"""The share of each class in each cell of a feature map."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor


def class_shares(masks: Tensor, num_classes: int, stride: int) -> Tensor:
    """Shares of the classes and, last, of void in cells of ``stride`` x ``stride`` pixels. Cells at the far edges may be smaller.

    No one-hot tensor is made: only the coarse result grows with the number of classes.

    Args:
        masks: ``(B, H, W)`` int64. Labels that are not classes count as void.
        num_classes: Number of classes ``K``.
        stride: Stride of the feature map.

    Returns:
        ``(B, K + 1, ceil(H / stride), ceil(W / stride))`` float32, channels last; each cell sums to 1.
    """
    rows, columns = masks.shape[1:]
    h, w = -(-rows // stride), -(-columns // stride)
    labels = with_void(masks, num_classes)
    if missing := h * stride > rows or w * stride > columns:
        # A label of its own, which is not counted.
        labels = F.pad(labels, (0, w * stride - columns, 0, h * stride - rows), value=num_classes + 1)
    pixels = rearrange(labels, "batch (h y) (w x) -> batch (h w) (y x)", y=stride, x=stride)
    # Shares of a power of two are summed without rounding. Others are counted first.
    exact = not missing and stride & (stride - 1) == 0
    pixel = torch.full((), 1 / stride**2 if exact else 1.0, device=masks.device)
    counts = torch.zeros(*pixels.shape[:2], num_classes + 1 + missing, device=masks.device)
    counts = counts.scatter_add_(2, pixels, pixel.expand(pixels.shape))[..., : num_classes + 1]
    shares = counts if exact else counts / (counts.sum(-1, keepdim=True) if missing else stride**2)
    return rearrange(shares, "batch (h w) label -> batch label h w", h=h)


def with_void(masks: Tensor, num_classes: int) -> Tensor:
    """The labels, and ``num_classes`` wherever there is no class."""
    return masks.masked_fill(masks < 0, num_classes).clamp_(max=num_classes)
