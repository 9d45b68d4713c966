"""Recommended settings for training on mixed batches."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

from torch import Tensor

from feataug.errors import FeatAugWarning, message
from feataug.masks import DatasetMasks
from feataug.mixing.class_weights import LIMIT, class_counts, weights_of
from feataug.mixing.pixel_filter import PixelFilter


def recommended(
    cut: Any,
    dataset: Any,
    loader: Iterable[tuple[Tensor, Tensor]],
    num_classes: int,
    *,
    power: float = 0.0,
    factor: float = 1.25,
    ratio: float = 0.3,
    ignore_index: int = 255,
    device: Any = None,
) -> dict[str, Any]:
    """Masks, ratio and pixel filter for ``FeatureMixer`` and for ``compare``; no class weights by default.

    Use as ``FeatureMixer(generator, **recommended(...))``. Masks are drawn evenly, and synthetic pixels that the current model does
    not recognise are ignored. Class weights favour classes that the model predicts too rarely. A class bias that is fitted after
    training (``fit_class_bias``) has the same effect, needs no training, and can be changed later. Class-balanced masks would
    favour the same classes a second time.

    Args:
        cut: A cut of the trained model, *before* it is trained further: the filter keeps a copy.
        dataset: Where masks come from, as for ``DatasetMasks``, with the crops of training.
        loader: Yields ``(images, masks)`` of labelled training images without random crops. It is read once, or twice with class
            weights.
        num_classes: Number of classes ``K``.
        power: Power of ``deficit_weights``, for real and synthetic samples; 0 for no class weights. 1.5 was best on CamVid without
            a class bias.
        factor: Factor of ``PixelFilter``.
        ratio: Synthetic share of the mixed batch.
        ignore_index: Label of void.
        device: The device to measure on; the model's by default.

    Returns:
        ``masks``, ``ratio``, ``pixel_filter`` and ``class_weights`` (``None`` at power 0).

    Raises:
        DataError: the loader holds no valid pixel, or there are no masks.

    Warns:
        FeatAugWarning: there are class weights, but the model has not learned some classes. Weights cannot help there: pixel
            accuracy drops, and mIoU may drop as well.

    Source:
        Ratio: Sec. 4.3. Filter: FreeMask (Yang et al., 2023). Measured gains: ``studies/own/compare.py``, docs/results.md.
    """
    found: dict[str, Any] = {
        "masks": DatasetMasks(dataset),
        "ratio": ratio,
        "pixel_filter": PixelFilter.fit(cut, loader, num_classes, factor=factor, ignore_index=ignore_index, device=device),
        "class_weights": None,
    }
    if not power:
        return found
    labelled, predicted = class_counts(cut.model, loader, num_classes, ignore_index=ignore_index, device=device)
    unlearned = [
        index for index, (true, given) in enumerate(zip(labelled.tolist(), predicted.tolist(), strict=True)) if true > LIMIT * given
    ]
    if unlearned:
        named = ", ".join(map(str, unlearned))
        warnings.warn(
            message(
                "recommended: class weights for classes that the model has not learned.",
                given=f"fewer than 1 pixel predicted for {LIMIT:g} labelled ones of classes {named}; weights up to {LIMIT**power:.1f}",
                needed="a model that predicts every class, if too rarely",
                advice="Train it longer first, or expect pixel accuracy and perhaps mIoU to fall; power=0 goes without class weights.",
            ),
            FeatAugWarning,
            stacklevel=2,
        )
    return found | {"class_weights": weights_of(labelled, predicted, power, LIMIT)}
