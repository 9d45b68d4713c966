"""The positive control of a comparison: real features of further labelled images take the place of synthetic features."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from feataug.core.checks import check_batch, check_loader
from feataug.core.distributed import local_slice
from feataug.core.identity import describe_data
from feataug.core.modes import eval_mode
from feataug.errors import DataError


class LabelledPairs:
    """A mask source that reads masks from a loader of labelled images, and stores the images of the last draw.

    Args:
        loader: Yields ``(images, masks)`` in the size of training crops. It is read as often as needed.

    Each process reads the whole loader, so that all draw the same plan.
    """

    def __init__(self, loader: Iterable[tuple[Tensor, Tensor]]) -> None:
        self.loader = loader
        self.images = torch.zeros(0)
        # The current pass over the loader, the batches read in it, and the pairs taken from the last batch.
        self.epoch, self.batch, self.taken = 0, 0, 0
        self._batches: Iterator[Any] | None = None
        self._left: tuple[Tensor, Tensor] | None = None

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Return the next ``n`` masks, ``(n, H, W)``, in the loader's order; ``images`` then holds their images.

        Raises:
            DataError: the loader is empty, or yields something other than images and masks.
        """
        images, masks = [], []
        missing = n
        while missing:
            left = self._current_batch()
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
        """Return the position in the loader at which the next draw starts."""
        return {"epoch": self.epoch, "batch": self.batch, "taken": self.taken}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Invert ``state_dict``. Batches of the current pass are read again; those of earlier passes are not."""
        self.epoch, self.batch, self.taken = state["epoch"], 0, 0
        self._batches, self._left = None, None
        while self.batch < state["batch"]:
            self._read_batch()
        self.taken = state["taken"]

    def settings(self) -> dict[str, Any]:
        """Describe the data set and its order, for checkpoints."""
        return describe_data(self.loader) or {}

    def _current_batch(self) -> tuple[Tensor, Tensor]:
        while self._left is None or self.taken >= len(self._left[0]):
            self._read_batch()
        return self._left

    def _read_batch(self) -> None:
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
            "compare: the ceiling's loader yields no batch.",
            given=type(self.loader).__name__,
            needed="an iterable of (images, masks) that can be read again and again",
        )


class EncodedImages:
    """Replace a mixer's generator: return the features of the images that were drawn with the masks.

    They come from the current encoder, in eval mode and without gradients: generators imitate this state, and the encoder's running
    statistics do not change.

    Args:
        cut: The cut of the model in training.
        pairs: The mixer's mask source.
        like: The generator to replace; its spec, classes and void are used.
    """

    latent_dim = 0

    def __init__(self, cut: Any, pairs: LabelledPairs, like: Any) -> None:
        self.cut, self.pairs = cut, pairs
        self.spec, self.num_classes, self.ignore_index = like.spec, like.num_classes, like.ignore_index

    def __call__(self, masks: Tensor, z: Tensor) -> tuple[Tensor, ...]:
        """Return features of this process's images, ``(n, channels, h, w)`` for each level.

        Args:
            masks: ``(n, H, W)``, the masks of the last draw.
            z: Unused.
        """
        images = self.pairs.images[local_slice()].to(masks.device, memory_format=torch.channels_last)
        with torch.no_grad(), eval_mode(self.cut.model):
            return tuple(feature.detach() for feature in self.cut.encode(images))

    def eval(self) -> EncodedImages:
        """Do nothing: training decides the encoder's mode."""
        return self
