"""Warn if a model does worse on whole images than with windows of the size of its training crops."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal

from torch import Tensor, nn

from feataug.core.checks import check_size, is_plain
from feataug.core.crop_sizes import larger, noted_size
from feataug.core.distributed import is_main
from feataug.core.rng import preserved_rng
from feataug.errors import FeatAugWarning
from feataug.inference.inference import Inference

CropSize = Sequence[int] | Literal["noted"] | None

# Windows must be better by this many points of mIoU.
MARGIN = 1.0
# The number of images to compare; their windows cost about as much as a hundred more images.
IMAGES = 32
# Images taken from each batch if the number of batches is unknown.
_PER_BATCH = 4


def resolve_crop_size(who: str, model: Any, crop_size: CropSize, name: str = "crop_size") -> tuple[int, int] | None:
    """Return ``crop_size`` as a size; ``"noted"`` is the size that training noted on ``model``, if any.

    Raises:
        ShapeError: ``crop_size`` is no size.
    """
    if crop_size is None:
        return None
    return noted_size(model) if crop_size == "noted" else check_size(who, name, crop_size)


def known_length(loader: Any) -> int | None:
    """Return the number of batches, if the loader knows it: a ``DataLoader`` of a stream has a ``__len__`` that raises."""
    try:
        return len(loader)
    except (TypeError, NotImplementedError):
        return None


class ContextCheck:
    """Predict some images of an evaluation with windows as well, and compare.

    Args:
        predict: The model.
        size: Rows and columns of its training crops.
        counters: Two ``SegmentationMetrics``, for whole images and for windows.
        batches: The number of batches, if known: images are then taken evenly from all of them.
    """

    def __init__(self, predict: nn.Module, size: tuple[int, int], counters: tuple[Any, Any], batches: int | None) -> None:
        self.size, (self.whole, self.windows) = size, counters
        self.predict = Inference(predict, window=size)
        # Take per_batch images of every ``every``-th batch.
        self.every = max(1, -(-batches // IMAGES)) if batches else 1
        self.per_batch = max(1, IMAGES * self.every // batches) if batches else _PER_BATCH
        self.seen, self.images, self.shape = 0, 0, (0, 0)

    def update(self, images: Tensor, logits: Any, masks: Tensor) -> None:
        """Compare images of a batch, or skip it.

        Args:
            images: ``(B, C, H, W)``.
            logits: ``(B, K, h, w)``, predicted from whole images. Anything else, such as classes, is skipped.
            masks: ``(B, H, W)``.
        """
        due = self.seen % self.every == 0 and self.images < IMAGES
        self.seen += 1
        if not due or not larger(images, self.size):
            return
        if not is_plain(logits) or logits.ndim != 4 or not logits.is_floating_point() or logits.shape[1] < 2:
            return
        count = min(self.per_batch, IMAGES - self.images, len(images))
        with preserved_rng(images.device):
            found = self.predict(images[:count])
        self.whole.update(logits[:count], masks[:count])
        self.windows.update(found, masks[:count])
        self.images += count
        self.shape = (int(images.shape[-2]), int(images.shape[-1]))

    def warn(self, scores: Callable[[Tensor], dict[str, Any]], stacklevel: int) -> None:
        """Warn if windows were better. The main process uses only its own counts, so that no process waits."""
        if not self.images or not is_main():
            return
        whole, windows = (scores(counter.confusion)["miou"] for counter in (self.whole, self.windows))
        if windows > whole + MARGIN:
            (height, width), (rows, columns) = self.size, self.shape
            warnings.warn(
                f"evaluate: the model does worse on whole images than with windows of the size of its training crops: mIoU {whole:.2f} on "
                f"whole images of {rows} x {columns}, {windows:.2f} with windows of {height} x {width} ({self.images} images compared). "
                f"Its predictions depend on the image size. Evaluate feataug.Inference(model, window=({height}, {width})), let "
                "feataug.fit_inference decide on training images, or train on larger crops.",
                FeatAugWarning,
                stacklevel=stacklevel + 1,
            )
