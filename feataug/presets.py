"""The settings of a mixed training that measured best."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from feataug.balancing import class_counts, weights_of
from feataug.filtering import PixelFilter
from feataug.masks import ClassBalancedMasks, LayoutComposer


def recommended(
    cut: Any,
    dataset: Any,
    loader: Iterable[tuple[Tensor, Tensor]],
    num_classes: int,
    *,
    power: float = 1.5,
    factor: float = 1.25,
    objects: int = 8,
    ignore_index: int = 255,
    device: Any = None,
) -> dict[str, Any]:
    """Masks, filter and class weights as they measured best on CamVid, for ``FeatureMixer`` and for ``compare``.

    ``FeatureMixer(generator, **recommended(...))``: masks that hold every class equally often, with objects of rare classes pasted in; synthetic
    pixels that the model as it is does not recognise left out; classes weighted up that it predicts too rarely.

    Args:
        cut: Of the trained model, *before* it is trained further: the filter keeps a copy of it.
        dataset: Where masks come from, as for ``DatasetMasks``: with the crops of training.
        loader: ``(images, masks)`` of labelled training images without random crops; read twice.
        num_classes: How many classes.
        power: Of ``deficit_weights``.
        factor: Of ``PixelFilter``.
        objects: Of ``LayoutComposer``, whose classes are those that cover less than a quarter of an equal share of the pixels.
        ignore_index: Label of void.
        device: Where to measure; the model's by default.

    Returns:
        ``masks``, ``pixel_filter`` and ``class_weights``.

    Raises:
        DataError: the loader holds no valid pixel, or no mask a class.

    Source:
        Ours: ``studies/screen.py`` and ``studies/compare.py``, docs/results.md.
    """
    labelled, predicted = class_counts(cut.model, loader, num_classes, ignore_index=ignore_index, device=device)
    rare = (labelled / labelled.sum() < 0.25 / num_classes).nonzero().flatten().tolist()
    masks: Any = ClassBalancedMasks(dataset, num_classes, ignore_index=ignore_index)
    if rare:
        masks = LayoutComposer(masks, masks, rare, objects=objects)
    return {
        "masks": masks,
        "pixel_filter": PixelFilter.fit(cut, loader, num_classes, factor=factor, ignore_index=ignore_index, device=device),
        "class_weights": weights_of(labelled, predicted, power),
    }
