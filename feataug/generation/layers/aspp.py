"""The paper's mask encoder: atrous convolutions of several dilations side by side, then a stride, stage by stage."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from feataug.generation.layers.class_shares import with_void
from feataug.generation.layers.label_conv import LabelConv2d, label_convs2d
from feataug.generation.layers.norm import group_norm


class ASPP(nn.Module):
    """3x3 convolutions with several dilations side by side, concatenated.

    Args:
        in_channels: Input maps, or ``None`` for a label map of ``num_classes`` classes (and void).
        out_channels: Output maps, divided evenly among the dilations.
        dilations: Dilation of each convolution.
        stride: Stride of the convolutions. Subsampling their outputs would give the same values at more cost.
        num_classes: Number of classes, if ``in_channels`` is ``None``.

    Source:
        Sec. 3.1 (dilations 1, 2, 4; a stride follows). That 96, 192 and 384 maps divide by three suggests concatenation.
    """

    def __init__(
        self,
        in_channels: int | None,
        out_channels: int,
        *,
        dilations: Sequence[int] = (1, 2, 4),
        stride: int = 2,
        num_classes: int = 0,
    ) -> None:
        super().__init__()
        share, rest = divmod(out_channels, len(dilations))
        widths = [share + (number < rest) for number in range(len(dilations))]
        self.branches = nn.ModuleList(
            LabelConv2d(num_classes, width, stride=stride, dilation=dilation)
            if in_channels is None
            else nn.Conv2d(in_channels, width, 3, stride=stride, padding=dilation, dilation=dilation)
            for width, dilation in zip(widths, dilations, strict=True)
            if width
        )
        self.norm = group_norm(out_channels)
        self.activation = nn.LeakyReLU(0.2)

    def forward(self, inputs: Tensor) -> Tensor:
        """Maps ``(B, in_channels, H, W)`` or labels ``(B, H, W)`` to ``(B, out_channels, ceil(H / s), ceil(W / s))``."""
        found = self._branches(inputs)
        return self.activation(self.norm(torch.cat(found, dim=1) if len(found) > 1 else found[0]))

    def _branches(self, inputs: Tensor) -> list[Tensor]:
        """Their maps. Label convolutions of as many maps are computed together."""
        lookups = [branch for branch in self.branches if isinstance(branch, LabelConv2d)]
        if not lookups:
            return _convolutions(inputs, list(self.branches))
        found = []
        for _, group in groupby(lookups, key=lambda branch: len(branch.bias)):
            together = list(group)
            weights, biases = [branch.weight for branch in together], [branch.bias for branch in together]
            found.append(label_convs2d(inputs, weights, biases, stride=together[0].stride, dilations=[branch.dilation for branch in together]))
        return found


def _convolutions(inputs: Tensor, branches: Sequence[Any]) -> list[Tensor]:
    """Each convolution of the same maps.

    All taps of a convolution whose dilation is a multiple of its stride fall on every ``stride``-th pixel. These are picked once, for then it
    has no stride and less dilation. On a CPU the gradient of one that has both takes twice as long.
    """
    stride = branches[0].stride[0]
    sparse = [stride > 1 and branch.dilation[0] % stride == 0 for branch in branches]
    # One kernel forward and one backward, where indexing takes more.
    picked = F.avg_pool2d(inputs, 1, stride) if any(sparse) else inputs
    found = []
    for branch, on_picked in zip(branches, sparse, strict=True):
        dilation = branch.dilation[0] // stride
        found.append(F.conv2d(picked, branch.weight, branch.bias, padding=dilation, dilation=dilation) if on_picked else branch(inputs))
    return found


class MaskEncoder(nn.Module):
    """Encodes label maps at image resolution as maps at a feature's resolution, by ``ASPP`` stages with stride 2.

    Args:
        num_classes: Number of classes; labels outside ``0 .. num_classes - 1`` count as void.
        widths: Output maps of each stage; the last is repeated if more stages are needed.
        reduction: Reduction of the features. There are ``floor(log2(reduction))`` stages. If the reduction is not a power of two (a
            ViT's 14), the caller resizes the result.

    Source:
        Sec. 3.1, Fig. 2; 4.1 for the widths.
    """

    def __init__(self, num_classes: int, widths: Sequence[int], reduction: int, dilations: Sequence[int] = (1, 2, 4)) -> None:
        super().__init__()
        self.num_classes = num_classes
        count = reduction.bit_length() - 1
        chosen = [widths[min(stage, len(widths) - 1)] for stage in range(max(count, 1))]
        stages: list[nn.Module] = []
        previous: int | None = None
        for width in chosen:
            stride = 2 if count else 1
            stages.append(ASPP(previous, width, dilations=dilations, stride=stride, num_classes=num_classes))
            previous = width
        self.stages = nn.Sequential(*stages)
        self.out_channels = chosen[-1]

    def forward(self, masks: Tensor) -> Tensor:
        """``(B, H, W)`` int64 to ``(B, out_channels, h, w)``."""
        return self.stages(with_void(masks, self.num_classes))
