"""The share of each class in each cell of a feature map."""

from __future__ import annotations

import torch
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
        ``(B, K + 1, ceil(H / stride), ceil(W / stride))`` float32; each cell sums to 1.
    """
    batch, rows, columns = masks.shape
    h, w = -(-rows // stride), -(-columns // stride)
    labels = masks.masked_fill((masks < 0) | (masks >= num_classes), num_classes)
    cell = torch.arange(rows, device=masks.device)[:, None] // stride * w + torch.arange(columns, device=masks.device) // stride
    index = rearrange(labels * (h * w) + cell, "batch y x -> batch (y x)")
    counts = torch.zeros(batch, (num_classes + 1) * h * w, device=masks.device)
    counts.scatter_add_(1, index, torch.ones_like(index, dtype=counts.dtype))
    counts = rearrange(counts, "batch (label h w) -> batch label h w", h=h, w=w)
    return counts / counts.sum(1, keepdim=True)
