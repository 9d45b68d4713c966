"""Segmentation models written by hand, in the manner of users and of mmsegmentation."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CLASSES = 5

# An own encoder and decoder, and code that reads the batch size after the cut.


class OwnPair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3, 2, 1), nn.ReLU())
        self.decoder = nn.Sequential(nn.Conv2d(12, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Conv2d(8, CLASSES, 1))

    def forward(self, images: Tensor) -> Tensor:
        logits = self.decoder(self.encoder(images))
        return F.interpolate(logits, images.shape[-2:]).view(images.shape[0], CLASSES, *images.shape[-2:])


class UNet(nn.Module):
    """Written as people write it: skips kept in a list, the forward pass all in one."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList([nn.Conv2d(3, 6, 3, 1, 1), nn.Conv2d(6, 8, 3, 2, 1), nn.Conv2d(8, 10, 3, 2, 1)])
        self.norms = nn.ModuleList([nn.BatchNorm2d(6), nn.BatchNorm2d(8), nn.BatchNorm2d(10)])
        self.up = nn.ModuleList([nn.Conv2d(18, 8, 3, 1, 1), nn.Conv2d(14, 6, 3, 1, 1)])
        self.head = nn.Conv2d(6, CLASSES, 1)

    def forward(self, images: Tensor) -> Tensor:
        skips, hidden = [], images
        for conv, norm in zip(self.down, self.norms, strict=True):
            hidden = F.relu(norm(conv(hidden)))
            skips.append(hidden)
        for conv, skip in zip(self.up, reversed(skips[:-1]), strict=True):
            hidden = F.relu(conv(torch.cat([F.interpolate(hidden, skip.shape[-2:]), skip], 1)))
        return self.head(hidden)


class UNetOfModules(UNet):
    """The same, with the skips' activations as modules, so that a cut can name them."""

    def __init__(self) -> None:
        super().__init__()
        self.acts = nn.ModuleList(nn.ReLU() for _ in self.down)

    def forward(self, images: Tensor) -> Tensor:
        skips, hidden = [], images
        for conv, norm, act in zip(self.down, self.norms, self.acts, strict=True):
            hidden = act(norm(conv(hidden)))
            skips.append(hidden)
        for conv, skip in zip(self.up, reversed(skips[:-1]), strict=True):
            hidden = F.relu(conv(torch.cat([F.interpolate(hidden, skip.shape[-2:]), skip], 1)))
        return self.head(hidden)


# The shape of mmsegmentation: backbone, neck, decode_head, auxiliary_head; a loss or logits by ``mode``.


class Stages(nn.Module):
    def __init__(self, widths: tuple[int, ...] = (8, 12, 16, 20)) -> None:
        super().__init__()
        previous, stages = 3, []
        for width in widths:
            stages.append(
                nn.Sequential(nn.Conv2d(previous, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True))
            )
            previous = width
        self.stages = nn.ModuleList(stages)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        maps = []
        for stage in self.stages:
            images = stage(images)
            maps.append(images)
        return tuple(maps)


class Neck(nn.Module):
    def __init__(self, widths: tuple[int, ...] = (8, 12, 16, 20), width: int = 10) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(w, width, 1) for w in widths)

    def forward(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        sides = [conv(x) for conv, x in zip(self.lateral, maps, strict=True)]
        for i in range(len(sides) - 1, 0, -1):
            sides[i - 1] = sides[i - 1] + F.interpolate(sides[i], sides[i - 1].shape[-2:])
        return tuple(sides)


class DecodeHead(nn.Module):
    def __init__(self, widths: tuple[int, ...], indices: tuple[int, ...]) -> None:
        super().__init__()
        self.indices = indices
        self.convs = nn.ModuleList(nn.Sequential(nn.Conv2d(widths[i], 8, 3, 1, 1), nn.BatchNorm2d(8), nn.ReLU()) for i in indices)
        self.conv_seg = nn.Conv2d(8, CLASSES, 1)

    def forward(self, maps: tuple[Tensor, ...]) -> Tensor:
        size = maps[self.indices[0]].shape[-2:]
        return self.conv_seg(sum(F.interpolate(conv(maps[i]), size) for conv, i in zip(self.convs, self.indices, strict=True)))


class EncoderDecoderMM(nn.Module):
    def __init__(self, *, neck: bool = False, auxiliary: bool = False, indices: tuple[int, ...] = (3,)) -> None:
        super().__init__()
        self.backbone = Stages()
        self.neck = Neck() if neck else None
        self.decode_head = DecodeHead((10,) * 4 if neck else (8, 12, 16, 20), indices)
        self.auxiliary_head = DecodeHead((10,) * 4 if neck else (8, 12, 16, 20), (2,)) if auxiliary else None

    def forward(self, inputs: Tensor, labels: Tensor | None = None, mode: str = "tensor") -> Any:
        maps = self.backbone(inputs)
        if self.neck is not None:
            maps = self.neck(maps)
        logits = self.decode_head(maps)
        if mode == "tensor":
            return logits
        assert labels is not None
        losses = {"decode.loss": F.cross_entropy(F.interpolate(logits, labels.shape[-2:]), labels)}
        if self.auxiliary_head is not None:
            logits = self.auxiliary_head(maps)
            losses["aux.loss"] = F.cross_entropy(F.interpolate(logits, labels.shape[-2:]), labels)
        return losses
