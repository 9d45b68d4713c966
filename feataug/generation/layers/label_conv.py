"""Convolution of a label map by row lookup, which skips the zeros of a one-hot code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# Looked-up rows that are summed together in the backward pass. Fewer sums are fewer kernels, and take more memory.
ROWS_AT_ONCE = 2**20
# Rows of one class, up to a third of all pixels, are summed in pieces: a GPU uses no more threads than there are sums.
PIECE = 128


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
    return label_convs2d(labels, [weight], [bias], stride=stride, dilations=[dilation])


def label_convs2d(labels: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], *, stride: int = 1, dilations: Sequence[int]) -> Tensor:
    """Convolutions of one label map that differ in their dilation, as many kernels as one: ``label_conv2d`` of each, concatenated.

    Args:
        labels: ``(B, H, W)`` integers in ``0 .. C - 1``.
        weights: One ``(out, C, k, k)`` for each dilation, all of the same shape, ``k`` odd.
        biases: One ``(out,)`` each.
        stride: Of all.
        dilations: One each.

    Returns:
        ``(B, len(dilations) * out, ceil(H / stride), ceil(W / stride))``, channels last; in the dtype of the weights, or autocast's.
    """
    result: Tensor = _SumOfRows.apply(labels, stride, tuple(dilations), *weights, *biases)
    return rearrange(result, "batch h w out -> batch out h w")


@dataclass(frozen=True)
class _Taps:
    """Where the taps of some convolutions lie, one convolution after the other.

    Attributes:
        offsets: Rows and columns from the pixel under a kernel's centre, for each tap.
        size: Of the kernels.
        stride: Of the convolutions.
    """

    offsets: tuple[tuple[int, int], ...]
    size: int
    stride: int

    @classmethod
    def of(cls, size: int, stride: int, dilations: Sequence[int]) -> _Taps:
        """Those of square kernels."""
        steps = range(-(size // 2), size // 2 + 1)
        return cls(tuple((row * dilation, column * dilation) for dilation in dilations for row in steps for column in steps), size, stride)

    @property
    def reach(self) -> int:
        """Pixels from the centre to the farthest tap."""
        return max(row for row, _ in self.offsets)

    def views(self, padded: Tensor, h: int, w: int) -> list[Tensor]:
        """For each tap, the labels ``(B, h, w)`` under it, of a map with ``reach`` pixels of padding."""
        last_row, last_column = (h - 1) * self.stride + 1, (w - 1) * self.stride + 1
        corners = [(row + self.reach, column + self.reach) for row, column in self.offsets]
        return [padded[:, y : y + last_row : self.stride, x : x + last_column : self.stride] for y, x in corners]


class _SumOfRows(torch.autograd.Function):
    """``sum_t rows[t, label under tap t]`` without the tensor of all looked-up rows, forward and backward.

    The backward pass sorts the pixels by their label, once for all taps: what a tap's weight for a class has to learn is the sum of the gradient
    over the pixels of that class, moved by the tap's offset. Both sums are the forward pass of ``embedding_bag``, whose own backward pass
    adds one pixel at a time.
    """

    @staticmethod
    def forward(ctx: Any, labels: Tensor, stride: int, dilations: tuple[int, ...], *parameters: Tensor) -> Tensor:
        weights, biases = parameters[: len(dilations)], parameters[len(dilations) :]
        out, classes, size, _ = weights[0].shape
        kind = labels.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weights[0].dtype
        # One row for each tap and class, and a row of zeros for padding. The central tap never sees padding, so its rows carry the bias.
        rows = weights[0].new_empty(len(dilations), size, size, classes + 1, out, dtype=dtype)
        rows[..., classes, :] = 0
        for own, weight, bias in zip(rows, weights, biases, strict=True):
            own[:, :, :classes] = weight.permute(2, 3, 1, 0)
            own[size // 2, size // 2, :classes].add_(bias)
        taps = _Taps.of(size, stride, dilations)
        h, w = -(-labels.shape[1] // stride), -(-labels.shape[2] // stride)
        count = len(taps.offsets)
        # Short integers halve the memory traffic: of the labels, and of the numbers of their rows where these are few enough.
        short, numbered = (torch.int16 if most <= torch.iinfo(torch.int16).max else torch.int32 for most in (classes, count * (classes + 1)))
        # The far edges have whole cells of ``stride`` pixels, which the backward pass needs.
        far = [taps.reach + cells * stride - pixels for cells, pixels in ((w, labels.shape[2]), (h, labels.shape[1]))]
        padded = F.pad(labels.to(short), (taps.reach, far[0], taps.reach, far[1]), value=classes)
        # For a row of pixels at once: the few taps of one pixel do not fill a CPU's vectors.
        first_rows = torch.arange(0, count * (classes + 1), classes + 1, dtype=numbered, device=labels.device).repeat(w)
        index = torch.stack(taps.views(padded, h, w), dim=-1).view(len(labels) * h, w * count).to(numbered).add_(first_rows)
        bags = index.to(torch.int32).view(-1, size * size)
        ctx.save_for_backward(padded)
        ctx.taps, ctx.shape, ctx.dtypes = taps, rows.shape, [tensor.dtype for tensor in parameters]
        return F.embedding_bag(bags, rows.view(-1, out), mode="sum").view(len(labels), h, w, len(dilations) * out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (padded,) = ctx.saved_tensors
        taps, (convs, _, _, classes, out) = ctx.taps, ctx.shape
        found = _sum_by_label(grad.contiguous(), padded, taps, convs, classes).view(convs, taps.size, taps.size, classes, out)
        found = found[..., :-1, :]
        bias = found[:, taps.size // 2, taps.size // 2].sum(dim=1)
        parts = [*rearrange(found, "conv y x label out -> conv out label y x"), *bias]
        return None, None, None, *(part.to(dtype) for part, dtype in zip(parts, ctx.dtypes, strict=True))


def _sum_by_label(grad: Tensor, padded: Tensor, taps: _Taps, convs: int, classes: int) -> Tensor:
    """The gradient ``(B, h, w, convs * out)`` summed by the label under each tap: ``(taps, classes, out)``."""
    batch, h, w, _ = grad.shape
    stride, size = taps.stride, batch * h * w
    if not size:
        return grad.new_zeros(len(taps.offsets), classes, grad.shape[-1] // convs)
    # A tap sees one pixel of every cell of stride x stride: pixels of the same place in a cell, a phase, are sorted together.
    inside = padded[:, taps.reach : taps.reach + h * stride, taps.reach : taps.reach + w * stride]
    by_phase = rearrange(inside, "batch (h y) (w x) -> (y x) (batch h w)", y=stride, x=stride)
    segments = _Segments.of(by_phase, classes)
    rows = grad.view(size * convs, -1)
    # For each convolution and cell, the number of its row of gradient; negative outside the image.
    margin = -(-taps.reach // stride)
    numbers = torch.arange(size * convs, dtype=torch.int32, device=grad.device)
    numbers = F.pad(rearrange(numbers, "(batch h w conv) -> conv batch h w", batch=batch, h=h, w=w), (margin,) * 4, value=-1)
    moved, phases = [], []
    for tap, (row, column) in enumerate(taps.offsets):
        y, x = margin - row // stride, margin - column // stride
        moved.append(numbers[tap // taps.size**2, :, y : y + h, x : x + w])
        phases.append(row % stride * stride + column % stride)
    together = max(1, min(len(moved), ROWS_AT_ONCE // size))
    bags = segments.bags(phases, together)
    rounds = [slice(first, first + together) for first in range(0, len(moved), together)]
    found = [segments.sums(rows, torch.stack(moved[some]).flatten(1), phases[some], bags, some.start) for some in rounds]
    return torch.cat(found) if len(found) > 1 else found[0]


@dataclass(frozen=True)
class _Segments:
    """Pixels sorted by their label, in one segment for each phase, and cut into pieces of one label.

    Attributes:
        order: ``(phases, P)``: the pixels of each phase by their labels.
        edges: ``(phases, pieces)``: where in ``order`` pieces begin: with each label, and after every ``PIECE`` pixels. Some are empty: their
            number does not depend on the labels, so that a GPU need not be waited for.
        starts: ``(phases, classes)``: the first piece of each label.
    """

    order: Tensor
    edges: Tensor
    starts: Tensor

    @classmethod
    def of(cls, labels: Tensor, classes: int) -> _Segments:
        """Sort ``(phases, P)`` labels."""
        (phases, size), device = labels.shape, labels.device
        # One sort of short integers: on a CPU, int16 sorts several times faster than int32, and uint8 twice as fast as that.
        count = phases * classes
        small = next(kind for kind in (torch.uint8, torch.int16, torch.int32) if count - 1 <= torch.iinfo(kind).max)
        keys = labels if count <= torch.iinfo(torch.int16).max else labels.to(torch.int32)
        keys = keys + torch.arange(0, count, classes, dtype=keys.dtype, device=device)[:, None] if phases > 1 else keys
        keys, order = keys.to(small).flatten().sort(stable=True)
        keys, order = keys.view(phases, size), (order.remainder(size) if phases > 1 else order).view(phases, size)
        numbers = torch.arange(count, dtype=small, device=device).view(phases, classes)
        pieces = torch.arange(0, size, PIECE, dtype=torch.int32, device=device).expand(phases, -1)
        firsts = torch.searchsorted(keys, numbers, out_int32=True)
        edges = torch.cat([firsts, pieces], dim=1).sort(dim=1).values
        return cls(order, edges, torch.searchsorted(edges, firsts, out_int32=True))

    def bags(self, phases: Sequence[int], together: int) -> tuple[Tensor, Tensor, Tensor]:
        """For taps that are summed so many at once: ``edges`` and ``starts`` of each among those of its round, and the numbers of pieces."""
        device, pieces = self.order.device, self.edges.shape[1]
        edges, starts = (torch.stack([part[phase] for phase in phases]) for part in (self.edges, self.starts))

        def of_round(each: int) -> Tensor:
            """What lies before each tap in its round, if each has so much."""
            before = torch.arange(0, together * each, each, dtype=torch.int32, device=device)
            return (before if len(phases) == together else before.repeat(-(-len(phases) // together))[: len(phases)])[:, None]

        numbers = torch.arange(together * pieces, dtype=torch.int32, device=device)
        return edges.add_(of_round(self.order.shape[1])), starts.add_(of_round(pieces)), numbers

    def sums(self, rows: Tensor, moved: Tensor, phases: Sequence[int], bags: tuple[Tensor, Tensor, Tensor], first: int) -> Tensor:
        """Sum rows by label: ``(taps, classes, out)``.

        Args:
            rows: The rows of all convolutions, one after the other for each pixel.
            moved: ``(taps, P)``: for the pixels of each tap, which row is theirs; negative for those that have none.
            phases: Which segment holds each tap's pixels.
            bags: Of all taps.
            first: The number of the first tap.
        """
        count = len(moved)
        edges, starts, numbers = bags
        pieces = edges.shape[1]
        # Without a copy for each tap where all see the same pixels, as without a stride.
        order = self.order[phases[0]].expand(count, -1) if len(set(phases)) == 1 else torch.stack([self.order[phase] for phase in phases])
        index = moved.gather(1, order).flatten()
        there = (index >= 0).to(rows.dtype)
        # Taps lie one after the other.
        sums = F.embedding_bag(index.clamp_(min=0), rows, edges[first : first + count].flatten(), mode="sum", per_sample_weights=there)
        found = F.embedding_bag(numbers[: count * pieces], sums, starts[first : first + count].flatten(), mode="sum")
        return found.view(count, -1, rows.shape[1])
