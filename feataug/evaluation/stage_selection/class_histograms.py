"""Histograms of a stage's activations for every channel and class, counted batch by batch."""

from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import Tensor

NORM = 100.0
# A channel's range reaches at most this many standard deviations from its mean: one outlier would otherwise put all others in one bin.
SPREAD = 4.0


def activations(features: Tensor, reduction: int, masks: Tensor, stride: int, ignore_index: int = 255) -> tuple[Tensor, Tensor]:
    """Return normalised activations and labels at the labelled points of a grid.

    Args:
        features: ``(B, channels, h, w)``. Each sample is scaled to an L2 norm of 100 over all channels and positions; a sample of zeros
            stays zero.
        reduction: The stride of the features.
        masks: ``(B, H, W)`` int64.
        stride: The stride of the grid. Its points are the centres of cells of ``stride`` x ``stride`` pixels; a cut-off cell at the far
            edge uses its last row or column.
        ignore_index: The label of void.

    Returns:
        ``(n, channels)`` float64 and ``(n,)``, without void.

    Source:
        Sec. 4.4: "we normalize all patches to the same norm ball (L2 norm 100)".
    """
    rows, columns = (
        (torch.arange(0, side, stride, device=masks.device) + stride // 2).clamp(max=side - 1) for side in masks.shape[-2:]
    )
    labels = masks[:, rows][:, :, columns]
    found = features[:, :, rows // reduction][..., columns // reduction].double()
    norm = torch.linalg.vector_norm(features, dim=(1, 2, 3), dtype=torch.float64)
    found = found * (NORM / norm.clamp(min=1e-30))[:, None, None, None]
    valid = labels != ignore_index
    return rearrange(found, "b c h w -> b h w c")[valid], labels[valid]


class ClassHistograms:
    """Histograms of each channel for each class, in two passes: ``see`` every batch, ``open``, then ``count`` every batch.

    The bins divide a channel's range evenly, from the smallest to the largest value seen, but at most four standard deviations from the
    mean. Values outside count in the first or the last bin. A channel that is constant up to float32 rounding counts in the first bin.

    Args:
        num_classes: The number of classes ``K``.
        channels: The number of channels ``C``.
        bins: The number of bins of each histogram.

    Attributes:
        counts: ``(K, C, bins)`` int64; ``open`` makes it.

    Source:
        Sec. 4.4 and Table 4, which give neither bins nor ranges: those are ours.
    """

    counts: Tensor

    def __init__(self, num_classes: int, channels: int, bins: int) -> None:
        self.num_classes, self.channels, self.bins = num_classes, channels, bins
        self.seen = 0
        self.least = torch.full((channels,), math.inf, dtype=torch.float64)
        self.greatest = -self.least
        self.sums = torch.zeros(2, channels, dtype=torch.float64)

    def see(self, values: Tensor) -> None:
        """Extend the ranges by a batch's values ``(n, channels)``."""
        if not len(values):
            return
        self.seen += len(values)
        self.least = torch.minimum(self.least, values.amin(0).cpu())
        self.greatest = torch.maximum(self.greatest, values.amax(0).cpu())
        self.sums += torch.stack([values.sum(0), values.square().sum(0)]).cpu()

    @property
    def finite(self) -> bool:
        """Whether all values seen were finite."""
        return bool(self.sums.isfinite().all())

    def open(self) -> None:
        """Fix the ranges."""
        mean, square = self.sums / max(self.seen, 1)
        spread = SPREAD * (square - mean.square()).clamp(min=0).sqrt()
        self.low = torch.maximum(self.least, mean - spread)
        width = torch.minimum(self.greatest, mean + spread) - self.low
        constant = width <= 1e-6 * torch.maximum(self.least.abs(), self.greatest.abs())
        self.per_unit = torch.where(constant, torch.zeros_like(width), self.bins / width)
        self.counts = torch.zeros(self.num_classes, self.channels, self.bins, dtype=torch.long)

    def count(self, values: Tensor, labels: Tensor) -> None:
        """Count a batch's values ``(n, channels)`` of classes ``(n,)``."""
        index = ((values - self.low.to(values)) * self.per_unit.to(values)).floor().long().clamp_(0, self.bins - 1)
        rows = labels[:, None] * self.channels + torch.arange(self.channels, device=labels.device)
        size = self.counts.numel()
        found = torch.bincount((rows * self.bins + index).flatten(), minlength=size)
        self.counts += found.view_as(self.counts).cpu()

    @property
    def cells(self) -> Tensor:
        """The number of counted grid points of each class, ``(K,)``."""
        return self.counts[:, 0].sum(-1)

    def entropy(self, classes: Tensor) -> Tensor:
        """Compute every channel's entropy in bits, as the mean over ``classes``, ``(C,)``."""
        shares = self._shares(classes)
        return -torch.special.xlogy(shares, shares).sum(-1).mean(0) / math.log(2)

    def overlap(self, classes: Tensor) -> Tensor:
        """Compute every channel's intersection over union of two classes' histograms, as the mean over pairs of ``classes``, ``(C,)``.

        Each histogram sums to 1, so the classes' areas do not matter: ``sum_b min(p_b, q_b) / sum_b max(p_b, q_b)``. NaN for fewer than
        two classes.
        """
        shares = self._shares(classes)
        total, pairs = torch.zeros(self.channels, dtype=torch.float64), 0
        for number in range(len(shares) - 1):
            both = torch.minimum(shares[number], shares[number + 1 :]).sum(-1)
            # Both histograms sum to 1, so the sum of the maxima is 2 minus the sum of the minima.
            total += (both / (2 - both)).sum(0)
            pairs += len(both)
        return total / pairs

    def _shares(self, classes: Tensor) -> Tensor:
        counts = self.counts[classes].double()
        return counts / counts.sum(-1, keepdim=True)
