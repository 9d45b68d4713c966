"""A tensor in the model as levels ``(B, channels, h, w)``, and back: maps, channels-last maps, tokens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from feataug.recording import Seen
from feataug.specs import LevelSpec

# Class, distillation and register tokens stand before the others; no published ViT has more.
MAX_PREFIX = 16

# Pixels by which images have to differ until every map does.
WIDER = 64

# A multiple of the strides of networks: powers of two up to 64, and 7 times up to 64 of them.
_COMMON = 448

Size = tuple[int, int]


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
        cls, tensor: Tensor | Seen, batch: int, image_size: Size, shapes: Mapping[Size, Sequence[int]] | None = None
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
        if _stays(found, (1, 2, 3)):
            return None  # of no place: pooled to a fixed grid
        layouts = []
        for kind, (channels, rows, columns) in (("nchw", (1, 2, 3)), ("nhwc", (3, 1, 2))):
            sides = [pair for size, shape in found.items() for pair in zip(size, (shape[rows], shape[columns]), strict=True)]
            stride = _stride(sides, image_size, single=len(found) == 1)
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
        if count == 1 or _stays(found, (1,)):
            # Tokens of no place. Queries (of Mask2Former, say) are of no place either, and more than any class tokens.
            return cls("tokens", channels, 0, count) if count <= MAX_PREFIX else None
        # Rounding up is the rule; from a single size rounding down would explain nearly any number of tokens.
        for downwards in (False, True)[: len(found)]:
            # A map of one cell would be a stride as large as the image.
            for prefix in range(min(MAX_PREFIX + 1, count - 1)):
                stride = _token_stride({size: number - prefix for size, number in counts.items()}, image_size, downwards)
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


def other_sizes(size: Size) -> tuple[list[Size], list[Size]]:
    """Image sizes to measure at besides ``size``, where that costs next to nothing.

    First those that tell how sizes are rounded: one more pixel than a multiple of every usual stride begins a new cell only if they are
    rounded up, one less leaves the last cell out only if they are rounded down. Then, for models that do not take these, multiples.
    One of either is much wider, so that every map is.
    """
    rows, columns = size
    odd = [(rows - 1, columns + 1), (_COMMON * -(-rows // _COMMON) + 1, _COMMON * (-(-columns // _COMMON) + 3) - 1)]
    even = [(-(-rows // side) * side, (columns // side + 1) * side + WIDER) for side in (32, 56)]
    return [item for item in odd if min(item) > 0], even


def deciding_size(size: Size, layouts: Iterable[Layout]) -> Size | None:
    """An image size that halves what is open about the offsets of one or two layouts; ``None`` where nothing is."""
    sides = []
    for layout in layouts:
        if layout.between is not None:
            # With this offset, or a greater one, a side of so many pixels has one cell more.
            middle = sum(layout.between) // 2 + 1
            sides.append(layout.reduction * (max(size) // layout.reduction + 2) - middle)
    return (sides[0], sides[-1]) if sides else None


def cheap_sizes(size: Size) -> list[Size]:
    """Sizes to measure at where each costs a pass of the encoder: the first that the model takes has to do."""
    rows, columns = max(1, 5 * size[0] // 8), max(1, 7 * size[1] // 8)
    return [
        (rows + 1, max(1, columns - 3)),
        *((max(side, rows // side * side), max(side, columns // side * side)) for side in (32, 56)),
    ]


def _stays(found: Mapping[Size, Sequence[int]], dimensions: Sequence[int]) -> bool:
    """Whether these dimensions are the same for images of very different sizes."""
    widths = [columns for _, columns in found]
    return max(widths) - min(widths) >= WIDER and len({tuple(shape[d] for d in dimensions) for shape in found.values()}) == 1


def _stride(
    sides: Iterable[tuple[int, int]], image_size: Size, *, single: bool
) -> tuple[int, int | None, tuple[int, int] | None] | None:
    """Stride and offset that give each second number of ``sides`` from the first, if there are any, and what is open about the offset.

    From a ``single`` image size no offsets are concluded but those that round up or down.
    """
    sides = sorted(set(sides))
    longest, number = max(sides)
    guess = max(1, round(longest / number))
    offsets = {
        stride: found for stride in range(max(1, guess // 2), 2 * guess + 2) if (found := _offsets(sides, stride)) is not None
    }
    if single:
        offsets = {stride: (low, high) for stride, (low, high) in offsets.items() if high == stride - 1 or low <= 0 <= high}
    return _chosen(offsets, image_size)


def _token_stride(counts: Mapping[Size, int], image_size: Size, downwards: bool) -> int | None:
    """The stride that gives so many tokens for images of each size, rounding up or ``downwards``, if there is one."""
    if min(counts.values()) < 1:
        return None

    def tokens(size: Size, stride: int) -> int:
        offset = 0 if downwards else stride - 1
        return (size[0] + offset) // stride * ((size[1] + offset) // stride)

    strides = range(1, max(image_size) + 1)
    return _likeliest(image_size, [s for s in strides if all(tokens(size, s) == count for size, count in counts.items())])


def _offsets(sides: Sequence[tuple[int, int]], stride: int) -> tuple[int, int] | None:
    """The least and the greatest offset by which ``(image + offset) // stride`` gives each map."""
    low = max(cells * stride - pixels for pixels, cells in sides)
    high = min(cells * stride - pixels for pixels, cells in sides) + stride - 1
    # Convolutions without padding lose a few pixels; none gains any.
    low, high = max(low, -8 * stride), min(high, stride - 1)
    return (low, high) if low <= high else None


def _chosen(offsets: Mapping[int, tuple[int, int]], image_size: Size) -> tuple[int, int | None, tuple[int, int] | None] | None:
    """The likeliest stride: a usual one if there is one, rounding up if that fits, else down, else by the offset that is nearest to it."""

    def rank(stride: int) -> tuple[bool, int, tuple[int, int]]:
        low, high = offsets[stride]
        rounding = 0 if high == stride - 1 else 1 if low <= 0 <= high else 2 if high > 0 else 3
        # Hardly any network has a stride such as 31, however well it is rounded.
        return _rank(image_size, stride)[0] > 1, rounding, _rank(image_size, stride)

    stride = min(offsets, key=rank, default=None)
    if stride is None:
        return None
    low, high = offsets[stride]
    return stride, None if high == stride - 1 else min(max(low, 0), high), (low, high) if low < high else None


def _likeliest(image_size: Size, strides: list[int]) -> int | None:
    return min(strides, key=lambda stride: _rank(image_size, stride), default=None)


def _rank(image_size: Size, stride: int) -> tuple[int, int]:
    """Small maps fit several strides: powers of two and patch sizes that divide the image come first."""
    exact = not any(side % stride for side in image_size)
    power = stride & (stride - 1) == 0
    return (0 if exact and (power or stride <= 16) else 1 if power else 2 if exact else 3), stride
