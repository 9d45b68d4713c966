"""Masks of unlabelled images: a model's confident predictions, and the nearest of them elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from feataug.core.checks import check_images, check_loader, check_number, check_void
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
    """Label images with a trained model. A pixel whose posterior is too low takes the label of the nearest one above ``threshold``.

    Args:
        predict: A function from images ``(B, 3, H, W)`` to logits, or to any output that ``losses.split_outputs`` understands. A
            module runs in eval mode and is restored afterwards. If the model was trained on smaller crops and its context depends
            on the size, pass ``Inference(model, window=...)``.
        loader: Yields images, or tuples that start with them.
        threshold: Smallest posterior, exclusive; 0 keeps the prediction at every pixel.
        ignore_index: Label of all pixels of an image without a confident one.
        device: The device that images are moved to; that of the module by default.

    Returns:
        One ``(H, W)`` int64 mask for each image, on the CPU, as ``DatasetMasks`` takes them.

    Raises:
        ConfigError: the threshold is outside [0, 1), or ``ignore_index`` is a class.
        DtypeError, ShapeError: a batch is not one of images.

    Source:
        Sec. 4.5 ("posterior above 0.7", holes by nearest neighbour).
    """
    check_number("pseudo_masks", "threshold", threshold, low=0, high=1, open_high=True)
    if device is None and isinstance(predict, torch.nn.Module):
        device = next((p.device for p in predict.parameters()), None)
    masks: list[Tensor] = []
    with eval_mode(predict) if isinstance(predict, torch.nn.Module) else nullcontext():
        for batch in check_loader("pseudo_masks", loader):
            images = batch[0] if isinstance(batch, (tuple, list)) and batch else batch
            check_images("pseudo_masks", images, predict)
            logits = resize_logits(split_outputs(predict(images.to(device)))[0], images.shape[-2:])
            check_void("pseudo_masks", logits.shape[1], ignore_index)
            posterior, labels = logits.float().softmax(1).max(1)
            masks += [
                fill_nearest(label, confident, ignore_index).cpu()
                for label, confident in zip(labels, posterior > threshold, strict=True)
            ]
    return masks


def fill_nearest(labels: Tensor, known: Tensor, ignore_index: int = 255) -> Tensor:
    """Give each pixel that is not ``known`` the label of the nearest one that is (Euclidean distance).

    Args:
        labels: ``(H, W)`` int64.
        known: ``(H, W)`` boolean. If no pixel is known, all become ``ignore_index``.

    Source:
        Ours.
    """
    from scipy import ndimage  # not at the top: importing it costs a tenth of importing torch

    if not bool(known.any()):
        return torch.full_like(labels, ignore_index)
    nearest = ndimage.distance_transform_edt(~known.cpu().numpy(), return_distances=False, return_indices=True)
    rows, columns = torch.from_numpy(nearest).long().to(labels.device)
    return labels[rows, columns]
