"""Convert between a tensor of the model (map, channels-last map or tokens) and levels ``(B, channels, h, w)``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from feataug.core.specs import LevelSpec
from feataug.cutting.call_trace import TensorInfo
from feataug.cutting.stride_inference import Size, stays, stride_of_sides, stride_of_tokens

# The most class, distillation and register tokens that are looked for; no published ViT has more.
MAX_PREFIX = 16


@dataclass(frozen=True)
class Layout:
    """How one tensor that crosses holds its levels.

    Args:
        kind: ``"nchw"``; ``"nhwc"`` (Swin); ``"nlc"``, tokens ``(B, prefix + h w, C)``; ``"tokens"``, prefix tokens alone.
        channels, reduction: Channels and stride of the map.
        prefix: Number of class and register tokens at the front.
        live: Whether the prefix tokens are read after the cut. Then they are a level of their own, ``(B, channels, 1, prefix)``.
        offset: Rounding of the map's sides, as in ``LevelSpec``.
        between: The least and greatest possible offset, where several explain the measurements.
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
        """Recognise a tensor's layout by the size of the images that it was made from; ``None`` if it is no feature map.

        Args:
            tensor: The tensor, made from ``batch`` images of ``image_size``.
            batch, image_size: Number and size of the images.
            shapes: Shapes of the same tensor for images of other sizes. A single size can fit several strides, and tokens without a
                position.
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
            return None  # pooled to a fixed grid, so its cells have no position in the image
        layouts = []
        for kind, (channels, rows, columns) in (("nchw", (1, 2, 3)), ("nhwc", (3, 1, 2))):
            sides = [pair for size, shape in found.items() for pair in zip(size, (shape[rows], shape[columns]), strict=True)]
            stride = stride_of_sides(sides, image_size, single=len(found) == 1)
            if stride is not None and len({shape[channels] for shape in found.values()}) == 1:
                layouts.append(cls(kind, found[image_size][channels], stride[0], offset=stride[1], between=stride[2]))
        # If both kinds are possible, the one whose stride divides the image is likelier.
        layouts.sort(key=lambda layout: any(side % layout.reduction for side in image_size))
        return layouts[0] if layouts else None

    @classmethod
    def _of_tokens(cls, found: Mapping[Size, Sequence[int]], image_size: Size) -> Layout | None:
        counts, channels = {size: shape[1] for size, shape in found.items()}, found[image_size][2]
        if len({shape[2] for shape in found.values()}) > 1:
            return None
        count = counts[image_size]
        if count == 1 or stays(found, (1,)):
            # Tokens without a position. Mask2Former's queries have none either, but outnumber class tokens.
            return cls("tokens", channels, 0, count) if count <= MAX_PREFIX else None
        # Rounding up is the rule. With a single size, rounding down would explain nearly any number of tokens.
        for downwards in (False, True)[: len(found)]:
            # At least two tokens remain for the map: one cell would mean a stride as large as the image.
            for prefix in range(min(MAX_PREFIX + 1, count - 1)):
                stride = stride_of_tokens({size: number - prefix for size, number in counts.items()}, image_size, downwards)
                if stride is not None:
                    return cls("nlc", channels, stride, prefix, offset=0 if downwards else None)
        return cls("tokens", channels, 0, count) if len(found) == 1 and count <= MAX_PREFIX else None

    def specs(self, name: str) -> list[LevelSpec]:
        """One level for the map, and one for prefix tokens that are read."""
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
            return [rearrange(tensor, "b h w c -> b c h w")]
        if self.kind == "tokens":
            return [rearrange(tensor, "b n c -> b c 1 n")]
        rows, columns = self.size((), image_size)
        levels = [rearrange(tensor[:, self.prefix :], "b (h w) c -> b c h w", h=rows, w=columns)]
        if self.count == 2:
            levels.append(rearrange(tensor[:, : self.prefix], "b n c -> b c 1 n"))
        return levels

    def to_tensor(self, levels: Sequence[Tensor]) -> Tensor:
        """The inverse of ``to_levels``; prefix tokens that are not read are zeros."""
        if self.kind == "nchw":
            return levels[0]
        if self.kind == "nhwc":
            return rearrange(levels[0], "b c h w -> b h w c")
        tokens = rearrange(levels[0], "b c h w -> b (h w) c")
        if not self.prefix or self.kind == "tokens":
            return tokens
        if self.live:
            prefix = rearrange(levels[1], "b c 1 n -> b n c").to(tokens.dtype)
        else:
            prefix = tokens.new_zeros(len(tokens), self.prefix, self.channels)
        return torch.cat([prefix, tokens], dim=1)

    @property
    def count(self) -> int:
        """The number of levels."""
        return 1 + bool(self.kind == "nlc" and self.prefix and self.live)


def deciding_size(size: Size, layouts: Iterable[Layout]) -> Size | None:
    """An image size that halves the possible offsets of one or two layouts; ``None`` where all offsets are known."""
    sides = []
    for layout in layouts:
        if layout.between is not None:
            # This side has one cell more if the offset is at least ``middle``.
            middle = sum(layout.between) // 2 + 1
            sides.append(layout.reduction * (max(size) // layout.reduction + 2) - middle)
    return (sides[0], sides[-1]) if sides else None
