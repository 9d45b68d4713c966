"""How much of each cell of a feature map each class covers."""

from __future__ import annotations

import torch
from torch import Tensor


def class_shares(masks: Tensor, num_classes: int, stride: int) -> Tensor:
    """Shares of the classes, and of void as the last, in cells of ``stride`` x ``stride`` pixels; cells at the far edges may be smaller.

    No one-hot tensor is made: time and memory grow with the pixels, and with the classes only in the coarse result.

    Args:
        masks: ``(B, H, W)`` int64; whatever is no class counts as void.
        num_classes: Number of classes ``K``.
        stride: Of the feature map.

    Returns:
        ``(B, K + 1, ceil(H / stride), ceil(W / stride))`` float32; each cell sums to 1.

    Source:
        Ours.
    """
    batch, rows, columns = masks.shape
    h, w = -(-rows // stride), -(-columns // stride)
    labels = masks.masked_fill((masks < 0) | (masks >= num_classes), num_classes)
    place = torch.arange(rows, device=masks.device)[:, None] // stride * w + torch.arange(columns, device=masks.device) // stride
    index = (labels * (h * w) + place).flatten(1)
    counts = torch.zeros(batch, (num_classes + 1) * h * w, device=masks.device)
    counts.scatter_add_(1, index, torch.ones_like(index, dtype=counts.dtype))
    counts = counts.view(batch, num_classes + 1, h, w)
    return counts / counts.sum(1, keepdim=True)
