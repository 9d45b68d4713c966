"""The paper's four measures over a whole set."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.classification import multiclass_confusion_matrix

from feataug.core.checks import INTEGER_DTYPES, check_masks, check_number, check_void, describe, is_plain
from feataug.errors import DtypeError, LabelError, ShapeError
from feataug.losses import resize_logits


def scores(confusion: Tensor) -> dict[str, Any]:
    """The four measures, in percent, from a confusion matrix.

    Args:
        confusion: ``(K, K)`` counts; rows are the true classes, columns the predicted ones.

    Returns:
        ``pixel_acc``, ``class_acc``, ``miou``, ``fw_iou``, and ``per_class`` with the lists ``acc`` and ``iou`` (``None`` for a
        class where the measure is not defined). ``class_acc`` averages over the classes that occur in the masks, ``miou`` over
        those that occur in masks or predictions. All are NaN if no pixel was counted. ``absent`` lists the classes without a pixel
        in the masks; their IoU is 0 if they are predicted.

    Source:
        Sec. 4.1; Long, Shelhamer, Darrell (2015), Sec. 5.
    """
    counts = confusion.double()
    hits, true, predicted = counts.diag(), counts.sum(1), counts.sum(0)
    union = true + predicted - hits
    acc, iou = hits / true, hits / union
    named = {
        "pixel_acc": hits.sum() / counts.sum(),
        "class_acc": acc.nanmean(),
        "miou": iou.nanmean(),
        "fw_iou": (true * iou).nansum() / counts.sum(),
    }

    def listed(values: Tensor) -> list[float | None]:
        return [None if value != value else 100 * value for value in values.tolist()]

    return {name: 100 * float(value) for name, value in named.items()} | {
        "per_class": {"acc": listed(acc), "iou": listed(iou)},
        "absent": (true == 0).nonzero().flatten().tolist(),
    }


class SegmentationMetrics(Metric):
    """PixelAcc, ClassAcc, mIoU and fwIoU over all pixels of a set, in percent. Void does not count.

    Args:
        num_classes: Number of classes ``K``.
        ignore_index: Label of void.

    Raises:
        ConfigError: ``num_classes`` is out of range, or ``ignore_index`` is a class.

    Example:
        >>> metrics = SegmentationMetrics(num_classes=2)
        >>> metrics.update(torch.tensor([[[0, 1, 1, 1]]]), torch.tensor([[[0, 0, 1, 255]]]))
        >>> round(metrics.compute()["miou"], 1)
        50.0

    Source:
        Sec. 4.1, on torchmetrics' confusion matrix (and so with its gathering over processes).
    """

    full_state_update = False
    confusion: Tensor
    void: Tensor

    def __init__(self, num_classes: int, ignore_index: int = 255, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_number("SegmentationMetrics", "num_classes", num_classes, low=1, integer=True)
        check_void("SegmentationMetrics", num_classes, ignore_index)
        self.num_classes, self.ignore_index = num_classes, ignore_index
        # Pixels of each class and of void over all processes, as of the last compute.
        self.labels: tuple[list[int], int] = ([0] * num_classes, 0)
        self.add_state("void", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("confusion", torch.zeros(num_classes, num_classes, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, predictions: Tensor, masks: Tensor) -> None:
        """Count a batch.

        Args:
            predictions: Logits ``(B, K, h, w)``, resized to the masks by bilinear interpolation if they are smaller, or
                classes ``(B, H, W)``.
            masks: ``(B, H, W)`` classes or ``ignore_index``.

        Raises:
            ShapeError: predictions and masks do not fit each other.
            DtypeError: predictions are neither logits nor integers.
            LabelError: a mask holds a value that is neither a class nor ``ignore_index``, or the prediction for a valid pixel is no
                class.
        """
        masks = check_masks("SegmentationMetrics", masks, self.num_classes, self.ignore_index)
        given_classes = is_plain(predictions) and predictions.ndim == 3 and predictions.dtype in INTEGER_DTYPES
        if not given_classes and not (is_plain(predictions) and predictions.is_floating_point()):
            raise DtypeError(
                "SegmentationMetrics: predictions are neither logits nor classes.",
                given=describe(predictions),
                needed=f"floating point logits [B, {self.num_classes}, h, w] or integer classes {list(masks.shape)}",
            )
        if not given_classes and predictions.ndim == 4 and predictions.shape[1] == self.num_classes and 0 not in predictions.shape:
            predictions = resize_logits(predictions, masks.shape[-2:]).argmax(1)
        if predictions.shape != masks.shape or predictions.is_floating_point():
            raise ShapeError(
                "SegmentationMetrics: predictions do not fit the masks.",
                given=f"{describe(predictions)} for masks {list(masks.shape)}",
                needed=f"logits [B, {self.num_classes}, h, w] or classes {list(masks.shape)}",
            )
        if given_classes:
            wrong = ((predictions < 0) | (predictions >= self.num_classes)) & (masks != self.ignore_index)
            if bool(wrong.any()):
                # The matrix would count them in the row of another class.
                raise LabelError(
                    "SegmentationMetrics: predictions hold labels that are no class.",
                    given=f"{predictions[wrong].unique()[:8].tolist()} in {describe(predictions)}",
                    needed=f"0 .. {self.num_classes - 1}",
                )
        self.void += (masks == self.ignore_index).sum()
        if self.num_classes == 1:
            # torchmetrics' multiclass matrix needs two classes.
            self.confusion += (masks != self.ignore_index).sum()
            return
        self.confusion += multiclass_confusion_matrix(
            predictions, masks, self.num_classes, ignore_index=self.ignore_index, validate_args=False
        )

    def compute(self) -> dict[str, Any]:
        """The measures of everything counted since the last ``reset``; see ``scores``."""
        self.labels = self.confusion.sum(1).tolist(), int(self.void)
        return scores(self.confusion)
