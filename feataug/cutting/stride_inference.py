"""The stride and rounding of a feature map, inferred from the sizes of images and maps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

# Pixels by which images have to differ until every map does.
WIDER = 64

# A multiple of the strides of networks: powers of two up to 64, and 7 times up to 64 of them.
_COMMON = 448

Size = tuple[int, int]


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


def cheap_sizes(size: Size) -> list[Size]:
    """Sizes to measure at where each costs a pass of the encoder: the first that the model takes has to do."""
    rows, columns = max(1, 5 * size[0] // 8), max(1, 7 * size[1] // 8)
    return [
        (rows + 1, max(1, columns - 3)),
        *((max(side, rows // side * side), max(side, columns // side * side)) for side in (32, 56)),
    ]


def stays(found: Mapping[Size, Sequence[int]], dimensions: Sequence[int]) -> bool:
    """Whether these dimensions are the same for images of very different sizes."""
    widths = [columns for _, columns in found]
    return max(widths) - min(widths) >= WIDER and len({tuple(shape[d] for d in dimensions) for shape in found.values()}) == 1


def stride_of_sides(
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


def stride_of_tokens(counts: Mapping[Size, int], image_size: Size, downwards: bool) -> int | None:
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
