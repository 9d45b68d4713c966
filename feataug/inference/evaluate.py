"""Measure a model on labelled images."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from feataug.core.checks import (
    check_batch,
    check_loader,
)
from feataug.core.devices import device_of
from feataug.core.label_checks import refuse_one_class
from feataug.core.modes import eval_mode
from feataug.inference.context_check import ContextCheck, CropSize, length_of, size_of
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
    """The four measures of ``predict`` over ``loader``; see ``scores``.

    Args:
        predict: Images ``(B, 3, H, W)`` to logits or to any output that ``losses.split_outputs`` understands. A module is put into eval
            mode, and each of its parts back into the mode that it had. ``feataug.Inference`` makes one of several scales or windows.
        loader: Yields ``(images, masks)``.
        num_classes: Number of classes.
        ignore_index: Label of void.
        device: Where images and masks are sent; where a module's weights are by default; the CPU for a function.
        crop_size: Rows and columns of the crops that a module was trained on: ``"noted"`` for what ``Finetuner`` noted on it. If images are
            larger, up to 32 of them are predicted by windows of this size as well, which costs about as much as a hundred more images. They
            are taken evenly from all batches where the loader has a length, else from the first. ``None`` leaves that out; so do functions
            and ``Inference``, which has made its choice. The figures are the same either way.

    Warns:
        FeatAugWarning: on these images windows are more than a point of mIoU ahead: the model's context depends on the size.

    Raises:
        ConfigError: ``ignore_index`` is a class.
        DataError: the loader yields something else; or, of several classes, the masks hold one and void only, as binary masks of 0 and 255
            do where 255 was meant as a class.
        ShapeError, DtypeError, LabelError: images, masks or predictions do not fit; see ``SegmentationMetrics.update``. ``crop_size`` is no
            size.

    Source:
        Sec. 4.1. Ours: the comparison with windows.
    """
    size = size_of("evaluate", predict, crop_size)
    device = device_of(predict) if device is None else device
    metrics = SegmentationMetrics(num_classes, ignore_index).to(device)
    check = None
    if size is not None and isinstance(predict, torch.nn.Module) and not isinstance(predict, Inference):
        whole, windows = (SegmentationMetrics(num_classes, ignore_index).to(device) for _ in range(2))
        check = ContextCheck(predict, size, (whole, windows), length_of(loader))
    with eval_mode(predict) if isinstance(predict, torch.nn.Module) else nullcontext():
        for batch in check_loader("evaluate", loader):
            images, masks = check_batch("evaluate", batch)
            images = images.to(device, memory_format=torch.channels_last)
            masks = masks.to(device)
            logits = split_outputs(predict(images))[0]
            metrics.update(logits, masks)
            if check is not None:
                check.look(images, logits, masks)
    figures: dict[str, Any] = metrics.compute()
    refuse_one_class("evaluate", *metrics.labels, ignore_index)
    if check is not None:
        # One more for the decorator.
        check.warn(scores, stacklevel=3)
    return figures
