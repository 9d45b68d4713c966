"""Convolution of a label map, by looking rows up instead of multiplying zeros."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class LabelConv2d(nn.Module):
    """A convolution over the one-hot code of a label map; void is a class of its own, padding is none.

    No one-hot tensor is made: time and memory do not grow with the number of classes, but for the weights themselves.

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
        self.weight = nn.Parameter(torch.empty(out_channels, num_classes + 1, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        # One class is on at each tap, so the fan-in is the number of taps whatever the number of classes.
        nn.init.normal_(self.weight, std=kernel_size**-1.0)

    def forward(self, labels: Tensor) -> Tensor:
        """``(B, H, W)`` int64 in ``0 .. K`` to ``(B, out_channels, ceil(H / stride), ceil(W / stride))``, channels last."""
        return label_conv2d(labels, self.weight, self.bias, stride=self.stride, dilation=self.dilation)


def label_conv2d(labels: Tensor, weight: Tensor, bias: Tensor, *, stride: int = 1, dilation: int = 1) -> Tensor:
    """``conv2d(one_hot(labels), weight, bias)`` with padding that keeps the size, as a sum of one row of the weights for each tap.

    Args:
        labels: ``(B, H, W)`` integers in ``0 .. C - 1``.
        weight: ``(out, C, k, k)``, ``k`` odd.
        bias: ``(out,)``.
        stride, dilation: As in ``conv2d``.

    Returns:
        ``(B, out, ceil(H / stride), ceil(W / stride))``, channels last; in the dtype of the weights, or autocast's.

    Source:
        Ours.
    """
    channels, classes, size, _ = weight.shape
    taps = size * size
    # One row for each tap and class, and one of zeros for padding. The tap in the middle never meets padding: it carries the bias.
    rows = F.pad(weight.permute(2, 3, 1, 0).reshape(taps, classes, channels), (0, 0, 0, 1))
    rows = torch.cat([rows[: taps // 2], rows[taps // 2 : taps // 2 + 1] + bias, rows[taps // 2 + 1 :]])
    if torch.is_autocast_enabled(labels.device.type):
        rows = rows.to(torch.get_autocast_dtype(labels.device.type))
    _, height, width = labels.shape
    short = classes <= torch.iinfo(torch.int16).max  # less to read
    padded = F.pad(labels.to(torch.int16 if short else torch.int32), (dilation * (size // 2),) * 4, value=classes)
    result: Tensor = _SumOfRows.apply(padded, rows, -(-height // stride), -(-width // stride), stride, dilation)
    return result.permute(0, 3, 1, 2)


class _SumOfRows(torch.autograd.Function):
    """``sum_t rows[t, label that tap t meets]`` without the tensor in between, forward and backward.

    In the gradient the lookup is turned round: sorted by row, the pixels that used a row are one bag, and the forward of ``embedding_bag`` sums their
    gradients. (Its own backward adds one pixel at a time.)
    """

    @staticmethod
    def forward(ctx: Any, padded: Tensor, rows: Tensor, h: int, w: int, stride: int, dilation: int) -> Tensor:
        taps, classes, _ = rows.shape
        size = math.isqrt(taps)
        corners = [(dilation * row, dilation * column) for row in range(size) for column in range(size)]
        views = [padded[:, y : y + (h - 1) * stride + 1 : stride, x : x + (w - 1) * stride + 1 : stride] for y, x in corners]
        first_rows = classes * torch.arange(taps, dtype=torch.int32, device=padded.device)
        index = torch.stack(views, dim=-1).flatten(0, 2) + first_rows
        ctx.save_for_backward(index)
        ctx.shape = rows.shape
        return F.embedding_bag(index, rows.flatten(0, 1), mode="sum").view(len(padded), h, w, -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, None, None, None, None]:
        (index,) = ctx.saved_tensors
        taps, classes, _ = ctx.shape
        grad = grad.flatten(0, 2).contiguous()
        # Tap by tap: all at once would hold the sorted places of nine times as many pixels.
        rows = [_sums(grad, index[:, tap] - tap * classes, classes) for tap in range(taps)]
        return None, torch.stack(rows), None, None, None, None


def _sums(values: Tensor, keys: Tensor, count: int, most: int = 128) -> Tensor:
    """Sums of the ``values`` (rows) that have each of ``count`` keys: of ``most`` rows first, then of these sums.

    A key may have a third of all rows, and a GPU has no more threads at work than there are bags to sum.
    """
    if not len(keys):
        return values.new_zeros(count, values.shape[1])
    # Ten times faster to sort than int32, on a CPU.
    small = torch.int16 if count <= torch.iinfo(torch.int16).max else torch.int32
    keys, order = keys.to(small).sort(stable=True)
    numbers = torch.arange(count, dtype=small, device=keys.device)
    starts = torch.searchsorted(keys, numbers)
    # Where a key begins, and every so many rows: each piece has rows of one key. How many there are does not depend on the keys, so that
    # nothing waits for it; some are empty.
    edges = torch.cat([starts, torch.arange(0, len(keys), most, device=keys.device)]).sort().values
    pieces = F.embedding_bag(order, values, edges, mode="sum")
    starts = torch.searchsorted(keys[edges.clamp(max=len(keys) - 1)], numbers)
    return F.embedding_bag(torch.arange(len(edges), device=keys.device), pieces, starts, mode="sum")
