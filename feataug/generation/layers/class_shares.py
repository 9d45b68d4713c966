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
    labels = masks.masked_fill((masks < 0) | (masks >= num_classes), num_classes)
    if missing := h * stride > rows or w * stride > columns:
        # A label of its own, which is not counted.
        labels = F.pad(labels, (0, w * stride - columns, 0, h * stride - rows), value=num_classes + 1)
    pixels = rearrange(labels, "batch (h y) (w x) -> batch (h w) (y x)", y=stride, x=stride)
    counts = torch.zeros(*pixels.shape[:2], num_classes + 1 + missing, device=masks.device)
    counts = counts.scatter_add_(2, pixels, counts.new_ones(()).expand(pixels.shape))[..., : num_classes + 1]
    shares = counts / counts.sum(-1, keepdim=True) if missing else counts / stride**2
    return rearrange(shares, "batch (h w) label -> batch label h w", h=h)
