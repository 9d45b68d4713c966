"""Weights for the classes that a model predicts too rarely."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from feataug.core.checks import check_batch, check_loader, check_number
from feataug.core.label_checks import refuse_one_class
from feataug.core.modes import eval_mode
from feataug.core.windows import tiles
from feataug.errors import DataError
from feataug.inference.context_check import CropSize, resolve_crop_size
from feataug.losses import split_outputs
from feataug.metrics import SegmentationMetrics

# Largest ratio of labelled to predicted pixels: above it, a class counts as not learned. On CamVid, poles are at 6.8 and gain by
# their weight.
LIMIT = 8.0


def deficit_weights(
    model: nn.Module,
    loader: Iterable[tuple[Tensor, Tensor]],
    num_classes: int,
    power: float = 1.5,
    *,
    limit: float = LIMIT,
    ignore_index: int = 255,
    device: Any = None,
    window: CropSize = "noted",
) -> Tensor:
    """Class weights from the ratio of labelled to predicted pixels.

    Cross entropy under-predicts thin, rare and difficult classes. Inverse-area weights raise every small class, even those that are
    predicted often enough, at the cost of their neighbours' precision. These weights raise only classes with a deficit. They are
    measured once, in eval mode, and stay fixed: during training they would follow what the model has memorised.

    Args:
        model: The trained model, before it is trained further.
        loader: Yields ``(images, masks)`` of labelled images; read once.
        num_classes: Number of classes ``K``.
        power: Exponent of the ratio labelled / predicted; 0 for weights of 1.
        limit: The ratio is clamped to ``1 / limit .. limit`` before the power is taken.
        ignore_index: Label of void.
        device: The device to compute on; the model is moved to it. By default the model stays where it is.
        window: Larger images are counted in adjacent windows of this size: ``"noted"`` for the size of the crops that ``Finetuner``
            trained the model on, ``None`` for whole images. If a model's context depends on the image size, its deficits do, too.

    Returns:
        ``(K,)`` float32 on the CPU, for ``FeatureMixer(class_weights=...)`` or ``losses.segmentation_loss(class_weights=...)``. A
        class that is neither labelled nor predicted has weight 1.

    Raises:
        ConfigError: a number is out of range.
        DataError: the loader holds no valid pixel, or only one class and void.
        LabelError: a mask holds a value that is neither a class nor void.

    Source:
        Ours. Tian et al. (2022), Recall Loss, weight by the share of a class's pixels that are missed.
    """
    check_number("deficit_weights", "num_classes", num_classes, low=1, integer=True)
    check_number("deficit_weights", "power", power, low=0, high=16)
    check_number("deficit_weights", "limit", limit, low=1, high=1e6)
    counts = class_counts(model, loader, num_classes, ignore_index=ignore_index, device=device, window=window)
    return weights_of(*counts, power, limit)


@torch.no_grad()
def class_counts(
    model: nn.Module,
    loader: Iterable[tuple[Tensor, Tensor]],
    num_classes: int,
    *,
    ignore_index: int = 255,
    device: Any = None,
    window: CropSize = "noted",
) -> tuple[Tensor, Tensor]:
    """Labelled and predicted pixels of each class, ``(K,)`` each; see ``deficit_weights``."""
    if device is not None:
        model.to(device)
    device = next(model.parameters()).device
    metrics = SegmentationMetrics(num_classes, ignore_index).to(device)
    tile = resolve_crop_size("deficit_weights", model, window, "window")
    with eval_mode(model):
        for batch in check_loader("deficit_weights", loader):
            images, masks = check_batch("deficit_weights", batch, model)
            for part, given, counted in tiles(images.to(device), masks.to(device), tile, ignore_index):
                metrics.update(split_outputs(model(part))[0], counted)
                # Overlapping windows set pixels that were counted before to void; these are not void in the masks.
                metrics.void -= (counted == ignore_index).sum() - (given == ignore_index).sum()
    labelled, predicted = metrics.confusion.sum(1).cpu(), metrics.confusion.sum(0).cpu()
    effect = "so that no class can be weighed against another"
    refuse_one_class("deficit_weights", labelled.tolist(), int(metrics.void), ignore_index, effect)
    if not labelled.sum():
        raise DataError("deficit_weights: no valid pixel.", given="a loader of void", needed="images with labels")
    return labelled, predicted


def weights_of(labelled: Tensor, predicted: Tensor, power: float, limit: float) -> Tensor:
    """The clamped ratio of the counts, to a power."""
    # One pixel is added to both counts, so that nothing is divided by zero.
    return ((labelled + 1) / (predicted + 1)).clamp(1 / limit, limit).pow(power).float()
