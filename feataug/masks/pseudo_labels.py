"""Masks of images that nobody labelled: what a trained model is sure of, and the nearest such label elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from feataug.core.checks import check_images, check_number, check_void
from feataug.core.modes import eval_mode
from feataug.losses import resize_logits, split_outputs


@torch.no_grad()
def pseudo_masks(
    predict: Callable[[Tensor], Any],
    loader: Iterable[Any],
    *,
    threshold: float = 0.7,
    ignore_index: int = 255,
    device: torch.device | str | None = None,
) -> list[Tensor]:
    """Label images by a trained model: its class where its posterior exceeds ``threshold``, elsewhere the nearest pixel's that has one.

    Args:
        predict: Images ``(B, 3, H, W)`` to logits or to any output that ``losses.split_outputs`` understands. A module is put into eval mode,
            and back. ``Inference(model, window=...)`` where it was trained on smaller crops and its context depends on the size.
        loader: Yields images, or tuples that start with them.
        threshold: Of the posterior; 0 keeps every pixel's class as it is.
        ignore_index: Label of an image in which nothing passes.
        device: Where images are sent; a module's own by default.

    Returns:
        One ``(H, W)`` int64 mask for each image, on the CPU: give them to ``DatasetMasks``.

    Raises:
        ConfigError: the threshold is not within [0, 1), or ``ignore_index`` is a class.
        DtypeError, ShapeError: a batch holds no images.

    Source:
        Sec. 4.5 ("posterior above 0.7", holes by nearest neighbour).
    """
    check_number("pseudo_masks", "threshold", threshold, low=0, high=1, open_high=True)
    if device is None and isinstance(predict, torch.nn.Module):
        device = next((p.device for p in predict.parameters()), None)
    masks: list[Tensor] = []
    with eval_mode(predict) if isinstance(predict, torch.nn.Module) else nullcontext():
        for batch in loader:
            images = batch[0] if isinstance(batch, (tuple, list)) and batch else batch
            check_images("pseudo_masks", images, predict)
            logits = resize_logits(split_outputs(predict(images.to(device)))[0], images.shape[-2:])
            check_void("pseudo_masks", logits.shape[1], ignore_index)
            posterior, labels = logits.float().softmax(1).max(1)
            masks += [
                fill_nearest(label, sure, ignore_index).cpu() for label, sure in zip(labels, posterior > threshold, strict=True)
            ]
    return masks


def fill_nearest(labels: Tensor, known: Tensor, ignore_index: int = 255) -> Tensor:
    """Labels of the pixels that are not ``known`` from the nearest one that is (Euclidean distance).

    Args:
        labels: ``(H, W)`` int64.
        known: ``(H, W)`` boolean; where it holds nowhere, the result is ``ignore_index`` everywhere.

    Source:
        Ours: the nearest in each column by two running maxima, then the nearest of the columns, for the unknown pixels alone.
    """
    if not bool(known.any()):
        return torch.full_like(labels, ignore_index)
    rows, columns = labels.shape
    number = torch.arange(rows, device=labels.device)[:, None].expand(rows, columns)
    far = 4 * (rows + columns)
    above = torch.where(known, number, -far).cummax(0).values
    below = torch.where(known, number, far).flip(0).cummin(0).values.flip(0)
    nearest = torch.where(number - above <= below - number, above, below)
    height = (nearest - number).square()
    filled = labels.clone()
    across = torch.arange(columns, device=labels.device)
    for part in (~known).nonzero().split(max(1, 2**22 // columns)):
        y, x = part.unbind(1)
        column = (height[y] + (across - x[:, None]).square()).argmin(1)
        filled[y, x] = labels[nearest[y, column], column]
    return filled
