"""Convolution of a label map by row lookup, which skips the zeros of a one-hot code."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# Indices that are sorted together in the backward pass. Fewer sorts are fewer kernels, and take more memory.
KEYS_AT_ONCE = 2**18


class LabelConv2d(nn.Module):
    """A convolution over the one-hot code of a label map. Void has a class of its own; padding has none.

    No one-hot tensor is made: apart from the weights, time and memory do not depend on the number of classes.

    Args:
        num_classes: Number of classes ``K``. Labels are ``0 .. K``, where ``K`` stands for void.
        out_channels: Number of output maps.
        kernel_size: An odd number.
        stride, dilation: As in ``Conv2d``. The output has ``ceil(size / stride)`` rows and columns.
    """

    def __init__(self, num_classes: int, out_channels: int, kernel_size: int = 3, *, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.num_classes, self.stride, self.dilation = num_classes, stride, dilation
        self.weight = nn.Parameter(torch.empty(out_channels, num_classes + 1, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        # Exactly one class is active at each tap, so the fan-in is the number of taps.
        nn.init.normal_(self.weight, std=kernel_size**-1.0)

    def forward(self, labels: Tensor) -> Tensor:
        """``(B, H, W)`` int64 in ``0 .. K`` to ``(B, out_channels, ceil(H / stride), ceil(W / stride))``, channels last."""
        return label_conv2d(labels, self.weight, self.bias, stride=self.stride, dilation=self.dilation)


def label_conv2d(labels: Tensor, weight: Tensor, bias: Tensor, *, stride: int = 1, dilation: int = 1) -> Tensor:
    """``conv2d(one_hot(labels), weight, bias)`` with padding that keeps the size, computed by summing one row of weights per tap.

    Args:
        labels: ``(B, H, W)`` integers in ``0 .. C - 1``.
        weight: ``(out, C, k, k)``, ``k`` odd.
        bias: ``(out,)``.
        stride, dilation: As in ``conv2d``.

    Returns:
        ``(B, out, ceil(H / stride), ceil(W / stride))``, channels last; in the dtype of the weights, or autocast's.
    """
    _, classes, size, _ = weight.shape
    taps = size * size
    # One row per tap and class, and a row of zeros for padding. The central tap never sees padding, so its rows carry the bias.
    rows = F.pad(rearrange(weight, "out label y x -> (y x) label out"), (0, 0, 0, 1))
    rows = torch.cat([rows[: taps // 2], rows[taps // 2 : taps // 2 + 1] + bias, rows[taps // 2 + 1 :]])
    if torch.is_autocast_enabled(labels.device.type):
        rows = rows.to(torch.get_autocast_dtype(labels.device.type))
    _, height, width = labels.shape
    short = classes <= torch.iinfo(torch.int16).max  # halves the memory traffic
    padded = F.pad(labels.to(torch.int16 if short else torch.int32), (dilation * (size // 2),) * 4, value=classes)
    result: Tensor = _SumOfRows.apply(padded, rows, -(-height // stride), -(-width // stride), stride, dilation)
    return rearrange(result, "batch h w out -> batch out h w")


class _SumOfRows(torch.autograd.Function):
    """``sum_t rows[t, label under tap t]`` without the tensor of all looked-up rows, forward and backward.

    The backward pass groups the pixels by weight row and sums each group with the forward pass of ``embedding_bag``, whose own
    backward pass adds one pixel at a time.
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
        # As many taps at once as the budget allows: sorting all of a large map would need the memory of nine times as many indices.
        together = max(1, min(taps, KEYS_AT_ONCE // max(len(index), 1)))
        rows = []
        for first in range(0, taps, together):
            some = index[:, first : first + together]
            rows.append(_sum_by_key(grad, some.flatten() - first * classes, some.shape[1] * classes, keys_per_row=some.shape[1]))
        return None, torch.cat(rows).view(ctx.shape), None, None, None, None


def _sum_by_key(values: Tensor, keys: Tensor, count: int, piece: int = 128, keys_per_row: int = 1) -> Tensor:
    """Sum the rows of ``values`` by their keys, ``0 .. count - 1``, in two steps: pieces of ``piece`` rows, then the pieces' sums.

    Each row has ``keys_per_row`` keys that follow each other, and is added to the sum of each.

    One key may have a third of all rows, and a GPU uses no more threads than there are groups to sum.
    """
    if not len(keys):
        return values.new_zeros(count, values.shape[1])
    # On a CPU, int16 sorts ten times faster than int32.
    small = torch.int16 if count <= torch.iinfo(torch.int16).max else torch.int32
    keys, order = keys.to(small).sort(stable=True)
    numbers = torch.arange(count, dtype=small, device=keys.device)
    starts = torch.searchsorted(keys, numbers)
    # A piece begins with each key and after every ``piece`` rows, so all its rows have one key. The number of pieces does not depend on
    # the keys, so a GPU need not be waited for; some pieces are empty.
    edges = torch.cat([starts, torch.arange(0, len(keys), piece, device=keys.device)]).sort().values
    order = order // keys_per_row if keys_per_row > 1 else order
    sums = F.embedding_bag(order, values, edges, mode="sum")
    starts = torch.searchsorted(keys[edges.clamp(max=len(keys) - 1)], numbers)
    return F.embedding_bag(torch.arange(len(edges), device=keys.device), sums, starts, mode="sum")
