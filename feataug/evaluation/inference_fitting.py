"""How a trained model is best predicted with, decided on training images: whole or by windows, and with which class bias."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from feataug.core.checks import check_loader
from feataug.evaluation.class_bias import fit_class_bias
from feataug.inference.context_check import MARGIN, CropSize, size_of
from feataug.inference.evaluate import evaluate
from feataug.inference.inference import Inference


def fit_inference(
    model: nn.Module,
    loader: Iterable[tuple[Tensor, Tensor]],
    num_classes: int,
    *,
    crop_size: CropSize = "noted",
    class_bias: bool = True,
    measure: Any = "miou",
    margin: float = MARGIN,
    divisor: int = 1,
    ignore_index: int = 255,
    device: torch.device | str | None = None,
) -> tuple[Inference, dict[str, Any]]:
    """An ``Inference`` that fits the model, and the figures that it was chosen by: all of it on training images.

    A model that was trained on crops may predict otherwise at another size: its stride does not divide it, or its context depends on it. It is
    another model on whole images: with small crops PSPNet lost 5 points of mIoU on CamVid, with larger ones less than one. So it is measured.

    Args:
        model: The trained model, with outputs that ``losses.split_outputs`` understands.
        loader: ``(images, masks)`` of training images as the others will come: whole, without random crops or colours. Read twice or three
            times; fifty images are enough to decide.
        num_classes: Number of classes ``K``.
        crop_size: Rows and columns of the crops that the model was trained on: ``"noted"`` for what ``Finetuner`` noted on it, ``None`` where
            it was trained on whole images. Windows are tried if an image has another size.
        class_bias: Whether to fit a class bias, too; see ``fit_class_bias``.
        measure: What the bias is fitted to.
        margin: Points of mIoU by which windows must be ahead of whole images on training images: they cost about twice the time.
        divisor: Of whole images, for models that take no other sizes; see ``Inference``.
        ignore_index: Label of void.
        device: Where images and masks are sent; where the model is by default.

    Returns:
        The ``Inference``, and ``{"whole": figures, "windows": figures, "window": [h, w] or None, "class_bias": [...] or None}``: the four
        measures on the training images, without the bias; ``windows`` only where they were tried.

    Raises:
        ConfigError, DataError, ShapeError, DtypeError, LabelError: as ``Inference``, ``evaluate`` and ``fit_class_bias`` do.

    Source:
        Ours; windows as in Zhao et al. (2017), by their code.
    """
    size, window = size_of("fit_inference", model, crop_size), None
    other = False

    def watched() -> Iterator[Any]:
        nonlocal other
        for batch in check_loader("fit_inference", loader):
            # What is no pair is left to evaluate, which says so.
            images = batch[0] if isinstance(batch, (tuple, list)) and batch else None
            other |= size is not None and isinstance(images, Tensor) and images.ndim == 4 and tuple(images.shape[-2:]) != size
            yield batch

    settings: dict[str, Any] = {"ignore_index": ignore_index, "device": device}
    found: dict[str, Any] = {"whole": evaluate(Inference(model, divisor=divisor), watched(), num_classes, **settings)}
    if other:
        found["windows"] = evaluate(Inference(model, window=size), loader, num_classes, **settings)
        if found["windows"]["miou"] > found["whole"]["miou"] + margin:
            window = size

    def prediction(**bias: Any) -> Inference:
        return Inference(model, window=window, **bias) if window else Inference(model, divisor=divisor, **bias)

    predict, bias = prediction(), None
    if class_bias:
        bias = fit_class_bias(predict, loader, num_classes, measure=measure, **settings)
        predict = prediction(class_bias=bias)
    found |= {"window": list(window) if window else None, "class_bias": bias.tolist() if bias is not None else None}
    return predict, found
