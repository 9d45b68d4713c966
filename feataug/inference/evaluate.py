"""Measure a model on labelled images."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from feataug.core.checks import check_batch, check_loader
from feataug.core.devices import device_of
from feataug.core.label_checks import refuse_one_class
from feataug.core.modes import eval_mode
from feataug.inference.context_check import ContextCheck, CropSize, known_length, resolve_crop_size
from feataug.inference.inference import Inference
from feataug.losses import split_outputs
from feataug.metrics import SegmentationMetrics, scores


@torch.no_grad()
def evaluate(
    predict: Callable[[Tensor], Any],
    loader: Iterable[tuple[Tensor, Tensor]],
    num_classes: int,
    *,
    ignore_index: int = 255,
    device: torch.device | str | None = None,
    crop_size: CropSize = "noted",
) -> dict[str, Any]:
    """Compute the four measures of ``predict`` over ``loader``; see ``scores``.

    Args:
        predict: Maps images ``(B, 3, H, W)`` to logits or to any output that ``losses.split_outputs`` understands. A module is put into
            eval mode; afterwards each of its parts has its previous mode. ``feataug.Inference`` predicts with several scales or windows.
        loader: Yields ``(images, masks)``.
        num_classes: The number of classes.
        ignore_index: The label of void.
        device: The device for images and masks. By default that of a module's weights, or the CPU for a function.
        crop_size: Rows and columns of the crops that a module was trained on; ``"noted"`` is the size that ``Finetuner`` noted on it. Up
            to 32 larger images are predicted with windows of this size as well, which costs about as much as a hundred more images.
            They come evenly from all batches if the loader has a length, else from the first batches. ``None`` skips this comparison,
            as do functions and ``Inference``. The returned figures do not depend on it.

    Warns:
        FeatAugWarning: windows are more than one point of mIoU better on these images: the model's context depends on the image size.

    Raises:
        ConfigError: ``ignore_index`` is a class.
        DataError: the loader yields something else; or the masks hold only one of several classes and void, as binary masks of 0 and 255
            do if 255 was meant as a class.
        ShapeError, DtypeError, LabelError: images, masks, predictions or ``crop_size`` do not fit; see ``SegmentationMetrics.update``.

    Source:
        Sec. 4.1. Ours: the comparison with windows.
    """
    size = resolve_crop_size("evaluate", predict, crop_size)
    device = device_of(predict) if device is None else device
    metrics = SegmentationMetrics(num_classes, ignore_index).to(device)
    check = None
    if size is not None and isinstance(predict, torch.nn.Module) and not isinstance(predict, Inference):
        whole, windows = (SegmentationMetrics(num_classes, ignore_index).to(device) for _ in range(2))
        check = ContextCheck(predict, size, (whole, windows), known_length(loader))
    with eval_mode(predict) if isinstance(predict, torch.nn.Module) else nullcontext():
        for batch in check_loader("evaluate", loader):
            images, masks = check_batch("evaluate", batch)
            images = images.to(device, memory_format=torch.channels_last)
            masks = masks.to(device)
            logits = split_outputs(predict(images))[0]
            metrics.update(logits, masks)
            if check is not None:
                check.update(images, logits, masks)
    figures: dict[str, Any] = metrics.compute()
    refuse_one_class("evaluate", *metrics.labels, ignore_index)
    if check is not None:
        # One level more for the decorator.
        check.warn(scores, stacklevel=3)
    return figures
