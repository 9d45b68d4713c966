"""Ignore synthetic pixels that are too hard for a decoder trained on real features."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from feataug.core.checks import (
    check_batch,
    check_features,
    check_loader,
    check_mask_form,
    check_masks,
    check_number,
    check_pairs,
    check_void,
    describe,
    is_plain,
)
from feataug.core.modes import eval_mode
from feataug.core.windows import tiles
from feataug.errors import DataError, ShapeError
from feataug.inference.context_check import CropSize, resolve_crop_size
from feataug.losses import resize_logits, smoothed_cross_entropy, split_outputs


class PixelFilter:
    """Sets synthetic pixels to void whose loss exceeds ``factor`` times the mean loss of their class on real features.

    A pixel that is much harder for the decoder than real pixels of its class was most likely generated badly: its feature does not
    match its label.

    Args:
        cut: A cut of the *reference*, the model trained on real images. It must not be trained further; ``PixelFilter.fit`` makes a
            copy.
        class_loss: Mean loss of each class on real features, ``(num_classes,)``. NaN for a class that was not seen: all its pixels
            are kept.
        factor: Largest ratio of a synthetic pixel's loss to the mean loss of its class.
        ignore_index: Label of void.

    Attributes:
        rejected: Share of rejected pixels among the valid ones of the last call, a scalar tensor.

    Raises:
        ConfigError: ``factor`` is out of range.
        ShapeError: ``class_loss`` is not a vector of floats.

    Source:
        Yang et al. (2023), FreeMask, Sec. 3.3 (1.25 times the class's mean loss). Ours: on features.
    """

    def __init__(self, cut: Any, class_loss: Tensor, *, factor: float = 1.25, ignore_index: int = 255) -> None:
        check_number("PixelFilter", "factor", factor, low=0, open_low=True)
        if not is_plain(class_loss) or not class_loss.is_floating_point() or class_loss.ndim != 1:
            raise ShapeError(
                "PixelFilter: class_loss is not a vector of floats.", given=describe(class_loss), needed="(num_classes,) float"
            )
        check_void("PixelFilter", len(class_loss), ignore_index)
        self.cut, self.class_loss, self.factor, self.ignore_index = cut, class_loss, float(factor), ignore_index
        self.rejected = torch.zeros(())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self.class_loss)} classes, factor={self.factor:g})"

    @classmethod
    @torch.no_grad()
    def fit(
        cls,
        cut: Any,
        loader: Iterable[tuple[Tensor, Tensor]],
        num_classes: int,
        *,
        factor: float = 1.25,
        ignore_index: int = 255,
        device: Any = None,
        window: CropSize = "noted",
    ) -> PixelFilter:
        """Copy the cut's model as the reference, and measure the mean loss of each class on real images.

        Args:
            cut: A cut of the trained model, before it is trained further.
            loader: Yields ``(images, masks)``; read once.
            num_classes: Number of classes ``K``.
            factor, ignore_index: As above.
            device: The device to compute on; the model's by default.
            window: Larger images are measured in adjacent windows of this size: ``"noted"`` for the size of the crops that
                ``Finetuner`` trained the model on, ``None`` for whole images. Synthetic features have the size of crops.

        Raises:
            DataError: the loader holds no valid pixel.
        """
        check_number("PixelFilter", "num_classes", num_classes, low=1, integer=True)
        reference = cut.clone()
        reference.model.requires_grad_(False).eval()
        if device is not None:
            reference.model.to(device)
        device = next(reference.model.parameters()).device
        tile = resolve_crop_size("PixelFilter", cut.model, window, "window")
        sums, counts = (torch.zeros(num_classes, dtype=torch.float64) for _ in range(2))
        for batch in check_loader("PixelFilter", loader):
            images, masks = check_batch("PixelFilter", batch, reference.model)
            masks = check_masks("PixelFilter", masks, num_classes, ignore_index).to(device)
            for part, _, counted in tiles(images.to(device), masks, tile, ignore_index):
                pixels = _pixel_losses(reference.model(part), counted, ignore_index)
                valid = counted != ignore_index
                sums += torch.bincount(counted[valid], pixels[valid].double(), num_classes).cpu()
                counts += torch.bincount(counted[valid], minlength=num_classes).cpu()
        if not counts.sum():
            raise DataError("PixelFilter: no valid pixel.", given="a loader of void", needed="images with labels")
        return cls(reference, (sums / counts).float(), factor=factor, ignore_index=ignore_index)

    @torch.no_grad()
    def __call__(self, features: Sequence[Tensor], masks: Tensor) -> Tensor:
        """Return the masks with rejected pixels set to void.

        Args:
            features: Synthetic features, one ``(n, channels, h, w)`` tensor per level.
            masks: ``(n, H, W)`` masks that they were generated from; not written to.
        """
        features = check_features("PixelFilter", features, self.cut.spec)
        check_mask_form("PixelFilter", masks)
        check_pairs("PixelFilter", features, masks)
        masks = masks.long()
        size = (int(masks.shape[-2]), int(masks.shape[-1]))
        # The model may have been moved to a GPU since the reference was copied.
        self.cut.model.to(masks.device)
        parameter = next(self.cut.model.parameters())
        with eval_mode(self.cut.model):
            out = self.cut.decode([level.to(masks.device, parameter.dtype) for level in features], size)
        classes = split_outputs(out)[0].shape[1]
        if classes > len(self.class_loss):
            raise ShapeError(
                "PixelFilter: class_loss does not fit the model.", given=describe(self.class_loss), needed=f"({classes},) float"
            )
        if masks.device.type == "cpu":
            # On a GPU this check would wait; the generator has already checked the masks.
            check_masks("PixelFilter", masks, classes, self.ignore_index)
        pixels = _pixel_losses(out, masks, self.ignore_index)
        valid = masks != self.ignore_index
        bounds = self.factor * self.class_loss.to(masks.device)[masks.masked_fill(~valid, 0)]
        # A comparison with NaN is false, so classes that were not measured are kept.
        wrong = valid & (pixels > bounds)
        self.rejected = wrong.sum() / valid.sum().clamp(min=1)
        return masks.masked_fill(wrong, self.ignore_index)


def _pixel_losses(out: Any, masks: Tensor, ignore_index: int) -> Tensor:
    logits = resize_logits(split_outputs(out)[0], masks.shape[-2:])
    return smoothed_cross_entropy(logits, masks, 0.0, ignore_index)
