"""The paper's four measures over a whole set, and the recognition score of synthetic features."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.classification import multiclass_confusion_matrix

from feataug.checks import (
    INTEGER_DTYPES,
    check_batch,
    check_features,
    check_loader,
    check_masks,
    check_number,
    check_void,
    describe,
    is_plain,
)
from feataug.contexts import ContextCheck, CropSize, length_of, size_of
from feataug.errors import DtypeError, LabelError, ShapeError, message
from feataug.inference import Inference
from feataug.labelcheck import refuse_one_class
from feataug.losses import reconstruction, resize_logits, split_outputs
from feataug.recording import eval_mode
from feataug.windows import tiles

MEASURES = ("pixel_acc", "class_acc", "miou", "fw_iou")


def scores(confusion: Tensor) -> dict[str, Any]:
    """The four measures, in percent, from a confusion matrix.

    Args:
        confusion: ``(K, K)`` counts; rows are the true classes, columns the predicted ones.

    Returns:
        ``pixel_acc``, ``class_acc``, ``miou``, ``fw_iou``, and ``per_class`` with the lists ``acc`` and ``iou`` (``None`` for a
        class where the measure is not defined). ``class_acc`` averages over the classes that occur in the masks, ``miou`` over
        those that occur in masks or predictions. NaN where no pixel was counted. ``absent`` lists the classes without a pixel in the
        masks: nothing is known of them, and their IoU is 0 where they are predicted.

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
    """PixelAcc, ClassAcc, mIoU and fwIoU over all pixels of a set, in percent; void is not counted.

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
        # Pixels by class and of void at the last compute, over all processes.
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
            LabelError: a mask holds a value that is neither a class nor ``ignore_index``, or a valid pixel is predicted to be no
                class.
        """
        masks = check_masks("SegmentationMetrics", masks, self.num_classes, self.ignore_index)
        given_classes = is_plain(predictions) and predictions.ndim == 3 and predictions.dtype in INTEGER_DTYPES
        if not given_classes and not (is_plain(predictions) and predictions.is_floating_point()):
            raise DtypeError(
                message(
                    "SegmentationMetrics: predictions are neither logits nor classes.",
                    given=describe(predictions),
                    needed=f"floating point logits [B, {self.num_classes}, h, w] or integer classes {list(masks.shape)}",
                )
            )
        if not given_classes and predictions.ndim == 4 and predictions.shape[1] == self.num_classes and 0 not in predictions.shape:
            predictions = resize_logits(predictions, masks.shape[-2:]).argmax(1)
        if predictions.shape != masks.shape or predictions.is_floating_point():
            raise ShapeError(
                message(
                    "SegmentationMetrics: predictions do not fit the masks.",
                    given=f"{describe(predictions)} for masks {list(masks.shape)}",
                    needed=f"logits [B, {self.num_classes}, h, w] or classes {list(masks.shape)}",
                )
            )
        if given_classes:
            wrong = ((predictions < 0) | (predictions >= self.num_classes)) & (masks != self.ignore_index)
            if bool(wrong.any()):
                # They would be counted in another row of the matrix.
                raise LabelError(
                    message(
                        "SegmentationMetrics: predictions hold labels that are no class.",
                        given=f"{predictions[wrong].unique()[:8].tolist()} in {describe(predictions)}",
                        needed=f"0 .. {self.num_classes - 1}",
                    )
                )
        self.void += (masks == self.ignore_index).sum()
        if self.num_classes == 1:
            # torchmetrics' multiclass matrix starts at two classes.
            self.confusion += (masks != self.ignore_index).sum()
            return
        self.confusion += multiclass_confusion_matrix(
            predictions, masks, self.num_classes, ignore_index=self.ignore_index, validate_args=False
        )

    def compute(self) -> dict[str, Any]:
        """The measures of everything counted since the last ``reset``; see ``scores``."""
        self.labels = self.confusion.sum(1).tolist(), int(self.void)
        return scores(self.confusion)


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


@torch.no_grad()
def recognition(
    cut: Any,
    generator: Any,
    loader: Iterable[tuple[Tensor, Tensor]],
    *,
    ignore_index: int = 255,
    seed: int = 0,
    device: torch.device | str | None = None,
    window: CropSize = "noted",
) -> dict[str, Any]:
    """How well the frozen decoder recognises synthetic features, and how much they vary.

    Images that are larger than the crops that the model was trained on are looked at in windows of the crops' size, so that neither the
    real features nor the synthetic ones are judged in a context that the model does not know.

    Args:
        cut: A cut of the trained model.
        generator: A ``FeatureGenerator`` for it.
        loader: Yields ``(images, masks)``: the masks to generate from, and the images whose features to compare with.
        ignore_index: Label of void.
        seed: Of the noise.
        device: Where images and masks are sent; where the model is by default.
        window: Rows and columns of these windows: ``"noted"`` for the size that ``Finetuner`` noted on ``cut.model``, ``None`` for whole
            images. Windows lie side by side, and the generator gets the mask of each. The last one of a row or column is moved inwards; what
            it has in common with the one before counts once in the measures, and twice in ``diversity``.

    Returns:
        ``real`` and ``synthetic``: the four measures (``scores``) of the decoder on features of the images and on features
        generated from the masks; ``ratio``: synthetic over real mIoU; ``diversity``: ``E|G(y, z1) - G(y, z2)| / E|f - G(y, z1)|`` in
        standardised units: 1 where samples differ among themselves as much as real features differ from them, 0 where ``z``
        is ignored. NaN where the loader held nothing.

    Raises:
        ConfigError: a number is out of range, or ``ignore_index`` is a class.
        DataError: of several classes, the masks hold one and void only.
        ShapeError, DtypeError, LabelError: a batch is no pair of images and masks, or ``window`` no size.

    Source:
        Sec. 4.4, the paper's PSPNet-score. Ours: the diversity ratio, and the windows.
    """
    check_number("recognition", "seed", seed, low=0, integer=True)
    tile = size_of("recognition", cut.model, window, "window")
    device = device_of(cut.model) if device is None else device
    real, synthetic = (SegmentationMetrics(generator.num_classes, ignore_index).to(device) for _ in range(2))
    rng = torch.Generator().manual_seed(seed)
    within = across = 0.0
    with eval_mode(cut.model), eval_mode(generator):
        for batch in check_loader("recognition", loader):
            images, masks = check_batch("recognition", batch, cut.model)
            images, masks = images.to(device, memory_format=torch.channels_last), masks.to(device)
            for part, given, counted in tiles(images, masks, tile, ignore_index):
                size = (int(given.shape[-2]), int(given.shape[-1]))
                features = check_features("recognition", cut.encode(part), generator.spec, size)
                z = generator.draw_z(2 * len(given), rng)
                first, second = zip(*(x.chunk(2) for x in generator(given, z, samples=2)), strict=True)
                real.update(split_outputs(cut.decode(features, size))[0], counted)
                synthetic.update(split_outputs(cut.decode(first, size))[0], counted)
                # Void of ours is none of the masks'.
                real.void -= (counted == ignore_index).sum() - (given == ignore_index).sum()
                a, b, f = (generator.standardize(x) for x in (first, second, features))
                within += float(reconstruction(a, b)) * len(given)
                across += float(reconstruction(a, f)) * len(given)
    results = {"real": real.compute(), "synthetic": synthetic.compute()}
    refuse_one_class("recognition", *real.labels, ignore_index)
    return results | {
        "ratio": results["synthetic"]["miou"] / max(results["real"]["miou"], 1e-9),
        "diversity": within / across if across else math.nan,
    }


def device_of(predict: Any) -> torch.device:
    """Where the weights of a module, or of a method's module, are, or its buffers if it has none; the CPU for anything else."""
    predict = getattr(predict, "__self__", predict)
    if isinstance(predict, torch.nn.Module):
        for tensor in (*predict.parameters(), *predict.buffers()):
            return tensor.device
    return torch.device("cpu")
