"""The stride and rounding of a feature map, inferred from the sizes of images and maps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

# If images differ by this many pixels, so does every map.
WIDER = 64

# A multiple of the usual strides: powers of two up to 64, and 7 times these.
_COMMON = 448

Size = tuple[int, int]


def other_sizes(size: Size) -> tuple[list[Size], list[Size]]:
    """Image sizes to measure besides ``size`` where a measurement is nearly free: odd ones, and multiples of usual strides.

    The odd sizes show how the model rounds. One pixel more than a multiple of every usual stride begins a new cell only if the
    model rounds up; one pixel less drops the last cell only if it rounds down. The multiples are for models that take no odd sizes.
    One size of each kind is much wider than ``size``, so that every map is wider too.
    """
    rows, columns = size
    odd = [(rows - 1, columns + 1), (_COMMON * -(-rows // _COMMON) + 1, _COMMON * (-(-columns // _COMMON) + 3) - 1)]
    even = [(-(-rows // side) * side, (columns // side + 1) * side + WIDER) for side in (32, 56)]
    return [item for item in odd if min(item) > 0], even


def cheap_sizes(size: Size) -> list[Size]:
    """Image sizes to try where each measurement is a pass of the encoder, so that the first one that the model takes must do."""
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
    """The stride and offset of a map.

    Args:
        sides: Pairs of an image's side and the map's side, in pixels and cells.
        image_size: The example's size, which decides between several strides.
        single: Whether all pairs are of one image size. Then only offsets that round up or down are considered.

    Returns:
        Stride, offset (``None`` for rounding up), and the least and greatest possible offset if there are several. ``None`` if no
        stride explains the pairs.
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
    """The stride that explains the number of tokens for each image size, rounding up or ``downwards``, if any."""
    if min(counts.values()) < 1:
        return None

    def tokens(size: Size, stride: int) -> int:
        offset = 0 if downwards else stride - 1
        return (size[0] + offset) // stride * ((size[1] + offset) // stride)

    strides = range(1, max(image_size) + 1)
    return _likeliest(image_size, [s for s in strides if all(tokens(size, s) == count for size, count in counts.items())])


def _offsets(sides: Sequence[tuple[int, int]], stride: int) -> tuple[int, int] | None:
    """The least and greatest offset for which ``(image + offset) // stride`` is the map's side in all pairs."""
    low = max(cells * stride - pixels for pixels, cells in sides)
    high = min(cells * stride - pixels for pixels, cells in sides) + stride - 1
    # Convolutions without padding lose a few pixels, and none gains any.
    low, high = max(low, -8 * stride), min(high, stride - 1)
    return (low, high) if low <= high else None


def _chosen(offsets: Mapping[int, tuple[int, int]], image_size: Size) -> tuple[int, int | None, tuple[int, int] | None] | None:
    """The likeliest stride: a usual one if possible, then one that rounds up, then one that rounds down."""

    def rank(stride: int) -> tuple[bool, int, tuple[int, int]]:
        low, high = offsets[stride]
        rounding = 0 if high == stride - 1 else 1 if low <= 0 <= high else 2 if high > 0 else 3
        # Hardly any network has a stride such as 31, even if it explains the sizes by rounding up.
        return _rank(image_size, stride)[0] > 1, rounding, _rank(image_size, stride)

    stride = min(offsets, key=rank, default=None)
    if stride is None:
        return None
    low, high = offsets[stride]
    return stride, None if high == stride - 1 else min(max(low, 0), high), (low, high) if low < high else None


def _likeliest(image_size: Size, strides: list[int]) -> int | None:
    return min(strides, key=lambda stride: _rank(image_size, stride), default=None)


def _rank(image_size: Size, stride: int) -> tuple[int, int]:
    """Rank for strides that all explain a small map: powers of two and patch sizes that divide the image come first."""
    exact = not any(side % stride for side in image_size)
    power = stride & (stride - 1) == 0
    return (0 if exact and (power or stride <= 16) else 1 if power else 2 if exact else 3), stride
