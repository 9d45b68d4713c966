"""Joint transforms of images and masks, with torchvision v2."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchvision import tv_tensors
from torchvision.transforms import v2

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def train_transforms(
    size: tuple[int, int],
    *,
    scale: tuple[float, float] = (0.5, 2.0),
    flip: float = 0.5,
    color: float = 0.3,
    ignore_index: int = 255,
) -> v2.Compose:
    """Scale jitter, crop to ``size`` with void padding, horizontal flip, colour jitter, ImageNet normalisation.

    The result takes ``(image, mask)`` or a mask alone, which may be a plain integer tensor ``(H, W)``, and returns the same kind: a
    float32 image ``(3, *size)`` and an int64 mask of ``size``. Input images are uint8, or floats in ``[0, 1]``.

    Args:
        size: Rows and columns of the crop. At scale 1 the whole image just fits into it.
        scale: Range of the factor for rows and columns.
        flip: Probability of a horizontal flip.
        color: Strength of the jitter of brightness, contrast and saturation; 0 for none.
        ignore_index: Label of padded pixels.

    Source:
        PSPNet's training recipe (scale 0.5 to 2, mirror, crop), built from torchvision's parts.
    """
    steps: list[Any] = [_PlainMasks(), _ScaleJitter(size, scale)]
    steps.append(_Crop(size, ignore_index))
    if flip:
        steps.append(v2.RandomHorizontalFlip(flip))
    if color:
        steps.append(v2.ColorJitter(color, color, color))
    return v2.Compose([*steps, *_to_model()])


def eval_transforms(size: tuple[int, int] | None = None) -> v2.Compose:
    """Resize to ``size`` (rows, columns; masks by nearest neighbour) unless it is ``None``, and normalise as in training."""
    return v2.Compose([_PlainMasks(), *([v2.Resize(size, antialias=True)] if size else []), *_to_model()])


def _to_model() -> list[Any]:
    dtypes: dict[Any, Any] = {tv_tensors.Image: torch.float32, tv_tensors.Mask: torch.int64, "others": None}
    return [v2.ToDtype(dtypes, scale=True), v2.Normalize(IMAGENET_MEAN, IMAGENET_STD), v2.ToPureTensor()]


class _PlainMasks(nn.Module):
    """Marks plain integers ``(H, W)``, such as pseudo labels, as masks: torchvision would treat them as images."""

    def forward(self, *items: Any) -> Any:
        known = tuple(tv_tensors.Mask(item) if _is_plain_mask(item) else item for item in items)
        return known[0] if len(known) == 1 else known


def _is_plain_mask(item: Any) -> bool:
    return type(item) is Tensor and item.ndim == 2 and not item.is_floating_point()


class _ScaleJitter(nn.Module):
    """Resizes to a random multiple of the largest size that fits. Torchvision 0.29's swaps rows and columns."""

    def __init__(self, size: tuple[int, int], scale: tuple[float, float]) -> None:
        super().__init__()
        self.size, self.scale = size, scale

    def forward(self, *items: Tensor) -> Any:
        rows, columns = items[-1].shape[-2:]
        low, high = self.scale
        factor = min(self.size[0] / rows, self.size[1] / columns) * (low + float(torch.rand(())) * (high - low))
        size = [max(1, round(rows * factor)), max(1, round(columns * factor))]
        resized = [v2.functional.resize(item, size, antialias=True) for item in items]
        return resized[0] if len(resized) == 1 else tuple(resized)


class _Crop(nn.Module):
    """Random crop that pads images with ImageNet's mean colour, in the image's units, and masks with void."""

    def __init__(self, size: tuple[int, int], ignore_index: int) -> None:
        super().__init__()
        bytes_, floats = [round(255 * x) for x in IMAGENET_MEAN], list(IMAGENET_MEAN)
        self.bytes, self.floats = (
            v2.RandomCrop(size, pad_if_needed=True, fill={tv_tensors.Image: fill, tv_tensors.Mask: ignore_index})
            for fill in (bytes_, floats)
        )

    def forward(self, *items: Tensor) -> Any:
        return (self.floats if items[0].is_floating_point() else self.bytes)(*items)
