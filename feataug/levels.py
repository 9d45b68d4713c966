"""A tensor in the model as levels ``(B, channels, h, w)``, and back: maps, channels-last maps, tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from feataug.specs import LevelSpec

# Class, distillation and register tokens stand before the others; no published ViT has more.
MAX_PREFIX = 16


@dataclass(frozen=True)
class Layout:
    """How one tensor that crosses holds its levels.

    Args:
        kind: ``"nchw"``; ``"nhwc"`` (Swin); ``"nlc"``, tokens ``(B, prefix + h w, C)``; ``"tokens"``, class or register tokens alone.
        channels, reduction: Of its map.
        prefix: Class and register tokens at the front.
        live: Are the prefix tokens read after the cut? Then they are a level of their own, ``(B, channels, 1, prefix)``.
    """

    kind: str
    channels: int
    reduction: int
    prefix: int = 0
    live: bool = True

    @classmethod
    def of(cls, tensor: Tensor, batch: int, image_size: tuple[int, int]) -> Layout | None:
        """Recognise a tensor's layout by the images that it was made from; ``None`` if it is no feature map."""
        if not tensor.is_floating_point() or 0 in tensor.shape or tensor.ndim < 3 or len(tensor) != batch:
            return None
        if tensor.ndim == 4:
            found = []
            for kind, (channels, rows, columns) in (("nchw", (1, 2, 3)), ("nhwc", (3, 1, 2))):
                reduction = _reduction(image_size, (tensor.shape[rows], tensor.shape[columns]))
                if reduction:
                    found.append(cls(kind, tensor.shape[channels], reduction))
            # Where both readings are possible, the stride that divides the image is the likelier one.
            found.sort(key=lambda layout: any(side % layout.reduction for side in image_size))
            if found:
                return found[0]
        if tensor.ndim == 3:
            for prefix in range(MAX_PREFIX + 1):
                reduction = _token_reduction(image_size, tensor.shape[1] - prefix)
                if tensor.shape[1] - prefix == 1:
                    # A map of one cell would be a stride as large as the image: these are tokens of no place.
                    return cls("tokens", tensor.shape[2], 0, tensor.shape[1])
                if reduction:
                    return cls("nlc", tensor.shape[2], reduction, prefix)
        return None

    def specs(self, name: str) -> list[LevelSpec]:
        """One level for the map, one for prefix tokens that are read."""
        if self.kind == "tokens":
            return [LevelSpec(name, self.channels, 0, self.prefix)]
        prefix = [LevelSpec(f"{name}.prefix", self.channels, 0, self.prefix)] if self.prefix and self.live else []
        return [LevelSpec(name, self.channels, self.reduction), *prefix]

    def size(self, shape: Sequence[int], image_size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of the map in a tensor of this shape."""
        if self.kind in ("nlc", "tokens"):
            return self.specs("")[0].size(image_size)
        rows, columns = (2, 3) if self.kind == "nchw" else (1, 2)
        return shape[rows], shape[columns]

    def to_levels(self, tensor: Tensor, image_size: tuple[int, int]) -> list[Tensor]:
        """Views of the tensor as the levels that ``specs`` lists."""
        if self.kind == "nchw":
            return [tensor]
        if self.kind == "nhwc":
            return [tensor.permute(0, 3, 1, 2)]
        if self.kind == "tokens":
            return [tensor.transpose(1, 2).unsqueeze(2)]
        size = LevelSpec("", self.channels, self.reduction).size(image_size)
        levels = [tensor[:, self.prefix :].transpose(1, 2).unflatten(2, size)]
        if self.count == 2:
            levels.append(tensor[:, : self.prefix].transpose(1, 2).unsqueeze(2))
        return levels

    def to_tensor(self, levels: Sequence[Tensor]) -> Tensor:
        """The inverse of ``to_levels``; prefix tokens that nobody reads are zeros."""
        if self.kind == "nchw":
            return levels[0]
        if self.kind == "nhwc":
            return levels[0].permute(0, 2, 3, 1)
        tokens = levels[0].flatten(2).transpose(1, 2)
        if not self.prefix or self.kind == "tokens":
            return tokens
        if self.live:
            prefix = levels[1].squeeze(2).transpose(1, 2).to(tokens.dtype)
        else:
            prefix = tokens.new_zeros(len(tokens), self.prefix, self.channels)
        return torch.cat([prefix, tokens], dim=1)

    @property
    def count(self) -> int:
        """How many levels."""
        return 1 + bool(self.kind == "nlc" and self.prefix and self.live)


def _reduction(image_size: tuple[int, int], size: tuple[int, int]) -> int | None:
    """The stride that gives ``size`` by rounding up, if there is one."""
    guess = max(1, round(max(image_size) / max(size)))
    near = range(max(1, guess // 2), 2 * guess + 2)
    return _likeliest(image_size, [r for r in near if all(-(-a // r) == b for a, b in zip(image_size, size, strict=True))])


def _token_reduction(image_size: tuple[int, int], tokens: int) -> int | None:
    """The stride that gives so many tokens, if there is one."""
    if tokens < 1:
        return None
    strides = range(1, max(image_size) + 1)
    return _likeliest(image_size, [r for r in strides if -(-image_size[0] // r) * -(-image_size[1] // r) == tokens])


def _likeliest(image_size: tuple[int, int], strides: list[int]) -> int | None:
    """Small maps fit several strides: powers of two and patch sizes that divide the image come first."""

    def rank(stride: int) -> tuple[int, int]:
        exact = not any(side % stride for side in image_size)
        power = stride & (stride - 1) == 0
        return (0 if exact and (power or stride <= 16) else 1 if power else 2 if exact else 3), stride

    return min(strides, key=rank, default=None)
