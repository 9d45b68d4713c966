"""Cut images and masks into windows, so that every pixel counts once."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor


def tiles(
    images: Tensor, masks: Tensor, window: tuple[int, int] | None, ignore_index: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Cut a batch into windows side by side; the last one of a row or column is moved inwards.

    Args:
        images: ``(B, C, H, W)``.
        masks: ``(B, H, W)``.
        window: Rows and columns of a window, at most those of the images. ``None`` for a single window with everything.
        ignore_index: Label of void.

    Yields:
        ``(B, C, h, w)`` images, ``(B, h, w)`` masks, and the same masks with void where an earlier window has counted the pixel.
        Images keep their memory format.
    """
    rows, columns = int(images.shape[-2]), int(images.shape[-1])
    if window is None or tuple(masks.shape[-2:]) != (rows, columns) or (rows <= window[0] and columns <= window[1]):
        # The caller checks masks whose size differs from that of the images.
        yield images, masks, masks
        return
    height, width = min(window[0], rows), min(window[1], columns)
    kept = torch.channels_last if images.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
    done_down = 0
    for top in window_starts(rows, height, height):
        done_right = 0
        for left in window_starts(columns, width, width):
            part = masks[:, top : top + height, left : left + width].contiguous()
            counted = part.clone()
            counted[:, : done_down - top] = ignore_index
            counted[:, :, : done_right - left] = ignore_index
            yield images[..., top : top + height, left : left + width].contiguous(memory_format=kept), part, counted
            done_right = left + width
        done_down = top + height


def window_starts(side: int, window: int, stride: int) -> list[int]:
    """List where windows start along a side: every ``stride`` pixels; the last one ends at the edge."""
    return [*range(0, side - window, stride), side - window]
