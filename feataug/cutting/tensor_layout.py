"""A tensor in the model as levels ``(B, channels, h, w)``, and back: maps, channels-last maps, tokens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from feataug.core.specs import LevelSpec
from feataug.cutting.call_trace import TensorInfo
from feataug.cutting.stride_inference import Size, stays, stride_of_sides, stride_of_tokens

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
        offset: As in ``LevelSpec``.
        between: The least and the greatest offset that explain what was measured, where there are several.
    """

    kind: str
    channels: int
    reduction: int
    prefix: int = 0
    live: bool = True
    offset: int | None = None
    between: tuple[int, int] | None = None

    @classmethod
    def of(
        cls, tensor: Tensor | TensorInfo, batch: int, image_size: Size, shapes: Mapping[Size, Sequence[int]] | None = None
    ) -> Layout | None:
        """Recognise a tensor's layout by the images that it was made from; ``None`` if it is no feature map.

        Args:
            tensor: Made of ``batch`` images of ``image_size``.
            batch, image_size: Of the images.
            shapes: Shapes of the same tensor for images of other sizes. One size fits several strides, and tokens without a place.
        """
        if not tensor.is_floating_point() or 0 in tensor.shape or tensor.ndim < 3 or len(tensor) != batch:
            return None
        found = {image_size: tuple(tensor.shape)} | {size: tuple(shape) for size, shape in (shapes or {}).items()}
        if any(len(shape) != tensor.ndim for shape in found.values()):
            return None
        if tensor.ndim == 4:
            return cls._of_map(found, image_size)
        return cls._of_tokens(found, image_size) if tensor.ndim == 3 else None

    @classmethod
    def _of_map(cls, found: Mapping[Size, Sequence[int]], image_size: Size) -> Layout | None:
        if stays(found, (1, 2, 3)):
            return None  # of no place: pooled to a fixed grid
        layouts = []
        for kind, (channels, rows, columns) in (("nchw", (1, 2, 3)), ("nhwc", (3, 1, 2))):
            sides = [pair for size, shape in found.items() for pair in zip(size, (shape[rows], shape[columns]), strict=True)]
            stride = stride_of_sides(sides, image_size, single=len(found) == 1)
            if stride is not None and len({shape[channels] for shape in found.values()}) == 1:
                layouts.append(cls(kind, found[image_size][channels], stride[0], offset=stride[1], between=stride[2]))
        # Where both readings are possible, the stride that divides the image is the likelier one.
        layouts.sort(key=lambda layout: any(side % layout.reduction for side in image_size))
        return layouts[0] if layouts else None

    @classmethod
    def _of_tokens(cls, found: Mapping[Size, Sequence[int]], image_size: Size) -> Layout | None:
        counts, channels = {size: shape[1] for size, shape in found.items()}, found[image_size][2]
        if len({shape[2] for shape in found.values()}) > 1:
            return None
        count = counts[image_size]
        if count == 1 or stays(found, (1,)):
            # Tokens of no place. Queries (of Mask2Former, say) are of no place either, and more than any class tokens.
            return cls("tokens", channels, 0, count) if count <= MAX_PREFIX else None
        # Rounding up is the rule; from a single size rounding down would explain nearly any number of tokens.
        for downwards in (False, True)[: len(found)]:
            # A map of one cell would be a stride as large as the image.
            for prefix in range(min(MAX_PREFIX + 1, count - 1)):
                stride = stride_of_tokens({size: number - prefix for size, number in counts.items()}, image_size, downwards)
                if stride is not None:
                    return cls("nlc", channels, stride, prefix, offset=0 if downwards else None)
        return cls("tokens", channels, 0, count) if len(found) == 1 and count <= MAX_PREFIX else None

    def specs(self, name: str) -> list[LevelSpec]:
        """One level for the map, one for prefix tokens that are read."""
        if self.kind == "tokens":
            return [LevelSpec(name, self.channels, 0, self.prefix)]
        prefix = [LevelSpec(f"{name}.prefix", self.channels, 0, self.prefix)] if self.prefix and self.live else []
        return [LevelSpec(name, self.channels, self.reduction, offset=self.offset), *prefix]

    def size(self, shape: Sequence[int], image_size: Size) -> Size:
        """Rows and columns of the map in a tensor of this shape."""
        if self.kind in ("nlc", "tokens"):
            return self.specs("")[0].size(image_size)
        rows, columns = (2, 3) if self.kind == "nchw" else (1, 2)
        return shape[rows], shape[columns]

    def to_levels(self, tensor: Tensor, image_size: Size) -> list[Tensor]:
        """Views of the tensor as the levels that ``specs`` lists."""
        if self.kind == "nchw":
            return [tensor]
        if self.kind == "nhwc":
            return [tensor.permute(0, 3, 1, 2)]
        if self.kind == "tokens":
            return [tensor.transpose(1, 2).unsqueeze(2)]
        levels = [tensor[:, self.prefix :].transpose(1, 2).unflatten(2, self.size((), image_size))]
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


def deciding_size(size: Size, layouts: Iterable[Layout]) -> Size | None:
    """An image size that halves what is open about the offsets of one or two layouts; ``None`` where nothing is."""
    sides = []
    for layout in layouts:
        if layout.between is not None:
            # With this offset, or a greater one, a side of so many pixels has one cell more.
            middle = sum(layout.between) // 2 + 1
            sides.append(layout.reduction * (max(size) // layout.reduction + 2) - middle)
    return (sides[0], sides[-1]) if sides else None
