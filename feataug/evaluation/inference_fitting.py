"""Choose how to predict with a trained model, on training images: whole images or windows, and the class bias."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from feataug.core.checks import check_loader
from feataug.evaluation.class_bias import fit_class_bias
from feataug.inference.context_check import MARGIN, CropSize, resolve_crop_size
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
    """Choose an ``Inference`` for a model by measuring on training images, and return it with the figures.

    A model trained on crops may predict differently at other sizes, if its stride does not divide them or its context depends on them. With
    small crops PSPNet lost 5 points of mIoU on whole images of CamVid, with larger crops less than one. This function measures it.

    Args:
        model: The trained model, with outputs that ``losses.split_outputs`` understands.
        loader: Yields ``(images, masks)`` of training images in the form of later images: whole, without random crops or colours. It is
            read two or three times; fifty images are enough.
        num_classes: The number of classes ``K``.
        crop_size: Rows and columns of the training crops. ``"noted"`` is the size that ``Finetuner`` noted on the model; ``None`` means
            that it was trained on whole images. Windows are tried if an image has another size.
        class_bias: Also fit a class bias; see ``fit_class_bias``.
        measure: The measure that the bias maximises.
        margin: Windows must beat whole images by this many points of mIoU, since they take about twice the time.
        divisor: Pads whole images to multiples of this number, for models that accept no other sizes; see ``Inference``.
        ignore_index: The label of void.
        device: The device for images and masks; the model's by default.

    Returns:
        The ``Inference``, and ``{"whole": figures, "windows": figures, "window": [h, w] or None, "class_bias": [...] or None}``. Figures
        are the four measures on the training images without the bias; ``windows`` is missing if windows were not tried.

    Raises:
        ConfigError, DataError, ShapeError, DtypeError, LabelError: as ``Inference``, ``evaluate`` and ``fit_class_bias`` do.

    Source:
        Ours; windows as in Zhao et al. (2017), by their code.
    """
    size, window = resolve_crop_size("fit_inference", model, crop_size), None
    other_size = False

    def watch_sizes() -> Iterator[Any]:
        nonlocal other_size
        for batch in check_loader("fit_inference", loader):
            # evaluate raises the error for a batch that is no pair.
            images = batch[0] if isinstance(batch, (tuple, list)) and batch else None
            other_size |= size is not None and isinstance(images, Tensor) and images.ndim == 4 and tuple(images.shape[-2:]) != size
            yield batch

    settings: dict[str, Any] = {"ignore_index": ignore_index, "device": device}
    found: dict[str, Any] = {"whole": evaluate(Inference(model, divisor=divisor), watch_sizes(), num_classes, **settings)}
    if other_size:
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
