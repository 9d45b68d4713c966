"""A warning where a model predicts whole images worse than windows of the size that it was trained on."""

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

# Points of mIoU by which windows must be ahead.
MARGIN = 1.0
# Images that are compared: they cost about as much as a hundred more.
IMAGES = 32
# Images of a batch, and batches, where nobody knows how many there will be.
_OF_BATCH = 4


def size_of(who: str, model: Any, crop_size: CropSize, name: str = "crop_size") -> tuple[int, int] | None:
    """The size that ``crop_size`` means: itself, or for ``"noted"`` what training noted on ``model``.

    Raises:
        ShapeError: it is no size.
    """
    if crop_size is None:
        return None
    return noted_size(model) if crop_size == "noted" else check_size(who, name, crop_size)


def length_of(loader: Any) -> int | None:
    """How many batches a loader has, if it knows: a ``DataLoader`` of a stream has a ``__len__`` that raises."""
    try:
        return len(loader)
    except (TypeError, NotImplementedError):
        return None


class ContextCheck:
    """Predicts some of the images of an evaluation by windows as well.

    Args:
        predict: The model.
        size: Rows and columns of its training crops.
        counters: Two objects that count as ``SegmentationMetrics`` does: of whole images and of windows.
        batches: How many batches there are, if that is known: images are then taken evenly from all of them.
    """

    def __init__(self, predict: nn.Module, size: tuple[int, int], counters: tuple[Any, Any], batches: int | None) -> None:
        self.size, (self.whole, self.windows) = size, counters
        self.predict = Inference(predict, window=size)
        # Of every so many batches, so many images.
        self.every = max(1, -(-batches // IMAGES)) if batches else 1
        self.of_batch = max(1, IMAGES * self.every // batches) if batches else _OF_BATCH
        self.seen, self.images, self.shape = 0, 0, (0, 0)

    def look(self, images: Tensor, logits: Any, masks: Tensor) -> None:
        """Take a batch, or pass over it.

        Args:
            images: ``(B, C, H, W)``.
            logits: ``(B, K, h, w)``, predicted from whole images. Anything else, such as classes, is passed over.
            masks: ``(B, H, W)``.
        """
        due = self.seen % self.every == 0 and self.images < IMAGES
        self.seen += 1
        if not due or not larger(images, self.size):
            return
        if not is_plain(logits) or logits.ndim != 4 or not logits.is_floating_point() or logits.shape[1] < 2:
            return
        count = min(self.of_batch, IMAGES - self.images, len(images))
        with preserved_rng(images.device):
            found = self.predict(images[:count])
        self.whole.update(logits[:count], masks[:count])
        self.windows.update(found, masks[:count])
        self.images += count
        self.shape = (int(images.shape[-2]), int(images.shape[-1]))

    def warn(self, scores: Callable[[Tensor], dict[str, Any]], stacklevel: int) -> None:
        """Warn if windows were ahead. The counts are this process's own: nothing waits for the others."""
        if not self.images or not is_main():
            return
        whole, windows = (scores(counter.confusion)["miou"] for counter in (self.whole, self.windows))
        if windows > whole + MARGIN:
            (height, width), (rows, columns) = self.size, self.shape
            warnings.warn(
                f"evaluate: the model does worse on whole images than by windows of the size that it was trained on: mIoU {whole:.2f} on "
                f"whole images of {rows} x {columns}, {windows:.2f} by windows of {height} x {width} ({self.images} of these images). "
                f"What it predicts depends on the size. Evaluate feataug.Inference(model, window=({height}, {width})), let "
                "feataug.fit_inference decide on training images, or train on larger crops.",
                FeatAugWarning,
                stacklevel=stacklevel + 1,
            )
