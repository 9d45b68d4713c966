"""The positive control of a comparison: real features of labelled images that the other arms do not see, where synthetic ones go."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from feataug.core.checks import check_batch, check_loader
from feataug.core.distributed import local_slice
from feataug.core.identity import describe_data
from feataug.core.modes import eval_mode
from feataug.errors import DataError, message


class LabelledPairs:
    """A mask source that reads masks from a loader of labelled images, and keeps the images of the last draw.

    Args:
        loader: Yields ``(images, masks)`` of the size of training crops; it is read again and again.

    In several processes each one reads all of it, so that they draw the same plan.
    """

    def __init__(self, loader: Iterable[tuple[Tensor, Tensor]]) -> None:
        self.loader = loader
        self.images = torch.zeros(0)
        # The pass over the loader, batches of it that were read, and pairs that were taken of the last one.
        self.epoch, self.batch, self.taken = 0, 0, 0
        self._batches: Iterator[Any] | None = None
        self._left: tuple[Tensor, Tensor] | None = None

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """The next ``n`` masks, ``(n, H, W)``; their images are in ``images``. The loader alone decides the order.

        Raises:
            DataError: the loader is empty, or yields something else than images and masks.
        """
        images, masks = [], []
        missing = n
        while missing:
            left = self._pairs()
            part = [x[self.taken : self.taken + missing] for x in left]
            images.append(part[0])
            masks.append(part[1])
            self.taken += len(part[0])
            missing -= len(part[0])
        if not n:
            return torch.zeros(0, 0, 0, dtype=torch.long)
        self.images = torch.cat(images)
        return torch.cat(masks)

    def state_dict(self) -> dict[str, int]:
        """Where in the loader the next draw begins."""
        return {"epoch": self.epoch, "batch": self.batch, "taken": self.taken}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """The inverse of ``state_dict``: batches that were read are read once more, those of earlier passes are not."""
        self.epoch, self.batch, self.taken = state["epoch"], 0, 0
        self._batches, self._left = None, None
        while self.batch < state["batch"]:
            self._next()
        self.taken = state["taken"]

    def settings(self) -> dict[str, Any]:
        """The data set and the order, for checkpoints."""
        return describe_data(self.loader) or {}

    def _pairs(self) -> tuple[Tensor, Tensor]:
        """The batch that is being taken from."""
        while self._left is None or self.taken >= len(self._left[0]):
            self._next()
        return self._left

    def _next(self) -> None:
        for _ in range(2):
            if self._batches is None:
                sampler: Any
                for sampler in (getattr(self.loader, "batch_sampler", None), getattr(self.loader, "sampler", None)):
                    if hasattr(sampler, "set_epoch"):
                        sampler.set_epoch(self.epoch)
                self._batches = check_loader("compare", self.loader)
            found = next(self._batches, None)
            if found is not None:
                self._left, self.taken = check_batch("compare", found), 0
                self.batch += 1
                return
            # The pass is over.
            self._batches, self.epoch, self.batch = None, self.epoch + 1, 0
        raise DataError(
            message(
                "compare: the ceiling's loader yields no batch.",
                given=type(self.loader).__name__,
                needed="an iterable of (images, masks) that can be read again and again",
            )
        )


class EncodedImages:
    """Stands where a mixer has its generator: the features of the images that were drawn along with the masks.

    They come from the encoder as it is in that step, in eval mode and without gradients: that is what generators imitate, and the encoder's
    running statistics do not move.

    Args:
        cut: The cut of the model that is trained.
        pairs: The mixer's mask source.
        like: The generator whose place it takes; it says for which cut, classes and void.
    """

    latent_dim = 0

    def __init__(self, cut: Any, pairs: LabelledPairs, like: Any) -> None:
        self.cut, self.pairs = cut, pairs
        self.spec, self.num_classes, self.ignore_index = like.spec, like.num_classes, like.ignore_index

    def __call__(self, masks: Tensor, z: Tensor) -> tuple[Tensor, ...]:
        """Features of this process's images, ``(n, channels, h, w)`` for each level.

        Args:
            masks: ``(n, H, W)``, the last ones drawn.
            z: Not looked at.
        """
        images = self.pairs.images[local_slice()].to(masks.device, memory_format=torch.channels_last)
        with torch.no_grad(), eval_mode(self.cut.model):
            return tuple(feature.detach() for feature in self.cut.encode(images))

    def eval(self) -> EncodedImages:
        """Nothing to switch: the encoder's mode is the training's."""
        return self
