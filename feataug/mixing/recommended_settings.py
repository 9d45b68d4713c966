"""Settings of a mixed training that are a good start."""

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
    """Masks, ratio and filter for ``FeatureMixer`` and for ``compare``; no class weights by default.

    ``FeatureMixer(generator, **recommended(...))``: masks are drawn evenly, and synthetic pixels that the model as it is does not recognise are left
    out. Class weights move the model towards classes that it predicts too rarely; a class bias, fitted after training (``fit_class_bias``), gives the
    same without any training, and can be changed later. Masks chosen by class press on the same classes once more.

    Args:
        cut: Of the trained model, *before* it is trained further: the filter keeps a copy of it.
        dataset: Where masks come from, as for ``DatasetMasks``: with the crops of training.
        loader: ``(images, masks)`` of labelled training images without random crops. It is read once, and twice where there are class weights.
        num_classes: How many classes.
        power: Power of ``deficit_weights``, which weigh up classes in real and synthetic samples. 0 for no class weights; 1.5 measured best on
            CamVid where no class bias was fitted.
        factor: Of ``PixelFilter``.
        ratio: Synthetic share of the mixed batch.
        ignore_index: Label of void.
        device: Where to measure; the model's by default.

    Returns:
        ``masks``, ``ratio``, ``pixel_filter`` and ``class_weights`` (``None`` at power 0).

    Raises:
        DataError: the loader holds no valid pixel, or there are no masks.

    Warns:
        FeatAugWarning: there are class weights, and the model hardly predicts some classes at all. The weights then press where it knows nothing
            yet: pixel accuracy falls far, and mIoU may fall, too.

    Source:
        Ratio: Sec. 4.3. Filter: FreeMask (Yang et al., 2023). What they gain: ``studies/own/compare.py``, docs/results.md.
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
